//! What a client may do: who goes beyond it is told so where that is possible, and held by nothing.

use crate::support::{
    Broken, Client, Engine, Origin, PATIENCE, Proxy, eventually, get, ok, wait_for,
};

on_both_engines! {
    a_body_that_says_to_be_too_long_reaches_nobody,
    a_chunked_body_of_just_that_length_passes,
    a_chunked_body_is_counted_while_it_comes,
    a_chunked_body_that_comes_with_its_head_is_counted,
    a_response_that_has_begun_is_cut_where_its_upload_is_too_long,
    a_client_has_as_many_connections_as_it_may,
    connections_are_counted_for_whom_a_header_names,
    who_is_trusted_stands_for_many_clients,
    connections_of_tcp_are_counted_too,
    who_asks_too_often_is_429,
    a_body_that_nobody_reads_ends_the_connection,
    each_client_has_a_rate_of_its_own,
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
    let origin = Origin::of_cut_bodies();
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

const MAX_CONNECTIONS: [&str; 2] = ["--max-connections-per-client", "4"];

/// Opens connections, each behind `header`, until as many have been served as are allowed, and
/// demands that further ones are not.
#[track_caller]
fn fill(proxy: &Proxy, header: &str) -> Vec<Client> {
    let inside: Vec<Client> = (0..4)
        .map(|_| visit(proxy, header).expect("room"))
        .collect();
    for _ in 0..4 {
        assert!(visit(proxy, header).is_none(), "one more than there may be");
    }
    inside
}

/// A connection that was served once; `None` where it was reset without a word.
#[track_caller]
fn visit(proxy: &Proxy, header: &str) -> Option<Client> {
    let mut client = Client::connect_unless_reset(proxy.address)?;
    // The reset may have come already.
    let _ = client
        .wire()
        .try_send([header, &get("/")].concat().as_bytes());
    match client.wire().response("GET") {
        Ok(response) => {
            response.expect_status(200);
            Some(client)
        }
        Err(broken) => {
            assert_eq!(broken, Broken::Closed);
            None
        }
    }
}

/// Over all workers, whichever of them each connection came to.
fn a_client_has_as_many_connections_as_it_may(engine: Engine) {
    let origin = Origin::named("a");
    let options = [
        &MAX_CONNECTIONS[..],
        &["--cores", "2", "--log-level", "debug"],
    ]
    .concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut inside = fill(&proxy, "");
    expect_logged(&proxy, "end=too many connections of this client, accept");
    // Who is inside is served as ever, and who leaves makes room.
    for client in &mut inside {
        client.get("/").expect_status(200);
    }
    inside.truncate(1);
    let more: Vec<Client> = (0..3)
        .map(|_| wait_for(PATIENCE, "room", || visit(&proxy, "")))
        .collect();
    assert!(visit(&proxy, "").is_none());
    drop((inside, more, origin));
    proxy.finish();
}

fn connections_are_counted_for_whom_a_header_names(engine: Engine) {
    let origin = Origin::named("a");
    let accept = ["--accept-proxy", "--proxy-trusted", "127.0.0.0/8"];
    let options = [&MAX_CONNECTIONS[..], &accept].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let v4 = fill(&proxy, "PROXY TCP4 192.0.2.1 198.51.100.7 1111 80\r\n");
    let other = fill(&proxy, "PROXY TCP4 192.0.2.2 198.51.100.7 1111 80\r\n");
    let v6 = fill(&proxy, "PROXY TCP6 2001:db8::1 2001:db8::7 1111 80\r\n");
    let neighbour = "PROXY TCP6 2001:db8::ffff:1 2001:db8::7 1111 80\r\n";
    assert!(visit(&proxy, neighbour).is_none(), "it is of the same /64");
    let next = fill(&proxy, "PROXY TCP6 2001:db8:0:1::1 2001:db8::7 1111 80\r\n");
    drop((v4, other, v6, next, origin));
    proxy.finish();
}

fn who_is_trusted_stands_for_many_clients(engine: Engine) {
    let origin = Origin::named("a");
    let options = [&MAX_CONNECTIONS[..], &["--trusted", "127.0.0.1"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let inside: Vec<_> = (0..8).map(|_| visit(&proxy, "").expect("room")).collect();
    drop((inside, origin));
    proxy.finish();
}

fn connections_of_tcp_are_counted_too(engine: Engine) {
    let origin = Origin::named("a");
    let options = [&MAX_CONNECTIONS[..], &["--mode", "tcp"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let inside = fill(&proxy, "");
    assert_eq!(origin.accepted(), 4, "the others reach no backend");
    drop((inside, origin));
    proxy.finish();
}

/// So few that the test is over before there is another one.
const MAX_RATE: [&str; 2] = ["--max-request-rate", "3/m"];

/// Over all workers, and over all connections of a client.
fn who_asks_too_often_is_429(engine: Engine) {
    let origin = Origin::named("a");
    let options = [&MAX_RATE[..], &["--cores", "2", "--log-level", "debug"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(proxy.address)).collect();
    for client in &mut clients {
        client.get("/").expect_status(200);
    }
    for client in &mut clients {
        // The connection is kept: another one would cost both sides more.
        for _ in 0..2 {
            let refused = client.get("/").expect_status(429);
            assert_eq!(refused.text(), "fastlb: too many requests of this client\n");
            let seconds = refused.field("retry-after").map(str::parse::<u64>);
            assert!(matches!(seconds, Some(Ok(1..=20))), "{seconds:?}");
        }
    }
    assert_eq!(origin.requests().len(), 3);
    expect_logged(&proxy, "end=too many requests of this client, head");
    drop((clients, origin));
    proxy.finish();
}

fn a_body_that_nobody_reads_ends_the_connection(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--max-request-rate", "1/m"]);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    expect_last(&mut client, 429, "too many requests of this client");
    drop((client, origin));
    proxy.finish();
}

fn each_client_has_a_rate_of_its_own(engine: Engine) {
    let origin = Origin::named("a");
    let accept = ["--accept-proxy", "--proxy-trusted", "127.0.0.0/8"];
    let trusted = ["--trusted", "192.0.2.9"];
    let options = [&MAX_RATE[..], &accept, &trusted].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let statuses = |header: &str| {
        let mut client = Client::connect(proxy.address);
        client.send(header);
        let statuses = (0..4).map(|_| client.get("/").status());
        statuses.collect::<Vec<_>>()
    };
    let limited = [200, 200, 200, 429];
    for address in ["TCP4 192.0.2.1", "TCP4 192.0.2.2", "TCP6 2001:db8::1"] {
        let ends = match &address[..4] {
            "TCP4" => format!("{address} 198.51.100.7"),
            _ => format!("{address} 2001:db8::7"),
        };
        assert_eq!(
            statuses(&format!("PROXY {ends} 1 80\r\n")),
            limited,
            "{address}"
        );
    }
    let of_the_same_64 = "PROXY TCP6 2001:db8::2 2001:db8::7 1 80\r\n";
    assert_eq!(statuses(of_the_same_64), [429; 4]);
    let trusted = "PROXY TCP4 192.0.2.9 198.51.100.7 1 80\r\n";
    assert_eq!(statuses(trusted), [200; 4]);
    drop(origin);
    proxy.finish();
}
