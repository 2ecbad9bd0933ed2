//! How fastlb leaves: nobody who is served is cut before his time, and nobody new comes in.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Client, Engine, Origin, Proxy, eventually, get, now, ok, pause};

on_both_engines! {
    idle_clients_are_closed_and_it_ends,
    an_empty_line_does_not_hold_it,
    busy_clients_are_served_to_the_end,
    what_is_pipelined_behind_is_not_lost_silently,
    who_waits_in_the_queue_is_served,
    the_drain_timeout_cuts_the_rest,
    a_cut_is_no_backends_fault,
    a_second_signal_ends_at_once,
}

fn idle_clients_are_closed_and_it_ends(engine: Engine) {
    for signal in ["TERM", "INT"] {
        let origin = Origin::named("a");
        let proxy = Proxy::start(engine, &["--cores", "2", "--backends", &origin.backend()]);
        let mut used = Client::connect(proxy.address);
        used.get("/").expect_status(200);
        let mut unused = Client::connect(proxy.address);
        let asked = now();
        proxy.signal(signal);
        used.expect_close();
        unused.expect_close();
        expect_soon(proxy, asked);
        // It leaves its pooled connections properly as well.
        eventually("the backend to be left", || origin.open() == 0);
    }
}

/// It ends long before any of its time-outs, and cuts nobody.
#[track_caller]
fn expect_soon(proxy: Proxy, asked: Instant) {
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// What comes behind a request begins no other, also where it ends in the middle of the grace.
fn an_empty_line_does_not_hold_it(engine: Engine) {
    let send = |client: &mut Client, bytes: &[u8]| drop(client.wire().try_send(bytes));
    holds_it_not(engine, |client| send(client, b"\r\n"));
    holds_it_not(engine, |client| send(client, b"\r"));
    holds_it_not(engine, |client| {
        send(client, b"\r");
        // In a segment of its own.
        pause(Duration::from_millis(20));
        send(client, b"\n");
    });
}

/// Drains while a client has sent that behind its request.
fn holds_it_not(engine: Engine, sends: impl Fn(&mut Client)) {
    let origin = Origin::named("a");
    let proxy = Proxy::before_with(engine, &origin, &["--header-timeout", "60s"]);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    let asked = now();
    proxy.signal("TERM");
    let address = proxy.address;
    eventually("new clients to be refused", || {
        TcpStream::connect(address).is_err()
    });
    sends(&mut client);
    expect_soon(proxy, asked);
}

fn busy_clients_are_served_to_the_end(engine: Engine) {
    let origin = gated_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(proxy.address)).collect();
    clients.iter().for_each(|client| client.send(get("/busy")));
    eventually("the requests to reach the backend", || {
        origin.requests().len() == 5
    });
    proxy.signal("TERM");
    let address = proxy.address;
    eventually("new clients to be refused", || {
        TcpStream::connect(address).is_err()
    });
    origin.open_gate();
    for client in &mut clients {
        let response = client.response().expect_status(200);
        assert_eq!(response.text(), "/busy");
        assert!(
            response.head.connection_says("close"),
            "it is the last one here"
        );
        client.expect_close();
    }
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
}

/// A client that was told `Connection: close` knows that the requests behind it were not served.
fn what_is_pipelined_behind_is_not_lost_silently(engine: Engine) {
    let origin = gated_origin();
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send([get("/1"), get("/2"), get("/3")].concat());
    eventually("the first request to reach the backend", || {
        origin.requests().len() == 1
    });
    proxy.signal("TERM");
    let address = proxy.address;
    eventually("new clients to be refused", || {
        TcpStream::connect(address).is_err()
    });
    origin.open_gate();
    let mut closing = false;
    for expected in ["/1", "/2", "/3"] {
        let response = client.response().expect_status(200);
        assert_eq!(response.text(), expected);
        closing = response.head.connection_says("close");
        if closing {
            break;
        }
    }
    assert!(closing, "the last answer does not say that it is the last");
    assert!(client.wire().drain_until_closed());
    proxy.wait_exit().expect_clean();
}

