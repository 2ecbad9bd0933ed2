//! The real `origin` on a real socket: every route, pipelining, bodies both ways.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, SystemTime};

use common::Program;
use fastlb_bench::origin::pattern_byte;

/// Sends `request` and returns all that comes until the origin closes.
fn exchange(request: &str) -> String {
    let origin = start();
    let mut stream = origin.connect();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn start() -> Program {
    Program::start(
        env!("CARGO_BIN_EXE_origin"),
        &["--listen", "127.0.0.1:0", "--name", "o1"],
    )
}

/// What the origin sends for a 200 with this body.
fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nX-Backend: o1\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn pattern(length: u64) -> String {
    (0..length).map(pattern_byte).map(char::from).collect()
}

/// Reads one head, byte by byte so that nothing of the body is taken.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn every_route_answers_in_the_order_of_the_pipeline() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /bytes/30 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /bytes/300000 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /delay/20 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        GET /echo/head HTTP/1.1\r\nHost: a\r\nX-Mark: 1\r\n\r\n\
        POST /bytes/0 HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nignored\
        GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let expected = [
        pattern(100),
        pattern(30),
        pattern(300_000),
        pattern(100),
        "hello".to_owned(),
        "GET /echo/head HTTP/1.1\r\nHost: a\r\nX-Mark: 1\r\n\r\n".to_owned(),
        String::new(),
        pattern(100),
    ];
    let expected: String = expected.iter().map(|body| ok(body)).collect();
    assert!(exchange(request) == expected);
}

#[test]
fn a_chunked_request_is_echoed_chunk_by_chunk() {
    let origin = start();
    let mut stream = origin.connect();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let head = read_head(&mut stream);
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");

    for (sent, expected) in [
        (&b"5;x=1\r\nhello\r\n"[..], &b"5\r\nhello\r\n"[..]),
        (b"00b\r\n, it is me.\r\n", b"b\r\n, it is me.\r\n"),
        (b"0\r\nTrailer: dropped\r\n\r\n", b"0\r\n\r\n"),
    ] {
        stream.write_all(sent).unwrap();
        let mut echo = vec![0; expected.len()];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(echo, expected);
    }
    stream.write_all(b"GET /bytes/3 HTTP/1.1\r\n\r\n").unwrap();
    assert!(
        read_head(&mut stream).contains("Content-Length: 3\r\n"),
        "the connection lives"
    );
}

#[test]
fn a_long_body_is_streamed_from_the_pattern() {
    const LENGTH: u64 = 100 * 1024 * 1024 + 7;
    let origin = start();
    let mut stream = origin.connect();
    stream
        .write_all(format!("GET /bytes/{LENGTH} HTTP/1.1\r\n\r\n").as_bytes())
        .unwrap();
    assert!(read_head(&mut stream).contains(&format!("Content-Length: {LENGTH}\r\n")));

    let period: Vec<u8> = (0..26 * 4096).map(pattern_byte).collect();
    let mut left = LENGTH as usize;
    let mut piece = vec![0; period.len()];
    while left > 0 {
        let due = left.min(piece.len());
        stream.read_exact(&mut piece[..due]).unwrap();
        assert!(piece[..due] == period[..due]);
        left -= due;
    }
    assert!(
        origin.resident_bytes_max() < 32 * 1024 * 1024,
        "the body was never held"
    );
}

#[test]
fn an_upload_is_taken_whole_and_never_held() {
    const LENGTH: usize = 100 * 1024 * 1024;
    let origin = start();
    let mut stream = origin.connect();
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'x'; LENGTH / 100];
    for _ in 0..100 {
        stream.write_all(&piece).unwrap();
    }
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers, ok(&pattern(100)).repeat(2), "one for each request");
    assert!(
        origin.resident_bytes_max() < 32 * 1024 * 1024,
        "the body was never held"
    );
}

#[test]
fn an_echo_waits_for_a_client_that_sends_all_before_it_reads() {
    let body: Vec<u8> = (0..20_000_000).map(pattern_byte).collect();
    let origin = start();
    let mut stream = origin.connect();
    let head = format!(
        "POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    read_head(&mut stream);
    let mut echo = vec![0; body.len()];
    stream.read_exact(&mut echo).unwrap();
    assert!(echo == body);
}

#[test]
fn a_delay_lasts_as_long_as_it_says_and_holds_up_nobody_else() {
    let origin = start();
    let mut delayed = origin.connect();
    let mut other = origin.connect();
    let begun = SystemTime::now();
    delayed
        .write_all(b"GET /delay/300 HTTP/1.1\r\n\r\n")
        .unwrap();
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    read_head(&mut other);
    let other_took = begun.elapsed().unwrap();
    read_head(&mut delayed);
    let delayed_took = begun.elapsed().unwrap();
    assert!(other_took < Duration::from_millis(300), "{other_took:?}");
    assert!(
        delayed_took >= Duration::from_millis(300),
        "{delayed_took:?}"
    );
}

#[test]
fn a_request_in_single_bytes_is_understood() {
    let origin = start();
    let mut stream = origin.connect();
    stream.set_nodelay(true).unwrap();
    for byte in b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc" {
        stream.write_all(&[*byte]).unwrap();
    }
    read_head(&mut stream);
    let mut echo = [0; 3];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"abc");
}

#[test]
fn expectations_heads_and_ends_follow_the_protocol() {
    let continued =
        exchange("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(
        continued,
        format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("ab"))
    );

    let head = exchange("HEAD /bytes/999999 HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(head.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(
        head.contains("Content-Length: 999999\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );

    let old = exchange("GET /bytes/1 HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert!(
        old.ends_with("Content-Length: 1\r\nConnection: close\r\n\r\na"),
        "{old}"
    );

    let unknown = exchange("GET /other HTTP/1.1\r\n\r\n");
    assert!(
        unknown.starts_with("HTTP/1.1 404 Not Found\r\nX-Backend: o1\r\n"),
        "{unknown}"
    );

    let bad = exchange("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
    assert!(
        bad.starts_with("HTTP/1.1 400 Bad Request\r\nX-Backend: o1\r\n"),
        "{bad}"
    );
}
