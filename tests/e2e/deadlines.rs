//! Clients that take too long: told so inside a request, left silently between two.

use std::time::Duration;

use crate::support::{Client, Engine, Origin, Proxy, now, pause};

on_both_engines! {
    a_head_that_stalls_is_408,
    a_head_that_trickles_is_408,
    a_second_head_has_its_own_time,
    an_idle_client_is_left_silently,
    a_client_that_never_speaks_is_left_silently,
    off_means_never,
}

/// What the deadlines below are set to, and how late they may be on a loaded machine.
const SHORT: &str = "300ms";
const SOONEST: Duration = Duration::from_millis(290);
const LATEST: Duration = Duration::from_secs(5);

fn a_head_that_stalls_is_408(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--header-timeout", SHORT]);
    let started = now();
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    expect_408(&mut client);
    in_time(started.elapsed());
    assert_eq!(origin.accepted(), 0);
    drop((client, origin));
    proxy.finish();
}

/// Progress does not extend the time for a head, or a byte a minute would hold a connection.
fn a_head_that_trickles_is_408(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--header-timeout", SHORT]);
    let started = now();
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    for _ in 0..LATEST.as_millis() / 50 {
        if client.wire().try_send(b"x").is_err() || client.wire().has_input() {
            break;
        }
        pause(Duration::from_millis(50));
    }
    in_time(started.elapsed());
    expect_408(&mut client);
    drop((client, origin));
    proxy.finish();
}

fn a_second_head_has_its_own_time(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--header-timeout", SHORT]);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    // Longer than a head may take, but between two requests.
    pause(Duration::from_millis(600));
    client.get("/").expect_status(200);
    let started = now();
    client.send("GET / HT");
    expect_408(&mut client);
    in_time(started.elapsed());
    drop((client, origin));
    proxy.finish();
}

fn an_idle_client_is_left_silently(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--idle-timeout", SHORT]);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    let started = now();
    client.expect_close();
    in_time(started.elapsed());
    drop((client, origin));
    proxy.finish();
}

fn a_client_that_never_speaks_is_left_silently(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--idle-timeout", SHORT]);
    let started = now();
    let mut client = Client::connect(proxy.address);
    client.expect_close();
    in_time(started.elapsed());
    drop((client, origin));
    proxy.finish();
}

fn off_means_never(engine: Engine) {
    let origin = Origin::named("a");
    let off = [
        "--header-timeout",
        "off",
        "--idle-timeout",
        "off",
        "--response-timeout",
        "off",
    ];
    let proxy = Proxy::before_with(
        engine,
        &origin,
        &[&off[..], &["--connect-timeout", "off"]].concat(),
    );
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    client.send("GET / HTTP/1.1\r\n");
    pause(Duration::from_millis(400));
    client.send("Host: a\r\n\r\n");
    client.response().expect_status(200);
    drop((client, origin));
    proxy.finish();
}

#[track_caller]
fn expect_408(client: &mut Client) {
    let response = client.response().expect_status(408);
    assert!(response.head.connection_says("close"));
    assert!(
        client.wire().drain_until_closed(),
        "the connection stays open"
    );
}

#[track_caller]
fn in_time(took: Duration) {
    assert!(
        took >= SOONEST && took < LATEST,
        "the deadline of {SHORT} came after {took:?}"
    );
}