/// The kernel has accepted these connections already, so nobody else will ever serve them.
fn who_waits_in_the_queue_is_served(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let address = proxy.address;
    serve_the_queue(proxy, || Client::connect(address));
}

/// Has clients wait in the queue of the listener, begins the drain, and demands that each of them
/// is served before the end.
pub(crate) fn serve_the_queue(proxy: Proxy, connect: impl Fn() -> Client) {
    let mut clients: Vec<Client> = (0..50)
        .map(|_| {
            let client = connect();
            client.send(get("/queued"));
            client
        })
        .collect();
    proxy.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.response().expect_status(200).text(), "/queued");
        client.expect_close();
    }
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
}

fn the_drain_timeout_cuts_the_rest(engine: Engine) {
    let origin = gated_origin();
    let proxy = Proxy::before_with(engine, &origin, &["--drain-timeout", "500ms"]);
    let mut stuck: Vec<Client> = (0..3).map(|_| Client::connect(proxy.address)).collect();
    stuck.iter().for_each(|client| client.send(get("/stuck")));
    eventually("the requests to reach the backend", || {
        origin.requests().len() == 3
    });
    let asked = now();
    let exit = proxy.drain();
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(490) && took < Duration::from_secs(5),
        "{took:?}"
    );
    exit.expect_clean();
    assert_eq!(exit.cut, 3, "{exit:?}");
    for client in &mut stuck {
        assert!(
            client.wire().response("GET").is_err(),
            "nothing was answered"
        );
    }
    origin.open_gate();
}

fn a_cut_is_no_backends_fault(engine: Engine) {
    const CLIENTS: usize = 8;
    let origins = [gated_origin(), gated_origin()];
    let backends = format!("{},{}", origins[0].backend(), origins[1].backend());
    let flags = ["--backends", &backends, "--eject-after", "1"];
    let slow = ["--drain-timeout", "500ms", "--log-level", "debug"];
    let proxy = Proxy::start(engine, &[flags, slow].concat());
    let stuck: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(proxy.address))
        .collect();
    stuck.iter().for_each(|client| client.send(get("/stuck")));
    eventually("the requests to reach the backends", || {
        let asked = origins.iter().map(|origin| origin.requests().len());
        asked.sum::<usize>() == CLIENTS
    });
    let exit = proxy.drain();
    exit.expect_clean();
    assert_eq!(exit.cut, CLIENTS, "{exit:?}");
    let lines = |words: &str| exit.log.iter().filter(|line| line.contains(words)).count();
    assert_eq!(lines("is ejected"), 0, "{exit:?}");
    assert_eq!(lines("end=cut, wait"), CLIENTS, "{exit:?}");
    origins.iter().for_each(Origin::open_gate);
}

fn a_second_signal_ends_at_once(engine: Engine) {
    for second in ["TERM", "INT"] {
        let origin = gated_origin();
        let proxy = Proxy::before_with(engine, &origin, &["--drain-timeout", "10m"]);
        let client = Client::connect(proxy.address);
        client.send(get("/stuck"));
        eventually("the request to reach the backend", || {
            origin.requests().len() == 1
        });
        proxy.signal("TERM");
        let address = proxy.address;
        eventually("new clients to be refused", || {
            TcpStream::connect(address).is_err()
        });
        let asked = now();
        proxy.signal(second);
        assert_eq!(proxy.wait_code(), 0);
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{:?}",
            asked.elapsed()
        );
        origin.open_gate();
    }
}

/// An origin that answers nothing until its gate opens.
fn gated_origin() -> Origin {
    Origin::start(|conversation| {
        while let Some(request) = conversation.request() {
            conversation.pass_gate();
            conversation.send(ok(request.head.target().as_bytes()));
        }
    })
}
