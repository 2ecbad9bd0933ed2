//! What a client may do: who goes beyond it is told so where that is possible, and held by nothing.

use crate::support::{Broken, Client, Engine, Origin, Proxy, eventually, ok};

on_both_engines! {
    a_body_that_says_to_be_too_long_reaches_nobody,
    a_chunked_body_of_just_that_length_passes,
    a_chunked_body_is_counted_while_it_comes,
    a_chunked_body_that_comes_with_its_head_is_counted,
    a_response_that_has_begun_is_cut_where_its_upload_is_too_long,
}

const MAX_BODY: [&str; 2] = ["--max-body", "1KiB"];
const CHUNKED: &str = "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A chunk with so many bytes of payload.
fn chunk(bytes: usize) -> String {
    format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes))
}

/// Demands the last answer of a connection, with the reason that it gives.
#[track_caller]
fn expect_last(client: &mut Client, status: u16, reason: &str) {
    let response = client.response().expect_status(status);
    assert_eq!(response.text(), format!("fastlb: {reason}\n"));
    assert!(response.head.connection_says("close"));
    client.expect_close();
}

#[track_caller]
fn expect_logged(proxy: &Proxy, words: &str) {
    eventually(words, || {
        proxy.log().iter().any(|line| line.contains(words))
    });
}

fn a_body_that_says_to_be_too_long_reaches_nobody(engine: Engine) {
    let origin = Origin::answering(|request| ok(request.body.len().to_string().as_bytes()));
    let options = [&MAX_BODY[..], &["--log-level", "debug"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = Client::connect(proxy.address);
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n";
        client.send(format!("{head}{expect}\r\n"));
        expect_last(&mut client, 413, "request body too long");
    }
    assert_eq!(origin.accepted(), 0);
    expect_logged(&proxy, "end=request body too long, head");
    let mut client = Client::connect(proxy.address);
    let whole = client.post("/", &[b'x'; 1024]).expect_status(200);
    assert_eq!(whole.text(), "1024");
    drop((client, origin));
    proxy.finish();
}

fn a_chunked_body_of_just_that_length_passes(engine: Engine) {
    let origin = Origin::answering(|request| ok(request.body.len().to_string().as_bytes()));
    let proxy = Proxy::before_with(engine, &origin, &MAX_BODY);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send([CHUNKED, &chunk(256).repeat(4), "0\r\n\r\n"].concat());
        assert_eq!(client.response().expect_status(200).text(), "1024");
    }
    drop((client, origin));
    proxy.finish();
}

fn a_chunked_body_is_counted_while_it_comes(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let head = conversation.head().expect("the request begins");
        assert_eq!(conversation.body(&head, |_| ()), Err(Broken::Cut));
    });
    let proxy = Proxy::before_with(engine, &origin, &MAX_BODY);
    let mut client = Client::connect(proxy.address);
    client.send(CHUNKED);
    client.send(chunk(1024));
    eventually("the backend to be asked", || origin.accepted() == 1);
    client.send(chunk(1));
    expect_last(&mut client, 413, "request body too long");
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

fn a_chunked_body_that_comes_with_its_head_is_counted(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &MAX_BODY);
    let mut client = Client::connect(proxy.address);
    client.send([CHUNKED, &chunk(1025), "0\r\n\r\n"].concat());
    expect_last(&mut client, 413, "request body too long");
    assert_eq!(origin.requests().len(), 0);
    drop((client, origin));
    proxy.finish();
}

/// There is no second status, so the client has to see that the answer is not whole.
fn a_response_that_has_begun_is_cut_where_its_upload_is_too_long(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request begins");
        conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        conversation.wait_until_closed();
    });
    let proxy = Proxy::before_with(engine, &origin, &MAX_BODY);
    let mut client = Client::connect(proxy.address);
    client.send(CHUNKED);
    client.send(chunk(1024));
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("POST").expect("its framing is sound");
    client.send(chunk(1));
    assert_eq!(client.wire().body(framing, |_| ()), Err(Broken::Cut));
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}
