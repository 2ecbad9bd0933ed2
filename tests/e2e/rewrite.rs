//! What the proxy changes in a head, and what it leaves alone (RFC 9110 section 7.6).

use crate::support::{Client, Engine, Message, Origin, Proxy, answer, refusing_address};

on_both_engines! {
    hop_by_hop_fields_are_dropped,
    an_offer_of_http2_is_passed_over,
    hop_by_hop_fields_of_responses_are_dropped,
    other_fields_stay_as_they_are,
    forwarded_fields_are_set,
    forwarded_fields_of_strangers_are_dropped,
    forwarded_fields_of_trusted_peers_are_kept,
    a_request_is_known_by_one_name_everywhere,
    a_name_is_kept_of_those_who_may_give_one,
    an_answer_in_place_of_the_backends_is_known_by_its_name_too,
    every_message_says_where_it_came_through,
    the_way_is_told_as_rfc_7239_has_it,
    http10_without_host_gets_the_authority,
    an_asterisk_is_a_target,
}

fn hop_by_hop_fields_are_dropped(engine: Engine) {
    let seen = forwarded(
        engine,
        &[],
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Named , x-other\r\nX-Named: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nX-Other: 2\r\n\
         X-Kept: 3\r\n\r\n",
    );
    for name in ["X-Named", "X-Other", "Keep-Alive", "Proxy-Connection", "TE"] {
        assert_eq!(seen.field(name), None, "{name} is for the next hop only");
    }
    assert!(!seen.head.connection_says("x-named"));
    assert_eq!(seen.field("x-kept"), Some("3"));
}

/// RFC 9113 section 3.1: it is obsolete, and clients that still make it go on without.
fn an_offer_of_http2_is_passed_over(engine: Engine) {
    let seen = forwarded(
        engine,
        &[],
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    );
    assert_eq!(seen.head.start, "GET / HTTP/1.1");
    for name in ["Upgrade", "HTTP2-Settings"] {
        assert_eq!(seen.field(name), None, "{name} is for the next hop only");
    }
    assert!(!seen.head.connection_says("upgrade"));
}

fn hop_by_hop_fields_of_responses_are_dropped(engine: Engine) {
    let fields = [
        "Connection: X-Named",
        "X-Named: 1",
        "Keep-Alive: timeout=5",
        "X-Kept: 2",
        "Set-Cookie: a",
        "Set-Cookie: b",
    ];
    let origin = Origin::answering(move |_| answer("200 Fine By Me", &fields, b"body"));
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let response = client.get("/").expect_status(200);
    for name in ["X-Named", "Keep-Alive"] {
        assert_eq!(
            response.field(name),
            None,
            "{name} is for the next hop only"
        );
    }
    assert_eq!(response.field("x-kept"), Some("2"));
    assert_eq!(response.head.fields_named("set-cookie"), ["a", "b"]);
    drop((client, origin));
    proxy.finish();
}

fn other_fields_stay_as_they_are(engine: Engine) {
    let seen = forwarded(
        engine,
        &[],
        "GET /a%20b?c=d&e=%00 HTTP/1.1\r\nX-Many: 1\r\nHOST: Example.test:81\r\nX-Empty:\r\n\
         X-Many: 2, 3\r\nX-Spaces: \t in  side \t\r\n\
         X-Bytes: \u{e9}\r\nCookie: a=b; c=\"d\"\r\n\r\n",
    );
    assert_eq!(seen.head.start, "GET /a%20b?c=d&e=%00 HTTP/1.1");
    assert_eq!(seen.field("host"), Some("Example.test:81"));
    assert_eq!(seen.head.fields_named("x-many"), ["1", "2, 3"]);
    assert_eq!(seen.field("x-empty"), Some(""));
    assert_eq!(seen.field("x-spaces"), Some("in  side"));
    assert_eq!(seen.field("x-bytes"), Some("\u{e9}"));
    assert_eq!(seen.field("cookie"), Some("a=b; c=\"d\""));
}

fn forwarded_fields_are_set(engine: Engine) {
    let seen = forwarded(engine, &[], "GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("example.test"));
}

/// What a stranger says about himself is worth nothing.
const SPOOFED: &str = "GET / HTTP/1.1\r\nHost: example.test\r\nX-Forwarded-For: 203.0.113.7\r\n\
    x-forwarded-for: 203.0.113.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.test\r\n\
    \r\n";

fn forwarded_fields_of_strangers_are_dropped(engine: Engine) {
    for options in [&[][..], &["--trusted", "192.0.2.0/24"]] {
        let seen = forwarded(engine, options, SPOOFED);
        assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
        assert_eq!(seen.field("x-forwarded-host"), Some("example.test"));
    }
}

fn forwarded_fields_of_trusted_peers_are_kept(engine: Engine) {
    let seen = forwarded(engine, &["--trusted", "127.0.0.0/8"], SPOOFED);
    // One field or several mean the same (RFC 9110 section 5.3).
    let chain = seen.head.fields_named("x-forwarded-for").join(", ");
    assert_eq!(chain, "203.0.113.7, 203.0.113.8, 127.0.0.1");
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("outer.test"));
}

