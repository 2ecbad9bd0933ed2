//! Any bytes in any pieces: a client, or a backend, that sends them, with a strict reader on either
//! side that tells whether both sides were told of the same messages.
//!
//! What is sent comes from a fuzzer, or from the corpus that it left behind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::fleet::Control;
use super::scenario::Scenario;
use super::{Run, front};
use crate::io::sim::{End, Host, World};
use strict::Read;

#[path = "../../../fuzz/src/strict.rs"]
mod strict;

/// Bytes that are sent at most: reading them again with each piece costs quadratic time.
const SENT_BYTES_MAX: usize = 2048;
/// Bytes that an actor asks for at a time.
const READ_BYTES: usize = 4096;
/// What an honest backend answers with.
const ANSWER: &[u8] = b"an answer";

/// Runs a worker between one client and its backends, of which one side sends the bytes of
/// `input`, whose first four decide the rest.
///
/// # Panics
/// Where the two sides are told of different messages, or something hangs or is left over.
pub fn session(input: &[u8]) {
    let Some((&[manner, choice, high, low], bytes)) = input.split_first_chunk() else {
        return;
    };
    let bytes = &bytes[..bytes.len().min(SENT_BYTES_MAX)];
    let plot = Plot {
        hostile_backend: manner & 1 != 0,
        closes: manner & 4 != 0,
        choice,
        bytes: bytes.to_vec(),
    };
    let seed = u64::from(u16::from_be_bytes([high, low]));
    match manner & 2 {
        0 => play::<true>(seed, plot),
        _ => play::<false>(seed, plot),
    }
}

/// What the two sides do.
struct Plot {
    /// The backends send the bytes, not the client.
    hostile_backend: bool,
    /// Who sends them closes its sending side behind them.
    closes: bool,
    /// Which requests are answered by a hostile backend.
    choice: u8,
    bytes: Vec<u8>,
}

/// What came to either side.
#[derive(Default)]
struct Transcript {
    /// Whole requests that backends got, in the order of their answers.
    got: RefCell<Vec<Got>>,
    received: RefCell<Vec<u8>>,
    connections: Cell<usize>,
}

/// One request as a backend got it.
struct Got {
    method: Vec<u8>,
    target: Vec<u8>,
    body: Vec<u8>,
    connection: usize,
}

fn play<const ATTENDED: bool>(seed: u64, plot: Plot) {
    let (run, control) = Run::<ATTENDED>::of(seed, scenario(seed));
    let world = run.world.clone();
    let (plot, transcript) = (Rc::new(plot), Rc::<Transcript>::default());
    let ended = world
        .executor
        .block_on(live(run, control, plot.clone(), transcript.clone()));
    ended.unwrap_or_else(|hang| panic!("{hang:?}"));
    match plot.hostile_backend {
        true => judge_answers(&plot, &transcript),
        false => judge_requests(&plot.bytes, &transcript),
    }
}

/// The scenario of a seed without what its actors do by themselves.
fn scenario(seed: u64) -> Scenario {
    let mut scenario = Scenario::of(seed);
    scenario.tcp = false;
    scenario.moody = false;
    scenario.proxied = false;
    scenario.http.proxy.send = None;
    scenario.network.shortages_per_mille = 0;
    scenario.connections_max = 1;
    scenario.judge.checks_per_mille = 0;
    scenario.judge.eject.after = 0;
    scenario.drain_ms = None;
    scenario.drain_timeout_ms = super::SETTLE_MS_MAX;
    scenario
}

