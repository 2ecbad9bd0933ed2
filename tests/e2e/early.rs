//! Responses that do not wait for the whole request: interim ones, early final ones.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::{
    Checker, Client, Engine, Folder, Framing, Origin, PATIENCE, Pattern, Proxy, answer, eventually,
    get, ok, pause, wait_for,
};
use crate::unix::listening;

on_both_engines! {
    continue_comes_from_the_backend,
    a_refused_expectation_needs_no_body,
    interim_responses_come_in_order,
    so_many_interim_responses_and_no_more,
    nothing_follows_half_an_interim_response,
    http10_clients_get_no_interim_responses,
    an_early_final_response_ends_an_upload,
    an_early_final_response_ends_an_upload_that_pauses,
    a_response_may_begin_before_the_request_ends,
    an_early_acceptance_lets_the_upload_go_on,
    a_body_that_was_not_read_is_nobody_elses_request,
}

/// Of a client that is sent more all the time.
const FULL_AFTER: Duration = Duration::from_millis(300);

fn continue_comes_from_the_backend(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while let Some(head) = conversation.head() {
            assert_eq!(head.field("expect"), Some("100-continue"));
            conversation.send("HTTP/1.1 100 Continue\r\n\r\n");
            let mut body = Vec::new();
            if conversation
                .body(&head, |piece| body.extend_from_slice(piece))
                .is_err()
            {
                return;
            }
            conversation.send(ok(&body));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        );
        client.response().expect_status(100);
        client.send("body");
        assert_eq!(client.response().expect_status(200).text(), "body");
    }
    drop((client, origin));
    proxy.finish();
}

