//! One connection of a client: it waits for requests, and has each of them served.
//!
//! An idle session is small. What an exchange needs, its future and its buffers, comes from the
//! worker's spare ones when the first byte of a request is there, and goes back when the
//! connection is idle again.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::exchange::{After, exchange};
use super::gateway::{Admitted, Gateway};
use super::request_id::RequestId;
use crate::io::{ChunkSize, Deadline, Expect, Io, Parcel};
use crate::limits;
use crate::listener::Arrival;
use crate::proxy_protocol::Written;
use crate::proxy_protocol::receive::{self, Introduced};
use crate::relay::{Fill, Inbox, Stop, Stream};

/// The downstream side of a session.
pub(crate) struct Client<I: Io> {
    pub(super) stream: Stream<I>,
    pub(super) deadline: Deadline,
    pub(super) peer: Peer,
    /// What each connection to a backend on its behalf begins with.
    pub(super) preface: Option<Rc<Written>>,
    /// Requests that it has sent.
    pub(super) requests: u32,
    /// When it came, in ticks: an idle connection has room for no more.
    since_ticks: u32,
    /// Its place among the connections of its client.
    admitted: Admitted,
}

/// The client's address. Every idle connection keeps one, so that it is as small as it can be: an
/// IPv4 address is mapped (RFC 4291 section 2.5.5.2), and `::`, which is nobody's, is none.
#[derive(Clone, Copy)]
pub(super) struct Peer(Ipv6Addr);

impl Peer {
    fn new(peer: Option<SocketAddr>) -> Self {
        Self(match peer.map(|peer| peer.ip()) {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped(),
            Some(IpAddr::V6(address)) => address,
            None => Ipv6Addr::UNSPECIFIED,
        })
    }

    /// `None` where the client came over a Unix socket.
    pub(super) fn address(self) -> Option<IpAddr> {
        let Self(address) = self;
        (!address.is_unspecified()).then(|| address.to_canonical())
    }
}

impl<I: Io> Client<I> {
    /// Takes its place among the connections of its client; `false` where there is none.
    fn enter(&mut self, gateway: &Gateway<I>) -> bool {
        let admitted = gateway.admit(&self.stream.socket, self.peer.address());
        let is_admitted = admitted.is_some();
        self.admitted = admitted.unwrap_or_default();
        is_admitted
    }

    /// Whether its connection ends behind the request that it has just sent.
    pub(super) fn is_worn_out(&self, gateway: &Gateway<I>) -> bool {
        let limits = &gateway.options.clients.limits;
        let too_many = |max| self.requests >= max;
        let too_old = |age: Duration| {
            let ticks = ticks(gateway.wheel.now_ms()).wrapping_sub(self.since_ticks);
            u64::from(ticks) >= age.as_millis() as u64 / limits::TICK_MS
        };
        limits.keep_alive_requests.is_some_and(too_many)
            || limits.keep_alive_age.is_some_and(too_old)
    }
}

/// Thirteen years of them until they begin anew.
fn ticks(now_ms: u64) -> u32 {
    (now_ms / limits::TICK_MS) as u32
}

/// The buffers of an exchange, and what outlives the head of its request.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The head that goes upstream, with what came of the body at once.
    pub(super) request: Parcel,
    /// What goes upstream after it.
    pub(super) body: Parcel,
    /// What goes downstream.
    pub(super) response: Parcel,
    /// What the request is called.
    pub(super) request_id: RequestId,
}

impl Scratch {
    fn clear(&mut self) {
        self.request.clear();
        self.body.clear();
        self.response.clear();
        self.request_id.clear();
    }
}

/// The sessions of one worker.
pub(crate) struct Sessions<I: Io> {
    gateway: Rc<Gateway<I>>,
    /// The memory of exchanges that are over.
    spare: RefCell<Vec<Busy<I>>>,
    /// As much of it as nobody has needed since the last tick.
    unneeded: Cell<usize>,
}

impl<I: Io> Sessions<I> {
    /// No session yet.
    pub(crate) fn new(gateway: Rc<Gateway<I>>) -> Rc<Self> {
        Rc::new(Self {
            gateway,
            spare: RefCell::default(),
            unneeded: Cell::new(0),
        })
    }