async fn live<const ATTENDED: bool>(
    run: Run<ATTENDED>,
    control: Control,
    plot: Rc<Plot>,
    transcript: Rc<Transcript>,
) {
    let world = run.world.clone();
    let bind = |index| {
        let host = world.bind(super::fleet::at(index));
        let (plot, transcript) = (plot.clone(), transcript.clone());
        let serving = serve(world.clone(), host.clone(), plot, transcript);
        world.executor.spawn(serving);
        host
    };
    let hosts = (0..run.scenario.backends).map(bind).collect();
    let listener = run.open(control, hosts);
    let client = world.clone().visit(front()).await;
    let client = client.expect("the worker listens");
    let sent = match plot.hostile_backend {
        true => requests(plot.choice).concat(),
        false => plot.bytes.clone(),
    };
    let closes = plot.closes && !plot.hostile_backend;
    world.executor.spawn(send(client.clone(), sent, closes));
    while let Ok(bytes @ [_, ..]) = client.read(READ_BYTES).await.as_deref() {
        transcript.received.borrow_mut().extend_from_slice(bytes);
    }
    drop(client);
    run.close(listener).await;
}

/// Sends all, unless the other side closes before.
async fn send(end: Rc<End>, bytes: Vec<u8>, closes: bool) {
    if end.write(&bytes).await.is_ok() && closes {
        end.half_close();
    }
}

async fn serve(world: Rc<World>, host: Rc<Host>, plot: Rc<Plot>, transcript: Rc<Transcript>) {
    while let Some(end) = host.next().await {
        let connection = transcript.connections.get();
        transcript.connections.set(connection + 1);
        let serving = converse(end, connection, plot.clone(), transcript.clone());
        world.executor.spawn(serving);
    }
}

/// One connection of a backend: it reads strictly, and answers as it should, or anything.
async fn converse(end: Rc<End>, connection: usize, plot: Rc<Plot>, transcript: Rc<Transcript>) {
    let (mut bytes, mut asked) = (Vec::new(), false);
    loop {
        while let Some((got, length)) = next_request(&bytes, connection) {
            bytes.drain(..length);
            let is_head = got.method == b"HEAD";
            let serial = transcript.got.borrow().len();
            transcript.got.borrow_mut().push(got);
            if !plot.hostile_backend {
                let sent = end.write(&answer(serial, is_head)).await;
                sent.expect("who asked waits for the answer");
            } else if !std::mem::replace(&mut asked, true) {
                let world = end.world.clone();
                let sending = send(end.clone(), plot.bytes.clone(), plot.closes);
                world.executor.spawn(sending);
            }
        }
        match end.read(READ_BYTES).await {
            Ok(more) if !more.is_empty() => bytes.extend_from_slice(&more),
            _ => return,
        }
    }
}

fn next_request(bytes: &[u8], connection: usize) -> Option<(Got, usize)> {
    match strict::request(bytes) {
        Read::Whole((head, body), length) => {
            let (method, target) = (head.method, head.target);
            let got = Got {
                method,
                target,
                body,
                connection,
            };
            Some((got, length))
        }
        Read::Partial => None,
        Read::Bad(why) => panic!("{why}: {}", bytes.escape_ascii()),
    }
}

fn answer(serial: usize, is_head: bool) -> Vec<u8> {
    let length = ANSWER.len();
    let head = format!("HTTP/1.1 200 OK\r\nX-Serial: {serial}\r\nContent-Length: {length}\r\n\r\n");
    let body = if is_head { b"" } else { ANSWER };
    [head.as_bytes(), body].concat()
}

/// Backends got what the client sent, in its order, and the client the answer to each of them.
fn judge_requests(sent: &[u8], transcript: &Transcript) {
    let (got, received) = (transcript.got.borrow(), transcript.received.borrow());
    let (mut sent_at, mut received_at) = (0, 0);
    for (serial, got) in got.iter().enumerate() {
        if sent[sent_at..].starts_with(b"\r\n") {
            sent_at += 2;
        }
        let Read::Whole((head, body), length) = strict::request(&sent[sent_at..]) else {
            panic!("request {serial} was never sent");
        };
        sent_at += length;
        assert_eq!((&head.method, &body), (&got.method, &got.body));
        if head.target.starts_with(b"/") {
            assert_eq!(head.target, got.target);
        }
        let answer = strict::response(&received[received_at..], &got.method);
        let Read::Whole((head, body), length) = answer else {
            panic!("answer {serial} was lost: {answer:?}");
        };
        received_at += length;
        assert_eq!(
            field(&head, "x-serial"),
            Some(serial.to_string().as_bytes())
        );
        let is_head = got.method == b"HEAD";
        assert_eq!(body, if is_head { b"" } else { ANSWER });
    }
    judge_refusal(&received[received_at..]);
}

