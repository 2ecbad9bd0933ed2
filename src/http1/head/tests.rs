//! Heads by table, and by every cut.

use proptest::prelude::*;

use super::{BadHead, RequestHead, ResponseHead, Scan, Version, field_store};
use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX};

const GOOD_REQUESTS: [&str; 10] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "\r\nGET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
    "!#$%&'*+-.^_`|~09azAZ /{\"<|>\"} HTTP/1.1\r\nHost:a\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: a\r\nEmpty:\r\nBlank: \t \r\nTab: a\tb\r\n\r\n",
    "GET / HTTP/1.1\r\nName:value:with colons \r\n\r\n",
    "GET / HTTP/1.1\r\nUmlaut: \u{e4}\r\n\r\n",
];

const BAD_REQUESTS: [(&str, BadHead); 44] = [
    ("GET / HTTP/1.1\nHost: a\r\n\r\n", BadHead::BareLf),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", BadHead::BareLf),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", BadHead::BareLf),
    ("GET / HTTP/1.1\r\nHost: a\n\n", BadHead::BareLf),
    (
        "GET / HTTP/1.1\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
        BadHead::BareLf,
    ),
    ("\nGET / HTTP/1.1\r\n\r\n", BadHead::BareLf),
    ("\r\n\nGET / HTTP/1.1\r\n\r\n", BadHead::BareLf),
    ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", BadHead::BareCr),
    ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", BadHead::BareCr),
    ("GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n", BadHead::BareCr),
    ("GET /\r HTTP/1.1\r\n\r\n", BadHead::BareCr),
    ("GET / HTTP/1.1\r\r\n\r\n", BadHead::BareCr),
    ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("\rGET / HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    (" GET / HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("\u{16}\u{3}\u{1}", BadHead::BadRequestLine),
    ("GET  / HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET /  HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/1.1 \r\n\r\n", BadHead::BadRequestLine),
    ("GET\t/ HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET /a b HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET /\r\n\r\n", BadHead::BadRequestLine),
    ("GET\r\n\r\n", BadHead::BadRequestLine),
    ("GET / http/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/11\r\n\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/1.10\r\n\r\n", BadHead::BadRequestLine),
    ("GET / XTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("G(T / HTTP/1.1\r\n\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/2.0\r\n\r\n", BadHead::UnsupportedVersion),
    ("PRI * HTTP/2.0\r\n\r\n", BadHead::UnsupportedVersion),
    // HTTP/0.9, whose request has no further line.
    ("GET /\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/1.x\r\n", BadHead::BadRequestLine),
    ("GET / HTTP/0.9\r\n\r\n", BadHead::UnsupportedVersion),
    ("GET /\u{e4} HTTP/1.1\r\n\r\n", BadHead::BadTarget),
    ("GET /\u{7f} HTTP/1.1\r\n\r\n", BadHead::BadTarget),
    ("GET /\0 HTTP/1.1\r\n\r\n", BadHead::BadTarget),
    ("GET /#top HTTP/1.1\r\n\r\n", BadHead::BadTarget),
    ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", BadHead::ObsFold),
    ("GET / HTTP/1.1\r\n\tA: b\r\n\r\n", BadHead::ObsFold),
    (
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        BadHead::SpaceBeforeColon,
    ),
    (
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        BadHead::SpaceBeforeColon,
    ),
    ("GET / HTTP/1.1\r\nNo colon\r\n\r\n", BadHead::BadField),
    ("GET / HTTP/1.1\r\n: no name\r\n\r\n", BadHead::BadField),
    ("GET / HTTP/1.1\r\nA: \u{1}\r\n\r\n", BadHead::BadField),
];

const GOOD_RESPONSES: [(&str, u16, &str); 7] = [
    ("HTTP/1.1 200 OK\r\n\r\n", 200, "OK"),
    ("HTTP/1.1 200 \r\n\r\n", 200, ""),
    ("HTTP/1.1 200\r\n\r\n", 200, ""),
    ("HTTP/1.0 404 Not here\r\nA: b\r\n\r\n", 404, "Not here"),
    ("HTTP/1.9 404 Not here\r\n\r\n", 404, "Not here"),
    ("HTTP/1.1 999 Go away\r\n\r\n", 999, "Go away"),
    ("HTTP/1.1 200 sch\u{f6}n\r\n\r\n", 200, ""),
];

const BAD_RESPONSES: [(&str, BadHead); 14] = [
    ("\r\nHTTP/1.1 200 OK\r\n\r\n", BadHead::BadStatusLine),
    ("SSH-2.0", BadHead::BadStatusLine),
    ("http/1.1 200 OK\r\n\r\n", BadHead::BadStatusLine),
    ("HTTP/1.1 20 OK\r\n\r\n", BadHead::BadStatusLine),
    ("HTTP/1.1 2000 OK\r\n\r\n", BadHead::BadStatusLine),
    ("HTTP/1.1 099 OK\r\n\r\n", BadHead::BadStatusLine),
    ("HTTP/1.1\r\n\r\n", BadHead::BadStatusLine),
    ("HTTP/1.x 200 OK\r\n", BadHead::BadStatusLine),
    ("HTTP/2.0 200 OK\r\n\r\n", BadHead::UnsupportedVersion),
    ("HTTP/1.1 200 OK\n\r\n", BadHead::BareLf),
    ("HTTP/1.1 200 O\rK\r\n\r\n", BadHead::BareCr),
    (
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        BadHead::SpaceBeforeColon,
    ),
    ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", BadHead::ObsFold),
    ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", BadHead::BadField),
];

#[test]
fn good_requests_are_parsed_and_each_of_their_prefixes_is_incomplete() {
    for text in GOOD_REQUESTS {
        let bytes = text.as_bytes();
        let start = if text.starts_with('\r') { 2 } else { 0 };
        let whole = Scan::request().end(bytes).unwrap().expect("whole");
        assert_eq!((whole.start, whole.end), (start, bytes.len()), "{text:?}");
        assert_incomplete_at_every_cut(Scan::request(), bytes);
        let (mut bytes, mut store) = (bytes.to_vec(), field_store());
        let head = RequestHead::parse(whole.of(&mut bytes), &mut store).expect(text);
        let old = text.contains("HTTP/1.0");
        assert_eq!(head.version == Version::Http10, old, "{text:?}");
    }
}

#[test]
fn good_responses_are_parsed_and_each_of_their_prefixes_is_incomplete() {
    for (text, status, reason) in GOOD_RESPONSES {
        let bytes = text.as_bytes();
        let whole = Scan::response().end(bytes).unwrap().expect("whole");
        assert_eq!((whole.start, whole.end), (0, bytes.len()), "{text:?}");
        assert_incomplete_at_every_cut(Scan::response(), bytes);
        let (mut bytes, mut store) = (bytes.to_vec(), field_store());
        let head = ResponseHead::parse(whole.of(&mut bytes), &mut store).unwrap();
        assert_eq!((head.status, head.reason), (status, reason));
    }
}

fn assert_incomplete_at_every_cut(fresh: Scan, bytes: &[u8]) {
    let mut trickled = fresh;
    for cut in 0..bytes.len() {
        let mut at_once = fresh;
        assert_eq!(at_once.end(&bytes[..cut]), Ok(None), "{cut} bytes");
        assert_eq!(
            trickled.end(&bytes[..cut]),
            Ok(None),
            "{cut} bytes, one by one"
        );
    }
    let mut at_once = fresh;
    assert_eq!(trickled.end(bytes), at_once.end(bytes));
}

#[test]
fn bad_requests_are_refused_for_what_is_wrong_with_them() {
    for (text, bad) in BAD_REQUESTS {
        assert_eq!(
            judged(Scan::request(), text.as_bytes()),
            Err(bad),
            "{text:?}"
        );
    }
}

#[test]
fn bad_responses_are_refused_for_what_is_wrong_with_them() {
    for (text, bad) in BAD_RESPONSES {
        let mut bytes = text.as_bytes().to_vec();
        let judged = Scan::response().end(&bytes).and_then(|span| {
            let span = span.expect("whole or bad");
            let mut store = field_store();
            ResponseHead::parse(span.of(&mut bytes), &mut store).map(|_| ())
        });
        assert_eq!(judged, Err(bad), "{text:?}");
    }
}

/// What becomes of a request head: whether it is whole, or why it is bad.
fn judged(mut scan: Scan, bytes: &[u8]) -> Result<bool, BadHead> {
    let Some(span) = scan.end(bytes)? else {
        return Ok(false);
    };
    let (mut bytes, mut store) = (bytes.to_vec(), field_store());
    RequestHead::parse(span.of(&mut bytes), &mut store).map(|_| true)
}

#[test]
fn a_head_is_taken_apart() {
    let bytes = b"POST /a?b HTTP/1.0\r\nHost: x\r\nA:  b \r\na: c\r\n\r\n";
    let mut store = field_store();
    let head = RequestHead::parse(bytes, &mut store).unwrap();
    assert_eq!(
        (head.method, head.target, head.version),
        ("POST", "/a?b", Version::Http10)
    );
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    assert_eq!(fields, [("Host", &b"x"[..]), ("A", b"b"), ("a", b"c")]);
}

#[test]
fn what_follows_the_head_is_not_looked_at() {
    let bytes = b"GET / HTTP/1.0\r\n\r\n\n\0 not a head";
    let span = Scan::request().end(bytes).unwrap().expect("whole");
    assert_eq!((span.start, span.end), (0, 18));
    let mut store = field_store();
    assert_eq!(
        RequestHead::parse(bytes, &mut store),
        Err(BadHead::BadField)
    );
}

#[test]
fn a_head_may_be_as_long_as_the_limit_and_no_longer() {
    let head = |bytes: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n";
        let value = "x".repeat(bytes - frame.len());
        format!("GET / HTTP/1.1\r\nA: {value}\r\n\r\n").into_bytes()
    };
    let longest = head(HEAD_BYTES_MAX);
    assert_eq!(judged(Scan::request(), &longest), Ok(true));
    let longer = head(HEAD_BYTES_MAX + 1);
    assert_eq!(judged(Scan::request(), &longer), Err(BadHead::TooLong));
    let cut = &longer[..HEAD_BYTES_MAX - 1];
    assert_eq!(judged(Scan::request(), cut), Ok(false));
    let line = "x".repeat(HEAD_BYTES_MAX);
    assert_eq!(
        judged(Scan::request(), line.as_bytes()),
        Err(BadHead::LineTooLong)
    );
    assert_eq!(judged(Scan::request(), &line.as_bytes()[1..]), Ok(false));
}

#[test]
fn a_head_may_have_as_many_fields_as_the_limit_and_no_more() {
    let head = |fields: usize| {
        let fields = "A: b\r\n".repeat(fields);
        format!("GET / HTTP/1.1\r\n{fields}\r\n").into_bytes()
    };
    assert_eq!(judged(Scan::request(), &head(FIELDS_MAX)), Ok(true));
    let judged = judged(Scan::request(), &head(FIELDS_MAX + 1));
    assert_eq!(judged, Err(BadHead::TooManyFields));
}

proptest! {
    #[test]
    fn any_cut_gives_the_result_of_no_cut(
        bytes in bytes_like_heads(),
        mut cuts in prop::collection::vec(0_usize..400, 0..8),
        response in any::<bool>(),
    ) {
        let fresh = if response { Scan::response() } else { Scan::request() };
        cuts.retain(|&cut| cut < bytes.len());
        cuts.sort_unstable();
        let (mut at_once, mut pieces) = (fresh, fresh);
        let expected = at_once.end(&bytes);
        let early = cuts.iter().map(|&cut| pieces.end(&bytes[..cut])).find(|end| *end != Ok(None));
        let end = early.unwrap_or_else(|| pieces.end(&bytes));
        prop_assert_eq!(end, expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in bytes_like_heads()) {
        let mut store = field_store();
        let _ = RequestHead::parse(&bytes, &mut store);
        let mut store = field_store();
        let _ = ResponseHead::parse(&bytes, &mut store);
        let _ = judged(Scan::request(), &bytes);
    }
}

/// Bytes that are arbitrary, or a line of pieces that heads are made of.
fn bytes_like_heads() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 16] = [
        "GET", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", " ", "/", "\r\n", "\r\n\r\n", "\r", "\n",
        "Host", ": ", ":", "\t", "200", "\u{e4}",
    ];
    let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        pieces.prop_map(|pieces| pieces.concat().into_bytes()),
        prop::sample::select(&GOOD_REQUESTS[..]).prop_map(|text| text.as_bytes().to_vec()),
    ]
}
