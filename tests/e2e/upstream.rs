//! Connections to backends: when they are kept, when they are replaced, how long they are awaited.

use std::time::Duration;

use crate::support::{
    Client, Engine, Origin, Proxy, eventually, full_listener, get, now, ok, pause,
};

on_both_engines! {
    connections_closed_while_idle_are_not_used,
    a_get_on_a_dying_connection_is_replaced,
    a_get_on_a_reset_connection_is_replaced,
    a_post_on_a_dying_connection_is_502,
    a_put_whose_body_is_to_come_is_replaced,
    a_post_whose_body_is_to_come_is_502,
    a_pool_full_of_dying_connections_is_survived,
    unasked_bytes_cost_the_connection,
    bytes_behind_a_response_cost_the_connection,
    bytes_behind_a_long_response_cost_the_connection,
    an_authenticated_connection_serves_nobody_else,
    a_backend_that_worked_on_a_request_is_not_asked_again,
    a_dead_connection_is_replaced_behind_a_backend_that_cannot_be_reached,
    a_response_that_never_begins_is_504,
    a_busy_response_is_not_timed_out,
    a_connect_that_never_ends_is_504,
    a_connect_that_never_ends_is_passed_over,
    a_client_that_leaves_takes_its_upstream_along,
    a_client_that_leaves_an_upload_cuts_it,
}

fn connections_closed_while_idle_are_not_used(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--retries", "0"]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        client.get("/").expect_status(200);
        origin.close_all();
        // The pool notices by itself: only the client's own connection is left.
        proxy.wait_extra_descriptors(1);
        client.post("/", b"body").expect_status(200);
        origin.close_all();
        proxy.wait_extra_descriptors(1);
    }
    drop((client, origin));
    proxy.finish();
}

fn a_get_on_a_dying_connection_is_replaced(engine: Engine) {
    replaced(engine, dying_origin(false));
}

fn a_get_on_a_reset_connection_is_replaced(engine: Engine) {
    replaced(engine, dying_origin(true));
}

/// With no retry allowed: the replacement of a stale connection is none.
fn replaced(engine: Engine, origin: Origin) {
    let proxy = Proxy::before_with(engine, &origin, &["--retries", "0"]);
    let mut client = Client::connect(proxy.address);
    for number in 0..10 {
        assert_eq!(
            client.get("/").expect_status(200).text(),
            number.to_string()
        );
    }
    drop((client, origin));
    proxy.finish();
}

/// The backend may have acted on it, so it must not be sent twice.
fn a_post_on_a_dying_connection_is_502(engine: Engine) {
    for reset in [false, true] {
        let origin = dying_origin(reset);
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.get("/").expect_status(200);
        client.post("/", b"once").expect_status(502);
        let posts = origin
            .requests()
            .iter()
            .filter(|seen| seen.head.method() == "POST")
            .count();
        assert_eq!(posts, 1, "times that the backend got the POST");
        client.get("/").expect_status(200);
        drop((client, origin));
        proxy.finish();
    }
}

/// The client still has all of the body, so nothing of the request is lost.
fn a_put_whose_body_is_to_come_is_replaced(engine: Engine) {
    for (expect, reset) in EXPECT_AND_RESET {
        let origin = origin_dying_behind_a_head(reset);
        let proxy = Proxy::before_with(engine, &origin, &["--retries", "0"]);
        let mut client = Client::connect(proxy.address);
        client.get("/").expect_status(200);
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 4\r\n\r\n"
        ));
        if expect.is_empty() {
            eventually("the replacement", || origin.accepted() == 2);
        } else {
            client.response().expect_status(100);
        }
        client.send("body");
        assert_eq!(client.response().expect_status(200).text(), "body");
        assert_eq!(client.get("/").expect_status(200).text(), "");
        assert_eq!(origin.accepted(), 2);
        drop((client, origin));
        proxy.finish();
    }
}

/// The head alone may have moved the backend to act.
fn a_post_whose_body_is_to_come_is_502(engine: Engine) {
    for (expect, reset) in EXPECT_AND_RESET {
        let origin = origin_dying_behind_a_head(reset);
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.get("/").expect_status(200);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 4\r\n\r\n"
        ));
        let response = client.response().expect_status(502);
        assert!(
            response.head.connection_says("close"),
            "the body may still come"
        );
        client.expect_close();
        assert_eq!(origin.accepted(), 1, "connections that got the POST");
        drop((client, origin));
        proxy.finish();
    }
}

