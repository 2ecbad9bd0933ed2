//! One connection of the driver: what is under way on it, what is still to be written of it.
//!
//! It reads and writes; when to open, to send and to give up is the driver's affair.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::failure::Failure;
use super::ledger::{Ledger, Moments};
use super::plan::Wire;
use super::response::{AtEnd, Options, Reader};

/// One connection, which is closed and opened again many times.
pub(super) struct Connection {
    /// The number of its target.
    pub(super) target: usize,
    pub(super) link: Link,
    /// Counts its sockets, so that an event for an earlier one is known.
    pub(super) serial: u32,
    /// It stands in the driver's queue of those that may send.
    pub(super) is_queued: bool,
    /// When the last byte came, or when there began to be one to wait for.
    pub(super) quiet_since: u64,
    /// The requests under way, oldest first. Never more than its capacity.
    in_flight: VecDeque<Moments>,
    /// Requests of those that are not wholly written.
    unwritten: usize,
    /// Bytes that are written of the first of them.
    offset: usize,
    /// Responses since the socket was opened.
    answers: u64,
    reader: Reader,
}

/// The socket.
pub(super) enum Link {
    Down,
    Connecting(TcpStream),
    Up(TcpStream),
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many requests were answered, and the connection lives.
    Answered(usize),
    /// The server has closed, or will after what it has sent.
    Ended,
}

/// What one read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Bytes(usize),
    Nothing,
    End,
}

impl Connection {
    pub(super) fn new(target: usize, depth: usize, options: Options) -> Self {
        Self {
            target,
            link: Link::Down,
            serial: 0,
            is_queued: false,
            quiet_since: 0,
            in_flight: VecDeque::with_capacity(depth),
            unwritten: 0,
            offset: 0,
            answers: 0,
            reader: Reader::new(options),
        }
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether it has been of use since it was opened.
    pub(super) fn has_answered(&self) -> bool {
        self.answers > 0
    }

    /// A new socket takes the place of the last.
    pub(super) fn connecting(&mut self, stream: TcpStream, now: u64) {
        self.link = Link::Connecting(stream);
        self.quiet_since = now;
        self.answers = 0;
    }

    /// Adds a request that was due then; it is written by the next [`Self::write`].
    pub(super) fn add(&mut self, due: u64, now: u64) {
        debug_assert!(self.in_flight.len() < self.in_flight.capacity());
        if self.in_flight.is_empty() {
            self.quiet_since = now;
        }
        self.in_flight.push_back(Moments { due, sent: now });
        self.unwritten += 1;
    }

    /// Whether the socket is up and has taken all that there was to write.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.link, Link::Up(_)) && self.unwritten == 0
    }

    /// Writes what there is until the socket takes no more.
    pub(super) fn write(&mut self, wire: &Wire) -> io::Result<()> {
        let Link::Up(stream) = &mut self.link else {
            return Ok(());
        };
        while self.unwritten > 0 {
            match stream.write(wire.rest(self.unwritten, self.offset)) {
                Ok(count) => {
                    let written = self.offset + count;
                    self.unwritten -= written / wire.length();
                    self.offset = written % wire.length();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> io::Result<Arrival> {
        let Link::Up(stream) = &mut self.link else {
            return Ok(Arrival::Nothing);
        };
        loop {
            return match stream.read(scratch) {
                Ok(0) => Ok(Arrival::End),
                Ok(count) => Ok(Arrival::Bytes(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Arrival::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Takes what a read brought at `now` and writes the finished responses down.
    pub(super) fn digest(
        &mut self,
        bytes: &[u8],
        now: u64,
        ledger: &mut Ledger<'_>,
    ) -> Result<Progress, Failure> {
        self.quiet_since = now;
        let mut used = 0;
        let mut answered = 0;
        while used < bytes.len() {
            let Some(moments) = self.in_flight.front() else {
                return Err(Failure::Unasked);
            };
            let taken = self.reader.take(&bytes[used..], &mut ledger.tally.backends);
            let (count, finished) = taken.map_err(|_| Failure::Malformed)?;
            used += count;
            let Some(response) = finished else { break };
            ledger.answered(self.target, *moments, now, &response);
            self.in_flight.pop_front();
            self.answers += 1;
            answered += 1;
            if response.is_last {
                return Ok(Progress::Ended);
            }
        }
        Ok(Progress::Answered(answered))
    }

    /// The stream has ended at `now`: finishes a response that ran until here, or fails the one
    /// that was cut. Between responses it is the server's right.
    pub(super) fn end(&mut self, now: u64, ledger: &mut Ledger<'_>) {
        match (self.reader.end(), self.in_flight.front()) {
            (AtEnd::Finished(response), Some(moments)) => {
                ledger.answered(self.target, *moments, now, &response);
                self.in_flight.pop_front();
                self.answers += 1;
            }
            (AtEnd::Cut { backend }, Some(moments)) => {
                ledger.lost(*moments, now, Failure::Cut, backend);
                self.in_flight.pop_front();
            }
            _ => {}
        }
    }

    /// Closes the socket; what is under way is lost, the oldest to `failure` and by its backend.
    pub(super) fn close(&mut self, now: u64, failure: Failure, ledger: &mut Ledger<'_>) {
        let mut backend = self.reader.backend();
        while let Some(moments) = self.in_flight.pop_front() {
            ledger.lost(moments, now, failure, backend);
            backend = 0;
        }
        self.unwritten = 0;
        self.offset = 0;
        self.reader.reset();
        self.link = Link::Down;
        self.serial = self.serial.wrapping_add(1);
    }
}
