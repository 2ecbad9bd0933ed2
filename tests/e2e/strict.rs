//! What is not understood is refused and never forwarded (RFC 9112).
//!
//! Each of these requests is one that some server reads differently from some other.

use crate::support::{Broken, Client, Engine, Origin, Proxy, get};

on_both_engines! {
    ambiguous_framings_are_refused,
    a_length_beyond_64_bits_is_413,
    malformed_heads_are_refused,
    versions_are_checked,
    heads_have_limits,
    heads_just_below_the_limits_pass,
    upgrades_with_a_body_and_tunnels_are_refused,
    broken_chunks_never_end_well,
    chunk_extensions_end_with_their_line,
}

/// Fields that leave open where the body ends.
const FRAMINGS: &[(&str, &str)] = &[
    (
        "both framings",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
    ),
    (
        "both, other order",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ),
    ("two lengths", "Content-Length: 3\r\nContent-Length: 4"),
    (
        "two equal lengths",
        "Content-Length: 3\r\nContent-Length: 3",
    ),
    ("a list of lengths", "Content-Length: 3, 3"),
    ("a signed length", "Content-Length: +3"),
    ("a negative length", "Content-Length: -1"),
    ("an empty length", "Content-Length:"),
    ("a hexadecimal length", "Content-Length: 0x3"),
    ("a list of codings", "Transfer-Encoding: gzip, chunked"),
    ("chunked not last", "Transfer-Encoding: chunked, identity"),
    ("chunked twice", "Transfer-Encoding: chunked, chunked"),
    (
        "two coding fields",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    ("identity", "Transfer-Encoding: identity"),
    ("almost chunked", "Transfer-Encoding: xchunked"),
    ("quoted chunked", "Transfer-Encoding: \"chunked\""),
    (
        "chunked with a vertical tab",
        "Transfer-Encoding: \x0bchunked",
    ),
    ("an empty coding", "Transfer-Encoding:"),
];

/// Heads that are not what RFC 9112 says a head is.
const HEADS: &[(&str, &str)] = &[
    (
        "a coding in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded line",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    ),
    (
        "a folded line by tab",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n",
    ),
    (
        "a first field that is folded",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    ),
    (
        "a bare LF after a field",
        "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    ),
    (
        "a bare LF after the request line",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
    ),
    ("bare LFs only", "GET / HTTP/1.1\nHost: a\n\n"),
    (
        "a bare LF at the end",
        "GET / HTTP/1.1\r\nHost: a\r\n\n\r\n\r\n",
    ),
    (
        "a bare CR in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n",
    ),
    (
        "a bare CR before the end",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n",
    ),
    (
        "a bare CR in a name",
        "GET / HTTP/1.1\r\nHost: a\r\nX\rY: 1\r\n\r\n",
    ),
    (
        "a NUL in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n",
    ),
    (
        "a space before the colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
    ),
    (
        "a tab before the colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX\t: 1\r\n\r\n",
    ),
    (
        "a space in a name",
        "GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
    ),
    ("an empty name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    (
        "a line without a colon",
        "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
    ),
    ("no Host", "GET / HTTP/1.1\r\nX: 1\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (
        "two equal Hosts",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    ("a list as Host", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("a path as Host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a tab as separator", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "a space in the target",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a space after the version",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    ),
    (
        "a space before the method",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "raw non-ASCII in the target",
        "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a separator in the method",
        "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a target without a slash",
        "GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("a request without a version", "GET /\r\nHost: a\r\n\r\n"),
    (
        "a version in small letters",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a version of two digits",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    ),
    (
        "another protocol",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n",
    ),
];

fn ambiguous_framings_are_refused(engine: Engine) {
    let requests = FRAMINGS.iter().map(|(what, fields)| {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        (*what, request, 400)
    });
    all_refused(engine, requests);
}

/// The framing is clear; there is only nobody who could count so far.
fn a_length_beyond_64_bits_is_413(engine: Engine) {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551619\r\n\r\n0";
    let requests = [("a length beyond 64 bits", request.to_owned(), 413)];
    all_refused(engine, requests.into_iter());
}

fn malformed_heads_are_refused(engine: Engine) {
    all_refused(
        engine,
        HEADS
            .iter()
            .map(|(what, head)| (*what, (*head).to_owned(), 400)),
    );
}

fn versions_are_checked(engine: Engine) {
    let versions = [
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/3.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let requests = versions.iter().map(|head| (*head, (*head).to_owned(), 505));
    all_refused(engine, requests);
}

fn heads_have_limits(engine: Engine) {
    let long = "a".repeat(17 * 1024);
    let many: String = (0..101)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    let too_much: [(&str, String, u16); 3] = [
        (
            "a long target",
            format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
            414,
        ),
        (
            "a long field",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
            431,
        ),
        (
            "many fields",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
            431,
        ),
    ];
    all_refused(engine, too_much.into_iter());
}

fn heads_just_below_the_limits_pass(engine: Engine) {
    let long = "a".repeat(15 * 1024);
    let many: String = (0..98).map(|number| format!("X-{number}: 1\r\n")).collect();
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for (target, fields) in [(&*long, ""), ("", &*format!("X: {long}\r\n")), ("", &many)] {
        client.send(format!("GET /{target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.response().expect_status(200);
    }
    drop((client, origin));
    proxy.finish();
}

/// A body together with `Upgrade` may be read as either protocol.
fn upgrades_with_a_body_and_tunnels_are_refused(engine: Engine) {
    const UPGRADE: &str = "HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let requests: [(&str, String, u16); 2] = [
        (
            "an upgrade with a body",
            format!("POST / {UPGRADE}Content-Length: 3\r\n\r\nabc"),
            501,
        ),
        (
            "a tunnel",
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(),
            405,
        ),
    ];
    all_refused(engine, requests.into_iter());
}

/// Chunked bodies that are none.
const CHUNKS: &[(&str, &str)] = &[
    ("a size that is no number", "xyz\r\nabc\r\n0\r\n\r\n"),
    ("an empty size", "\r\nabc\r\n0\r\n\r\n"),
    ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a prefixed size", "0x3\r\nabc\r\n0\r\n\r\n"),
    (
        "a size beyond 64 bits",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
    ),
    ("a chunk longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
    ("a chunk shorter than its size", "4\r\nabc\r\n0\r\n\r\n"),
    ("a bare LF after the size", "3\nabc\r\n0\r\n\r\n"),
    ("a bare LF after the data", "3\r\nabc\n0\r\n\r\n"),
    ("a bare CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
    ("a bare LF after the last chunk", "3\r\nabc\r\n0\n\r\n"),
    (
        "a trailer with a bare LF",
        "3\r\nabc\r\n0\r\nX: 1\n\r\n\r\n",
    ),
];

/// The head was good, so the backend may have seen it; but it never sees the end of such a body,
/// and the rest is no request.
fn broken_chunks_never_end_well(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let wrong: Vec<String> = CHUNKS
        .iter()
        .filter_map(|(what, body)| {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let complaint = complaint(&proxy, &[head, body].concat(), 400);
            complaint.map(|complaint| format!("{what}: {complaint}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(origin.requests().is_empty(), "{:#?}", origin.requests());
    drop(origin);
    proxy.finish();
}

/// Extensions are no part of the message; whatever is in them ends with their line.
fn chunk_extensions_end_with_their_line(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(concat!(
        "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3;a=\"0\"\r\nabc\r\n0;last\r\n\r\n",
        "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    ));
    assert_eq!(client.response().expect_status(200).text(), "/1");
    assert_eq!(client.response().expect_status(200).text(), "/2");
    let bodies: Vec<Vec<u8>> = origin
        .requests()
        .into_iter()
        .map(|seen| seen.body)
        .collect();
    assert_eq!(bodies, [b"abc".to_vec(), Vec::new()]);
    drop((client, origin));
    proxy.finish();
}

/// Demands that all of these are refused with their status, and that the backend has seen
/// nothing. Names all that were not, not only the first.
#[track_caller]
fn all_refused<'a>(engine: Engine, requests: impl Iterator<Item = (&'a str, String, u16)>) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let wrong: Vec<String> = requests
        .filter_map(|(what, request, status)| {
            let seen = origin.accepted();
            let complaint = complaint(&proxy, &request, status);
            let complaint = complaint
                .or_else(|| (origin.accepted() > seen).then(|| "the backend saw it".to_owned()));
            complaint.map(|complaint| format!("{what}: {complaint}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    Client::connect(proxy.address).get("/").expect_status(200);
    drop(origin);
    proxy.finish();
}

/// Sends `request` with another one behind it. What is wrong, unless one answer comes with this
/// status, a reason and the end of the connection.
fn complaint(proxy: &Proxy, request: &str, status: u16) -> Option<String> {
    let mut client = Client::connect(proxy.address);
    client.send([request, &get("/smuggled")].concat());
    let response = match client.wire().response("GET") {
        Ok(response) => response,
        Err(broken) => return Some(format!("no answer: {broken:?}")),
    };
    if response.status() != status {
        return Some(response.head.start);
    }
    if !response.head.connection_says("close") {
        return Some("the close is not announced".to_owned());
    }
    if response.body.is_empty() {
        return Some("the reason is missing".to_owned());
    }
    match client.wire().head() {
        Err(Broken::Closed) => None,
        Err(broken) => Some(format!("not closed: {broken:?}")),
        Ok(second) => Some(format!("a second answer: {}", second.start)),
    }
}