    /// Serves one connection to its end, and lets go of `guest` then.
    pub(crate) fn open<G>(
        self: Rc<Self>,
        socket: I::Socket,
        arrival: Arrival,
        guest: G,
    ) -> impl Future<Output = ()> {
        // Boxed, because it moves between this future and the one that serves it, twice a request.
        let mut client = Box::new(Client {
            stream: Stream::new(self.gateway.io.clone(), socket),
            deadline: self.gateway.wheel.deadline(),
            peer: Peer::new(arrival.peer),
            preface: None,
            requests: 0,
            since_ticks: ticks(self.gateway.wheel.now_ms()),
            admitted: Admitted::default(),
        });
        let (mut idle, introduction) = if receive::is_needed(&self.gateway, arrival) {
            // Boxed, because it is over long before the session is.
            let introduction = introduce(self.gateway.clone(), client, arrival);
            (None, Some(Box::pin(introduction)))
        } else {
            let admitted = client.enter(&self.gateway);
            (admitted.then_some(client), None)
        };
        // A block and not an `async fn`, whose future would have room for its arguments twice.
        async move {
            if let Some(introduction) = introduction {
                idle = introduction.await;
            }
            while let Some(client) = &mut idle {
                if !self.has_request(client).await {
                    break;
                }
                let mut busy = self.busy();
                busy.take(idle.take());
                idle = poll_fn(|cx| busy.poll(cx)).await;
                self.put_back(busy);
            }
            // A part of this future to the end, so that a session that panics lets go of it too.
            drop(guest);
        }
    }

    /// Waits for the first bytes of a request; `false` where none came, which is no fault.
    async fn has_request(&self, client: &mut Client<I>) -> bool {
        let Client {
            stream, deadline, ..
        } = client;
        if begins_request(&stream.inbox) {
            // It came together with the header of the connection.
            return true;
        }
        stream.arm(ChunkSize::Small, Expect::Later);
        let mut filled = Err(Stop::Expired);
        if !self.gateway.is_draining() {
            deadline.set_interruptible(self.gateway.options.idle_timeout);
            filled = fill_with_request(stream, deadline).await;
        }
        if filled == Err(Stop::Expired) && self.gateway.is_draining() {
            // A request may be on its way, or have come with the connection out of the queue.
            deadline.set(Some(self.gateway.options.drain_grace));
            filled = fill_with_request(stream, deadline).await;
        }
        filled == Ok(Fill::Bytes)
    }

    /// Gives back what a burst has left over and nobody needed since the last tick.
    pub(crate) fn tick(&self) {
        let mut spare = self.spare.borrow_mut();
        let needed = spare.len() - self.unneeded.get();
        spare.truncate(needed.max(limits::EXCHANGES_SPARE_MIN));
        self.unneeded.set(spare.len());
    }

    /// Exchanges whose memory is kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn spare(&self) -> usize {
        self.spare.borrow().len()
    }

    fn busy(&self) -> Busy<I> {
        let mut spares = self.spare.borrow_mut();
        let spare = spares.pop();
        self.unneeded.set(self.unneeded.get().min(spares.len()));
        spare.unwrap_or_else(|| Busy::new(self.gateway.clone()))
    }

    fn put_back(&self, busy: Busy<I>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < limits::EXCHANGES_SPARE_MAX {
            spare.push(busy);
        }
    }
}

/// Finds out who the client is; `None` where the connection is over.
async fn introduce<I: Io>(
    gateway: Rc<Gateway<I>>,
    mut client: Box<Client<I>>,
    arrival: Arrival,
) -> Option<Box<Client<I>>> {
    let Client {
        stream, deadline, ..
    } = &mut *client;
    let introduced = receive::introduce(&gateway, stream, deadline, arrival).await;
    let Introduced { peer, preface } = introduced?;
    client.peer = Peer::new(peer);
    client.preface = preface;
    client.enter(&gateway).then_some(client)
}

/// What serves a busy connection: a future that never ends, and serves one connection after the
/// other. Making one for each request would cost an allocation, or a copy of all its memory.
struct Busy<I: Io> {
    seat: Rc<Cell<Seat<I>>>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// Where a connection is handed to the future, and back.
#[derive(Default)]
enum Seat<I: Io> {
    #[default]
    Vacant,
    /// Bytes of a request are there.
    Taken(Box<Client<I>>),
    /// Idle again, or over.
    Served(Option<Box<Client<I>>>),
}

impl<I: Io> Busy<I> {
    fn new(gateway: Rc<Gateway<I>>) -> Self {
        let seat = Rc::<Cell<Seat<I>>>::default();
        let future = Box::pin(serve_all(gateway, seat.clone()));
        Self { seat, future }
    }

