//! Bodies that pause, trickle or stand still: who is merely slow is served, who stalls is cut.

use std::io::Write;
use std::time::Duration;

use crate::support::{
    Broken, Checker, Client, Conversation, Engine, Framing, Origin, Pattern, Proxy, Wire,
    eventually, get, now, ok, pause,
};

on_both_engines! {
    an_upload_may_pause_for_longer_than_a_response,
    an_upload_may_pause_behind_a_continue,
    an_upload_may_begin_late,
    an_upload_that_stalls_is_408,
    a_response_that_stalls_after_its_upload_is_cut,
    a_response_begun_before_its_upload_ended_may_pause,
    an_upload_may_pause_while_its_response_goes_on,
    a_response_may_pause_while_its_upload_goes_on,
    an_exchange_in_which_nothing_moves_is_cut,
    a_slow_reader_gets_all_of_it,
    a_reader_that_reads_nothing_is_reset,
    a_backend_that_reads_slowly_gets_all_of_it,
    a_trickle_is_no_upload,
    a_trickle_is_an_upload_where_no_rate_is_asked_for,
    a_reader_that_is_too_slow_is_reset,
    the_wait_for_a_continue_is_not_the_clients,
}

/// What the deadlines below are set to; how soon they come and how late, on a loaded machine.
const SHORT: &str = "500ms";
const SOONEST: Duration = Duration::from_millis(490);
const LATEST: Duration = Duration::from_secs(6);
/// Only the pace of bodies counts.
const IMPATIENT: [&str; 4] = ["--response-timeout", "off", "--body-idle-timeout", SHORT];
/// Longer than such a deadline with all its ticks.
const PAUSE: Duration = Duration::from_millis(1_000);

/// Long enough for a body to come behind the first look whether its client is there still.
const LATE_IDLE: &str = "3s";
const LATE_IDLE_S: Duration = Duration::from_secs(3);
const BEHIND_A_LOOK: Duration = Duration::from_millis(2 * fastlb::limits::LOST_LOOK_MS);

/// Shorter, but five of them are longer.
const TRICKLE: Duration = Duration::from_millis(250);

/// More than the kernel keeps on its way, so that who does not read stops who sends.
const LARGE: u64 = 16 * 1024 * 1024;
/// The receive buffer of who reads slowly, and what he reads at a time.
const BUFFER_BYTES: usize = 8 * 1024;
const READ_BYTES: usize = 2 * 1024;
/// Time between two such reads: the 64 KiB that are sent at a time take longer than `SLOW_IDLE`.
const BETWEEN_READS: Duration = Duration::from_millis(50);
/// The time for a body to make progress where it is read slowly, and how long it is.
const SLOW_IDLE: &str = "1s";
const SLOW_FOR: Duration = Duration::from_millis(2_500);

/// The time for a response begins when the backend has the whole request.
fn an_upload_may_pause_for_longer_than_a_response(engine: Engine) {
    upload_with_a_pause(engine, false);
}

/// An interim response in the middle of the upload does not begin it either.
fn an_upload_may_pause_behind_a_continue(engine: Engine) {
    upload_with_a_pause(engine, true);
}

