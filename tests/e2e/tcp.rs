//! `--mode tcp`: connections go through byte for byte, and their ends as what they are.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::health::wait_said;
use crate::support::{
    Checker, Conversation, Engine, Origin, PATIENCE, Pattern, Proxy, eventually, expect_reset, now,
    pause, read_to_end, refusing_address, reset,
};

on_both_engines! {
    bulk_goes_both_ways_at_once,
    small_messages_go_at_once,
    a_client_that_closes_its_side_still_hears,
    a_backend_that_closes_its_side_still_hears,
    a_close_of_both_sides_ends_it,
    a_backend_that_refuses_is_passed_over,
    who_finds_no_backend_is_reset,
    no_more_backends_are_tried_than_allowed,
    turns_are_taken_by_connection,
    a_reset_by_the_client_is_passed_on,
    a_reset_by_the_backend_is_passed_on,
    a_reset_in_the_middle_of_bulk_leaves_nothing,
    a_backend_that_resets_all_it_takes_is_ejected,
    who_says_nothing_for_too_long_is_reset,
    one_direction_keeps_both_alive,
    a_half_closed_flow_does_not_stand_still_for_ever,
    a_slow_reader_is_not_idle,
    idle_flows_end_when_it_drains,
    busy_flows_end_by_themselves_when_it_drains,
    the_drain_timeout_cuts_a_busy_flow,
    bulk_does_not_stop_others,
}

/// What is enough to go round every buffer on the way many times.
const LARGE: u64 = 100 * 1024 * 1024;

fn bulk_goes_both_ways_at_once(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    let sending = send_pattern(&client, LARGE);
    let mut checker = Checker::new();
    read_to_end(&mut client, |piece| checker.take(piece));
    sending.join().expect("the client sends all of it");
    assert_eq!(checker.length(), LARGE);
    drop((client, origin));
    proxy.finish();
}

fn small_messages_go_at_once(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    for round in 0..200_u32 {
        let message = format!("message {round}");
        ask(&mut client, message.as_bytes());
    }
    drop((client, origin));
    proxy.finish();
}

fn a_client_that_closes_its_side_still_hears(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let mut heard = Vec::new();
        read_to_end(&mut conversation.wire().writer(), |piece| {
            heard.extend_from_slice(piece);
        });
        assert_eq!(heard, b"all I have");
        Pattern::new()
            .pieces(LARGE / 10)
            .for_each(|piece| conversation.send(piece));
    });
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    client.write_all(b"all I have").expect("the proxy reads");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let mut checker = Checker::new();
    read_to_end(&mut client, |piece| checker.take(piece));
    assert_eq!(checker.length(), LARGE / 10);
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_closes_its_side_still_hears(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.send("all I have");
        conversation.wire().half_close();
        let mut checker = Checker::new();
        read_to_end(&mut conversation.wire().writer(), |piece| {
            checker.take(piece);
        });
        assert_eq!(checker.length(), LARGE / 10);
    });
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    let mut heard = Vec::new();
    read_to_end(&mut client, |piece| heard.extend_from_slice(piece));
    assert_eq!(heard, b"all I have");
    let sending = send_pattern(&client, LARGE / 10);
    sending.join().expect("the backend takes all of it");
    eventually("the backend to have read it all", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

fn a_close_of_both_sides_ends_it(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    ask(&mut client, b"hello");
    client.shutdown(Shutdown::Write).expect("it is connected");
    read_to_end(&mut client, |_| panic!("nothing more is said"));
    eventually("the backend to be left", || origin.open() == 0);
    // The client's own descriptor is open still; those of the proxy are not.
    proxy.wait_extra_descriptors(0);
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_refuses_is_passed_over(engine: Engine) {
    let (_held, refusing) = refusing_address();
    let origin = Origin::start(echo);
    let backends = format!("{refusing},{}", origin.backend());
    let proxy = Proxy::start(engine, &["--mode", "tcp", "--backends", &backends]);
    for _ in 0..4 {
        ask(&mut connect(&proxy), b"hello");
    }
    assert_eq!(origin.accepted(), 4);
    drop(origin);
    proxy.finish();
}

fn who_finds_no_backend_is_reset(engine: Engine) {
    let (_held, refusing) = refusing_address();
    let backend = refusing.to_string();
    let proxy = Proxy::start(engine, &["--mode", "tcp", "--backends", &backend]);
    expect_reset(&mut connect(&proxy));
    proxy.finish();
}

fn no_more_backends_are_tried_than_allowed(engine: Engine) {
    let refusing: Vec<_> = (0..2).map(|_| refusing_address()).collect();
    let origin = Origin::start(echo);
    let backends = format!("{},{},{}", refusing[0].1, refusing[1].1, origin.backend());
    let proxy = Proxy::start(
        engine,
        &["--mode", "tcp", "--retries", "1", "--backends", &backends],
    );
    // The two that refuse come first.
    expect_reset(&mut connect(&proxy));
    assert_eq!(origin.accepted(), 0);
    drop(origin);
    proxy.finish();
}

fn turns_are_taken_by_connection(engine: Engine) {
    let origins = [Origin::start(echo), Origin::start(echo)];
    let backends = format!("{}@3,{}", origins[0].backend(), origins[1].backend());
    let proxy = Proxy::start(engine, &["--mode", "tcp", "--backends", &backends]);
    for _ in 0..8 {
        ask(&mut connect(&proxy), b"hello");
    }
    assert_eq!(origins.each_ref().map(Origin::accepted), [6, 2]);
    drop(origins);
    proxy.finish();
}

/// Returns five bytes, and demands a reset behind them.
fn origin_that_is_reset() -> Origin {
    Origin::start(|conversation| {
        let mut stream = conversation.wire().writer();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).expect("the client speaks");
        stream.write_all(&heard).expect("the client listens");
        expect_reset(&mut stream);
    })
}

fn a_reset_by_the_client_is_passed_on(engine: Engine) {
    let origin = origin_that_is_reset();
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    ask(&mut client, b"hello");
    reset(client);
    eventually("the backend to be told", || origin.open() == 0);
    drop(origin);
    proxy.finish();
}

fn a_reset_by_the_backend_is_passed_on(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.reset_on_close();
        let mut stream = conversation.wire().writer();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).expect("the client speaks");
        stream.write_all(&heard).expect("the client listens");
        conversation.pass_gate();
    });
    let proxy = tcp(engine, &origin, &[]);
    let mut client = connect(&proxy);
    ask(&mut client, b"hello");
    origin.open_gate();
    expect_reset(&mut client);
    drop((client, origin));
    proxy.finish();
}

