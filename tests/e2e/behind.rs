//! What a backend sends behind an answer that its client is slow to read: the connection has the
//! whole answer by then, and no request yet.

use std::time::Duration;

use crate::support::{Client, Engine, Origin, Proxy, ok, pause, wait_for};

on_both_engines! {
    bytes_behind_an_answer_that_is_still_read_answer_nobody,
    an_end_behind_an_answer_that_is_still_read_costs_no_request,
}

/// No multiple of a chunk, so that the last receive leaves room in its own.
const LENGTH: usize = 40_000;
/// Together their answers are more than the kernel keeps on its way.
const REQUESTS: usize = 400;
const BUFFER_BYTES: usize = 8 * 1024;
/// For a request to follow the answer to the one before it, on a loaded machine.
const STILL: Duration = Duration::from_millis(500);

fn bytes_behind_an_answer_that_is_still_read_answer_nobody(engine: Engine) {
    is_behind(engine, |origin| origin.say_unasked(&ok(b"poison")));
}

fn an_end_behind_an_answer_that_is_still_read_costs_no_request(engine: Engine) {
    is_behind(engine, Origin::close_all);
}

/// Has requests that must not be sent twice come one behind the other, and `happen` what may once
/// an answer waits for the client, who then reads all of them.
fn is_behind(engine: Engine, happen: impl Fn(&Origin)) {
    let origin = Origin::answering(|asked| ok(&body(asked.head.target())));
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect_with_buffer(proxy.address, BUFFER_BYTES);
    for number in 0..REQUESTS {
        client.send(format!(
            "POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
    }
    let answered = still(&origin);
    assert!((1..REQUESTS).contains(&answered), "{answered} answers");
    happen(&origin);
    for number in 0..REQUESTS {
        let response = client.response().expect_status(200);
        let target = format!("/{number}");
        assert!(response.body == body(&target), "the answer to {target}");
    }
    assert_eq!(origin.accepted(), 2, "connections");
    drop((client, origin));
    proxy.finish();
}

fn body(target: &str) -> Vec<u8> {
    let mut body = target.as_bytes().to_vec();
    body.resize(LENGTH, b'.');
    body
}

/// Requests that the origin has seen, once there are no more for a while.
fn still(origin: &Origin) -> usize {
    let mut seen = 0;
    wait_for(20 * STILL, "the requests to stand still", || {
        let before = seen;
        pause(STILL);
        seen = origin.requests().len();
        (seen == before && seen > 0).then_some(seen)
    })
}
