//! Whether both sides of a run in which one says anything were told of the same messages.

use std::cell::RefCell;

use memchr::memmem::Finder;

use super::hostile::{ANSWER, Plot};
use super::ledger::judge_reuse;
use super::scenario::{PEER, PROXIED};
use crate::io::sim::{Sent, World};
use crate::proxy_protocol::{Origin, parse};
use answers::{field, final_response, is_final, is_refused};
use strict::{Ending, Read};

#[path = "../../../fuzz/src/answers.rs"]
mod answers;
#[path = "../../../fuzz/src/strict.rs"]
mod strict;

/// What came to either side.
#[derive(Default)]
pub(super) struct Transcript {
    /// Whole requests that backends got, in the order of their answers.
    pub(super) got: RefCell<Vec<Got>>,
    /// What the client got.
    pub(super) received: RefCell<Vec<u8>>,
    /// All that came over each connection to a backend; behind a switch that an honest one made,
    /// what came through the tunnel.
    pub(super) heard: RefCell<Vec<Vec<u8>>>,
    /// Whom those connections were for.
    pub(super) told: RefCell<Vec<Origin>>,
}

/// One request as a backend got it.
pub(super) struct Got {
    pub(super) method: Vec<u8>,
    target: Vec<u8>,
    body: Vec<u8>,
    /// The protocols that it asks for.
    pub(super) offers: Option<Vec<u8>>,
    /// The client, by `X-Forwarded-For`.
    client: Vec<u8>,
    connection: usize,
}

/// The request at the front of what a backend has read.
pub(super) fn next_request(bytes: &[u8], connection: usize) -> Option<(Got, usize)> {
    match strict::request(bytes) {
        Read::Whole((head, body), length) => {
            let got = Got {
                offers: field(&head.fields, "upgrade").map(<[u8]>::to_vec),
                client: field(&head.fields, "x-forwarded-for")
                    .map(<[u8]>::to_vec)
                    .unwrap_or_default(),
                method: head.method,
                target: head.target,
                body,
                connection,
            };
            Some((got, length))
        }
        Read::Partial => None,
        Read::Bad(why) => panic!("{why}: {}", bytes.escape_ascii()),
    }
}

/// Whether the client has what it waited for before it says the rest: a switch of protocols, or,
/// where it asked for one itself, an answer in its place.
pub(super) fn speaks_on(plot: &Plot, received: &[u8]) -> bool {
    if plot.hostile_backend {
        return matches!(final_response(received, b"GET"), Read::Whole(..));
    }
    let place = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|part| part == what);
    let switch = place(received, b"HTTP/1.1 101 ");
    switch.is_some_and(|at| place(&received[at..], b"\r\n\r\n").is_some())
}

/// Backends got what the client sent, in its order, and the client the answer to each of them.
pub(super) fn judge_requests(plot: &Plot, transcript: &Transcript) {
    let received = transcript.received.borrow();
    let header = if plot.proxied {
        parse(&plot.bytes)
    } else {
        Ok(None)
    };
    let (sent, origin) = match header {
        Ok(Some(header)) => (&plot.bytes[header.length..], header.origin),
        _ if plot.proxied => {
            assert!(received.is_empty(), "nobody is answered who is not known");
            assert!(transcript.heard.borrow().is_empty(), "for nobody");
            return;
        }
        _ => (&plot.bytes[..], Origin::Unknown),
    };
    judge_origin(origin, transcript);
    if plot.tcp {
        assert_eq!(*transcript.heard.borrow(), [sent]);
        assert_eq!(*received, ANSWER);
        return;
    }
    let (mut sent_at, mut received_at, mut last) = (0, 0, None);
    for (serial, got) in transcript.got.borrow().iter().enumerate() {
        let from = sent_at;
        sent_at += judge_request(&sent[sent_at..], got);
        let answer = strict::response(&received[received_at..], &got.method);
        let Read::Whole((head, body), length) = answer else {
            panic!("answer {serial} was lost: {answer:?}");
        };
        let switches = plot.switches && got.offers.is_some();
        if switches && head.status == 400 {
            // Something came behind the request, before the switch did.
            let heard = &transcript.heard.borrow()[got.connection];
            assert!(heard.is_empty(), "there is no tunnel");
            sent_at = from;
            break;
        }
        received_at += length;
        let own = serial.to_string();
        assert_eq!(field(&head.fields, "x-serial"), Some(own.as_bytes()));
        if switches {
            assert_eq!(head.status, 101);
            assert_eq!(received[received_at..], *ANSWER);
            let said = [&sent[sent_at..], &plot.words].concat();
            assert_eq!(transcript.heard.borrow()[got.connection], said);
            return;
        }
        let is_head = got.method == b"HEAD";
        assert_eq!(body, if is_head { b"" } else { ANSWER });
        last = Some(head);
    }
    let refused = is_refused(&sent[sent_at..], last.as_ref(), &received[received_at..]);
    refused.unwrap_or_else(|wrong| panic!("{wrong}: {}", received.escape_ascii()));
}

