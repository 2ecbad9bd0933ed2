//! The event loop of the origin: accepts, reads, writes, and wakes delayed answers.
//!
//! What a request means is the session's affair; here are only sockets and time.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Poll, Token};
use slab::Slab;

use super::delays::{Delays, Waiter};
use super::replies::Replies;
use super::session::Session;
use crate::acceptor::{Acceptor, BOTH_WAYS, LISTENER};

/// Bytes that one read may take.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Events that one turn of the loop may take.
const EVENTS_MAX: usize = 1024;

/// What the origin is told.
pub struct Options {
    /// Where it listens; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Its name, sent as `X-Backend` with every response.
    pub name: String,
}

/// The origin with all its connections.
pub struct Server {
    poll: Poll,
    acceptor: Acceptor,
    clients: Slab<Client>,
    delays: Delays,
    /// Clients in the middle of a long body. They take turns of one a loop, so that a small request
    /// beside them waits for one turn and not for all.
    bulk: VecDeque<Waiter>,
    replies: Replies,
    scratch: Box<[u8]>,
    accepted: u64,
}

impl Server {
    /// Binds and listens. Fails where the address cannot be bound.
    pub fn bind(options: &Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            acceptor: Acceptor::bind(options.listen, poll.registry())?,
            poll,
            clients: Slab::new(),
            delays: Delays::default(),
            bulk: VecDeque::new(),
            replies: Replies::new(&options.name),
            scratch: vec![0; READ_BYTES_MAX].into_boxed_slice(),
            accepted: 0,
        })
    }

    /// The address that is really bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.acceptor.address()
    }

    /// Serves until polling fails.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let timeout = match self.bulk.is_empty() {
                true => self.delays.timeout(),
                false => Some(Duration::ZERO),
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(key) if self.is_bulk(key) => self.queue(key),
                    Token(key) => self.serve(key, event.is_read_closed()),
                }
            }
            self.serve_bulk();
            self.wake_delayed();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(mut stream) = self.acceptor.accept() {
            let slot = self.clients.vacant_entry();
            self.poll
                .registry()
                .register(&mut stream, Token(slot.key()), BOTH_WAYS)?;
            self.accepted += 1;
            slot.insert(Client {
                stream,
                session: Session::default(),
                serial: self.accepted,
                queued: false,
            });
        }
        Ok(())
    }

    /// Takes one client as far as its socket allows. An event for a client that is gone, or for
    /// its successor under the same key, does no harm: the read finds nothing.
    fn serve(&mut self, key: usize, read_closed: bool) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        match client.advance(&mut self.scratch, &self.replies, read_closed) {
            Ok(Progress::Waits) => {}
            Ok(Progress::Delayed { ms }) => {
                self.delays.push(
                    ms,
                    Waiter {
                        key,
                        serial: client.serial,
                    },
                );
            }
            Ok(Progress::Yields) => self.queue(key),
            Ok(Progress::Over) | Err(_) => drop(self.clients.remove(key)),
        }
    }

    fn is_bulk(&self, key: usize) -> bool {
        let client = self.clients.get(key);
        client.is_some_and(|client| client.session.output.has_run())
    }

    /// Has a client wait for its turn.
    fn queue(&mut self, key: usize) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            let serial = client.serial;
            self.bulk.push_back(Waiter { key, serial });
        }
    }

    fn serve_bulk(&mut self) {
        if let Some(waiter) = self.bulk.pop_front()
            && let Some(client) = client(&mut self.clients, waiter)
        {
            client.queued = false;
            // Its events were passed over meanwhile, the end of its side among them.
            self.serve(waiter.key, true);
        }
    }

    fn wake_delayed(&mut self) {
        while let Some(waiter) = self.delays.pop_due() {
            if let Some(client) = client(&mut self.clients, waiter) {
                client.session.delay_is_over(&self.replies);
                self.serve(waiter.key, false);
            }
        }
    }
}

/// Who waits, unless it has gone meanwhile and another has its key.
fn client(clients: &mut Slab<Client>, waiter: Waiter) -> Option<&mut Client> {
    let client = clients.get_mut(waiter.key)?;
    (client.serial == waiter.serial).then_some(client)
}

/// One connection.
struct Client {
    stream: TcpStream,
    session: Session,
    /// Tells it from another client that had the same key before.
    serial: u64,
    /// It waits for its turn among those with long bodies.
    queued: bool,
}

enum Progress {
    /// For the next edge of the socket, or for a delay that is already queued.
    Waits,
    /// For its next turn.
    Yields,
    /// For a delay that has to be queued.
    Delayed { ms: u64 },
    /// The connection has ended.
    Over,
}

impl Client {
    /// Writes, reads and answers until the socket or the session has to wait.
    ///
    /// A read that leaves room in the buffer has emptied the socket (epoll(7)), so no second read
    /// is spent on `EAGAIN`; unless the peer has closed, whose FIN makes no further edge.
    fn advance(
        &mut self,
        scratch: &mut [u8],
        replies: &Replies,
        read_closed: bool,
    ) -> io::Result<Progress> {
        let mut emptied = false;
        loop {
            // A full socket does not stop the reading: a client may send all before it reads.
            let sent = self.session.output.flush(&mut self.stream)?;
            if self.session.resume(replies) {
                continue;
            }
            if sent && self.session.is_over() {
                return Ok(Progress::Over);
            }
            if let Some(ms) = self.session.take_delay() {
                return Ok(Progress::Delayed { ms });
            }
            if self.session.output.turn_is_over() {
                return Ok(Progress::Yields);
            }
            if emptied || !self.session.wants_bytes() {
                return Ok(Progress::Waits);
            }
            match self.stream.read(scratch) {
                Ok(0) => self.session.end_of_input(),
                Ok(count) => {
                    self.session.receive(&scratch[..count], replies);
                    emptied = count < scratch.len() && !read_closed;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => emptied = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
