//! Beginning a connection, from source addresses in turn so that ports never run out.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use crate::source::source;

/// Source addresses per thread. Closed connections keep their port for a minute: this many times
/// 28 000 ports last for 240 000 new connections a second.
const SOURCES: u16 = 512;
/// Threads that have source addresses of their own.
const SOURCE_SHARES: u16 = 126;

/// The turn of the source addresses of one thread.
pub(super) struct Dialler {
    first: u16,
    turn: u16,
}

impl Dialler {
    pub(super) fn new(thread: usize) -> Self {
        let share = (thread % usize::from(SOURCE_SHARES)) as u16;
        Self {
            first: 1 + share * SOURCES,
            turn: 0,
        }
    }

    /// Begins to connect; writability says how it ended.
    pub(super) fn dial(&mut self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source(address.ip(), self.first + self.turn) {
            self.turn = (self.turn + 1) % SOURCES;
            socket.bind(&source.into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }
}