/// What a backend got is what the client sent; returns how much of that it is.
fn judge_request(sent: &[u8], got: &Got) -> usize {
    let empty_line = if sent.starts_with(b"\r\n") { 2 } else { 0 };
    let Read::Whole((head, body), length) = strict::request(&sent[empty_line..]) else {
        panic!("{} was never sent", got.target.escape_ascii());
    };
    assert_eq!((&head.method, &body), (&got.method, &got.body));
    if head.target.starts_with(b"/") {
        assert_eq!(head.target, got.target);
    }
    empty_line + length
}

/// Backends know whom each connection and each request is for.
fn judge_origin(origin: Origin, transcript: &Transcript) {
    let (told, client) = match origin {
        Origin::Client(ends) => (origin, ends.source().ip().to_string()),
        Origin::Local | Origin::Unknown => (Origin::Unknown, PEER.to_owned()),
    };
    for heard in &*transcript.told.borrow() {
        assert_eq!(*heard, told);
    }
    for got in &*transcript.got.borrow() {
        assert_eq!(got.client.escape_ascii().to_string(), client);
    }
}

/// Each answer that the client has whole is what the backend said that got the request last, or one
/// of our own.
pub(super) fn judge_answers(world: &World, plot: &Plot, transcript: &Transcript) {
    let (got, received) = (transcript.got.borrow(), transcript.received.borrow());
    if plot.tcp {
        assert_eq!(*received, plot.bytes);
        return;
    }
    for got in got.iter().filter(|_| !plot.switches) {
        let client = if plot.proxied { PROXIED } else { PEER };
        assert_eq!(got.client, client.as_bytes());
    }
    if !plot.switches {
        let targets = [" /0 ", " /1 ", " /2 "].map(Finder::new);
        let is_request = |sent: &Sent| targets.iter().any(|at| at.find(&sent.begin).is_some());
        judge_reuse(world, is_request);
    }
    let mut at = 0;
    for (number, request) in plot.requests().iter().enumerate() {
        let method = if request.starts_with(b"HEAD") {
            &b"HEAD"[..]
        } else {
            b"GET"
        };
        let (head, body) = match final_response(&received[at..], method) {
            Read::Whole(answer, length) => {
                at += length;
                answer
            }
            // It was cut, or ends with the connection.
            Read::Partial => return,
            Read::Bad(why) => panic!("{why}: {}", received[at..].escape_ascii()),
        };
        let target = format!("/{number}").into_bytes();
        let last = got.iter().rfind(|got| got.target == target);
        if head.status == 101 {
            let last = last.expect("a backend switched");
            judge_tunnel(plot, transcript, last, &received[at..]);
            return;
        }
        let said = last.and_then(|last| said(plot, &got, last));
        let is_said = said == Some((head.status, body.clone()));
        let is_ours = head.status >= 500 && (body.starts_with(b"fastlb: ") || method == b"HEAD");
        assert!(
            is_said || is_ours,
            "{number}: {} where {said:?} was said",
            head.status
        );
        if field(&head.fields, "connection") == Some(b"close") {
            break;
        }
    }
    assert_eq!(at, received.len(), "an answer too many");
}

/// What followed the switch on either side is what the other one said.
fn judge_tunnel(plot: &Plot, transcript: &Transcript, asked: &Got, received: &[u8]) {
    assert!(plot.switches, "nobody asked for it");
    let Read::Whole(_, length) = final_response(&plot.bytes, &asked.method) else {
        panic!("nobody switched");
    };
    assert_eq!(*received, plot.bytes[length..]);
    let heard = &transcript.heard.borrow()[asked.connection];
    let Read::Whole(_, length) = strict::request_head(heard) else {
        panic!("nobody asked");
    };
    assert_eq!(heard[length..], plot.requests()[1..].concat());
}

/// What a hostile backend said to a request: the answers to those before it over the same
/// connection come first.
fn said(plot: &Plot, got: &[Got], asked: &Got) -> Option<(u16, Vec<u8>)> {
    let same = got.iter().filter(|got| got.connection == asked.connection);
    let mut at = 0;
    for got in same {
        let rest = &plot.bytes[at..];
        match final_response(rest, &got.method) {
            Read::Whole((head, body), length) => {
                at += length;
                if got.target == asked.target {
                    return Some((head.status, body));
                }
            }
            Read::Partial if plot.closes => return until_close(rest, &got.method),
            _ => return None,
        }
    }
    None
}

/// Bytes of the answer that a hostile backend begins with; none where that is not whole.
pub(super) fn answer_bytes(bytes: &[u8], method: &[u8]) -> usize {
    match final_response(bytes, method) {
        Read::Whole(_, length) => length,
        Read::Partial | Read::Bad(_) => 0,
    }
}

/// A response whose body ends with the connection.
fn until_close(mut bytes: &[u8], method: &[u8]) -> Option<(u16, Vec<u8>)> {
    loop {
        let Read::Whole(head, length) = strict::response_head(bytes, method) else {
            return None;
        };
        bytes = &bytes[length..];
        if is_final(&head) {
            let ends = head.ending == Ending::Close;
            return ends.then(|| (head.status, bytes.to_vec()));
        }
    }
}
