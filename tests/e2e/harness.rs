//! The harness against itself, client to origin with nothing between: what it accepts and what it
//! notices. A test that passes because its tools are blind is worse than none.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{
    Broken, Checker, Client, Framing, Head, Origin, Pattern, answer, eventually, full_listener, ok,
    refusing_address,
};

#[test]
fn client_and_origin_understand_each_other() {
    let origin = Origin::named("a");
    let mut client = Client::connect(origin.address);
    let first = client.get("/first").expect_status(200);
    assert_eq!(
        (&*first.text(), first.field("x-backend")),
        ("/first", Some("a"))
    );
    assert_eq!(client.post("/second", b"body").text(), "/second");
    let requests = origin.requests();
    assert_eq!(
        requests[0].head.raw,
        b"GET /first HTTP/1.1\r\nHost: fastlb.test\r\n\r\n"
    );
    assert_eq!(requests[1].body, b"body");
    assert_eq!((origin.accepted(), origin.open()), (1, 1));
}

#[test]
fn pipelined_responses_and_interim_ones_are_told_apart() {
    let origin = Origin::answering(|_| {
        [
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            &ok(b"final")[..],
        ]
        .concat()
    });
    let mut client = Client::connect(origin.address);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    let statuses = [(); 4].map(|()| client.response().status());
    assert_eq!(statuses, [103, 200, 103, 200]);
}

#[test]
fn chunks_of_any_size_become_one_body() {
    let origin = Origin::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
          3;name=value\r\nabc\r\n1\r\nd\r\n0\r\nX-Trailer: 1\r\n\r\n"
            .to_vec()
    });
    let response = Client::connect(origin.address).get("/");
    assert_eq!(
        (&*response.text(), response.framing),
        ("abcd", Framing::Chunked)
    );
    assert_eq!(response.trailers, ["X-Trailer: 1"]);
}

#[test]
fn every_cut_is_seen() {
    let cuts: [(&[u8], Broken); 5] = [
        (b"", Broken::Closed),
        (b"HTTP/1.1 200 OK\r\n", Broken::Cut),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
            Broken::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n",
            Broken::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            Broken::Cut,
        ),
    ];
    for (said, expected) in cuts {
        let origin = Origin::start(move |conversation| {
            conversation.request();
            conversation.send(said);
        });
        let mut client = Client::connect(origin.address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            client.broken_response(),
            expected,
            "{}",
            said.escape_ascii()
        );
    }
}

#[test]
fn a_reset_is_not_an_end() {
    let origin = Origin::start(|conversation| {
        conversation.request();
        conversation.send("HTTP/1.1 200 OK\r\n\r\nuntil close");
        // The client takes these bytes first, or the reset would take them away.
        conversation.request();
        conversation.reset_on_close();
    });
    let mut client = Client::connect(origin.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.wire().head().expect("the head is whole");
    assert_eq!(head.response_framing("GET"), Ok(Framing::UntilClose));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        client.wire().body(Framing::UntilClose, |_| ()),
        Err(Broken::Cut)
    );
}

#[test]
fn what_is_not_http_is_malformed() {
    let wrong = [
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        "HTTP/1.1 twenty OK\r\n\r\n",
    ];
    for head in wrong {
        assert!(Head::parse(head.as_bytes()).is_err(), "{head:?}");
    }
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let both = Head::parse(both.as_bytes()).expect("its lines are good");
    assert!(both.response_framing("GET").is_err());
    assert_eq!(both.response_framing("HEAD"), Ok(Framing::Empty));
}

#[test]
fn patterns_survive_any_cutting() {
    let body = Pattern::new().whole(300_000);
    for size in [1_021, 65_536, 299_999] {
        let mut checker = Checker::new();
        body.chunks(size).for_each(|piece| checker.take(piece));
        assert_eq!(checker.length(), 300_000);
    }
}

#[test]
#[should_panic(expected = "wrong from byte 70000 on")]
fn patterns_show_the_first_wrong_byte() {
    let mut body = Pattern::new().whole(100_000);
    body[70_000] ^= 1;
    Checker::new().take(&body);
}

#[test]
fn an_origin_closes_resets_and_speaks_unasked() {
    let origin = Origin::start(|conversation| {
        if conversation.number == 0 {
            conversation.reset_on_close();
            // A reset that comes too soon is an error of connecting.
            conversation.pass_gate();
        } else {
            conversation.wait_until_closed();
        }
    });
    let mut reset = Client::connect(origin.address);
    origin.open_gate();
    assert!(reset.wire().drain_until_closed());
    let mut idle = Client::connect(origin.address);
    eventually("the second conversation", || origin.open() == 1);
    origin.say_unasked(&answer("408 Request Timeout", &["Connection: close"], b""));
    assert_eq!(idle.response().status(), 408);
    origin.close_all();
    idle.expect_close();
}

#[test]
fn addresses_that_refuse_refuse_and_full_ones_hang() {
    let (_bound, refusing) = refusing_address();
    assert!(TcpStream::connect(refusing).is_err());
    let (_held, full) = full_listener();
    let patience = Duration::from_millis(100);
    let error = TcpStream::connect_timeout(&full, patience).map(drop);
    assert_eq!(
        error.map_err(|error| error.kind()),
        Err(ErrorKind::TimedOut)
    );
}

#[test]
fn a_writer_and_a_reader_share_a_connection() {
    let origin = Origin::answering(|request| ok(request.body.len().to_string().as_bytes()));
    let mut client = Client::connect(origin.address);
    let mut writer = client.wire().writer();
    writer
        .write_all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        .expect("it is open");
    assert_eq!(client.response().text(), "3");
}