/// All pooled connections die when they are used; only a fresh one answers.
fn a_pool_full_of_dying_connections_is_survived(engine: Engine) {
    const CLIENTS: usize = 20;
    let origin = Origin::start(|conversation| {
        if conversation.request().is_some() {
            conversation.pass_gate();
            conversation.send(ok(b"alive"));
            conversation.request();
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--retries", "0"]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(proxy.address))
        .collect();
    clients.iter().for_each(|client| client.send(get("/")));
    eventually("a connection per client", || {
        origin.requests().len() == CLIENTS
    });
    origin.open_gate();
    for client in &mut clients {
        client.response().expect_status(200);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").expect_status(200).text(), "alive");
    }
    drop((clients, origin));
    proxy.finish();
}

/// Bytes on an idle connection would be taken for the answer to somebody else's request.
fn unasked_bytes_cost_the_connection(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let unasked = [
        &ok(b"poison")[..],
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"H",
        b"\r\n",
    ];
    for (number, bytes) in (1..).zip(unasked) {
        assert_eq!(client.get("/asked").expect_status(200).text(), "/asked");
        origin.say_unasked(bytes);
        eventually("the connection to be dropped", || origin.open() == 0);
        assert_eq!(origin.accepted(), number);
    }
    drop((client, origin));
    proxy.finish();
}

fn bytes_behind_a_response_cost_the_connection(engine: Engine) {
    let origin = Origin::answering(|_| [ok(b"asked"), ok(b"poison")].concat());
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..5 {
        assert_eq!(client.get("/").expect_status(200).text(), "asked");
        eventually("the connection to be dropped", || origin.open() == 0);
    }
    drop((client, origin));
    proxy.finish();
}

/// The same behind a body that is spliced to its last byte: what follows is in the socket still,
/// and the next request comes at once. The length makes a segment of the last of the body and the
/// first of what follows.
fn bytes_behind_a_long_response_cost_the_connection(engine: Engine) {
    const LENGTH: usize = 4 * fastlb::limits::LARGE_CHUNK_BYTES + 777;
    let origin = Origin::answering(|asked| match asked.head.target() {
        "/long" => [ok(&[b'x'; LENGTH]), ok(b"poison")].concat(),
        _ => ok(b"asked"),
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..10 {
        client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().expect_status(200).body.len(), LENGTH);
        assert_eq!(client.response().expect_status(200).text(), "asked");
    }
    drop((client, origin));
    proxy.finish();
}

/// RFC 4559 section 6: for NTLM and Negotiate it is the connection that is authenticated.
fn an_authenticated_connection_serves_nobody_else(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let mut user = "nobody".to_owned();
        while let Some(asked) = conversation.request() {
            if let Some(credentials) = asked.field("authorization") {
                user = credentials.to_owned();
            }
            conversation.send(ok(user.as_bytes()));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    for credentials in ["NTLM a", "negotiate b", "NTLM\tc", "Basic d"] {
        let (mut user, mut other) = (
            Client::connect(proxy.address),
            Client::connect(proxy.address),
        );
        user.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {credentials}\r\n\r\n"
        ));
        assert_eq!(user.response().expect_status(200).text(), credentials);
        let shares = credentials.starts_with("Basic");
        let expected = if shares { credentials } else { "nobody" };
        assert_eq!(other.get("/").expect_status(200).text(), expected);
    }
    drop(origin);
    proxy.finish();
}

/// A kept connection that ends at once was dead before it was asked. One that ends later had the
/// request, which counts as any other that failed.
fn a_backend_that_worked_on_a_request_is_not_asked_again(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while let Some(asked) = conversation.request() {
            if asked.head.target() == "/dies" {
                pause(Duration::from_millis(2 * fastlb::limits::STALE_MS_MAX));
                return;
            }
            conversation.send(ok(b"alive"));
        }
    });
    let options = ["--retries", "0", "--eject-after", "0"];
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    client.get("/dies").expect_status(502);
    assert_eq!(origin.requests().len(), 2, "it was asked once");
    drop((client, origin));
    proxy.finish();
}

/// How long the first backend was waited for says nothing of the connection to the second.
fn a_dead_connection_is_replaced_behind_a_backend_that_cannot_be_reached(engine: Engine) {
    let (_held, full) = full_listener();
    let origin = dying_origin(false);
    let backends = format!("{full},{}", origin.backend());
    let timeout = format!("{}ms", fastlb::limits::STALE_MS_MAX + 200);
    let options = ["--connect-timeout", &timeout, "--health", "off"];
    let fixed = ["--backends", &backends, "--eject-after", "0"];
    let proxy = Proxy::start(engine, &[&fixed[..], &options].concat());
    let mut client = Client::connect(proxy.address);
    for number in 0..4 {
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let response = client.response().expect_status(200);
        assert_eq!(response.text(), number.to_string());
    }
    drop((client, origin));
    proxy.finish();
}

fn a_response_that_never_begins_is_504(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.request();
        conversation.wait_until_closed();
    });
    let proxy = Proxy::before_with(engine, &origin, &["--response-timeout", "300ms"]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        let asked = now();
        let response = client.get("/").expect_status(504);
        assert!(!response.body.is_empty(), "the reason is missing");
        let took = asked.elapsed();
        assert!(
            took >= Duration::from_millis(290) && took < Duration::from_secs(5),
            "{took:?}"
        );
    }
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// The time is for the first byte; a body that takes longer but makes progress is none of it.
fn a_busy_response_is_not_timed_out(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
            conversation.trickle(&[b'x'; 20], Duration::from_millis(50));
        }
    });
    let options = [
        "--response-timeout",
        "300ms",
        "--idle-timeout",
        "300ms",
        "--header-timeout",
        "300ms",
    ];
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = Client::connect(proxy.address);
    assert_eq!(client.get("/").expect_status(200).body, [b'x'; 20]);
    drop((client, origin));
    proxy.finish();
}

