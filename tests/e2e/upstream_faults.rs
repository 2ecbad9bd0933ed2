//! Backends that die in the middle or talk nonsense: the client is told, and never lied to.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use crate::support::{Broken, Client, Engine, Framing, Origin, Pattern, Proxy, get, ok};

on_both_engines! {
    a_backend_that_dies_before_its_head_is_502,
    a_backend_that_dies_in_its_head_is_502,
    a_cut_response_is_cut_for_the_client,
    a_reset_response_is_cut_for_the_client,
    a_reset_response_is_a_reset_for_http10,
    a_reset_is_no_end_while_the_request_is_sent,
    nonsense_is_502,
    a_response_with_two_framings_is_never_passed_on,
    broken_chunks_cut_the_response,
    switching_protocols_unasked_is_502,
}

fn a_backend_that_dies_before_its_head_is_502(engine: Engine) {
    for reset in [false, true] {
        let origin = Origin::start(move |conversation| {
            conversation.request();
            if reset {
                conversation.reset_on_close();
            }
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        for _ in 0..2 {
            let response = client.post("/", b"body").expect_status(502);
            assert!(!response.body.is_empty(), "the reason is missing");
        }
        // There is no other backend, so a request that may be repeated ends in the same way.
        client.get("/").expect_status(502);
        drop((client, origin));
        proxy.finish();
    }
}

fn a_backend_that_dies_in_its_head_is_502(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.request();
        conversation.send("HTTP/1.1 200 OK\r\nContent-Le");
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(502);
    client.post("/", b"body").expect_status(502);
    drop((client, origin));
    proxy.finish();
}

/// The receive buffer of a backend that reads little of its request.
const BUFFER_BYTES: usize = 4 * 1024;
/// What it reads.
const READ_BYTES: u64 = 16 * 1024;
/// A body that goes to the backend in one send with its head, and one that does not. Neither finds
/// room in the buffers.
const WITH_ITS_HEAD: u64 = 60 * 1024;
const LARGE: u64 = 16 * 1024 * 1024;
/// Time in which nobody takes anything from a client whose request fills all buffers.
const FULL_AFTER: Duration = Duration::from_millis(500);

/// Responses that end before they are whole.
const CUT: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
];

fn a_cut_response_is_cut_for_the_client(engine: Engine) {
    for response in CUT {
        let origin = Origin::start(move |conversation| {
            conversation.request();
            conversation.send(response);
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(get("/"));
        assert_eq!(client.broken_response(), Broken::Cut, "{response:?}");
        drop((client, origin));
        proxy.finish();
    }
}

/// A reset is not the end of a body that ends with the connection either.
fn a_reset_response_is_cut_for_the_client(engine: Engine) {
    let until_close = "HTTP/1.1 200 OK\r\n\r\nhalf";
    for response in CUT.into_iter().chain([until_close]) {
        let origin = Origin::start(move |conversation| {
            conversation.reset_on_close();
            conversation.request();
            conversation.send(response);
            // The reset would overtake these bytes; they have arrived once the client has the head.
            conversation.pass_gate();
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(get("/"));
        let head = client.wire().head().expect("the response begins");
        let framing = head.response_framing("GET").expect("its framing is sound");
        origin.open_gate();
        assert_eq!(
            client.wire().body(framing, |_| ()),
            Err(Broken::Cut),
            "{response:?}"
        );
        drop((client, origin));
        proxy.finish();
    }
}

/// A client that knows the end of the body only by the close can be told of a cut only by a reset.
fn a_reset_response_is_a_reset_for_http10(engine: Engine) {
    for response in [CUT[1], "HTTP/1.1 200 OK\r\n\r\nhalf"] {
        let origin = Origin::start(move |conversation| {
            conversation.reset_on_close();
            conversation.request();
            conversation.send(response);
            conversation.pass_gate();
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send("GET / HTTP/1.0\r\n\r\n");
        client.wire().head().expect("the response begins");
        origin.open_gate();
        let body = client.wire().body(Framing::UntilClose, |_| ());
        assert_eq!(body, Err(Broken::Cut), "{response:?}");
        drop((client, origin));
        proxy.finish();
    }
}

/// The kernel tells of a reset once. Where the request waits for room it is the send that is told,
/// and the response, which only the close of the connection ends, finds what looks like an end.
fn a_reset_is_no_end_while_the_request_is_sent(engine: Engine) {
    for length in [WITH_ITS_HEAD, LARGE] {
        let origin = Origin::start_with_buffer(BUFFER_BYTES, |conversation| {
            conversation.reset_on_close();
            conversation.head();
            conversation.send("HTTP/1.1 200 OK\r\n\r\nhalf");
            // So that the send begins to wait once more, behind the receive.
            let some = Framing::Length(READ_BYTES);
            let read = conversation.wire().body(some, |_| ());
            read.expect("so much is on its way");
            conversation.pass_gate();
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        let head = format!("PUT / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        let request = [head.into_bytes(), Pattern::new().whole(length)].concat();
        // Until all buffers are full. Of a write that goes on the client's kernel would tell it of
        // the reset, and the body would seem to end well.
        let mut writer = client.wire().writer();
        let set = writer.set_write_timeout(Some(FULL_AFTER));
        set.expect("the time is not zero");
        let written = writer.write_all(&request).map_err(|error| error.kind());
        assert!(matches!(written, Ok(()) | Err(ErrorKind::WouldBlock)));
        client.wire().head().expect("the response begins");
        origin.open_gate();
        let body = client.wire().body(Framing::UntilClose, |_| ());
        assert_eq!(body, Err(Broken::Cut), "an upload of {length} bytes");
        drop((client, writer, origin));
        proxy.finish();
    }
}

fn nonsense_is_502(engine: Engine) {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let nonsense = [
        "nothing like it at all\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nNo colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        &long,
    ];
    for said in nonsense {
        answers_502(engine, said);
    }
}

fn a_response_with_two_framings_is_never_passed_on(engine: Engine) {
    let ambiguous = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ];
    for said in ambiguous {
        answers_502(engine, said);
    }
}

fn broken_chunks_cut_the_response(engine: Engine) {
    let broken = [
        "xyz\r\nabc\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
    ];
    for chunks in broken {
        let said = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let origin = Origin::start(move |conversation| {
            conversation.request();
            conversation.send(&said);
            conversation.wait_until_closed();
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(get("/"));
        // The error may be seen before the head has gone out or after.
        match client.wire().response("GET") {
            Ok(response) => drop(response.expect_status(502)),
            Err(broken) => assert_eq!(broken, Broken::Cut, "{chunks:?}"),
        }
        drop((client, origin));
        proxy.finish();
    }
}

/// Nobody asked for it, and the bytes behind it would be nobody's.
fn switching_protocols_unasked_is_502(engine: Engine) {
    answers_502(
        engine,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbytes",
    );
}

/// Demands a 502 for what the backend says, a client that is still served, and nothing left over.
#[track_caller]
fn answers_502(engine: Engine, said: &str) {
    let said = said.to_owned();
    let origin = Origin::start(move |conversation| {
        if conversation
            .request()
            .is_some_and(|request| request.head.target() == "/good")
        {
            conversation.send(ok(b"good"));
        } else {
            conversation.send(&said);
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let response = client.get("/").expect_status(502);
    assert!(!response.body.is_empty(), "the reason is missing");
    assert_eq!(client.get("/good").expect_status(200).text(), "good");
    drop((client, origin));
    proxy.finish();
}
