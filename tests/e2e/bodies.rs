//! Bodies in both directions and every framing, checked byte for byte.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::support::{
    Checker, Client, Conversation, Engine, Framing, Origin, Pattern, Proxy, eventually, get, now,
    ok, pause,
};

on_both_engines! {
    large_request_by_length,
    urgent_data_stops_no_body,
    large_response_by_length,
    chunked_request,
    chunked_response,
    chunked_both_ways_at_once,
    chunks_that_arrive_a_byte_at_a_time,
    until_close_becomes_chunked,
    until_close_stays_for_http10,
    chunked_is_unwrapped_for_http10,
    head_204_and_304_have_no_body,
    a_slow_reader_stops_the_backend,
}

/// What the large bodies have.
const LARGE: u64 = 100 * 1024 * 1024;
/// What is enough where the framing is the point.
const MEDIUM: u64 = 8 * 1024 * 1024;
/// Sizes of chunks that fit no buffer.
const ODD_SIZES: [usize; 6] = [1, 7, 1_021, 4_095, 16_385, 60_013];

fn large_request_by_length(engine: Engine) {
    let origin = counting_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    Pattern::new()
        .pieces(LARGE)
        .for_each(|piece| client.send(piece));
    assert_eq!(
        client.response().expect_status(200).text(),
        LARGE.to_string()
    );
    assert_eq!(client.post("/", &Pattern::new().whole(5)).text(), "5");
    drop((client, origin));
    proxy.finish();
}

/// Urgent data is not part of the stream, and splice(2) does not step over it.
fn urgent_data_stops_no_body(engine: Engine) {
    let origin = counting_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MEDIUM}\r\n\r\n"
    ));
    let writer = client.wire().writer();
    for (place, piece) in Pattern::new().pieces(MEDIUM).enumerate() {
        client.send(piece);
        // One is enough; of two, the kernel would put the first into the stream.
        if place == 3 {
            let urgent = SockRef::from(&writer).send_out_of_band(b"!");
            assert_eq!(urgent.expect("the proxy reads on"), 1);
        }
    }
    let response = client.response().expect_status(200);
    assert_eq!(response.text(), MEDIUM.to_string());
    drop((client, writer, origin));
    proxy.finish();
}

fn large_response_by_length(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ));
            Pattern::new()
                .pieces(LARGE)
                .for_each(|piece| conversation.send(piece));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send(get("/"));
        let framing = expect_pattern(&mut client, LARGE);
        assert_eq!(framing, Framing::Length(LARGE));
    }
    drop((client, origin));
    proxy.finish();
}

fn chunked_request(engine: Engine) {
    let origin = counting_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for_each_chunk(MEDIUM, |chunk| client.send(chunk));
        assert_eq!(
            client.response().expect_status(200).text(),
            MEDIUM.to_string()
        );
    }
    drop((client, origin));
    proxy.finish();
}

fn chunked_response(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for_each_chunk(MEDIUM, |chunk| conversation.send(chunk));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send(get("/"));
        assert_eq!(expect_pattern(&mut client, MEDIUM), Framing::Chunked);
    }
    drop((client, origin));
    proxy.finish();
}

/// The origin sends back each piece as it comes, so neither direction may wait for the other: a
/// proxy that reads the whole request first fills all buffers and stands still.
fn chunked_both_ways_at_once(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let mut writer = client.wire().writer();
    let upload = thread::spawn(move || {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        writer
            .write_all(head.as_bytes())
            .expect("the proxy takes the head");
        for_each_chunk(4 * MEDIUM, |chunk| {
            writer.write_all(chunk).expect("the proxy takes the body");
        });
    });
    assert_eq!(expect_pattern(&mut client, 4 * MEDIUM), Framing::Chunked);
    upload.join().expect("all was taken");
    drop((client, origin));
    proxy.finish();
}

fn chunks_that_arrive_a_byte_at_a_time(engine: Engine) {
    const CHUNKED: &str = "3;name=\"a;b\"\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n";
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            let response =
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}");
            conversation.trickle(response.as_bytes(), Duration::from_millis(1));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let request =
        format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED}");
    for byte in request.bytes() {
        client.send([byte]);
        pause(Duration::from_millis(1));
    }
    assert_eq!(client.response().expect_status(200).text(), "abc0123456789");
    assert_eq!(origin.only_request().text(), "abc0123456789");
    assert_eq!(
        client.get("/").text(),
        "abc0123456789",
        "the connection is in step"
    );
    drop((client, origin));
    proxy.finish();
}

fn until_close_becomes_chunked(engine: Engine) {
    let origin = until_close_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        client.send(get("/"));
        assert_eq!(expect_pattern(&mut client, MEDIUM), Framing::Chunked);
    }
    drop((client, origin));
    proxy.finish();
}

fn until_close_stays_for_http10(engine: Engine) {
    let origin = until_close_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(expect_pattern(&mut client, MEDIUM), Framing::UntilClose);
    drop((client, origin));
    proxy.finish();
}

