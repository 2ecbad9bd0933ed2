//! The event loop of the floor: pairs a client with a backend for one exchange and moves bytes.
//!
//! Both directions go through the same four steps: drain, pass, forward, complete.

use std::io;
use std::mem;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::end::{End, Next, Side};
use super::pools::Pools;
use crate::acceptor::{Acceptor, BOTH_WAYS, LISTENER};

/// Bytes that one read may take.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Events that one turn of the loop may take.
const EVENTS_MAX: usize = 1024;

/// What the relay is told.
pub struct Options {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Where it relays to; at least one.
    pub backends: Vec<SocketAddr>,
}

/// The relay with all its connections.
pub struct Relay {
    poll: Poll,
    acceptor: Acceptor,
    ends: Slab<End>,
    pools: Pools,
    scratch: Box<[u8]>,
    /// Clients that sent bytes before their turn, which has come.
    revisit: Vec<usize>,
}

impl Relay {
    /// Binds and listens. Fails where the address cannot be bound.
    pub fn bind(options: &Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            acceptor: Acceptor::bind(options.listen, poll.registry())?,
            poll,
            ends: Slab::new(),
            pools: Pools::new(&options.backends),
            scratch: vec![0; READ_BYTES_MAX].into_boxed_slice(),
            revisit: Vec::new(),
        })
    }

    /// The address that is really bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.acceptor.address()
    }

    /// Relays until polling fails.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(key) => self.serve(key, event),
                }
                self.revisit_clients();
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(stream) = self.acceptor.accept() {
            self.adopt(stream, Side::Downstream, Next::Head)?;
        }
        Ok(())
    }

    fn adopt(&mut self, mut stream: TcpStream, side: Side, next: Next) -> io::Result<usize> {
        let slot = self.ends.vacant_entry();
        let key = slot.key();
        self.poll
            .registry()
            .register(&mut stream, Token(key), BOTH_WAYS)?;
        slot.insert(End::new(stream, side, next));
        Ok(key)
    }

    /// Acts on an event. One for an end that is gone, or for its successor under the same key,
    /// does no harm: the read finds nothing.
    fn serve(&mut self, key: usize, event: &Event) {
        let Some(end) = self.ends.get_mut(key) else {
            return;
        };
        let mut feeder = None;
        if event.is_writable() && end.is_blocked() {
            if end.flush().is_err() {
                return self.close(key);
            }
            feeder = end.peer.filter(|_| !end.is_blocked());
        }
        if event.is_readable() {
            self.read(key, event.is_read_closed());
        }
        if let Some(feeder) = feeder {
            self.read(feeder, true);
        }
    }

    fn revisit_clients(&mut self) {
        while let Some(key) = self.revisit.pop() {
            if !self.ends.contains(key) {
                continue;
            }
            if self.pass(key, &[]).is_err() {
                self.close(key);
            } else if self.ends.get(key).is_some_and(|end| end.unread) {
                self.read(key, true);
            }
        }
    }

    fn read(&mut self, key: usize, to_the_end: bool) {
        let mut scratch = mem::take(&mut self.scratch);
        if self.drain(key, &mut scratch, to_the_end).is_err() {
            self.close(key);
        }
        self.scratch = scratch;
    }

    /// Reads and passes on until the socket is empty. A read that leaves room in the buffer has
    /// emptied it (epoll(7)); only a FIN makes a further one necessary (`to_the_end`).
    fn drain(&mut self, key: usize, scratch: &mut [u8], to_the_end: bool) -> io::Result<()> {
        while let Some(end) = self.ends.get(key) {
            let blocked = end.peer.is_some_and(|peer| self.ends[peer].is_blocked());
            let end = &mut self.ends[key];
            end.unread = blocked || (end.next == Next::Nothing && end.side == Side::Downstream);
            if end.unread {
                return Ok(());
            }
            let Some(count) = end.read(scratch)? else {
                return Ok(());
            };
            self.pass(key, &scratch[..count])?;
            if count < scratch.len() && !to_the_end {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Forwards what is due of the carried bytes and of `fresh`, and keeps the rest.
    fn pass(&mut self, key: usize, fresh: &[u8]) -> io::Result<()> {
        let mut carried = mem::take(&mut self.ends[key].carried);
        // The common case: nothing is carried, a whole message has come.
        if carried.is_empty() {
            let used = self.forward(key, fresh)?;
            if used < fresh.len() {
                self.ends[key].carried.extend_from_slice(&fresh[used..]);
            }
            return Ok(());
        }
        carried.extend_from_slice(fresh);
        let used = self.forward(key, &carried)?;
        carried.drain(..used);
        self.ends[key].carried = carried;
        Ok(())
    }

    /// Sends what is due of `bytes` to the other end; returns how many that were.
    fn forward(&mut self, key: usize, bytes: &[u8]) -> io::Result<usize> {
        let end = &self.ends[key];
        let left = match end.next {
            Next::Message(left) => left,
            Next::Head => {
                let length = end.message_length(bytes).map_err(|_| broken())?;
                let Some(length) = length else { return Ok(0) };
                if end.side == Side::Downstream {
                    self.pair(key)?;
                }
                length
            }
            Next::Nothing if end.side == Side::Downstream => return Ok(0),
            // Bytes that nobody asked for.
            Next::Nothing => return Err(broken()),
        };
        let due = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let peer = self.ends[key].peer.ok_or_else(broken)?;
        self.ends[peer].send(&bytes[..due])?;
        let left = left - due as u64;
        self.ends[key].next = if left == 0 {
            Next::Nothing
        } else {
            Next::Message(left)
        };
        if left == 0 && self.ends[key].side != Side::Downstream {
            self.complete(key, peer)?;
        }
        Ok(due)
    }

    /// Gives a client the backend whose turn it is.
    fn pair(&mut self, client: usize) -> io::Result<()> {
        let (backend, idle) = self.pools.pick();
        let upstream = match idle {
            Some(key) => key,
            None => self.connect(backend)?,
        };
        self.ends[upstream].next = Next::Head;
        self.ends[upstream].peer = Some(client);
        self.ends[client].peer = Some(upstream);
        Ok(())
    }

    fn connect(&mut self, backend: usize) -> io::Result<usize> {
        let stream = TcpStream::connect(self.pools.address(backend))?;
        stream.set_nodelay(true)?;
        self.adopt(stream, Side::Upstream { backend }, Next::Nothing)
    }

    /// The response is through: the backend is free and the client may ask again. A response
    /// that came before the end of its request leaves nothing that could be used again.
    fn complete(&mut self, upstream: usize, client: usize) -> io::Result<()> {
        let Side::Upstream { backend } = self.ends[upstream].side else {
            return Ok(());
        };
        if self.ends[client].next != Next::Nothing {
            return Err(broken());
        }
        self.ends[upstream].peer = None;
        self.pools.put_back(backend, upstream);
        let end = &mut self.ends[client];
        end.peer = None;
        end.next = Next::Head;
        if end.unread || !end.carried.is_empty() {
            self.revisit.push(client);
        }
        Ok(())
    }

    /// Ends a connection, and with it the other one of its exchange.
    fn close(&mut self, key: usize) {
        for key in [Some(key), self.ends.get(key).and_then(|end| end.peer)]
            .into_iter()
            .flatten()
        {
            let Some(end) = self.ends.try_remove(key) else {
                continue;
            };
            if let Side::Upstream { backend } = end.side {
                self.pools.forget(backend, key);
            }
        }
    }
}

/// A message that the relay cannot use.
fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
