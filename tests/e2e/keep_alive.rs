//! Many requests on one connection: pipelines, HTTP/1.0, closes asked for, half-closed clients.

use std::io::Write;
use std::time::Duration;

use crate::support::{
    Checker, Client, Engine, Origin, Pattern, Proxy, answer, eventually, get, now, ok, pause,
};

on_both_engines! {
    pipelined_requests_are_answered_in_order,
    a_pipeline_goes_on_after_a_body,
    requests_may_be_cut_anywhere,
    one_empty_line_before_a_request_is_skipped,
    an_empty_line_behind_a_request_begins_no_other,
    a_second_empty_line_is_400,
    the_last_response_outlives_what_was_sent_behind_its_request,
    upstream_connections_are_reused,
    http10_closes,
    http10_stays_open_where_asked,
    a_client_may_ask_to_close,
    a_backend_that_closes_does_not_close_the_client,
    a_half_closed_client_gets_its_answer,
    a_half_closed_client_gets_all_its_answers,
    a_connection_serves_as_many_requests_as_it_may,
    an_old_connection_is_closed_behind_its_next_response,
    a_pipeline_is_read_as_it_is_answered,
}

fn pipelined_requests_are_answered_in_order(engine: Engine) {
    // The first backend is the slower one, so answers that are not kept in order come out wrong.
    let slow = Origin::answering(|request| {
        pause(Duration::from_millis(10));
        ok(request.head.target().as_bytes())
    });
    let fast = Origin::named("fast");
    let backends = format!("{},{}", slow.backend(), fast.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    let targets: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    client.send(targets.iter().map(|target| get(target)).collect::<String>());
    for target in &targets {
        assert_eq!(client.response().expect_status(200).text(), *target);
    }
    drop((client, slow, fast));
    proxy.finish();
}

fn a_pipeline_goes_on_after_a_body(engine: Engine) {
    let origin = Origin::answering(|request| {
        ok(&[request.head.target().as_bytes(), b" ", &request.body].concat())
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(concat!(
        "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfirst",
        "GET /between HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "6\r\nsecond\r\n0\r\n\r\n",
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "GET /last HTTP/1.1\r\nHost: a\r\n\r\n",
    ));
    for expected in [
        "/length first",
        "/between ",
        "/chunked second",
        "/none ",
        "/last ",
    ] {
        assert_eq!(client.response().expect_status(200).text(), expected);
    }
    drop((client, origin));
    proxy.finish();
}

fn requests_may_be_cut_anywhere(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let request = "POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for at in (1..request.len()).step_by(3) {
        client.send(&request[..at]);
        pause(Duration::from_millis(2));
        client.send(&request[at..]);
        assert_eq!(client.response().expect_status(200).text(), "/cut");
    }
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| request.body == b"body")
    );
    drop((client, origin));
    proxy.finish();
}

/// RFC 9112 section 2.2: old clients send a CRLF after the body of a POST.
fn one_empty_line_before_a_request_is_skipped(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        client.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n");
        assert_eq!(client.response().expect_status(200).text(), "/1");
    }
    drop((client, origin));
    proxy.finish();
}

/// It may be long until the next request comes; nobody has begun one that could be late.
fn an_empty_line_behind_a_request_begins_no_other(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--header-timeout", "500ms"]);
    let mut apart = Client::connect(proxy.address);
    apart.post("/1", b"body").expect_status(200);
    apart.send("\r\n");
    let mut together = Client::connect(proxy.address);
    together.post("/1", b"body").expect_status(200);
    together.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n");
    together.response().expect_status(200);
    // Longer than a head may take, with all its ticks.
    pause(Duration::from_millis(1_000));
    for client in [&mut apart, &mut together] {
        assert_eq!(client.get("/next").expect_status(200).text(), "/next");
    }
    drop((apart, together, origin));
    proxy.finish();
}

/// Whatever pieces they come in.
fn a_second_empty_line_is_400(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    for _ in 0..2 {
        client.send("\r\n");
        // Each is received by itself.
        pause(Duration::from_millis(100));
    }
    let _ = client.wire().try_send(get("/").as_bytes());
    client.response().expect_status(400);
    drop((client, origin));
    proxy.finish();
}

/// A close with bytes unread is a reset, which overtakes what the client has yet to read
/// (RFC 9112 section 9.6).
fn the_last_response_outlives_what_was_sent_behind_its_request(engine: Engine) {
    const LENGTH: u64 = 3 * 1024 * 1024;
    let last = [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ];
    for request in last {
        let origin = Origin::start(|conversation| {
            while conversation.request().is_some() {
                conversation.pass_gate();
                conversation.send(answer("200 OK", &[], &Pattern::new().whole(LENGTH)));
            }
        });
        let proxy = Proxy::before(engine, &origin);
        // Most of the body is still on its way when the proxy has sent the last of it.
        let mut client = Client::connect_with_buffer(proxy.address, 64 * 1024);
        client.send(request);
        eventually("the request to reach the backend", || {
            origin.requests().len() == 1
        });
        client.send("\r\n");
        origin.open_gate();
        let head = client.wire().head().expect("the response begins");
        assert_eq!(head.status(), 200);
        let framing = head.response_framing("GET").expect("its framing is sound");
        let mut checker = Checker::new();
        let whole = client.wire().body(framing, |piece| checker.take(piece));
        assert_eq!((whole.map(drop), checker.length()), (Ok(()), LENGTH));
        client.expect_close();
        drop((client, origin));
        proxy.finish();
    }
}

