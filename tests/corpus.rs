//! The kept corpus of the fuzzers, replayed without them, and the same functions over what
//! messages are made of, in any order. The corpus of `session` is replayed beside its simulation.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[expect(unreachable_pub, reason = "it is a crate of its own too")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Most files of one target, and most bytes of one: the corpus is in the repository.
const FILES_MAX: usize = 300;
const BYTES_MAX: usize = 4096;

/// Calls a target with each of its inputs, and with what they are cut short to.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("every target has a corpus") {
        let path = entry.expect("the folder can be read").path();
        let input = fs::read(&path).expect("the file can be read");
        assert!(input.len() <= BYTES_MAX, "{} is long", path.display());
        println!("{}", path.display());
        target(&input);
        target(&input[..input.len() / 2]);
        inputs += 1;
    }
    assert!(
        (1..=FILES_MAX).contains(&inputs),
        "{inputs} files of {name}"
    );
}

#[test]
fn request_heads() {
    replay("request_head", targets::request_head);
}

#[test]
fn response_heads() {
    replay("response_head", targets::response_head);
}

#[test]
fn chunked_bodies() {
    replay("chunked", targets::chunked);
}

#[test]
fn proxy_headers() {
    replay("proxy_header", targets::proxy_header);
}

#[test]
fn request_streams() {
    replay("request_stream", targets::request_stream);
}

#[test]
fn response_streams() {
    replay("response_stream", targets::response_stream);
}

/// Pieces of messages, good and bad, that random bytes would hardly ever come to.
const PIECES: [&[u8]; 40] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b",",
    b"\xff",
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"POST /b HTTP/1.1\r\nHost: a:80\r\n",
    b"HEAD / HTTP/1.0\r\n",
    b"OPTIONS * HTTP/1.2\r\nHost: [::1]\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 103 \r\n",
    b"HTTP/1.1 101 \r\nUpgrade: x\r\n",
    b"HTTP/1.1 304 \r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:",
    b"Connection: upgrade\r\n",
    b"Connection: close, x\r\n",
    b"Connection: keep-alive\r\n",
    b"Upgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"Max-Forwards: 2\r\n",
    b"TE: trailers\r\nConnection: TE\r\n",
    b"X_Y: z\r\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"3;a=\"b\\\"\" ;c\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"\x03\0\x04abcd",
];

/// Two bytes that choose, and pieces behind them.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        12 => prop::sample::select(&PIECES[..]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    let pieces = prop::collection::vec(piece, 0..16);
    (any::<[u8; 2]>(), pieces)
        .prop_map(|(choices, pieces)| [&choices[..], &pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_pieces_of_messages(input in inputs()) {
        // All but the responses are told of one choice alone.
        for target in [targets::response_head, targets::response_stream] {
            target(&input);
        }
        for target in [
            targets::request_head,
            targets::request_stream,
            targets::chunked,
            targets::proxy_header,
        ] {
            target(&input[1..]);
        }
    }
}
