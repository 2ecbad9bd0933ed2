//! The engine of the simulation: sockets in memory, time that is counted, an order that a seed
//! decides.
//!
//! It promises what [`Io`] promises and nothing more: whatever may come late, in pieces or not at
//! all does so in some runs. `ATTENDED` says which of the two real engines it is like: an operation
//! goes on only when it is polled, as with epoll, or by itself, as on the ring.

mod executor;
mod host;
mod operation;
mod wire;
mod world;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use host::{Dial, Host};
pub(crate) use wire::{Deeds, End};
pub(crate) use world::{Fault, Network, Sent, World};

use super::{Address, BufferOptions, BulkTurn, Chunk, ChunkSize, Expect, Io, Parcel, Pipe, Usage};
use operation::{Operation, RecvOutput};

/// A handle to a simulated world, as the worker under test sees it.
#[derive(Clone)]
pub(crate) struct Sim<const ATTENDED: bool>(pub(crate) Rc<World>);

impl<const ATTENDED: bool> Io for Sim<ATTENDED> {
    const SENDS_UNATTENDED: bool = !ATTENDED;

    type Socket = Rc<End>;
    type Listener = Rc<Host>;
    type Recv = Operation<RecvOutput>;
    type Readable = Operation<io::Result<()>>;

    fn run<F: Future>(
        buffers: BufferOptions,
        main: impl FnOnce(Self) -> F,
    ) -> io::Result<(F::Output, Usage)> {
        let world = World::new(0, Network::default(), buffers);
        let io = Self(world.clone());
        let output = world.executor.block_on(main(io.clone()));
        let output = output.map_err(|hang| io::Error::other(format!("{hang:?}")))?;
        Ok((output, io.usage()))
    }

    fn listener(&self, _socket: OwnedFd) -> io::Result<Self::Listener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, Option<SocketAddr>)>> + Unpin {
        let listener = listener.clone();
        self.begin(None, async move {
            let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
            accepted.map(|(socket, peer)| (socket, Some(peer)))
        })
    }

    fn cancel_accept(&self, listener: &Self::Listener) {
        listener.cancel();
    }

    fn accept_queued(
        &self,
        listener: &Self::Listener,
    ) -> io::Result<Option<(Self::Socket, Option<SocketAddr>)>> {
        let accepted = listener.accept_queued();
        Ok(accepted.map(|(socket, peer)| (socket, Some(peer))))
    }

    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Socket>> + Unpin {
        let world = self.0.clone();
        let address = address.internet().expect("nothing else is simulated");
        self.begin(None, async move { world.connect(address).await })
    }

    fn recv(&self, socket: &Self::Socket, size: ChunkSize, _expect: Expect) -> Self::Recv {
        // The ring chooses the chunk before the bytes come.
        let size = if ATTENDED { size } else { ChunkSize::Small };
        self.begin(Some(socket), operation::recv(socket, size))
    }

    fn recv_queued(&self, socket: &Self::Socket) -> io::Result<Option<Chunk>> {
        if !socket.has_unread() {
            return Ok(None);
        }
        self.0.large.fill(|bytes| socket.read_some(bytes))
    }

    fn send(
        &self,
        socket: &Self::Socket,
        parcel: Parcel,
    ) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin {
        socket.note_send(&parcel.lead);
        self.begin(Some(socket), operation::send(socket, parcel, ATTENDED))
    }

    fn readable(&self, socket: &Self::Socket) -> Self::Readable {
        self.begin(Some(socket), operation::readable(socket))
    }

    /// Always so, also where a send finds no room.
    fn writable(&self, _socket: &Self::Socket) -> impl Future<Output = io::Result<()>> + Unpin {
        std::future::ready(Ok(()))
    }

    /// There is no bulk.
    fn bulk_turn(&self) -> BulkTurn {
        BulkTurn::default()
    }

    /// There are none: what would be spliced is copied.
    fn pipe(&self) -> Option<Pipe> {
        None
    }

    fn splice_in(
        &self,
        _from: &Self::Socket,
        _pipe: &mut Pipe,
        _most: usize,
    ) -> io::Result<Option<usize>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn splice_out(&self, _pipe: &mut Pipe, _to: &Self::Socket) -> io::Result<Option<usize>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn acknowledged(&self, socket: &Self::Socket) -> u64 {
        socket.accepted()
    }

    /// There is none in this network.
    fn local_address(&self, _socket: &Self::Socket) -> Option<SocketAddr> {
        None
    }

    fn is_lost(&self, socket: &Self::Socket) -> bool {
        socket.was_reset()
    }

    fn has_unread(&self, socket: &Self::Socket) -> bool {
        socket.has_unread()
    }

    fn is_readable(&self, socket: &Self::Socket) -> bool {
        socket.is_readable()
    }

    fn half_close(&self, socket: &Self::Socket) {
        socket.half_close();
    }

    fn abort(&self, socket: &Self::Socket) {
        socket.reset_on_close();
    }

    fn pause(&self) -> impl Future<Output = ()> {
        self.sleep(Duration::ZERO)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Unpin {
        let world = self.0.clone();
        let milliseconds = duration.as_millis() as u64;
        self.begin(
            None,
            async move { world.executor.sleep(milliseconds).await },
        )
    }

    fn tick(&self) {
        self.0.small.grant_available();
    }

    fn usage(&self) -> Usage {
        Usage {
            chunks_held: self.0.small.held() + self.0.large.held(),
            operations: self.0.operations.get(),
            chunk_waits: self.0.chunk_waits.get(),
        }
    }
}

impl<const ATTENDED: bool> Sim<ATTENDED> {
    fn begin<T: 'static>(
        &self,
        socket: Option<&Rc<End>>,
        work: impl Future<Output = T> + 'static,
    ) -> Operation<T> {
        if ATTENDED {
            Operation::attended(&self.0, socket, work)
        } else {
            Operation::unattended(&self.0, socket, work)
        }
    }
}
