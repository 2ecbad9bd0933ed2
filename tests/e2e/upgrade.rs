//! Upgrades: a connection becomes a tunnel where the backend says so, and stays HTTP where it does
//! not.

use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::health::wait_said;
use crate::support::{
    Broken, Checker, Client, Conversation, Engine, Framing, Origin, Pattern, Proxy, answer,
    eventually, expect_reset, get, now, ok, pause,
};

on_both_engines! {
    an_echo_goes_both_ways,
    what_is_sent_right_behind_the_switch_arrives,
    a_request_behind_an_upgrade_stays_a_request,
    what_comes_before_the_switch_is_no_part_of_the_tunnel,
    bulk_goes_through_a_tunnel,
    each_side_may_close_first,
    a_backend_that_refuses_answers_as_ever,
    interim_responses_may_come_first,
    a_switch_that_was_not_asked_for_is_502,
    a_switch_to_nothing_is_502,
    a_switch_is_to_what_was_asked_for,
    an_upgrade_goes_over_a_kept_connection,
    a_tunnel_is_not_kept,
    a_reset_goes_through_a_tunnel,
    a_backend_that_resets_its_tunnels_is_ejected,
    an_idle_tunnel_is_reset,
    an_idle_tunnel_ends_when_it_drains,
    a_busy_tunnel_is_cut_when_the_time_is_over,
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: fastlb.test\r\nConnection: Upgrade\r\n\
    Upgrade: echo/1\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: echo/1\r\nX-Backend: a\r\n\r\n";

fn an_echo_goes_both_ways(engine: Engine) {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::before(engine, &origin);
    let mut client = upgraded(&proxy);
    for round in 0..100_u32 {
        ask(&mut client, format!("message {round}").as_bytes());
    }
    drop((client, origin));
    proxy.finish();
}

fn what_is_sent_right_behind_the_switch_arrives(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let head = conversation.head().expect("the request comes");
        assert!(head.connection_says("upgrade"));
        assert_eq!(head.field("upgrade"), Some("echo/1"));
        conversation.send([SWITCH.as_bytes(), b"from the backend"].concat());
        expect(conversation, b"from the client");
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    let head = client.wire().head().expect("the response comes");
    assert_eq!(head.status(), 101);
    assert!(head.connection_says("upgrade"));
    assert_eq!(head.field("upgrade"), Some("echo/1"));
    assert_eq!(head.field("x-backend"), Some("a"));
    client.send("from the client");
    hear(&mut client, b"from the backend");
    client.half_close();
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

/// A server may pass over an offer (RFC 9110 section 7.8), and what is there already was sent by
/// a client that did not wait for the switch.
fn a_request_behind_an_upgrade_stays_a_request(engine: Engine) {
    let origin = Origin::answering(|request| match request.field("upgrade") {
        Some(_) => SWITCH.as_bytes().to_vec(),
        None => ok(request.head.target().as_bytes()),
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send([UPGRADE, &get("/next")].concat());
    assert_eq!(client.response().expect_status(200).text(), "/chat");
    assert_eq!(client.response().expect_status(200).text(), "/next");
    drop((client, origin));
    proxy.finish();
}

fn what_comes_before_the_switch_is_no_part_of_the_tunnel(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let head = conversation.head().expect("the request comes");
        assert!(head.connection_says("upgrade"));
        conversation.pass_gate();
        conversation.send(SWITCH);
        // Not a byte but the end.
        let rest = conversation.wire().head();
        assert_eq!(rest.err(), Some(Broken::Closed));
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    eventually("the request to reach the backend", || {
        origin.accepted() == 1
    });
    client.send("too early");
    origin.open_gate();
    let refusal = client.response().expect_status(400);
    assert!(refusal.head.connection_says("close"));
    client.expect_close();
    drop((client, origin));
    proxy.finish();
}

fn bulk_goes_through_a_tunnel(engine: Engine) {
    const LARGE: u64 = 50 * 1024 * 1024;
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::before(engine, &origin);
    let mut client = upgraded(&proxy);
    let mut writer = client.wire().writer();
    let sending = thread::spawn(move || {
        Pattern::new()
            .pieces(LARGE)
            .for_each(|piece| writer.write_all(piece).expect("the proxy reads"));
    });
    let mut checker = Checker::new();
    let heard = client
        .wire()
        .body(Framing::Length(LARGE), |piece| checker.take(piece));
    heard.expect("all of it comes back");
    sending.join().expect("the client sends all of it");
    drop((client, origin));
    proxy.finish();
}

fn each_side_may_close_first(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send(SWITCH);
        let mut heard = Vec::new();
        let end = conversation
            .wire()
            .body(Framing::UntilClose, |piece| heard.extend_from_slice(piece));
        end.expect("the client closes its side");
        conversation.send([b"heard: ", &*heard].concat());
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = upgraded(&proxy);
    client.send("all I have");
    client.half_close();
    hear(&mut client, b"heard: all I have");
    client.expect_close();
    drop((client, origin));
    proxy.finish();

    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send([SWITCH.as_bytes(), b"all I have"].concat());
        conversation.wire().half_close();
        expect(conversation, b"heard");
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = upgraded(&proxy);
    hear(&mut client, b"all I have");
    client.expect_close();
    client.send("heard");
    client.half_close();
    eventually("the backend to be left", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_refuses_answers_as_ever(engine: Engine) {
    let origin = Origin::answering(|request| match request.head.target() {
        "/chat" => answer("426 Upgrade Required", &["X-Why: no"], b"not here"),
        target => ok(target.as_bytes()),
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    // What follows is an ordinary request then.
    client.send([UPGRADE, &get("/next")].concat());
    let response = client.response().expect_status(426);
    assert_eq!(response.field("x-why"), Some("no"));
    assert_eq!(response.text(), "not here");
    assert_eq!(client.response().expect_status(200).text(), "/next");
    assert_eq!(origin.accepted(), 1);
    drop((client, origin));
    proxy.finish();
}

fn interim_responses_may_come_first(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        conversation.send(SWITCH);
        echo(conversation);
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    assert_eq!(client.wire().head().expect("a response").status(), 103);
    assert_eq!(client.wire().head().expect("a response").status(), 101);
    ask(&mut client, b"hello");
    drop((client, origin));
    proxy.finish();
}

fn a_switch_that_was_not_asked_for_is_502(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.send(SWITCH);
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(502);
    // An offer of HTTP/2 is passed over, so nobody asked here either.
    client.send(UPGRADE.replace("echo/1", "h2c"));
    client.response().expect_status(502);
    assert_eq!(origin.requests()[1].field("upgrade"), None);
    drop((client, origin));
    proxy.finish();
}

fn a_switch_to_nothing_is_502(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.request();
        conversation.send("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    client.response().expect_status(502);
    drop((client, origin));
    proxy.finish();
}

/// RFC 9110 section 7.8: what the client did not name it does not speak, and it would take what
/// comes behind the 101 for something else.
fn a_switch_is_to_what_was_asked_for(engine: Engine) {
    let table = [
        ("other", 502),
        ("echo/2", 502),
        ("echo", 502),
        ("echo/1, other", 502),
        ("ECHO/1", 101),
        ("more", 101),
        ("more, echo/1", 101),
    ];
    for (protocol, status) in table {
        let origin = Origin::start(move |conversation| {
            conversation.request();
            conversation.send(SWITCH.replace("echo/1", protocol));
            echo(conversation);
        });
        let proxy = Proxy::before(engine, &origin);
        let mut client = Client::connect(proxy.address);
        client.send(UPGRADE.replace("echo/1", "echo/1, h2c, more"));
        match status {
            101 => {
                let head = client.wire().head().expect("the response comes");
                assert_eq!(head.status(), 101, "{protocol}");
                assert_eq!(head.field("upgrade"), Some(protocol));
                ask(&mut client, b"hello");
            }
            _ => {
                let response = client.response().expect_status(status);
                assert!(response.text().contains("bad response"), "{protocol}");
            }
        }
        let offered = origin.only_request();
        assert_eq!(offered.field("upgrade"), Some("echo/1, more"));
        drop((client, origin));
        proxy.finish();
    }
}

fn an_upgrade_goes_over_a_kept_connection(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.request().expect("the first request");
        conversation.send(ok(b"first"));
        switch_and_echo(conversation);
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/first").expect_status(200);
    client.send(UPGRADE);
    assert_eq!(client.wire().head().expect("a response").status(), 101);
    ask(&mut client, b"hello");
    assert_eq!(origin.accepted(), 1);
    drop((client, origin));
    proxy.finish();
}

fn a_tunnel_is_not_kept(engine: Engine) {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::before(engine, &origin);
    for round in 1..=3 {
        let mut client = upgraded(&proxy);
        ask(&mut client, b"hello");
        client.half_close();
        client.expect_close();
        assert_eq!(origin.accepted(), round);
    }
    drop(origin);
    proxy.finish();
}

fn a_reset_goes_through_a_tunnel(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send(SWITCH);
        expect_reset(&mut conversation.wire().writer());
    });
    let proxy = Proxy::before(engine, &origin);
    let client = upgraded(&proxy);
    client.reset_on_close();
    drop(client);
    eventually("the backend to be told", || origin.open() == 0);
    drop(origin);
    proxy.finish();
}

/// That it switches protocols is no sign that it serves the tunnel.
fn a_backend_that_resets_its_tunnels_is_ejected(engine: Engine) {
    let bad = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send(SWITCH);
        expect(conversation, b"hello");
        conversation.reset_on_close();
    });
    let good = Origin::start(switch_and_echo);
    let backends = format!("{},{}", bad.backend(), good.backend());
    let flags = ["--backends", &backends, "--eject-after", "3"];
    let proxy = Proxy::start(engine, &flags);
    for _ in 0..3 {
        let mut reset = upgraded(&proxy);
        reset.send("hello");
        expect_reset(&mut reset.wire().writer());
        ask(&mut upgraded(&proxy), b"hello");
    }
    wait_said(
        &proxy,
        bad.address,
        "is ejected: 3 requests in a row failed",
        1,
    );
    ask(&mut upgraded(&proxy), b"hello");
    ask(&mut upgraded(&proxy), b"hello");
    assert_eq!((bad.accepted(), good.accepted()), (3, 5));
    drop((bad, good));
    proxy.finish();
}

fn an_idle_tunnel_is_reset(engine: Engine) {
    let origin = Origin::start(switch_and_echo_to_reset);
    // Neither the time between requests nor that inside bodies counts here.
    let options = [
        "--tcp-idle-timeout",
        "2s",
        "--idle-timeout",
        "100ms",
        "--body-idle-timeout",
        "100ms",
        "--response-timeout",
        "1s",
    ];
    let proxy = Proxy::before_with(engine, &origin, &options);
    let mut client = upgraded(&proxy);
    ask(&mut client, b"hello");
    let since = now();
    expect_reset(&mut client.wire().writer());
    assert!(
        since.elapsed() >= Duration::from_millis(1_990),
        "{:?}",
        since.elapsed()
    );
    drop((client, origin));
    proxy.finish();
}

fn an_idle_tunnel_ends_when_it_drains(engine: Engine) {
    let origin = Origin::start(switch_and_echo);
    let proxy = Proxy::before_with(engine, &origin, &["--drain-timeout", "10s"]);
    let mut client = upgraded(&proxy);
    ask(&mut client, b"hello");
    proxy.signal("TERM");
    client.expect_close();
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
}

fn a_busy_tunnel_is_cut_when_the_time_is_over(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.head().expect("the request comes");
        conversation.send(SWITCH);
        while conversation.try_send(".") {
            pause(Duration::from_millis(20));
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--drain-timeout", "1s"]);
    let mut client = upgraded(&proxy);
    hear(&mut client, b"..");
    let exit = proxy.drain();
    exit.expect_clean();
    assert_eq!(exit.cut, 1, "{exit:?}");
    expect_reset(&mut client.wire().writer());
}

/// A client whose connection is a tunnel.
#[track_caller]
fn upgraded(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    let head = client.wire().head().expect("the response comes");
    assert_eq!(head.status(), 101, "{}", head.start);
    client
}

fn switch_and_echo(conversation: &mut Conversation<'_>) {
    if conversation.head().is_some() {
        conversation.send(SWITCH);
        echo(conversation);
    }
}

fn switch_and_echo_to_reset(conversation: &mut Conversation<'_>) {
    conversation.head().expect("the request comes");
    conversation.send(SWITCH);
    expect(conversation, b"hello");
    conversation.send("hello");
    expect_reset(&mut conversation.wire().writer());
}

fn echo(conversation: &mut Conversation<'_>) {
    let mut writer = conversation.wire().writer();
    // Who has gone needs no echo.
    let _ = conversation.wire().body(Framing::UntilClose, |piece| {
        let _ = writer.write_all(piece);
    });
}

/// Demands that exactly these bytes come next.
#[track_caller]
fn expect(conversation: &mut Conversation<'_>, bytes: &[u8]) {
    let (mut heard, length) = (Vec::new(), Framing::Length(bytes.len() as u64));
    let wire = conversation.wire();
    let whole = wire.body(length, |piece| heard.extend_from_slice(piece));
    whole.expect("as many bytes come");
    assert_eq!(heard, bytes);
}

#[track_caller]
fn hear(client: &mut Client, bytes: &[u8]) {
    let (mut heard, length) = (Vec::new(), Framing::Length(bytes.len() as u64));
    let wire = client.wire();
    let whole = wire.body(length, |piece| heard.extend_from_slice(piece));
    whole.expect("as many bytes come");
    assert_eq!(heard, bytes);
}

#[track_caller]
fn ask(client: &mut Client, message: &[u8]) {
    client.send(message);
    hear(client, message);
}
