//! Clients that leave while somebody else has the word. Only a look at the connection tells.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{Client, Engine, Origin, Proxy, eventually, get, ok, pause, reset};

on_both_engines! {
    nobody_waits_for_the_response_of_a_client_that_is_gone,
    nobody_waits_for_the_rest_of_a_response_whose_client_is_gone,
    a_client_that_has_closed_its_side_is_not_gone,
    nobody_keeps_a_session_whose_client_is_gone_behind_a_full_path,
    nobody_keeps_a_tunnel_whose_client_is_gone_behind_a_full_path,
}

/// Resets a client once the backend has its request, and demands that the backend is told long
/// before any time-out.
fn leave(engine: Engine, origin: Origin, flags: &[&str], mut until: impl FnMut(&mut Client)) {
    let proxy = Proxy::before_with(engine, &origin, flags);
    let mut client = Client::connect(proxy.address);
    client.send(get("/"));
    eventually("the request", || !origin.requests().is_empty());
    until(&mut client);
    client.reset_on_close();
    drop(client);
    eventually("the backend to be told", || origin.open() == 0);
    drop(origin);
    proxy.finish();
}

fn nobody_waits_for_the_response_of_a_client_that_is_gone(engine: Engine) {
    let silent = Origin::start(|conversation| {
        conversation.request();
        conversation.wait_until_closed();
    });
    leave(engine, silent, &[], |_| ());
}

fn nobody_waits_for_the_rest_of_a_response_whose_client_is_gone(engine: Engine) {
    for flags in [&[][..], &["--body-idle-timeout", "off"]] {
        let pausing = Origin::start(|conversation| {
            conversation.request();
            let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
            conversation.send(half);
            conversation.wait_until_closed();
        });
        leave(engine, pausing, flags, |client| {
            client.wire().head().expect("a response");
        });
    }
}

/// It has only nothing more to say, for however long the answer takes.
fn a_client_that_has_closed_its_side_is_not_gone(engine: Engine) {
    let slow = Origin::start(|conversation| {
        while conversation.request().is_some() {
            pause(Duration::from_millis(2_500));
            conversation.send(ok(b"late"));
        }
    });
    let proxy = Proxy::before(engine, &slow);
    let mut client = Client::connect(proxy.address);
    client.send(get("/"));
    client.half_close();
    assert_eq!(client.response().expect_status(200).text(), "late");
    drop((client, slow));
    proxy.finish();
}

/// Sends until nobody takes any more, leaves with a reset, and demands that the backend is told.
fn fill_and_leave(mut client: TcpStream, mut backend: TcpStream) {
    let piece = [b'x'; 64 * 1024];
    let patience = Some(Duration::from_millis(500));
    client
        .set_write_timeout(patience)
        .expect("the socket is open");
    let full = loop {
        if let Err(error) = client.write(&piece) {
            break error.kind();
        }
    };
    assert_eq!(full, ErrorKind::WouldBlock);
    reset(client);
    // The backend has not read a byte so far: what it hears of the end is no answer to that.
    let told = || backend.take_error().is_ok_and(|error| error.is_some());
    eventually("the backend to be told", told);
    drop(backend.read(&mut [0]));
}

fn nobody_keeps_a_session_whose_client_is_gone_behind_a_full_path(engine: Engine) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let proxy = Proxy::start(engine, &["--mode", "tcp", "--backends", &address]);
    let client = TcpStream::connect(proxy.address).expect("the proxy listens");
    let (backend, _) = listener.accept().expect("the proxy connects");
    fill_and_leave(client, backend);
    drop(listener);
    proxy.finish();
}

fn nobody_keeps_a_tunnel_whose_client_is_gone_behind_a_full_path(engine: Engine) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let proxy = Proxy::start(engine, &["--backends", &address]);
    let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n";
    client.write_all(ask.as_bytes()).expect("the proxy reads");
    let (mut backend, _) = listener.accept().expect("the proxy connects");
    let mut head = [0; 4096];
    assert!(backend.read(&mut head).is_ok_and(|bytes| bytes > 0));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n";
    backend
        .write_all(switch.as_bytes())
        .expect("the proxy reads");
    assert!(client.read(&mut head).is_ok_and(|bytes| bytes > 0));
    fill_and_leave(client, backend);
    drop(listener);
    proxy.finish();
}