/// Behind the answers of backends there may be one of our own, which is the last.
fn judge_refusal(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // Where the method was understood it may have been HEAD.
    let (with_body, without) = (
        strict::response(bytes, b"GET"),
        strict::response(bytes, b"HEAD"),
    );
    let length = bytes.len();
    match (with_body, without) {
        (Read::Whole((head, _), whole), _) | (_, Read::Whole((head, _), whole)) => {
            assert_eq!(whole, length, "nothing follows a refusal");
            assert!(field(&head, "x-serial").is_none(), "an answer too many");
            assert!(head.status >= 400 || head.status == 200);
        }
        other => panic!("no whole refusal: {other:?}"),
    }
}

fn field<'a>(head: &'a strict::Response, name: &str) -> Option<&'a [u8]> {
    let mut named = head.fields.iter().filter(|field| field.name == name);
    named.next().map(|field| &field.value[..])
}

/// Three requests, each with its number for its target.
fn requests(choice: u8) -> [&'static [u8]; 3] {
    const FIRST: [&[u8]; 6] = [
        b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /0 HTTP/1.0\r\n\r\n",
        b"GET /0 HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
        b"POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ];
    let first = FIRST[usize::from(choice) % FIRST.len()];
    let second = b"HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let third = b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    [first, second, third]
}

/// Each answer that the client has whole is what the backend said that got the request last, or one
/// of our own.
fn judge_answers(plot: &Plot, transcript: &Transcript) {
    let (got, received) = (transcript.got.borrow(), transcript.received.borrow());
    let mut at = 0;
    for (number, request) in requests(plot.choice).iter().enumerate() {
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
        let said = last.and_then(|last| said(plot, &got, last));
        let is_said = said == Some((head.status, body.clone()));
        let is_ours = head.status >= 500 && (body.starts_with(b"fastlb: ") || method == b"HEAD");
        assert!(
            is_said || is_ours,
            "{number}: {} where {said:?} was said",
            head.status
        );
        if field(&head, "connection") == Some(b"close") {
            break;
        }
    }
    assert_eq!(at, received.len(), "an answer too many");
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

/// A response whose body ends with the connection.
fn until_close(mut bytes: &[u8], method: &[u8]) -> Option<(u16, Vec<u8>)> {
    loop {
        let Read::Whole(head, length) = strict::response_head(bytes, method) else {
            return None;
        };
        bytes = &bytes[length..];
        if head.status >= 200 {
            let ends = head.ending == strict::Ending::Close;
            return ends.then(|| (head.status, bytes.to_vec()));
        }
    }
}

/// The response behind any interim ones, and where it ends.
fn final_response(bytes: &[u8], method: &[u8]) -> Read<(strict::Response, Vec<u8>)> {
    let mut at = 0;
    loop {
        match strict::response(&bytes[at..], method) {
            Read::Whole((head, _), length) if head.status < 200 => at += length,
            Read::Whole(answer, length) => return Read::Whole(answer, at + length),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::session;

    /// Most files of the corpus, as of the other targets (`tests/corpus.rs`).
    const FILES_MAX: usize = 300;

    #[test]
    fn the_kept_corpus_is_read_the_same_way_on_both_sides() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/session");
        let mut inputs = 0;
        for entry in fs::read_dir(folder).expect("the target has a corpus") {
            let path = entry.expect("the folder can be read").path();
            println!("{}", path.display());
            session(&fs::read(&path).expect("the file can be read"));
            inputs += 1;
        }
        assert!((1..=FILES_MAX).contains(&inputs), "{inputs} files");
    }
}
