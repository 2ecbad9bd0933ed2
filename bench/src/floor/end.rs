//! One connection of the relay, to a client or to a backend.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use crate::head::{BadHead, Framing, framing, with_request, with_response};

/// Which way a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// To a client.
    Downstream,
    /// To the backend of this index.
    Upstream { backend: usize },
}

/// What the next bytes from a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Not due: a client whose request is under way, a backend without one.
    Nothing,
    /// A head.
    Head,
    /// So many bytes of a message.
    Message(u64),
}

/// One connection.
pub(super) struct End {
    pub(super) stream: TcpStream,
    pub(super) side: Side,
    pub(super) next: Next,
    /// The other end of the exchange under way.
    pub(super) peer: Option<usize>,
    /// Bytes that arrived before their turn, or part of a head.
    pub(super) carried: Vec<u8>,
    /// An edge came while nothing was due; the socket is to be read when something is.
    pub(super) unread: bool,
    unsent: Vec<u8>,
}

impl End {
    /// A connection without an exchange.
    pub(super) fn new(stream: TcpStream, side: Side, next: Next) -> Self {
        Self {
            stream,
            side,
            next,
            peer: None,
            carried: Vec::new(),
            unread: false,
            unsent: Vec::new(),
        }
    }

    /// Reads once; `None` when nothing is there. The end of the stream is an error.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends `bytes` now; what the socket does not take waits for its next edge.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_blocked() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = self.write(bytes)?;
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let sent = self.write(&self.unsent)?;
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Whether bytes wait for the socket; who feeds it pauses.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The length of the message that starts with `bytes`, head and body; `None` while the head
    /// is incomplete.
    pub(super) fn message_length(&self, bytes: &[u8]) -> Result<Option<u64>, BadHead> {
        match self.side {
            Side::Downstream => with_request(bytes, |head, request| {
                total(head, framing(request.headers)?)
            }),
            Side::Upstream { .. } => with_response(bytes, |head, response| {
                total(head, framing(response.headers)?)
            }),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match (&self.stream).write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}

fn total(head: usize, framing: Framing) -> Result<u64, BadHead> {
    match framing {
        Framing::Length(body) => body.checked_add(head as u64).ok_or(BadHead),
        Framing::Chunked => Err(BadHead),
    }
}
