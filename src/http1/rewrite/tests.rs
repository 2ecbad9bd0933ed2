//! What goes on to the other side: by example, and as a property of any head.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{Added, Forward, Pseudonym, Underscores, interim, request, response, switching};
use crate::http1::field::Name;
use crate::http1::framing::{self, Method, RequestPlan, deliver};
use crate::http1::head::{RequestHead, ResponseHead, Scan, field_store};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const STRANGER: Forward<'_> = Forward {
    peer: Some(PEER),
    trusted: false,
    authority: "backend:80",
    underscores: Underscores::Drop,
    forwarded: false,
    added: Added {
        via: None,
        request_id: b"",
        date: None,
    },
};
const FRIEND: Forward<'_> = Forward {
    trusted: true,
    ..STRANGER
};

/// The request as it is forwarded.
fn forwarded(text: &str, forward: &Forward<'_>) -> String {
    let mut store = field_store();
    let head = RequestHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
    let plan = framing::request(&head).expect("a head that means one thing");
    let mut out = Vec::new();
    request(&head, &plan, forward, &mut out);
    String::from_utf8(out).unwrap()
}

/// The response as a client gets it who sent this request.
fn delivered(text: &str, asked: &str) -> String {
    let mut store = field_store();
    let asked = RequestHead::parse(asked.as_bytes(), &mut store).expect("a well-formed head");
    let asked = framing::request(&asked).expect("a head that means one thing");
    let mut store = field_store();
    let head = ResponseHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
    let plan = framing::response(&head, asked.method).expect("a head that means one thing");
    let delivery = deliver(&plan, &asked, false);
    let mut out = Vec::new();
    response(&head, &plan, delivery, &asked, Added::default(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_is_forwarded_with_where_it_came_from() {
    let expected = "GET /a?b HTTP/1.1\r\nHost: site:8080\r\nAccept: */*\r\nCookie: c\r\n\
        X-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: site:8080\r\n\r\n";
    let text = "GET /a?b HTTP/1.1\r\nAccept:*/*\r\nhost: site:8080\r\nCookie: c\r\n\r\n";
    assert_eq!(forwarded(text, &STRANGER), expected);
}

#[test]
fn what_concerns_one_connection_stays_on_it() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, Authorization, Via\r\n\
        Keep-Alive: 5\r\nX-Mine: 1\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: x\r\n\
        Upgrade: h2c\r\nProxy-Authorization: x\r\nAuthorization: y\r\nX-Yours: 2\r\nVia: z\r\n\
        Connection: content-length, host, x-forwarded-for\r\nContent-Length: 007\r\n\r\n";
    let expected = "POST / HTTP/1.1\r\nHost: a\r\nAuthorization: y\r\nX-Yours: 2\r\nVia: z\r\n\
        Content-Length: 7\r\nX-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: a\r\n\r\n";
    assert_eq!(forwarded(text, &STRANGER), expected);
}

#[test]
fn the_fields_of_an_upgrade_are_written_anew() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, X-Mine\r\n\
        X-Mine: 1\r\nupgrade: h2c, websocket\r\nSec-WebSocket-Key: k\r\nUpgrade: x/1\r\n\r\n";
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\n\
        Connection: Upgrade\r\nUpgrade: websocket, x/1\r\nX-Forwarded-For: 192.0.2.10\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";
    assert_eq!(forwarded(text, &STRANGER), expected);

    let mut store = field_store();
    let asked = RequestHead::parse(text.as_bytes(), &mut store).unwrap();
    let asked = framing::request(&asked).unwrap();
    let sent = expected.as_bytes();
    let text = "HTTP/1.1 101 Switching\r\nConnection: X-Mine, upgrade\r\nX-Mine: 1\r\n\
        Upgrade: websocket\r\nContent-Length: 3\r\nSec-WebSocket-Accept: a\r\n\r\n";
    let mut store = field_store();
    let head = ResponseHead::parse(text.as_bytes(), &mut store).unwrap();
    let plan = framing::answer(&head, &asked, sent).unwrap();
    let mut out = Vec::new();
    switching(&head, &plan, Added::default(), &mut out);
    let expected = "HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: a\r\n\
        Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn names_with_underscores_are_dropped_or_kept() {
    let text = "GET /_ HTTP/1.1\r\nHost: a_b\r\nX_A: _\r\nContent_Length: 5\r\nX-B: _\r\n\
        X_Forwarded_For: c\r\nx_forwarded-something-that-is-longer-than-a-name-we-know: d\r\n\
        X.Forwarded.For: f\r\nContent!Length: g\r\n_: e\r\nA.B: h\r\n\r\n";
    let end = "X-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: a_b\r\n\r\n";
    let start = "GET /_ HTTP/1.1\r\nHost: a_b\r\n";
    let dropped = format!("{start}X-B: _\r\nA.B: h\r\n{end}");
    assert_eq!(forwarded(text, &STRANGER), dropped);
    let keep = Forward {
        underscores: Underscores::Keep,
        ..STRANGER
    };
    let kept = format!("{start}X_A: _\r\nX-B: _\r\n_: e\r\nA.B: h\r\n{end}");
    assert_eq!(forwarded(text, &keep), kept);
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-a_b: c\r\n\r\n";
    assert!(!forwarded(text, &FRIEND).contains("a_b"), "of a friend too");
}

#[test]
fn hops_are_counted_for_trace_and_options_alone() {
    let hops = |method: &str, value: &str| {
        let out = forwarded(
            &format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\n\r\n"),
            &STRANGER,
        );
        let (_, behind) = out.split_once("\r\nMax-Forwards: ").expect("it goes on");
        behind[..behind.find('\r').expect("a line")].to_owned()
    };
    assert_eq!(hops("OPTIONS", "010"), "9");
    assert_eq!(hops("TRACE", "1"), "0");
    assert_eq!(hops("TRACE", "99999999999999999999"), "4294967294");
    assert_eq!(hops("GET", "0"), "0");
}

#[test]
fn only_a_trusted_peer_is_believed_what_it_says_of_others() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nForwarded: for=1.1.1.1\r\n\
        x-forwarded-for: 3.3.3.3\r\nX-Forwarded-For:\r\nX-Forwarded-Host: b\r\n\
        X-Real-IP: 1.1.1.1\r\n\r\n";
    let believed = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Port: 443\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-Host: b\r\n\
        X-Real-IP: 1.1.1.1\r\n\
        X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.10\r\n\r\n";
    assert_eq!(forwarded(text, &FRIEND), believed);
    let ignored = "GET / HTTP/1.1\r\nHost: a\r\n\
        X-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";
    assert_eq!(forwarded(text, &STRANGER), ignored);
}