fn is_made(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Also where the backend names it otherwise, where interim responses come first, and where it is
/// asked once more for a connection that was dead.
fn a_request_is_known_by_one_name_everywhere(engine: Engine) {
    let origin = Origin::answering(|_| {
        let answer = answer("200 OK", &["X-Request-Id: theirs"], b"");
        [&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..], &answer].concat()
    });
    let proxy = Proxy::before_with(engine, &origin, &["--request-id", "make"]);
    let mut client = Client::connect(proxy.address);
    let mut names = Vec::new();
    for round in 0..4 {
        if round == 2 {
            origin.close_all();
        }
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n");
        let interim = client.response().expect_status(103);
        let response = client.response().expect_status(200);
        let seen = origin.requests().pop().expect("it is seen");
        let name = seen.field("x-request-id").expect("it has a name");
        assert!(is_made(name), "{name}");
        assert_eq!(interim.field("x-request-id"), Some(name));
        assert_eq!(response.field("x-request-id"), Some(name));
        names.push(name.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 4, "each has its own");
    drop((client, origin));
    proxy.finish();
}

fn a_name_is_kept_of_those_who_may_give_one(engine: Engine) {
    let named = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let (keep, make) = (&["--request-id", "keep"][..], ["--request-id", "make"]);
    let trusted = [&make[..], &["--trusted", "127.0.0.1"]].concat();
    for options in [keep, &trusted] {
        let seen = forwarded(engine, options, &named("X-Request-ID: q/8+Zw==\r\n"));
        assert_eq!(seen.field("x-request-id"), Some("q/8+Zw=="));
        for bad in [
            "",
            "X-Request-Id: a b\r\n",
            "X-Request-Id: a\r\nX-Request-Id: a\r\n",
        ] {
            let seen = forwarded(engine, options, &named(bad));
            let name = seen.field("x-request-id").expect("it has one name");
            assert!(is_made(name), "{bad:?}: {name}");
        }
    }
    let twice = named("X-Request-Id: a\r\nX-Request-Id: a b\r\n");
    let seen = forwarded(engine, &[], &twice);
    assert_eq!(seen.head.fields_named("x-request-id"), ["a", "a b"]);
}

fn an_answer_in_place_of_the_backends_is_known_by_its_name_too(engine: Engine) {
    let (_bound, refusing) = refusing_address();
    let backend = refusing.to_string();
    let proxy = Proxy::start(engine, &["--backends", &backend, "--request-id", "keep"]);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n");
    let response = client.response().expect_status(503);
    assert_eq!(response.field("x-request-id"), Some("mine"));
    // One that was not understood has none, and not that of the last.
    client.send("GET / HTTP/1.1\r\nX-Request-Id: other\r\n\r\n");
    let response = client.response().expect_status(400);
    assert_eq!(response.field("x-request-id"), None);
    drop(client);
    proxy.finish();
}

fn every_message_says_where_it_came_through(engine: Engine) {
    let origin = Origin::answering(|request| match request.field("upgrade") {
        Some(_) => {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n";
            format!("{switch}Upgrade: echo\r\n\r\n").into_bytes()
        }
        None => {
            let fields = "Via: 1.1 inner\r\nContent-Length: 0";
            format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 200 OK\r\n{fields}\r\n\r\n").into()
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--via", "edge-1"]);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nVia: 2 outer\r\nConnection: Via\r\n\r\n");
    let interim = client.response().expect_status(103);
    assert_eq!(interim.head.fields_named("via"), ["1.1 edge-1"]);
    let response = client.response().expect_status(200);
    assert_eq!(
        response.head.fields_named("via"),
        ["1.1 inner", "1.0 edge-1"]
    );
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    client.response().expect_status(200);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let head = client.wire().head().expect("the response comes");
    assert_eq!(
        (head.status(), head.field("via")),
        (101, Some("1.1 edge-1"))
    );
    let seen: Vec<_> = origin.requests();
    let via = seen.iter().map(|seen| seen.head.fields_named("via"));
    let expected: [&[&str]; 3] = [&["2 outer", "1.1 edge-1"], &["1.0 edge-1"], &["1.1 edge-1"]];
    assert_eq!(via.collect::<Vec<_>>(), expected);
    drop((client, origin));
    proxy.finish();
}

fn the_way_is_told_as_rfc_7239_has_it(engine: Engine) {
    let on = ["--forwarded", "on"];
    let request = "GET / HTTP/1.1\r\nHost: a.test:80\r\nForwarded: for=1.1.1.1\r\n\r\n";
    let hop = "for=127.0.0.1;host=\"a.test:80\";proto=http";
    let seen = forwarded(engine, &on, request);
    assert_eq!(seen.field("forwarded"), Some(hop));
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    let trusted = [&on[..], &["--trusted", "127.0.0.1"]].concat();
    let seen = forwarded(engine, &trusted, request);
    assert_eq!(seen.head.fields_named("forwarded"), ["for=1.1.1.1", hop]);
    let seen = forwarded(engine, &trusted, &request.replace("1.1.1.1", "\"open"));
    assert_eq!(seen.field("forwarded"), Some(hop));
}

fn http10_without_host_gets_the_authority(engine: Engine) {
    let origin = Origin::named("a");
    let port = origin.address.port();
    let proxy = Proxy::start(engine, &["--backends", &format!("localhost:{port}")]);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.response().expect_status(200);
    let seen = origin.only_request();
    assert_eq!(seen.head.start, "GET / HTTP/1.1");
    assert_eq!(seen.field("host"), Some(&*format!("localhost:{port}")));
    drop((client, origin));
    proxy.finish();
}

fn an_asterisk_is_a_target(engine: Engine) {
    let seen = forwarded(engine, &[], "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(seen.head.start, "OPTIONS * HTTP/1.1");
}

/// What the backend sees of `request`.
#[track_caller]
fn forwarded(engine: Engine, options: &[&str], request: &str) -> Message {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, options);
    let mut client = Client::connect(proxy.address);
    client.send(request);
    client.response().expect_status(200);
    let seen = origin.only_request();
    drop((client, origin));
    proxy.finish();
    seen
}