/// The client may keep its body now, so either side has to give up a connection that would be out
/// of step; the answer arrives in any case.
fn a_refused_expectation_needs_no_body(engine: Engine) {
    let origin = Origin::start(|conversation| {
        if conversation.head().is_some() {
            conversation.send(answer(
                "417 Expectation Failed",
                &["Connection: close"],
                b"no",
            ));
            conversation.wait_until_closed();
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let response = client.response().expect_status(417);
    assert_eq!(response.text(), "no");
    assert!(
        response.head.connection_says("close"),
        "the body may still come"
    );
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn interim_responses_come_in_order(engine: Engine) {
    let origin = Origin::answering(|_| {
        [
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
            &b"HTTP/1.1 102 Processing\r\n\r\n"[..],
            b"HTTP/1.1 103 Early Hints\r\nLink: </more.css>; rel=preload\r\n\r\n",
            &ok(b"final"),
        ]
        .concat()
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let first = client.response().expect_status(103);
        assert_eq!(first.field("link"), Some("</style.css>; rel=preload"));
        client.response().expect_status(102);
        let third = client.response().expect_status(103);
        assert_eq!(third.field("link"), Some("</more.css>; rel=preload"));
        assert_eq!(client.response().expect_status(200).text(), "final");
    }
    drop((client, origin));
    proxy.finish();
}

/// RFC 9110 section 15.2: an HTTP/1.0 client knows no 1xx.
fn so_many_interim_responses_and_no_more(engine: Engine) {
    const MOST: usize = fastlb::limits::INTERIM_RESPONSES_MAX as usize;
    for (said, status) in [(MOST, 200), (MOST + 1, 502)] {
        let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(said);
        let origin = Origin::answering(move |_| [&interim[..], &ok(b"final")].concat());
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(get("/"));
        for _ in 0..MOST {
            client.response().expect_status(102);
        }
        client.response().expect_status(status);
        drop((client, origin));
        proxy.finish();
    }
}

/// What is wrong with the request is found while the client has room for a part of what it was to
/// be told before.
fn nothing_follows_half_an_interim_response(engine: Engine) {
    let link = format!("Link: <{}>", "a".repeat(15_000));
    let interim = format!("HTTP/1.1 103 Early Hints\r\n{link}\r\n\r\n");
    let origin = Origin::start(move |conversation| {
        conversation.head();
        // More than a Unix socket keeps on its way.
        conversation.send(interim.repeat(30));
        conversation.pass_gate();
    });
    let (folder, backend) = (Folder::new(), origin.backend());
    let path = folder.file("listener");
    let proxy = listening(engine, &path, &backend, &[]);
    let mut client = Client::connect_unix(&path);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut reader = client.wire().writer();
    let (mut room, mut here) = (vec![0; 1 << 20], 0);
    wait_for(PATIENCE, "the client to be full", || {
        let before = here;
        pause(FULL_AFTER);
        here = reader.peek(&mut room).expect("the proxy has not closed");
        (here == before).then_some(())
    });
    client.send("no size\r\n");
    let mut heard = Vec::new();
    // It is a reset, which a Unix socket tells of where it has something unread.
    let _ = reader.read_to_end(&mut heard);
    let [begun, told] = ["HTTP/1.1 103 ", "HTTP/1.1 400 "]
        .map(|begin| memchr::memmem::find_iter(&heard, begin).count());
    assert!(begun < 30, "all of it found room");
    assert_eq!(told, 0, "answers behind {begun} interim responses");
    origin.open_gate();
    drop((client, reader, origin));
    proxy.finish();
}

fn http10_clients_get_no_interim_responses(engine: Engine) {
    let origin =
        Origin::answering(|_| [&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..], &ok(b"final")].concat());
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().expect_status(200).text(), "final");
    drop((client, origin));
    proxy.finish();
}

/// The backend reads nothing of the body, so the upload stands still with all buffers full when the
/// answer comes. The client, which only writes, has to get it all the same.
fn an_early_final_response_ends_an_upload(engine: Engine) {
    const LENGTH: u64 = 64 * 1024 * 1024;
    let origin = Origin::start(|conversation| {
        if conversation.head().is_some() {
            conversation.send(answer(
                "413 Content Too Large",
                &["Connection: close"],
                b"no",
            ));
            conversation.pass_gate();
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let mut writer = client.wire().writer();
    let upload = thread::spawn(move || {
        // That the proxy closes in the middle is what should happen.
        Pattern::new()
            .pieces(LENGTH)
            .all(|piece| writer.write_all(piece).is_ok())
    });
    let response = client.response().expect_status(413);
    assert_eq!(response.text(), "no");
    origin.open_gate();
    client.wire().drain_until_closed();
    upload
        .join()
        .expect("the writer ends once the proxy has closed");
    drop((client, origin));
    proxy.finish();
}

/// The client has sent what it has so far, in bulk, when the answer comes; what it sends before it
/// has seen the answer must not cost it the answer.
fn an_early_final_response_ends_an_upload_that_pauses(engine: Engine) {
    const LENGTH: u64 = 64 * 1024 * 1024;
    const SENT: u64 = 2 * 1024 * 1024;
    let origin = Origin::start(|conversation| {
        if conversation.head().is_some() {
            let mut checker = Checker::new();
            let sent = conversation
                .wire()
                .body(Framing::Length(SENT), |piece| checker.take(piece));
            sent.expect("the proxy passes on what it has");
            conversation.send(answer("403 Forbidden", &["Connection: close"], b"no"));
            conversation.pass_gate();
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    Pattern::new()
        .pieces(SENT)
        .for_each(|piece| client.send(piece));
    eventually("the answer to be there", || client.wire().has_input());
    for _ in 0..8 {
        client.send([0; 64 * 1024]);
    }
    assert_eq!(client.response().expect_status(403).text(), "no");
    client.half_close();
    client.expect_close();
    origin.open_gate();
    drop((client, origin));
    proxy.finish();
}

fn a_response_may_begin_before_the_request_ends(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while let Some(head) = conversation.head() {
            conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            if conversation.body(&head, |_| ()).is_err() {
                return;
            }
            conversation.send("-last");
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
        // Only once the head is here does the client send the rest.
        let head = client.wire().head().expect("the response begins");
        client.send("half");
        let framing = head.response_framing("POST").expect("its framing is sound");
        let mut body = Vec::new();
        client
            .wire()
            .body(framing, |piece| body.extend_from_slice(piece))
            .expect("it is whole");
        assert_eq!(body, b"first-last");
    }
    assert_eq!(
        origin.accepted(),
        2,
        "whether it reads all of it, nobody knew"
    );
    drop((client, origin));
    proxy.finish();
}

/// A backend that answers a request and never reads its body takes that for the next request, whose
/// answer must not become somebody else's.
fn a_body_that_was_not_read_is_nobody_elses_request(engine: Engine) {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let origin = Origin::start(|conversation| {
        while let Some(head) = conversation.head() {
            conversation.send(ok(head.target().as_bytes()));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let (mut first, mut second) = (
        Client::connect(proxy.address),
        Client::connect(proxy.address),
    );
    for _ in 0..20 {
        first.send(format!(
            "POST /shown HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            HIDDEN.len()
        ));
        assert_eq!(first.response().expect_status(200).text(), "/shown");
        first.send(HIDDEN);
        assert_eq!(second.get("/asked").expect_status(200).text(), "/asked");
        first.send("GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(first.response().expect_status(200).text(), "/last");
    }
    drop((first, second, origin));
    proxy.finish();
}

/// The backend has promised to take the rest: the client sends it, and both connections go on.
fn an_early_acceptance_lets_the_upload_go_on(engine: Engine) {
    const LENGTH: u64 = 8 * 1024 * 1024;
    let (sender, receiver) = mpsc::channel();
    let origin = Origin::start(move |conversation| {
        while let Some(head) = conversation.head() {
            conversation.send(answer("202 Accepted", &[], b"taken"));
            let mut checker = Checker::new();
            if conversation
                .body(&head, |piece| checker.take(piece))
                .is_err()
            {
                return;
            }
            sender.send(checker.length()).expect("the test waits");
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let pattern = Pattern::new();
    for _ in 0..2 {
        let mut pieces = pattern.pieces(LENGTH);
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
        ));
        client.send(pieces.next().expect("the body has a first piece"));
        let response = client.response().expect_status(202);
        assert_eq!(response.text(), "taken");
        assert!(!response.head.connection_says("close"));
        pieces.for_each(|piece| client.send(piece));
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(LENGTH));
    }
    assert_eq!(
        origin.accepted(),
        2,
        "whether it reads all of it, nobody knew"
    );
    drop((client, origin));
    proxy.finish();
}