    fn take(&self, client: Option<Box<Client<I>>>) {
        self.seat.set(client.map_or(Seat::Vacant, Seat::Taken));
    }

    /// Ready once the connection is idle, or over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Box<Client<I>>>> {
        let ended = self.future.as_mut().poll(cx).is_ready();
        debug_assert!(!ended, "it waits for the next connection");
        match self.seat.take() {
            Seat::Served(client) => Poll::Ready(client),
            Seat::Vacant | Seat::Taken(_) => Poll::Pending,
        }
    }
}

async fn serve_all<I: Io>(gateway: Rc<Gateway<I>>, seat: Rc<Cell<Seat<I>>>) {
    let mut scratch = Scratch::default();
    loop {
        let client = poll_fn(|_| match seat.take() {
            Seat::Taken(client) => Poll::Ready(client),
            other => {
                seat.set(other);
                Poll::Pending
            }
        });
        let idle = serve(&gateway, client.await, &mut scratch).await;
        seat.set(Seat::Served(idle));
    }
}

/// Serves requests until the connection is idle, or over.
async fn serve<I: Io>(
    gateway: &Gateway<I>,
    mut client: Box<Client<I>>,
    scratch: &mut Scratch,
) -> Option<Box<Client<I>>> {
    loop {
        let after = exchange(gateway, &mut client, scratch).await;
        scratch.clear();
        match after {
            After::Keep if !begins_request(&client.stream.inbox) => return Some(client),
            After::Keep => {}
            After::Close => return None,
            After::Linger => {
                linger(&mut client).await;
                return None;
            }
            After::Abort => {
                gateway.io.abort(&client.stream.socket);
                return None;
            }
        }
    }
}

/// Waits for a request to begin, until the deadline.
async fn fill_with_request<I: Io>(
    stream: &mut Stream<I>,
    deadline: &Deadline,
) -> Result<Fill, Stop> {
    let mut filled = stream.fill(ChunkSize::Small, deadline).await;
    while filled == Ok(Fill::Bytes) && !begins_request(&stream.inbox) {
        filled = stream.fill(ChunkSize::Small, deadline).await;
    }
    filled
}

/// Whether a request has begun. The empty line that some clients send behind a body begins none
/// (RFC 9112 section 2.2), nor does its first half; it stays, so that a second one is found
/// whatever pieces they come in.
fn begins_request(inbox: &Inbox) -> bool {
    !matches!(inbox.bytes(), b"" | b"\r" | b"\r\n")
}

/// Closes in a way that the client can still read the last response: a close with bytes unread is
/// a reset, which may overtake it (RFC 9112 section 9.6).
async fn linger<I: Io>(client: &mut Client<I>) {
    client.stream.io.half_close(&client.stream.socket);
    client
        .deadline
        .set(Some(Duration::from_millis(limits::LINGER_TIMEOUT_MS)));
    let mut drained = client.stream.inbox.bytes().len();
    while drained < limits::LINGER_BYTES_MAX {
        client.stream.inbox = Inbox::Empty;
        match client.stream.fill(ChunkSize::Large, &client.deadline).await {
            Ok(Fill::Bytes) => drained += client.stream.inbox.bytes().len(),
            Ok(Fill::End) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, Peer, Sessions};
    use crate::io::{Epoll, Uring};
    use crate::listener::Guest;

    /// Most bytes of a session's future, which every idle connection has.
    const SESSION_BYTES_MAX: usize = 512;

    fn output_size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_peer_comes_back_as_it_is_written() {
        for (text, written) in [
            ("192.0.2.1:80", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[::1]:80", "::1"),
        ] {
            let address = Peer::new(Some(text.parse().unwrap())).address();
            assert_eq!(address, Some(written.parse().unwrap()), "{text}");
        }
        assert_eq!(Peer::new(None).address(), None);
    }

    #[test]
    fn an_idle_session_is_small() {
        for (engine, size) in [
            ("io_uring", output_size(Sessions::<Uring>::open::<Guest>)),
            ("epoll", output_size(Sessions::<Epoll>::open::<Guest>)),
        ] {
            assert!(size <= SESSION_BYTES_MAX, "{engine}: {size} bytes");
        }
        assert!(size_of::<Client<Uring>>() <= SESSION_BYTES_MAX / 2);
    }
}