fn upload_with_a_pause(engine: Engine, expects: bool) {
    let origin = Origin::start(move |conversation| {
        while let Some(head) = conversation.head() {
            let mut body = Vec::new();
            let voice = conversation.wire().writer();
            let whole = conversation.body(&head, |piece| {
                if expects && body.is_empty() {
                    let interim = (&voice).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    interim.expect("the proxy listens");
                }
                body.extend_from_slice(piece);
            });
            if whole.is_err() {
                return;
            }
            conversation.send(ok(&body));
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--response-timeout", SHORT]);
    let mut client = Client::connect(proxy.address);
    let expect = if expects {
        "Expect: 100-continue\r\n"
    } else {
        ""
    };
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 10\r\n\r\n"
    ));
    client.send("first");
    if expects {
        client.response().expect_status(100);
    }
    pause(PAUSE);
    client.send("-last");
    assert_eq!(client.response().expect_status(200).text(), "first-last");
    drop((client, origin));
    proxy.finish();
}

/// The time for a body begins with its exchange, however long the worker has been running: the body
/// comes behind the first look, within its time.
fn an_upload_may_begin_late(engine: Engine) {
    let origin = Origin::named("one");
    let proxy = Proxy::before_with(engine, &origin, &["--body-idle-timeout", LATE_IDLE]);
    // As a worker is that has been there for longer than such a time.
    pause(LATE_IDLE_S);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    pause(BEHIND_A_LOOK);
    client.send("late");
    client.response().expect_status(200);
    drop((client, origin));
    proxy.finish();
}

/// Also where a response may take for ever.
fn an_upload_that_stalls_is_408(engine: Engine) {
    let origin = Origin::of_cut_bodies();
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    let stalled = now();
    let response = client.response().expect_status(408);
    in_time(stalled.elapsed());
    assert!(response.head.connection_says("close"));
    client.expect_close();
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// The response begins while the request is under way: the end of one direction must not stop the
/// clock of the other.
fn a_response_that_stalls_after_its_upload_is_cut(engine: Engine) {
    let origin = Origin::start(|conversation| {
        begin_before_the_end(conversation);
        conversation.wait_until_closed();
    });
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    let mut client = Client::connect(proxy.address);
    let framing = upload_around_the_head(&mut client);
    let stalled = now();
    assert_eq!(client.wire().body(framing, |_| ()), Err(Broken::Cut));
    in_time(stalled.elapsed());
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// Once a response has begun it is not awaited any more.
fn a_response_begun_before_its_upload_ended_may_pause(engine: Engine) {
    let origin = Origin::start(|conversation| {
        begin_before_the_end(conversation);
        pause(PAUSE);
        conversation.send("-last");
    });
    let proxy = Proxy::before_with(engine, &origin, &["--response-timeout", SHORT]);
    let mut client = Client::connect(proxy.address);
    let framing = upload_around_the_head(&mut client);
    assert_eq!(whole_body(&mut client, framing), b"first-last");
    drop((client, origin));
    proxy.finish();
}

/// A backend that asks for the next part of the request by what it answers to the one before.
fn an_upload_may_pause_while_its_response_goes_on(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let head = conversation.head().expect("the request begins");
        conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        conversation.trickle(b"first", TRICKLE);
        let whole = conversation.body(&head, |_| ());
        whole.expect("the request is whole");
        conversation.send("-last");
    });
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("POST").expect("its framing is sound");
    let mut body = Vec::new();
    let voice = client.wire().writer();
    let whole = client.wire().body(framing, |piece| {
        body.extend_from_slice(piece);
        if body == b"first" {
            (&voice).write_all(b"half").expect("the proxy listens");
        }
    });
    whole.expect("it is whole");
    assert_eq!(body, b"first-last");
    drop((client, voice, origin));
    proxy.finish();
}

fn a_response_may_pause_while_its_upload_goes_on(engine: Engine) {
    let origin = Origin::start(|conversation| {
        begin_before_the_end(conversation);
        conversation.send("-last");
    });
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    let head = client.wire().head().expect("the response begins");
    for byte in ["h", "a", "l", "f"] {
        pause(TRICKLE);
        client.send(byte);
    }
    let framing = head.response_framing("POST").expect("its framing is sound");
    assert_eq!(whole_body(&mut client, framing), b"first-last");
    drop((client, origin));
    proxy.finish();
}

fn an_exchange_in_which_nothing_moves_is_cut(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request begins");
        conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        conversation.wait_until_closed();
    });
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    let stalled = now();
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("POST").expect("its framing is sound");
    assert_eq!(client.wire().body(framing, |_| ()), Err(Broken::Cut));
    in_time(stalled.elapsed());
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// For as long as anything is taken nobody is cut, however long 64 KiB take.
fn a_slow_reader_gets_all_of_it(engine: Engine) {
    let origin = Origin::start(send_pattern);
    let proxy = Proxy::before_with(engine, &origin, &["--body-idle-timeout", SLOW_IDLE]);
    let mut client = Client::connect_with_buffer(proxy.address, BUFFER_BYTES);
    client.wire().read_at_most(READ_BYTES);
    client.send(get("/"));
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("GET").expect("its framing is sound");
    assert_eq!(framing, Framing::Length(LARGE));
    assert_eq!(read_slowly_at_first(client.wire(), framing), LARGE);
    drop((client, origin));
    proxy.finish();
}

