//! Backends that answer before they were asked, on a connection that is new. Those that do so on
//! one from the pool are in `upstream`.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::Socket;

use crate::support::{Client, Engine, Origin, PATIENCE, Proxy, eventually, full_listener, ok};

on_both_engines! {
    what_came_before_the_request_is_no_answer,
    another_backend_is_asked_in_place_of_one_that_speaks_first,
}

fn what_came_before_the_request_is_no_answer(engine: Engine) {
    for method in ["GET", "POST"] {
        let backend = Hasty::start();
        let proxy = Proxy::start(engine, &["--backends", &backend.address.to_string()]);
        let (mut client, heard) = backend.speak_first(&proxy, method);
        let response = client.response().expect_status(502);
        assert!(response.text().contains("bad response"), "{method}");
        assert_eq!(heard, b"", "{method}");
        drop(client);
        proxy.finish();
    }
}

fn another_backend_is_asked_in_place_of_one_that_speaks_first(engine: Engine) {
    let (backend, origin) = (Hasty::start(), Origin::named("a"));
    let backends = format!("{},{}", backend.address, origin.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let (mut client, heard) = backend.speak_first(&proxy, "GET");
    assert_eq!(client.response().expect_status(200).text(), "/");
    assert_eq!(heard, b"");
    drop((client, origin));
    proxy.finish();
}

/// A backend that answers whoever connects, at once.
struct Hasty {
    held: Vec<Socket>,
    address: SocketAddr,
}

impl Hasty {
    /// Its queue is full: who connects has to wait.
    fn start() -> Self {
        let (held, address) = full_listener();
        Self { held, address }
    }

    /// Has the proxy asked, and stopped while it connects; there is an answer when it goes on.
    /// Returns who asked, and what the backend hears of it.
    fn speak_first(self, proxy: &Proxy, method: &str) -> (Client, Vec<u8>) {
        const SYN_SENT: u8 = 2;
        let client = Client::connect(proxy.address);
        let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        client.send(format!("{method} / {head}"));
        let connecting = |socket: &Looked| socket.state == SYN_SENT;
        eventually("the proxy to connect", || {
            sockets_to(self.address).iter().any(connecting)
        });
        proxy.signal("STOP");
        let [listener, others @ ..] = &self.held[..] else {
            panic!("the first is the listener");
        };
        // An accept waits for no longer either (socket(7)).
        let limited = listener.set_read_timeout(Some(PATIENCE));
        limited.expect("the time is not zero");
        for _ in others {
            listener.accept().expect("it waits in the queue");
        }
        // The kernel of the proxy tries again within a second or two.
        let (connection, _) = listener.accept().expect("the proxy connects");
        let mut connection = TcpStream::from(connection);
        let sent = connection.write_all(&ok(b"unasked"));
        sent.expect("there is room");
        eventually("the answer to be there", || {
            sockets_to(self.address)
                .iter()
                .any(|socket| socket.unread > 0)
        });
        proxy.signal("CONT");
        let limited = connection.set_read_timeout(Some(PATIENCE));
        limited.expect("the time is not zero");
        let mut heard = Vec::new();
        // A reset: the proxy has not read what it was sent.
        let _ = connection.read_to_end(&mut heard);
        (client, heard)
    }
}

/// A socket, as /proc/net/tcp has it (proc_net_tcp in the kernel's documentation).
struct Looked {
    state: u8,
    unread: u64,
}

/// The sockets whose peer is at `address`.
fn sockets_to(address: SocketAddr) -> Vec<Looked> {
    let IpAddr::V4(ip) = address.ip() else {
        panic!("the loopback is of IPv4");
    };
    // The address as its four bytes lie in memory, taken for a number.
    let ip = u32::from_ne_bytes(ip.octets());
    let peer = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel has TCP");
    let words = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let looked = words.filter_map(|words| {
        let (_, unread) = words.get(4)?.split_once(':')?;
        (words[2] == peer).then(|| Looked {
            state: u8::from_str_radix(words[3], 16).expect("it is a number"),
            unread: u64::from_str_radix(unread, 16).expect("it is a number"),
        })
    });
    looked.collect()
}