fn a_connect_that_never_ends_is_504(engine: Engine) {
    let (_held, full) = full_listener();
    let backend = full.to_string();
    let proxy = Proxy::start(
        engine,
        &["--backends", &backend, "--connect-timeout", "300ms"],
    );
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(504);
    drop(client);
    proxy.finish();
}

fn a_connect_that_never_ends_is_passed_over(engine: Engine) {
    let (_held, full) = full_listener();
    let origin = Origin::named("a");
    let backends = format!("{full},{}", origin.backend());
    let proxy = Proxy::start(
        engine,
        &["--backends", &backends, "--connect-timeout", "300ms"],
    );
    let mut client = Client::connect(proxy.address);
    for _ in 0..4 {
        assert_eq!(
            client.get("/").expect_status(200).field("x-backend"),
            Some("a")
        );
    }
    drop((client, origin));
    proxy.finish();
}

fn a_client_that_leaves_takes_its_upstream_along(engine: Engine) {
    for reset in [false, true] {
        let origin = Origin::start(|conversation| {
            if conversation.request().is_some() {
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                while conversation.try_send([b'x'; 65_536]) {}
            }
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(get("/"));
        client.wire().head().expect("the response begins");
        if reset {
            client.reset_on_close();
        }
        drop(client);
        eventually("the backend to be left", || origin.open() == 0);
        proxy.finish();
    }
}

/// The backend must not take half an upload for a whole one.
fn a_client_that_leaves_an_upload_cuts_it(engine: Engine) {
    let heads = ["Content-Length: 1000", "Transfer-Encoding: chunked"];
    for framing in heads {
        let origin = Origin::of_cut_bodies();
        let proxy = Proxy::before(engine, &origin);
        let client = Client::connect(proxy.address);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n4\r\nhalf\r\n"
        ));
        eventually("the request to reach the backend", || origin.open() == 1);
        drop(client);
        eventually("the backend to be left", || origin.open() == 0);
        drop(origin);
        proxy.finish();
    }
}

/// Answers the first request of each connection, with how many were answered before, and closes
/// when the second arrives.
fn dying_origin(reset: bool) -> Origin {
    Origin::start(move |conversation| {
        if conversation.request().is_none() {
            return;
        }
        conversation.send(ok(conversation.number.to_string().as_bytes()));
        conversation.request();
        if reset {
            conversation.reset_on_close();
        }
    })
}

/// Whether the client says that it waits, and whether the backend's end is a reset.
const EXPECT_AND_RESET: [(&str, bool); 4] = [
    ("", false),
    ("", true),
    ("Expect: 100-continue\r\n", false),
    ("Expect: 100-continue\r\n", true),
];

/// Its first connection ends behind the head of the second request; the others send bodies back.
fn origin_dying_behind_a_head(reset: bool) -> Origin {
    Origin::start(move |conversation| {
        if conversation.number == 0 {
            conversation.request();
            conversation.send(ok(b"first"));
            conversation.head();
            if reset {
                conversation.reset_on_close();
            }
            return;
        }
        while let Some(head) = conversation.head() {
            if head.field("expect").is_some() {
                conversation.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            let mut body = Vec::new();
            let whole = conversation.body(&head, |piece| body.extend_from_slice(piece));
            whole.expect("the client sends its body");
            conversation.send(ok(&body));
        }
    })
}