#[test]
fn one_more_hop_is_told_of_behind_those_of_a_trusted_peer() {
    let text = "GET / HTTP/1.1\r\nHost: a:80\r\nForwarded: for=1.1.1.1, for=\"[::2]\"\r\n\
        Forwarded: for=\"left open\r\nX-Forwarded-Host: b\r\nForwarded: for=3.3.3.3\r\n\r\n";
    let hop = "Forwarded: for=192.0.2.10;host=\"a:80\";proto=http\r\n";
    let told = |trusted| {
        let forward = Forward {
            trusted,
            forwarded: true,
            ..STRANGER
        };
        let out = forwarded(text, &forward);
        let lines = out.split_inclusive('\n');
        let told = lines.filter(|line| line.starts_with("Forwarded: "));
        told.collect::<String>()
    };
    assert_eq!(told(false), hop);
    let kept = "Forwarded: for=1.1.1.1, for=\"[::2]\"\r\nForwarded: for=3.3.3.3\r\n";
    assert_eq!(told(true), format!("{kept}{hop}"));
    // What is not written is not judged either.
    assert!(forwarded(text, &FRIEND).contains("Forwarded: for=\"left open\r\n"));
}

#[test]
fn what_is_added_goes_both_ways_and_cannot_be_named_away() {
    let name: Pseudonym = "edge".parse().unwrap();
    let added = Added {
        via: Some(&name),
        request_id: b"id-1",
        date: None,
    };
    let text = "GET / HTTP/1.0\r\nVia: 1.1 inner\r\nConnection: via, x-request-id, forwarded\r\n\
        X-Request-Id: theirs\r\nX_Request_Id: theirs\r\n\r\n";
    let forward = Forward {
        added,
        underscores: Underscores::Keep,
        ..STRANGER
    };
    let expected = "GET / HTTP/1.1\r\nHost: backend:80\r\nVia: 1.1 inner\r\n\
        X-Forwarded-For: 192.0.2.10\r\nX-Forwarded-Proto: http\r\nVia: 1.0 edge\r\n\
        X-Request-Id: id-1\r\n\r\n";
    assert_eq!(forwarded(text, &forward), expected);
    let untouched = forwarded(text, &STRANGER);
    assert!(untouched.contains("\r\nX-Request-Id: theirs\r\n"));

    let mut store = field_store();
    let asked = RequestHead::parse(text.as_bytes(), &mut store).unwrap();
    let asked = framing::request(&asked).unwrap();
    let text = "HTTP/1.1 200 OK\r\nX-Request-ID: echoed\r\nConnection: via\r\nVia: 1.0 a\r\n\
        Content-Length: 0\r\n\r\n";
    let mut store = field_store();
    let head = ResponseHead::parse(text.as_bytes(), &mut store).unwrap();
    let plan = framing::response(&head, Method::Get).unwrap();
    let fields = "Via: 1.0 a\r\nVia: 1.1 edge\r\nX-Request-Id: id-1\r\n";
    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
    let mut out = Vec::new();
    let delivery = deliver(&plan, &asked, true);
    response(&head, &plan, delivery, &asked, added, &mut out);
    let expected = format!("HTTP/1.1 200 OK\r\n{fields}{end}");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    interim(&head, &plan, added, &mut out);
    let expected = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_request_without_host_gets_that_of_the_backend() {
    let text = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let expected = "GET / HTTP/1.1\r\nHost: backend:80\r\nX-Forwarded-For: 192.0.2.10\r\n\
        X-Forwarded-Proto: http\r\n\r\n";
    assert_eq!(forwarded(text, &STRANGER), expected);
}

#[test]
fn a_target_with_an_authority_becomes_a_path_and_a_host() {
    let table = [
        ("GET http://b:81/c?d", "GET /c?d", "b:81"),
        ("GET HTTP://b", "GET /", "b"),
        ("GET http://b?d", "GET /?d", "b"),
        ("OPTIONS http://b", "OPTIONS *", "b"),
        ("OPTIONS http://b/", "OPTIONS /", "b"),
        ("GET http://B/", "GET /", "B"),
        ("OPTIONS *", "OPTIONS *", "b"),
        ("GET //a/c", "GET //a/c", "b"),
    ];
    for (line, target, host) in table {
        let said = host.to_ascii_lowercase();
        let text = format!("{line} HTTP/1.1\r\nHost: {said}\r\n\r\n");
        let out = forwarded(&text, &STRANGER);
        let expected = format!("{target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For");
        assert!(out.starts_with(&expected), "{line}: {out}");
        assert!(
            out.ends_with(&format!("X-Forwarded-Host: {host}\r\n\r\n")),
            "{line}: {out}"
        );
    }
}

#[test]
fn an_expectation_is_forwarded_from_a_1_1_client_only() {
    let fields = "Host: a\r\nExpect: 100-CONTINUE\r\nContent-Length: 5\r\n\r\n";
    let new = forwarded(&format!("PUT / HTTP/1.1\r\n{fields}"), &STRANGER);
    assert!(new.contains("\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"));
    let old = forwarded(&format!("PUT / HTTP/1.0\r\n{fields}"), &STRANGER);
    assert!(!old.contains("Expect"));
}

#[test]
fn addresses_are_written_in_their_shortest_form() {
    let table = [
        (IpAddr::V4(Ipv4Addr::new(255, 0, 10, 100)), "255.0.10.100"),
        (
            IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped()),
            "10.0.0.1",
        ),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), "::1"),
    ];
    for (peer, written) in table {
        let forward = Forward {
            peer: Some(peer),
            ..STRANGER
        };
        let out = forwarded("GET / HTTP/1.0\r\n\r\n", &forward);
        assert!(
            out.contains(&format!("X-Forwarded-For: {written}\r\n")),
            "{out}"
        );
    }
}

