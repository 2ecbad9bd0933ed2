//! The client: sends exactly the bytes that it is given and reads the answers strictly.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use socket2::{Domain, Socket, Type};

use super::wire::{Broken, Wire};
use super::{Message, PATIENCE};

/// A plain request for `target`.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: fastlb.test\r\n\r\n")
}

/// One connection to the proxy.
pub(crate) struct Client {
    wire: Wire,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE);
        let stream = stream.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        Self {
            wire: Wire::new(stream),
        }
    }

    /// As [`Client::connect`]; `None` where the proxy resets the connection at once, which the
    /// kernel may tell before it has told that there is one.
    #[track_caller]
    pub(crate) fn connect_unless_reset(address: SocketAddr) -> Option<Self> {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => Some(Self {
                wire: Wire::new(stream),
            }),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("connect to {address}: {error}"),
        }
    }

    /// Connects to the socket at `path`.
    #[track_caller]
    pub(crate) fn connect_unix(path: &str) -> Self {
        let stream = UnixStream::connect(path);
        let stream = stream.unwrap_or_else(|error| panic!("connect to {path}: {error}"));
        Self {
            wire: Wire::new(TcpStream::from(OwnedFd::from(stream))),
        }
    }

    /// As [`Client::connect`], with so small a receive buffer: what the client does not read soon
    /// fills it.
    #[track_caller]
    pub(crate) fn connect_with_buffer(address: SocketAddr, bytes: usize) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("there are descriptors left");
        // Before connecting, because the window that was offered then is not taken back.
        socket
            .set_recv_buffer_size(bytes)
            .expect("the socket is open");
        let connected = socket.connect_timeout(&address.into(), PATIENCE);
        connected.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        Self {
            wire: Wire::new(socket.into()),
        }
    }

    /// Writes all of `bytes`.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        let sent = self.wire.try_send(bytes.as_ref());
        sent.unwrap_or_else(|error| panic!("the proxy did not take the request: {error}"));
    }

    /// Sends a plain GET and reads its answer.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Message {
        self.send(get(target));
        self.response()
    }

    /// Sends a POST with `body` and reads its answer.
    #[track_caller]
    pub(crate) fn post(&mut self, target: &str, body: &[u8]) -> Message {
        let length = body.len();
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: fastlb.test\r\nContent-Length: {length}\r\n");
        self.send([head.as_bytes(), b"\r\n", body].concat());
        self.response()
    }

    /// Reads the next response with its body, interim ones included.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// Reads the next response, which answers a request with `method`.
    #[track_caller]
    pub(crate) fn response_to(&mut self, method: &str) -> Message {
        let response = self.wire.response(method);
        response.unwrap_or_else(|broken| panic!("no whole response: {broken:?}"))
    }

    /// Reads a response that must not arrive whole, and returns what was wrong with it.
    #[track_caller]
    pub(crate) fn broken_response(&mut self) -> Broken {
        match self.wire.response("GET") {
            Ok(whole) => panic!(
                "a whole response: {}, {} bytes",
                whole.head.start,
                whole.body.len()
            ),
            Err(broken) => broken,
        }
    }

    /// Demands that the proxy closes without another byte.
    #[track_caller]
    pub(crate) fn expect_close(&mut self) {
        match self.wire.head() {
            Err(Broken::Closed) => {}
            Err(other) => panic!(
                "not closed: {other:?}, {:?}",
                self.wire.unused().escape_ascii()
            ),
            Ok(head) => panic!("not closed but: {}", head.start),
        }
    }

    pub(crate) fn half_close(&self) {
        self.wire.half_close();
    }

    pub(crate) fn reset_on_close(&self) {
        self.wire.reset_on_close();
    }

    /// The socket below, for what needs its streams apart.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