fn a_reset_in_the_middle_of_bulk_leaves_nothing(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let pattern = Pattern::new();
        pattern
            .pieces(LARGE)
            .take_while(|piece| conversation.try_send(piece))
            .for_each(drop);
    });
    let proxy = tcp(engine, &origin, &[]);
    for _ in 0..20 {
        let mut client = connect(&proxy);
        let mut some = vec![0; 1 << 20];
        client.read_exact(&mut some).expect("the backend sends");
        reset(client);
    }
    drop(origin);
    proxy.finish();
}

/// It takes every connection, which is no sign that it serves any.
fn a_backend_that_resets_all_it_takes_is_ejected(engine: Engine) {
    let bad = Origin::start(|conversation| {
        // A reset that comes too soon is an error of connecting.
        let heard = conversation.wire().writer().read_exact(&mut [0; 5]);
        heard.expect("the client speaks");
        conversation.reset_on_close();
    });
    let good = Origin::start(echo);
    let backends = format!("{},{}", bad.backend(), good.backend());
    let flags = ["--mode", "tcp", "--backends", &backends];
    let proxy = Proxy::start(engine, &[&flags[..], &["--eject-after", "3"]].concat());
    for _ in 0..3 {
        expect_reset(&mut spoken_to(&proxy));
        ask(&mut connect(&proxy), b"hello");
    }
    wait_said(
        &proxy,
        bad.address,
        "is ejected: 3 requests in a row failed",
        1,
    );
    for _ in 0..4 {
        ask(&mut connect(&proxy), b"hello");
    }
    assert_eq!((bad.accepted(), good.accepted()), (3, 7));
    drop((bad, good));
    proxy.finish();
}

fn who_says_nothing_for_too_long_is_reset(engine: Engine) {
    let origin = origin_that_is_reset();
    let proxy = tcp(engine, &origin, &["--tcp-idle-timeout", "1s"]);
    let mut client = connect(&proxy);
    ask(&mut client, b"hello");
    let since = now();
    expect_reset(&mut client);
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    eventually("the backend to be told", || origin.open() == 0);
    drop((client, origin));
    proxy.finish();
}

/// Only the backend speaks, for longer than the flow may be idle.
fn one_direction_keeps_both_alive(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.trickle(&[b'.'; 12], Duration::from_millis(200));
        conversation.send("!");
    });
    let proxy = tcp(engine, &origin, &["--tcp-idle-timeout", "1s"]);
    let mut client = connect(&proxy);
    let mut heard = Vec::new();
    read_to_end(&mut client, |piece| heard.extend_from_slice(piece));
    assert_eq!(heard, b"............!");
    drop((client, origin));
    proxy.finish();
}

fn a_half_closed_flow_does_not_stand_still_for_ever(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let mut stream = conversation.wire().writer();
        read_to_end(&mut stream, |_| ());
        // The client has closed its side; now the other side says nothing.
        eventually("the proxy to give up", || {
            stream.write_all(b"").is_ok() && is_reset(&stream)
        });
    });
    let proxy = tcp(engine, &origin, &["--tcp-idle-timeout", "1s"]);
    let mut client = connect(&proxy);
    client.shutdown(Shutdown::Write).expect("it is connected");
    expect_reset(&mut client);
    drop((client, origin));
    proxy.finish();
}