/// As one that comes over a Unix socket.
#[test]
fn a_client_without_an_address_leaves_none() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: a\r\n\r\n";
    let nowhere = Forward {
        peer: None,
        ..STRANGER
    };
    assert_eq!(forwarded(text, &nowhere), expected);
}

#[test]
fn a_response_is_framed_for_the_client_that_asked() {
    const NEW: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const CLOSING: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
    const KEPT: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let table = [
        (
            NEW,
            "200 OK",
            "Content-Length: 5\r\n",
            "Content-Length: 5\r\n",
        ),
        (
            NEW,
            "200 OK",
            "Transfer-Encoding: Chunked\r\n",
            "Transfer-Encoding: chunked\r\n",
        ),
        (NEW, "200 OK", "", "Transfer-Encoding: chunked\r\n"),
        (
            NEW,
            "200 OK",
            "Connection: close\r\n",
            "Transfer-Encoding: chunked\r\n",
        ),
        (
            CLOSING,
            "200 OK",
            "Content-Length: 5\r\n",
            "Content-Length: 5\r\nConnection: close\r\n",
        ),
        (
            OLD,
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n",
        ),
        (KEPT, "200 OK", "", "Connection: close\r\n"),
        (
            KEPT,
            "200 OK",
            "Content-Length: 5\r\n",
            "Content-Length: 5\r\nConnection: keep-alive\r\n",
        ),
        (
            HEAD,
            "200 OK",
            "Content-Length: 5\r\n",
            "Content-Length: 5\r\n",
        ),
        (HEAD, "200 OK", "Transfer-Encoding: chunked\r\n", ""),
        (
            NEW,
            "304 Not Modified",
            "Content-Length: 5\r\n",
            "Content-Length: 5\r\n",
        ),
        (NEW, "204 No Content", "Content-Length: 5\r\n", ""),
    ];
    for (asked, status, from, to) in table {
        let out = delivered(
            &format!("HTTP/1.1 {status}\r\nServer: s\r\n{from}\r\n"),
            asked,
        );
        let expected = format!("HTTP/1.1 {status}\r\nServer: s\r\n{to}\r\n");
        assert_eq!(out, expected, "{asked:?}");
    }
}