fn a_reader_that_reads_nothing_is_reset(engine: Engine) {
    let origin = Origin::start(send_pattern);
    let proxy = Proxy::before_with(engine, &origin, &["--body-idle-timeout", SLOW_IDLE]);
    let mut client = Client::connect_with_buffer(proxy.address, BUFFER_BYTES);
    client.send(get("/"));
    let asked = now();
    eventually("the connection to be reset", || client.wire().has_failed());
    in_time(asked.elapsed());
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_reads_slowly_gets_all_of_it(engine: Engine) {
    let origin = Origin::start_with_buffer(BUFFER_BYTES, |conversation| {
        conversation.wire().read_at_most(READ_BYTES);
        while let Some(head) = conversation.head() {
            let framing = head.request_framing().expect("its framing is sound");
            let length = read_slowly_at_first(conversation.wire(), framing);
            conversation.send(ok(length.to_string().as_bytes()));
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--body-idle-timeout", SLOW_IDLE]);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    Pattern::new()
        .pieces(LARGE)
        .for_each(|piece| client.send(piece));
    let response = client.response().expect_status(200);
    assert_eq!(response.text(), LARGE.to_string());
    drop((client, origin));
    proxy.finish();
}

/// Answers with the first half of a body before it has read the request to its end.
fn begin_before_the_end(conversation: &mut Conversation<'_>) {
    let head = conversation.head().expect("the request begins");
    conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    let whole = conversation.body(&head, |_| ());
    whole.expect("the request is whole");
}

/// Reads the rest of a response to its end.
#[track_caller]
fn whole_body(client: &mut Client, framing: Framing) -> Vec<u8> {
    let mut body = Vec::new();
    let whole = client
        .wire()
        .body(framing, |piece| body.extend_from_slice(piece));
    whole.expect("it is whole");
    body
}

/// Sends the first half of an upload, and the second once the head of the response is there.
#[track_caller]
fn upload_around_the_head(client: &mut Client) -> Framing {
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    let head = client.wire().head().expect("the response begins");
    client.send("half");
    head.response_framing("POST").expect("its framing is sound")
}

/// Answers every request with the large body.
fn send_pattern(conversation: &mut Conversation<'_>) {
    while conversation.request().is_some() {
        conversation.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
        ));
        Pattern::new()
            .pieces(LARGE)
            .for_each(|piece| conversation.send(piece));
    }
}

/// Reads and checks a body, with pauses for as long as `SLOW_FOR`; returns its length.
#[track_caller]
fn read_slowly_at_first(wire: &mut Wire, framing: Framing) -> u64 {
    let (mut checker, begun) = (Checker::new(), now());
    let whole = wire.body(framing, |piece| {
        checker.take(piece);
        if begun.elapsed() < SLOW_FOR {
            pause(BETWEEN_READS);
        }
    });
    whole.expect("the body is whole");
    checker.length()
}

#[track_caller]
fn in_time(took: Duration) {
    assert!(took >= SOONEST && took < LATEST, "it came after {took:?}");
}

/// Each byte comes long before the body is idle, and yet together they are too few.
fn a_trickle_is_no_upload(engine: Engine) {
    let origin = Origin::of_cut_bodies();
    let proxy = Proxy::before_with(engine, &origin, &IMPATIENT);
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(proxy.address);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let began = now();
        while !client.wire().has_input() {
            let piece = if framing.contains("chunked") {
                "1\r\nx\r\n"
            } else {
                "x"
            };
            if client.wire().try_send(piece.as_bytes()).is_err() {
                break;
            }
            pause(Duration::from_millis(100));
        }
        in_time(began.elapsed());
        let response = client.response().expect_status(408);
        assert_eq!(response.text(), "fastlb: request body too slow\n");
        eventually("the backend to be left", || origin.open() == 0);
    }
    drop(origin);
    proxy.finish();
}

fn a_trickle_is_an_upload_where_no_rate_is_asked_for(engine: Engine) {
    let origin = Origin::named("a");
    let options = [&IMPATIENT[..], &["--min-body-rate", "off"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        client.send("x");
        pause(Duration::from_millis(100));
    }
    client.response().expect_status(200);
    drop((client, origin));
    proxy.finish();
}

/// It reads all the time, and never fast enough.
fn a_reader_that_is_too_slow_is_reset(engine: Engine) {
    let origin = Origin::start(send_pattern);
    let fast = ["--min-body-rate", "10MiB", "--body-idle-timeout", SLOW_IDLE];
    let options = [&fast[..], &["--log-level", "debug"]].concat();
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = Client::connect_with_buffer(proxy.address, BUFFER_BYTES);
    client.wire().read_at_most(READ_BYTES);
    client.send(get("/"));
    let asked = now();
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("GET").expect("its framing is sound");
    let mut length = 0;
    let whole = client.wire().body(framing, |piece| {
        length += piece.len() as u64;
        pause(BETWEEN_READS);
    });
    assert_eq!(whole, Err(Broken::Cut));
    assert!(length < LARGE / 4, "{length} of {LARGE} bytes");
    assert!(asked.elapsed() >= SOONEST);
    let words = "end=client reads too slowly, body";
    eventually(words, || {
        proxy.log().iter().any(|line| line.contains(words))
    });
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// A client that waits for its `100 Continue` waits for the backend: that time is not held against
/// it.
fn the_wait_for_a_continue_is_not_the_clients(engine: Engine) {
    const PIECES: usize = 5;
    const PIECE: [u8; 60] = [b'x'; 60];
    let origin = Origin::start(|conversation| {
        while let Some(head) = conversation.head() {
            pause(Duration::from_millis(2_500));
            conversation.send("HTTP/1.1 100 Continue\r\n\r\n");
            if conversation.body(&head, |_| ()).is_err() {
                return;
            }
            conversation.send(ok(b"taken"));
        }
    });
    let options = ["--body-idle-timeout", LATE_IDLE, "--min-body-rate", "100B"];
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = Client::connect(proxy.address);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        PIECES * PIECE.len()
    ));
    client.response().expect_status(100);
    for _ in 0..PIECES {
        client.send(PIECE);
        pause(Duration::from_millis(200));
    }
    assert_eq!(client.response().expect_status(200).text(), "taken");
    drop((client, origin));
    proxy.finish();
}
