//! What a request costs in allocations once the balancer is warm: nothing. Only the worker's tick
//! makes a timer each time.
//!
//! A process of its own, because every allocation of every thread in it is counted. Origin and
//! client allocate nothing between the two counts.
#![expect(
    clippy::unwrap_used,
    reason = "a test has nothing better to do with an error"
)]

use std::alloc::System;
use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fastlb::clients::ClientLimits;
use fastlb::config::{BackendList, Config, Cores};
use fastlb::http1::request_id::RequestIds;
use fastlb::io::{self as engine, EngineChoice, Stopwatch};
use fastlb::limits;
use fastlb::server::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests that fill the pools, and may allocate.
const WARM_UP_REQUESTS: usize = 200;
/// Requests that are counted.
const REQUESTS: usize = 500;
/// Allocations in all of them that are no request's: under another timing than before a list of
/// spare things may grow once more.
const GROWTH_MAX: usize = REQUESTS / 100;
/// More than any message here has.
const BUFFER_BYTES: usize = 512 * 1024;

/// What one request is, and how the origin answers it.
struct Exchange {
    name: &'static str,
    request: Vec<u8>,
    response: Vec<u8>,
}

fn exchanges() -> Vec<Exchange> {
    let get = b"GET /path?query=1 HTTP/1.1\r\nHost: fastlb.test\r\nAccept: */*\r\n\r\n";
    let of_length = |length: usize| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'.'; length]].concat()
    };
    let upload = |length: usize| {
        let head = "POST / HTTP/1.1\r\nHost: fastlb.test\r\n";
        let head = format!("{head}Content-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'.'; length]].concat()
    };
    let exchange = |name, request: &[u8], response: &[u8]| Exchange {
        name,
        request: request.to_vec(),
        response: response.to_vec(),
    };
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    vec![
        exchange("a small response", get, &of_length(100)),
        exchange("a response of 16 KiB", get, &of_length(16 * 1024)),
        exchange("a response of 256 KiB", get, &of_length(256 * 1024)),
        exchange("a chunked response", get, chunked),
        exchange("a small upload", &upload(100), &of_length(2)),
        exchange("an upload of 16 KiB", &upload(16 * 1024), &of_length(2)),
        exchange("an upload of 256 KiB", &upload(256 * 1024), &of_length(2)),
    ]
}

/// Bytes of the head of a message, where it is whole.
fn head_bytes(message: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    let start = message.windows(end.len()).position(|here| here == end)?;
    Some(start + end.len())
}

fn body_bytes(message: &[u8]) -> usize {
    message.len() - head_bytes(message).unwrap()
}

/// Reads a message with so much of a body behind its head; `false` at the end of the stream.
fn read_message(stream: &mut TcpStream, buffer: &mut [u8], body: usize) -> bool {
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).unwrap() {
            0 => return false,
            read => filled += read,
        }
        if head_bytes(&buffer[..filled]).is_some_and(|head| filled >= head + body) {
            return true;
        }
    }
}

/// Answers on one connection until it ends.
fn serve(listener: &TcpListener, exchange: &Exchange) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut buffer = vec![0; BUFFER_BYTES];
    while read_message(&mut stream, &mut buffer, body_bytes(&exchange.request)) {
        stream.write_all(&exchange.response).unwrap();
    }
}

/// Sends so many requests, one after the other.
fn ask(stream: &mut TcpStream, buffer: &mut [u8], exchange: &Exchange, times: usize) {
    for _ in 0..times {
        stream.write_all(&exchange.request).unwrap();
        assert!(read_message(stream, buffer, body_bytes(&exchange.response)));
        assert!(buffer.starts_with(b"HTTP/1.1 200 "));
    }
}

/// What is asked of the balancer beside serving.
#[derive(Clone, Copy, Debug)]
enum Extras {
    None,
    /// All limits on clients, and none that is reached.
    Limits,
    /// Everything that may be written into a message.
    Fields,
}

fn start(engine: EngineChoice, origin: SocketAddr, extras: Extras) -> Server {
    let backends = origin.to_string().parse::<BackendList>().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let cores = Cores::of_this_process(Some(1)).unwrap();
    let config = Config::new(vec![listen], backends.resolve().unwrap(), cores);
    let config = Config {
        io: engine,
        retries: 0,
        ..config
    };
    let config = match extras {
        Extras::None => config,
        Extras::Limits => Config {
            clients: limited(),
            ..config
        },
        Extras::Fields => Config {
            via: Some("fastlb".parse().unwrap()),
            forwarded: true,
            request_ids: RequestIds::Make,
            ..config
        },
    };
    Server::start(config).unwrap()
}

fn limited() -> ClientLimits {
    ClientLimits {
        body_bytes_max: Some(u64::MAX / 2),
        connections_max: Some(10),
        request_rate: Some("1000000/s".parse().unwrap()),
        keep_alive_requests: Some(u32::MAX),
        keep_alive_age: Some(Duration::from_secs(3_600)),
        ..ClientLimits::default()
    }
}

/// What a warm balancer allocates in [`REQUESTS`] of these beyond one timer a tick.
fn cost(engine: EngineChoice, exchange: &Exchange, extras: Extras) -> usize {
    thread::scope(|scope| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = start(engine, listener.local_addr().unwrap(), extras);
        let origin = scope.spawn(move || serve(&listener, exchange));
        let address = server.addresses()[0].internet().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        ask(&mut stream, &mut buffer, exchange, WARM_UP_REQUESTS);
        let (clock, region) = (Stopwatch::start(), Region::new(ALLOCATOR));
        ask(&mut stream, &mut buffer, exchange, REQUESTS);
        let made = region.change();
        let ticks = clock.elapsed_ms() / limits::TICK_MS + 1;
        drop(stream);
        server.drain();
        server.join().unwrap();
        origin.join().unwrap();
        (made.allocations + made.reallocations).saturating_sub(ticks as usize)
    })
}

#[test]
fn a_warm_balancer_allocates_nothing() {
    let mut engines = vec![EngineChoice::Epoll];
    match engine::probe() {
        Ok(()) => engines.push(EngineChoice::IoUring),
        Err(refusal) => {
            let required = env::var("FASTLB_REQUIRE_URING").is_ok_and(|value| value == "1");
            assert!(!required, "io_uring is required here: {refusal}");
            eprintln!("SKIPPED: io_uring cannot be used here: {refusal}");
        }
    }
    let mut found = Vec::new();
    for engine in engines {
        for exchange in exchanges() {
            for extras in [Extras::None, Extras::Limits, Extras::Fields] {
                let cost = cost(engine, &exchange, extras);
                if cost > GROWTH_MAX {
                    let name = exchange.name;
                    found.push(format!("{engine:?}: {name}: {cost}, {extras:?}"));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "allocations in {REQUESTS} requests each:\n{}",
        found.join("\n")
    );
}