/// It takes a little now and then, far less than the socket has to have room for before more can be
/// sent.
fn a_slow_reader_is_not_idle(engine: Engine) {
    let origin = Origin::start(|conversation| {
        Pattern::new()
            .pieces(LARGE / 5)
            .for_each(|piece| conversation.send(piece));
    });
    let proxy = tcp(engine, &origin, &["--tcp-idle-timeout", "1s"]);
    let mut client = connect(&proxy);
    let (mut checker, since) = (Checker::new(), now());
    let mut some = vec![0; 512 * 1024];
    while since.elapsed() < Duration::from_secs(3) {
        client.read_exact(&mut some).expect("the flow goes on");
        checker.take(&some);
        pause(Duration::from_millis(300));
    }
    read_to_end(&mut client, |piece| checker.take(piece));
    assert_eq!(checker.length(), LARGE / 5);
    drop((client, origin));
    proxy.finish();
}

fn idle_flows_end_when_it_drains(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &["--drain-timeout", "10s"]);
    let mut clients: Vec<_> = (0..3).map(|_| connect(&proxy)).collect();
    clients.iter_mut().for_each(|client| ask(client, b"hello"));
    let since = now();
    proxy.signal("TERM");
    for client in &mut clients {
        read_to_end(client, |_| panic!("nothing more is said"));
    }
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
    eventually("the backend to be left", || origin.open() == 0);
}

fn busy_flows_end_by_themselves_when_it_drains(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &["--drain-timeout", "30s"]);
    let mut client = connect(&proxy);
    ask(&mut client, b"hello");
    proxy.signal("TERM");
    let address = proxy.address;
    eventually("new clients to be refused", || {
        TcpStream::connect(address).is_err()
    });
    // It is let go on for longer than an idle one.
    for _ in 0..10 {
        ask(&mut client, b"still here");
        pause(Duration::from_millis(300));
    }
    client.shutdown(Shutdown::Write).expect("it is connected");
    read_to_end(&mut client, |_| panic!("nothing more is said"));
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
}

fn the_drain_timeout_cuts_a_busy_flow(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.try_send(".") {
            pause(Duration::from_millis(20));
        }
    });
    let proxy = tcp(engine, &origin, &["--drain-timeout", "1s"]);
    let mut client = connect(&proxy);
    client.read_exact(&mut [0; 10]).expect("the backend sends");
    let exit = proxy.drain();
    exit.expect_clean();
    assert_eq!(exit.cut, 1, "{exit:?}");
    expect_reset(&mut client);
}

/// Beside bulk that never pauses, on the same worker, small messages get through all the same.
fn bulk_does_not_stop_others(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = tcp(engine, &origin, &[]);
    let mut bulk = connect(&proxy);
    let sending = send_pattern(&bulk, LARGE);
    let reading = thread::spawn(move || {
        let mut checker = Checker::new();
        read_to_end(&mut bulk, |piece| checker.take(piece));
        checker.length()
    });
    let mut client = connect(&proxy);
    let mut worst = Duration::ZERO;
    while !reading.is_finished() {
        let since = now();
        ask(&mut client, b"ping");
        worst = worst.max(since.elapsed());
        pause(Duration::from_millis(5));
    }
    sending.join().expect("the client sends all of it");
    assert_eq!(reading.join().expect("the bulk is right"), LARGE);
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    drop((client, origin));
    proxy.finish();
}

/// A proxy of connections before a single origin.
fn tcp(engine: Engine, origin: &Origin, options: &[&str]) -> Proxy {
    Proxy::before_with(engine, origin, &[&["--mode", "tcp"], options].concat())
}

#[track_caller]
fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address).expect("the proxy listens");
    let set = stream.set_read_timeout(Some(PATIENCE));
    set.and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .expect("the time is not zero");
    stream
}

/// A client that has said five bytes.
#[track_caller]
fn spoken_to(proxy: &Proxy) -> TcpStream {
    let mut client = connect(proxy);
    client.write_all(b"hello").expect("the proxy reads");
    client
}

/// Says what it hears, and closes its side when the other closes.
fn echo(conversation: &mut Conversation<'_>) {
    let mut writer = conversation.wire().writer();
    let mut reader = conversation.wire().writer();
    read_to_end(&mut reader, |piece| {
        // Who has gone needs no echo.
        let _ = writer.write_all(piece);
    });
}

/// Sends a message and demands it back.
#[track_caller]
fn ask(client: &mut TcpStream, message: &[u8]) {
    client.write_all(message).expect("the proxy reads");
    let mut heard = vec![0; message.len()];
    client.read_exact(&mut heard).expect("the echo comes");
    assert_eq!(heard, message);
}

/// Sends so much of the pattern and closes that side, on a thread of its own.
fn send_pattern(client: &TcpStream, length: u64) -> thread::JoinHandle<()> {
    let mut writer = client.try_clone().expect("there are descriptors left");
    thread::spawn(move || {
        for piece in Pattern::new().pieces(length) {
            writer.write_all(piece).expect("the proxy reads");
        }
        writer.shutdown(Shutdown::Write).expect("it is connected");
    })
}

/// Whether the socket has been told of a reset.
fn is_reset(stream: &TcpStream) -> bool {
    let error = SockRef::from(stream).take_error();
    error.is_ok_and(|error| error.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset))
}