fn chunked_is_unwrapped_for_http10(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for_each_chunk(MEDIUM, |chunk| conversation.send(chunk));
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(expect_pattern(&mut client, MEDIUM), Framing::UntilClose);
    drop((client, origin));
    proxy.finish();
}

/// Whatever their fields announce, no body follows, and the connection stays in step.
fn head_204_and_304_have_no_body(engine: Engine) {
    let origin =
        Origin::answering(
            |request| match (request.head.method(), request.head.target()) {
                ("HEAD", "/chunked") => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
                }
                ("HEAD", _) => b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".to_vec(),
                (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
                (_, "/304") => {
                    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\n\r\n".to_vec()
                }
                _ => ok(b"body"),
            },
        );
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    for target in ["/", "/chunked"] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response_to("HEAD").expect_status(200);
        if target == "/" {
            assert_eq!(response.field("content-length"), Some("12345"));
        }
        assert_eq!(client.get("/").text(), "body");
    }
    for (target, status) in [("/204", 204), ("/304", 304)] {
        let response = client.get(target).expect_status(status);
        assert_eq!(response.field("transfer-encoding"), None);
        assert_eq!(client.get("/").text(), "body");
    }
    assert_eq!(
        origin.accepted(),
        1,
        "none of these costs the pooled connection"
    );
    drop((client, origin));
    proxy.finish();
}

/// A reader that stops must stop the backend: what is under way is what the sockets hold, not what
/// the proxy piles up.
fn a_slow_reader_stops_the_backend(engine: Engine) {
    const UNDER_WAY_MAX: u64 = 48 * 1024 * 1024;
    let written = Arc::new(AtomicU64::new(0));
    let origin = Origin::start({
        let written = Arc::clone(&written);
        move |conversation| {
            while conversation.request().is_some() {
                conversation.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
                ));
                for piece in Pattern::new().pieces(LARGE) {
                    conversation.send(piece);
                    written.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
            }
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(get("/"));
    let (mut last, mut since) = (0, now());
    eventually("the backend to stand still", || {
        let count = written.load(Ordering::SeqCst);
        if count != last {
            (last, since) = (count, now());
        }
        count > 0 && since.elapsed() > Duration::from_millis(300)
    });
    assert!(
        last < UNDER_WAY_MAX,
        "{last} bytes are under way to a client that reads nothing"
    );
    expect_pattern(&mut client, LARGE);
    drop((client, origin));
    proxy.finish();
}

/// Answers with the length of a body that is the pattern.
fn counting_origin() -> Origin {
    Origin::start(|conversation| {
        while let Some(head) = conversation.head() {
            let mut checker = Checker::new();
            if conversation
                .body(&head, |piece| checker.take(piece))
                .is_err()
            {
                return;
            }
            conversation.send(ok(checker.length().to_string().as_bytes()));
        }
    })
}

fn until_close_origin() -> Origin {
    Origin::start(|conversation| {
        if conversation.request().is_some() {
            conversation.send("HTTP/1.1 200 OK\r\n\r\n");
            Pattern::new()
                .pieces(MEDIUM)
                .for_each(|piece| conversation.send(piece));
        }
    })
}

fn echo(conversation: &mut Conversation<'_>) {
    while let Some(head) = conversation.head() {
        let mut writer = conversation.wire().writer();
        let mut send = |bytes: &[u8]| drop(writer.write_all(bytes));
        send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let echoed = conversation.body(&head, |piece| {
            if !piece.is_empty() {
                send(format!("{:x}\r\n", piece.len()).as_bytes());
                send(piece);
                send(b"\r\n");
            }
        });
        if echoed.is_err() {
            return;
        }
        send(b"0\r\n\r\n");
    }
}

/// Hands out the pattern of `length` bytes as chunks of odd sizes, the last one included.
fn for_each_chunk(length: u64, mut take: impl FnMut(&[u8])) {
    let pattern = Pattern::new();
    let mut sizes = ODD_SIZES.iter().cycle();
    let mut offset = 0;
    while offset < length {
        let size = sizes
            .next()
            .map_or(1, |size| *size as u64)
            .min(length - offset);
        let head = format!("{size:X}\r\n");
        take(&[head.as_bytes(), pattern.at(offset, size), b"\r\n"].concat());
        offset += size;
    }
    take(b"0\r\n\r\n");
}

/// Reads a 200 whose body is the pattern of `length` bytes; returns how it was framed.
#[track_caller]
fn expect_pattern(client: &mut Client, length: u64) -> Framing {
    let head = client.wire().head().expect("a response comes");
    assert_eq!(head.status(), 200);
    let framing = head.response_framing("GET").expect("its framing is sound");
    let mut checker = Checker::new();
    client
        .wire()
        .body(framing, |piece| checker.take(piece))
        .expect("the body is whole");
    assert_eq!(checker.length(), length);
    framing
}