fn upstream_connections_are_reused(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    for _ in 0..5 {
        let mut client = Client::connect(proxy.address);
        for _ in 0..5 {
            client.get("/").expect_status(200);
        }
    }
    assert_eq!(
        origin.accepted(),
        1,
        "connections for 25 requests one after the other"
    );
    drop(origin);
    proxy.finish();
}

fn http10_closes(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let response = client.response().expect_status(200);
    assert_eq!(response.text(), "/old");
    assert!(!response.head.connection_says("keep-alive"));
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn http10_stays_open_where_asked(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        client.send("GET /old HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let response = client.response().expect_status(200);
        assert!(
            response.head.connection_says("keep-alive"),
            "a 1.0 client has to be told"
        );
    }
    client.send("GET /last HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "/last");
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn a_client_may_ask_to_close(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let response = client.response().expect_status(200);
    assert!(response.head.connection_says("close"));
    client.expect_close();
    let upstream = origin.requests().remove(1);
    assert!(
        !upstream.head.connection_says("close"),
        "what the client asks is not for the backend"
    );
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_closes_does_not_close_the_client(engine: Engine) {
    let origin = Origin::start(|conversation| {
        if conversation.request().is_some() {
            let fields = ["Connection: close"];
            conversation.send(answer("200 OK", &fields, b"closing"));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..5 {
        let response = client.get("/").expect_status(200);
        assert!(
            !response.head.connection_says("close"),
            "that was between backend and proxy"
        );
    }
    assert_eq!(origin.accepted(), 5);
    drop((client, origin));
    proxy.finish();
}

fn a_half_closed_client_gets_its_answer(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while let Some(request) = conversation.request() {
            conversation.pass_gate();
            conversation.send(ok(&request.body));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    client.half_close();
    // The end of the client's side has arrived long before the backend begins to answer.
    eventually("the request to reach the backend", || {
        !origin.requests().is_empty()
    });
    origin.open_gate();
    assert_eq!(client.response().expect_status(200).text(), "body");
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn a_half_closed_client_gets_all_its_answers(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(["/1", "/2", "/3"].map(get).concat());
    client.half_close();
    for target in ["/1", "/2", "/3"] {
        assert_eq!(client.response().expect_status(200).text(), target);
    }
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn a_connection_serves_as_many_requests_as_it_may(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--keep-alive-requests", "3"]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        let response = client.get("/").expect_status(200);
        assert!(!response.head.connection_says("close"));
    }
    // What is behind the last one in a pipeline is not served, and the backend's connection lives.
    client.send([get("/last"), get("/more")].concat());
    let last = client.response().expect_status(200);
    assert!(last.head.connection_says("close"));
    client.expect_close();
    assert_eq!((origin.requests().len(), origin.accepted()), (3, 1));
    drop((client, origin));
    proxy.finish();
}

fn an_old_connection_is_closed_behind_its_next_response(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--keep-alive-age", "1s"]);
    let mut client = Client::connect(proxy.address);
    let young = client.get("/").expect_status(200);
    assert!(!young.head.connection_says("close"));
    pause(Duration::from_millis(1_200));
    let old = client.get("/").expect_status(200);
    assert!(old.head.connection_says("close"));
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

/// However many requests a client sends ahead, they wait in the kernel until it is their turn.
fn a_pipeline_is_read_as_it_is_answered(engine: Engine) {
    const REQUESTS: usize = 100_000;
    let origin = Origin::start(|conversation| {
        if conversation.request().is_some() {
            conversation.pass_gate();
            conversation.send(ok(b""));
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--response-timeout", "off"]);
    let mut client = Client::connect(proxy.address);
    let mut ahead = client.wire().writer();
    ahead.set_nonblocking(true).expect("the socket is open");
    let pipeline = get("/").repeat(REQUESTS);
    eventually("the first to be under way", || {
        let _ = ahead.write(pipeline.as_bytes());
        origin.requests().len() == 1
    });
    let before = proxy.resident_bytes();
    let mut sent = 0;
    let began = now();
    while began.elapsed() < Duration::from_secs(1) {
        sent += ahead.write(pipeline.as_bytes()).unwrap_or(0);
        pause(Duration::from_millis(10));
    }
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(
        grown < 1024 * 1024,
        "{grown} bytes more for {sent} sent ahead"
    );
    origin.open_gate();
    drop((ahead, client, origin));
    proxy.finish();
}
