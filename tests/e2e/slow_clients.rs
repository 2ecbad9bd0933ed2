//! Slow clients of every kind at once: an honest one is served beside them, and they are gone after
//! their deadlines, though none of them closes anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{
    Client, Conversation, Engine, Origin, PATIENCE, Pattern, Proxy, eventually, now, ok, pause,
    wait_for,
};

on_both_engines! {
    slow_clients_are_gone_after_their_deadlines,
}

/// Of each kind.
const ATTACKERS: usize = 40;
const DEADLINES: [&str; 6] = [
    "--header-timeout",
    "1s",
    "--idle-timeout",
    "1s",
    "--body-idle-timeout",
    "1s",
];
/// One after the other, with all their ticks, on a loaded machine.
const GONE: Duration = Duration::from_secs(15);
const TRICKLE: Duration = Duration::from_millis(100);
/// More than the kernel keeps on its way.
const LARGE: u64 = 16 * 1024 * 1024;
const BUFFER_BYTES: usize = 8 * 1024;
/// What the memory of the proxy may have grown by once all are gone: its chunks are kept.
const GROWTH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The honest client, and the connection to the backend that waits for its next request.
const HONEST: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Head,
    Body,
    ChunkedBody,
    Reader,
    NeverSpeaks,
    NeverCloses,
}

const KINDS: [Kind; 6] = [
    Kind::Head,
    Kind::Body,
    Kind::ChunkedBody,
    Kind::Reader,
    Kind::NeverSpeaks,
    Kind::NeverCloses,
];

struct Attacker {
    kind: Kind,
    stream: TcpStream,
}

impl Attacker {
    fn start(kind: Kind, address: SocketAddr) -> Self {
        let mut client = Client::connect_with_buffer(address, BUFFER_BYTES);
        client.send(match kind {
            Kind::Head => "GET / HTTP/1.1\r\nHost: a\r\nX: ",
            Kind::Body => "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
            Kind::ChunkedBody => "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            Kind::Reader => "GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
            Kind::NeverSpeaks => "",
            Kind::NeverCloses => "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        });
        if kind == Kind::NeverCloses {
            // One after the other, so that all of them are served over one connection.
            client.response().expect_status(200);
        }
        let stream = client.wire().writer();
        stream.set_nonblocking(true).expect("the socket is open");
        Self { kind, stream }
    }

    /// Does as little as it can; what becomes of it is seen on the other side.
    fn go_on(&self) {
        let mut stream = &self.stream;
        let _ = match self.kind {
            Kind::Head | Kind::Body => stream.write(b"x"),
            Kind::ChunkedBody => stream.write(b"1\r\nx\r\n"),
            Kind::Reader => stream.read(&mut [0; 8]),
            Kind::NeverSpeaks | Kind::NeverCloses => Ok(0),
        };
    }
}

fn serve(conversation: &mut Conversation<'_>) {
    while let Some(head) = conversation.head() {
        if conversation.body(&head, |_| ()).is_err() {
            return;
        }
        if head.target() != "/large" {
            conversation.send(ok(b"hello"));
            continue;
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        if !conversation.try_send(head) {
            return;
        }
        for piece in Pattern::new().pieces(LARGE) {
            if !conversation.try_send(piece) {
                return;
            }
        }
    }
}

fn slow_clients_are_gone_after_their_deadlines(engine: Engine) {
    let origin = Origin::start(serve);
    let proxy = Proxy::before_with(engine, &origin, &DEADLINES);
    let mut honest = Client::connect(proxy.address);
    honest.get("/").expect_status(200);
    let before = proxy.resident_bytes();
    let attackers: Vec<Attacker> = KINDS
        .iter()
        .flat_map(|&kind| (0..ATTACKERS).map(move |_| kind))
        .map(|kind| Attacker::start(kind, proxy.address))
        .collect();
    let came = now();
    let mut most = 0;
    wait_for(PATIENCE, "the attackers to be gone", || {
        attackers.iter().for_each(Attacker::go_on);
        honest.get("/").expect_status(200);
        let extra = proxy.extra_descriptors();
        most = most.max(extra);
        pause(TRICKLE);
        (extra <= HONEST).then_some(())
    });
    let took = came.elapsed();
    assert!(most > ATTACKERS * KINDS.len() / 2, "{most} were inside");
    assert!(took < GONE, "they were there for {took:?}");
    eventually("the backend to be left", || origin.open() <= 1);
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
    drop((attackers, honest, origin));
    proxy.finish();
}
