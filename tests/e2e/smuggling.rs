//! Whatever bytes a client sends: the origin finds as many requests as the client got answers for.
//!
//! The bytes come from the cases of `tests/conformance/` and the corpus of the fuzzers, spliced and
//! damaged as a seed says. A strict reader that knows nothing of fastlb tells what was sent.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::conformance;
use crate::support::{Engine, Message, Origin, PATIENCE, Proxy, answer, read_to_end};
use answers::{field, final_response, is_refused};
use strict::{Read, Request};

#[path = "../../fuzz/src/answers.rs"]
mod answers;
#[path = "../../fuzz/src/strict.rs"]
mod strict;

on_both_engines! {
    the_origin_finds_the_requests_that_the_client_got_answers_for,
}

/// Streams of one run, as many as a few seconds have room for.
const STREAMS: u64 = 600;
/// Longest stream: longer ones find nothing more, and limits have tests of their own.
const STREAM_BYTES_MAX: usize = 2048;
/// Those of them that have to reach the origin, and to be refused, so that both are tested.
const LEAST_OF_EACH: usize = STREAMS as usize / 10;

fn the_origin_finds_the_requests_that_the_client_got_answers_for(engine: Engine) {
    let found = Arc::<Mutex<Vec<Message>>>::default();
    let finding = Arc::clone(&found);
    let origin = Origin::answering(move |request| reply(request, &mut lock(&finding)));
    let backend = origin.backend();
    let proxy = Proxy::start(engine, &["--backends", &backend, "--eject-after", "0"]);
    let seeds = seeds();
    let (mut reached, mut refused) = (0, 0);
    for seed in 0..STREAMS {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let sent = stream(rng, &seeds);
        let received = exchange(&proxy, &sent, rng);
        let found = std::mem::take(&mut *lock(&found));
        match judge(&sent, &found, &received) {
            Ok(is_refused) => refused += usize::from(is_refused),
            Err(complaint) => panic!(
                "stream {seed}: {complaint}\nsent: {}\nreceived: {}",
                sent.escape_ascii(),
                received.escape_ascii()
            ),
        }
        reached += usize::from(!found.is_empty());
    }
    assert!(
        reached >= LEAST_OF_EACH && refused >= LEAST_OF_EACH,
        "{reached} reached the origin, {refused} were refused"
    );
    drop(origin);
    proxy.finish();
}

fn lock(found: &Mutex<Vec<Message>>) -> MutexGuard<'_, Vec<Message>> {
    found.lock().expect("no holder of the lock panics")
}

/// Remembers a request, and answers with its place among those of this stream.
fn reply(request: &Message, found: &mut Vec<Message>) -> Vec<u8> {
    let serial = format!("X-Serial: {}", found.len());
    found.push(request.clone());
    let mut reply = answer("200 OK", &[&serial], b"an answer");
    if request.head.method() == "HEAD" {
        reply.truncate(reply.len() - b"an answer".len());
    }
    reply
}

/// What streams are made of.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = conformance::sent();
    // What chooses stands before the bytes in the corpus.
    for (target, choices) in [("request_stream", 1), ("request_head", 1), ("session", 4)] {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let files = fs::read_dir(corpus.join(target)).expect("every target has a corpus");
        let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
        // The same order everywhere.
        paths.sort();
        let inputs = paths
            .iter()
            .map(|path| fs::read(path).expect("it is a file"));
        seeds.extend(inputs.filter_map(|input| input.get(choices..).map(<[u8]>::to_vec)));
    }
    seeds.retain(|seed| !seed.is_empty() && seed.len() <= STREAM_BYTES_MAX);
    seeds
}

/// Good requests and seeds, one behind the other, with a few faults.
fn stream(rng: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    const GOOD: [&[u8]; 5] = [
        b"GET /1?a=b HTTP/1.1\r\nHost: a\r\nX-Mine: c\r\n\r\n",
        b"HEAD /2 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        b"POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    let pick = |rng: &mut fastrand::Rng| &seeds[rng.usize(..seeds.len())][..];
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..=5) {
        let good = GOOD[rng.usize(..GOOD.len())];
        bytes.extend_from_slice(if rng.bool() { good } else { pick(rng) });
    }
    bytes.truncate(STREAM_BYTES_MAX);
    for _ in 0..rng.usize(..4) {
        let other = pick(rng);
        damage(rng, &mut bytes, other);
    }
    bytes
}