#[test]
fn a_response_keeps_its_fields_but_those_of_its_connection() {
    let text = "HTTP/1.0 299 Very OK\r\nConnection: X-Mine, Set-Cookie\r\nX-Mine: 1\r\n\
        Set-Cookie: a\r\nset-cookie: b\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nExpect: x\r\n\
        Content-Length: 0\r\n\r\n";
    let expected = "HTTP/1.1 299 Very OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nExpect: x\r\n\
        Content-Length: 0\r\n\r\n";
    assert_eq!(
        delivered(text, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        expected
    );
}

#[test]
fn an_interim_response_has_no_framing() {
    let text = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nContent-Length: 5\r\n\r\n";
    let mut store = field_store();
    let head = ResponseHead::parse(text, &mut store).unwrap();
    let plan = framing::response(&head, Method::Get).unwrap();
    let mut out = Vec::new();
    interim(&head, &plan, Added::default(), &mut out);
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n");
}

/// Method, target, plan and end-to-end fields: what must be the same on both sides.
type Meaning = (String, String, RequestPlan, Vec<(String, Vec<u8>)>);

/// What a request means, or `None` where it is refused.
fn meaning(bytes: &[u8]) -> Option<Meaning> {
    let span = Scan::request().end(bytes).ok()??;
    let mut store = field_store();
    let head = RequestHead::parse(&bytes[span.start..span.end], &mut store).ok()?;
    let plan = framing::request(&head).ok()?;
    let fields = head
        .fields
        .iter()
        .filter(|field| Name::of(field.name) == Name::Other);
    let fields = fields
        .map(|field| (field.name.to_owned(), field.value.to_vec()))
        .collect();
    Some((head.method.to_owned(), head.target.to_owned(), plan, fields))
}

proptest! {
    #[test]
    fn what_is_forwarded_means_what_was_received(
        text in requests(),
        trusted in any::<bool>(),
    ) {
        let Some((method, target, plan, fields)) = meaning(text.as_bytes()) else {
            return Ok(());
        };
        let out = forwarded(&text, &Forward { trusted, ..STRANGER });
        let again = meaning(out.as_bytes()).expect("what we write is never refused");
        prop_assert_eq!((again.0, again.1), (method, target));
        prop_assert_eq!(again.2.framing, plan.framing);
        prop_assert_eq!(again.2.expects_continue, plan.expects_continue);
        prop_assert!(again.2.keep_alive);
        prop_assert_eq!(again.3, fields);
        prop_assert_eq!(out.matches("X-Forwarded-For: ").count(), 1);
    }

    #[test]
    fn a_delivered_response_means_what_was_received(
        status in 200_u16..600,
        lines in prop::collection::vec(prop::sample::select(&LINES[..]), 0..8),
        head in any::<bool>(),
    ) {
        let method = if head { "HEAD" } else { "GET" };
        let asked = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let text = format!("HTTP/1.1 {status} X\r\n{}\r\n", lines.concat());
        let plan_of = |bytes: &[u8]| {
            let mut store = field_store();
            let head = ResponseHead::parse(bytes, &mut store).expect("a well-formed head");
            framing::response(&head, Method::from(method))
        };
        let Ok(plan) = plan_of(text.as_bytes()) else {
            return Ok(());
        };
        let again = plan_of(delivered(&text, &asked).as_bytes()).expect("never refused");
        prop_assert_eq!((again.status, again.length_field), (status, plan.length_field));
        match plan.framing {
            framing::Framing::Close => prop_assert_eq!(again.framing, framing::Framing::Chunked),
            framing => prop_assert_eq!(again.framing, framing),
        }
    }
}

/// Lines of which only a few belong together; the rest are refused, dropped or passed on.
const LINES: [&str; 18] = [
    "Accept: */*\r\n",
    "Cookie: a=b; c=d\r\n",
    "X-One:  1 \r\n",
    "X-Two:\r\n",
    "x-two: \u{e4}\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, cookie\r\n",
    "Keep-Alive: 5\r\n",
    "TE: trailers\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "X-Forwarded-For: 1.1.1.1\r\n",
    "X-Forwarded-Proto: https\r\n",
    "Forwarded: for=1.1.1.1\r\n",
];

fn requests() -> impl Strategy<Value = String> {
    let methods = prop::sample::select(&["GET", "POST", "HEAD", "OPTIONS", "get", "X!"][..]);
    let lines = prop::collection::vec(prop::sample::select(&LINES[..]), 0..10);
    let version = prop::sample::select(&["HTTP/1.1\r\nHost: b\r\n", "HTTP/1.0\r\n"][..]);
    (methods, "/[!-\"$-~]{0,20}", version, lines).prop_map(|(method, target, version, lines)| {
        format!("{method} {target} {version}{}\r\n", lines.concat())
    })
}
