//! Clients that leave while somebody else has the word. Only a look at the connection tells.

use std::time::Duration;

use crate::support::{Client, Engine, Origin, Proxy, eventually, get, ok, pause};

on_both_engines! {
    nobody_waits_for_the_response_of_a_client_that_is_gone,
    nobody_waits_for_the_rest_of_a_response_whose_client_is_gone,
    a_client_that_has_closed_its_side_is_not_gone,
}

/// Resets a client once the backend has its request, and demands that the backend is told long
/// before any time-out.
fn leave(engine: Engine, origin: Origin, mut until: impl FnMut(&mut Client)) {
    let proxy = Proxy::before(engine, &origin);
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
    leave(engine, silent, |_| ());
}

fn nobody_waits_for_the_rest_of_a_response_whose_client_is_gone(engine: Engine) {
    let pausing = Origin::start(|conversation| {
        conversation.request();
        conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        conversation.wait_until_closed();
    });
    leave(engine, pausing, |client| {
        client.wire().head().expect("a response");
    });
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