fn damage(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    const TOKENS: [&[u8]; 14] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\0",
        b",",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let at = place(rng, bytes);
    let token = TOKENS[rng.usize(..TOKENS.len())];
    match rng.u8(..5) {
        0 => drop(bytes.drain(at..(at + rng.usize(..8)).min(bytes.len()))),
        1 => drop(bytes.splice(at..at, token.iter().copied())),
        2 => drop(bytes.splice(at..(at + 1).min(bytes.len()), token.iter().copied())),
        3 => {
            let from = place(rng, other);
            drop(bytes.splice(at.., other[from..].iter().copied()));
        }
        _ => {
            let piece = bytes[at..(at + rng.usize(..64)).min(bytes.len())].to_vec();
            drop(bytes.splice(at..at, piece));
        }
    }
}

/// Any place in these bytes, often the beginning of a line.
fn place(rng: &mut fastrand::Rng, bytes: &[u8]) -> usize {
    let at = rng.usize(..=bytes.len());
    let line = bytes[..at].iter().rposition(|&byte| byte == b'\n');
    match line {
        Some(end) if rng.bool() => end + 1,
        _ => at,
    }
}

/// Sends all in pieces, closes the sending side, and reads until the proxy closes.
fn exchange(proxy: &Proxy, sent: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).expect("the proxy listens");
    let timed = stream.set_read_timeout(Some(PATIENCE));
    timed
        .and_then(|()| stream.set_nodelay(true))
        .expect("it is connected");
    let (mut rest, most) = (sent, [1, 16, STREAM_BYTES_MAX][rng.usize(..3)]);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rng.usize(1..=most).min(rest.len()));
        // The proxy may refuse before it has all of it.
        if stream.write_all(piece).is_err() {
            break;
        }
        rest = behind;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    read_to_end(&mut stream, |piece| received.extend_from_slice(piece));
    received
}

/// Demands that the origin found what the client sent, in its order, and the client the answer to
/// each of them. Returns whether the last answer is the proxy's own.
fn judge(sent: &[u8], found: &[Message], received: &[u8]) -> Result<bool, String> {
    let (mut sent_at, mut received_at, mut last) = (0, 0, None);
    for (serial, found) in found.iter().enumerate() {
        while sent[sent_at..].starts_with(b"\r\n") {
            sent_at += 2;
        }
        let Read::Whole((request, body), length) = strict::request(&sent[sent_at..]) else {
            return Err(format!("{:?} was never sent", found.head.start));
        };
        sent_at += length;
        same(&request, &body, found)?;
        let answer = final_response(&received[received_at..], &request.method);
        let Read::Whole((head, _), length) = answer else {
            return Err(format!(
                "{:?} has no whole answer: {answer:?}",
                found.head.start
            ));
        };
        received_at += length;
        if field(&head.fields, "x-serial") != Some(serial.to_string().as_bytes()) {
            return Err(format!("the answer to {:?} is {head:?}", found.head.start));
        }
        last = Some(head);
    }
    is_refused(&sent[sent_at..], last.as_ref(), &received[received_at..])
}

fn same(sent: &Request, body: &[u8], found: &Message) -> Result<(), String> {
    let (method, target) = (found.head.method(), found.head.target());
    let is_origin_form = sent.target.starts_with(b"/");
    let host = sent.fields.iter().find(|field| field.name == "host");
    let host = host.map(|host| String::from_utf8_lossy(&host.value));
    let is_same = sent.method == method.as_bytes()
        && body == found.body
        && (!is_origin_form || sent.target == target.as_bytes())
        && (!is_origin_form || host.is_none() || found.field("host") == host.as_deref());
    match is_same {
        true => Ok(()),
        false => Err(format!("{sent:?} with {body:?} became {found:?}")),
    }
}
