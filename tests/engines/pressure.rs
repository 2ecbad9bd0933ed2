//! Far more connections than chunks: those that wait must not starve those that do not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use fastlb::io::{self, BufferOptions, EngineChoice};
use fastlb::server::Server;
use socket2::{Domain, Socket, Type};

use crate::server::{Origin, config, stop};
use crate::{eventually, leaves_nothing_open, on_both_engines};

on_both_engines!(choices: a_fresh_request_is_answered_beside_thousands_that_wait);

/// Of each kind: half a head sent and no more, and a large response that nobody reads.
const WAITING: usize = 5_000;
/// Half a head is one connection, a slow reader two, and both ends of each are in this process.
const DESCRIPTORS: usize = WAITING * 6 + 1_000;
const BODY_BYTES: usize = 512 * 1024;

fn a_fresh_request_is_answered_beside_thousands_that_wait(engine: EngineChoice) {
    let waiting = match raise_descriptors() {
        limit if limit >= DESCRIPTORS => WAITING,
        limit => {
            eprintln!("only {limit} descriptors: fewer connections wait than should");
            limit.saturating_sub(1_000) / 6
        }
    };
    leaves_nothing_open(|| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
        answer.push_str(&"x".repeat(BODY_BYTES));
        let large = Origin::start(answer.into_bytes());
        let buffers = BufferOptions {
            small_chunks_max: 16,
            large_chunks_max: 16,
        };
        let server = Server::start(config(engine, large.address, buffers)).unwrap();
        let address = server.addresses()[0].internet().unwrap();

        let half_heads: Vec<_> = (0..waiting)
            .map(|_| connect(address, b"GET / HTTP/1.1\r\nHost: wai"))
            .collect();
        let slow_readers: Vec<_> = (0..waiting)
            .map(|_| connect(address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .collect();
        eventually("every slow reader's request to be forwarded", || {
            server.stats().totals().requests == waiting as u64
        });

        let mut fresh = TcpStream::connect(address).unwrap();
        fresh
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        fresh
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut response = Vec::new();
        fresh.read_to_end(&mut response).unwrap();
        assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(response.len() > BODY_BYTES, "{} bytes", response.len());

        drop((half_heads, slow_readers, fresh));
        stop(server);
        drop(large);
    });
}

/// A client with a receive buffer as small as can be had, which has said `bytes`.
fn connect(address: SocketAddr, bytes: &[u8]) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2_048).unwrap();
    // Its close leaves nothing behind.
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.connect(&address.into()).unwrap();
    (&socket).write_all(bytes).unwrap();
    socket
}

/// Raises the limit of open files, beyond the hard one where that is allowed.
fn raise_descriptors() -> usize {
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let pid = std::process::id().to_string();
    // Not allowed, or no such program: what there is must do.
    let _ = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    io::raise_descriptor_limit().unwrap()
}
