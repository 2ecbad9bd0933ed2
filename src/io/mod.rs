//! The machine: everything that moves bytes, waits or reads a clock, behind one interface.
//!
//! The path above is written once, generic over [`Io`]; which engine it runs on is chosen once at
//! start-up. All unsafe code of fastlb is in this module.

mod address;
mod buffer;
mod deadline;
pub mod epoll;
mod parcel;
mod pipe;
mod queue;
#[cfg(any(test, fuzzing))]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests alone use some of it")
)]
pub(crate) mod sim;
mod sys;
mod turns;
mod unix;
pub mod uring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::Duration;

pub use address::{Address, UnixPath, UnixPathError};
pub use buffer::{BufferOptions, Chunk, ChunkSize};
pub(crate) use deadline::wall_clock_s;
pub use deadline::{Deadline, Expired, Guarded, Stopwatch, Wheel};
pub use epoll::Epoll;
pub use parcel::Parcel;
pub use pipe::Pipe;
pub use sys::{
    check_port_free, is_out_of_descriptors, listen, local_address, pin_to_processor,
    raise_descriptor_limit, use_small_pages,
};
pub use turns::BulkTurn;
pub use unix::{SocketFile, listen_unix};
pub use uring::{ProbeError, Uring, probe};

/// The engines of `--io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, otherwise epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "io-uring" => Ok(Self::IoUring),
            "epoll" => Ok(Self::Epoll),
            _ => Err("there are auto, io-uring and epoll".to_owned()),
        }
    }
}

/// What a worker needs of an engine. A value is a handle to the engine of the worker's own thread.
///
/// Every future here may be dropped at any time. What its completion would have carried (a chunk,
/// a connection) is taken back; other operations on the same socket may then fail with
/// `ECANCELED`, so a dropped wait means that the socket is done for.
pub trait Io: Clone + 'static {
    /// Whether a send goes on by itself once it was begun, so that it need only be polled for its
    /// end.
    const SENDS_UNATTENDED: bool;

    /// One end of a connection; closed when the last clone and the last operation let go of it.
    type Socket: Clone + 'static;
    /// A bound socket that accepts; it waits in one [`Io::accept`] at a time.
    type Listener: Clone + 'static;
    /// A receive that is under way. It has a name because idle connections keep one.
    type Recv: Future<Output = io::Result<Option<Chunk>>> + Unpin + 'static;
    /// A wait for something to read. It has a name because a stream keeps one.
    type Readable: Future<Output = io::Result<()>> + Unpin + 'static;

    /// Runs `main` on an engine of this kind, on the calling thread, to its end; then waits until
    /// everything that it left under way has come back, and tells what has not.
    ///
    /// # Errors
    /// Where the engine cannot be built: what the kernel said.
    fn run<F: Future>(
        buffers: BufferOptions,
        main: impl FnOnce(Self) -> F,
    ) -> io::Result<(F::Output, Usage)>;

    /// Takes over a listening socket.
    ///
    /// # Errors
    /// Where the engine cannot watch it.
    fn listener(&self, socket: OwnedFd) -> io::Result<Self::Listener>;

    /// Waits for the next connection and its peer's address, which a client of a Unix socket does
    /// not have.
    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, Option<SocketAddr>)>> + Unpin;

    /// Ends the wait for a connection with `ECANCELED`, unless one has just come.
    fn cancel_accept(&self, listener: &Self::Listener);

    /// A connection that waits to be accepted; `None` where there is none.
    ///
    /// # Errors
    /// Those of accept(2).
    fn accept_queued(
        &self,
        listener: &Self::Listener,
    ) -> io::Result<Option<(Self::Socket, Option<SocketAddr>)>>;

    /// Connects to `address`.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Socket>> + Unpin;

    /// Receives what comes next; `None` is the end of the stream. No memory is held while nothing
    /// has come. The bytes come in a small chunk where no large one is left, or where the chunk has
    /// to be chosen before they come; what has no room in it is there for [`Io::recv_queued`].
    fn recv(&self, socket: &Self::Socket, size: ChunkSize, expect: Expect) -> Self::Recv;

    /// Receives into a large chunk what has come already; `None` where that is nothing, or the end
    /// of the stream, or no large chunk is left. Does not wait.
    ///
    /// # Errors
    /// Those of recv(2).
    fn recv_queued(&self, socket: &Self::Socket) -> io::Result<Option<Chunk>>;

    /// Sends all of `parcel` and gives it back. The error is `BrokenPipe` only where not one byte
    /// was sent. `BrokenPipe` and `WriteZero` say that the socket was known before to take no
    /// more; with any other error this send may be the one that was told of a reset, which the
    /// kernel tells once: a receive may then find a clean end.
    fn send(
        &self,
        socket: &Self::Socket,
        parcel: Parcel,
    ) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin;

    /// Waits until there is something to read, the end of the stream or an error included.
    /// Everybody else has a turn before it ends, even where bytes are there already.
    fn readable(&self, socket: &Self::Socket) -> Self::Readable;

    /// Waits until there is room to send.
    fn writable(&self, socket: &Self::Socket) -> impl Future<Output = io::Result<()>> + Unpin;

    /// Waits for a turn to move bulk: those of all flows of a worker together are short, and
    /// everybody else has one in between.
    fn bulk_turn(&self) -> BulkTurn;

    /// An empty pipe for [`Io::splice_in`], or `None` where bytes have to be copied.
    fn pipe(&self) -> Option<Pipe>;

    /// Moves what has come into the empty `pipe`, at most `most` bytes and what it has room for; 0
    /// is the end of the stream, `None` that nothing has come. Does not wait.
    ///
    /// # Errors
    /// Those of splice(2); `Unsupported` where the call is refused here, or what has come does not
    /// go through a pipe: no byte was moved, and bytes are to be copied.
    fn splice_in(
        &self,
        from: &Self::Socket,
        pipe: &mut Pipe,
        most: usize,
    ) -> io::Result<Option<usize>>;

    /// Moves bytes out of the `pipe`, which must not be empty; `None` where there is no room for
    /// one. Does not wait.
    ///
    /// # Errors
    /// Those of splice(2).
    fn splice_out(&self, pipe: &mut Pipe, to: &Self::Socket) -> io::Result<Option<usize>>;

    /// A number that moves as the peer takes what was sent: the bytes that it has acknowledged
    /// since the connection began, or on a Unix socket those that it has yet to read. 0 where the
    /// kernel does not say.
    fn acknowledged(&self, socket: &Self::Socket) -> u64;

    /// The address that the peer connected to; `None` where it came over a Unix socket.
    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr>;

    /// Whether a connection is lost: reset, or broken in another way. One whose peer has only
    /// closed its side is not.
    fn is_lost(&self, socket: &Self::Socket) -> bool;

    /// Whether bytes have come that nobody has received.
    fn has_unread(&self, socket: &Self::Socket) -> bool;

    /// Whether a receive would bring something at once, the end of the stream or an error included.
    fn is_readable(&self, socket: &Self::Socket) -> bool;

    /// Sends FIN; receiving goes on.
    fn half_close(&self, socket: &Self::Socket);

    /// Makes the coming close of the socket a reset, which frees what it could not send.
    fn abort(&self, socket: &Self::Socket);

    /// Lasts until the kernel was asked for what is ready, so that everybody else has a turn.
    fn pause(&self) -> impl Future<Output = ()>;

    /// Waits on the engine's own machinery, so that its end shows that the engine lives.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Unpin;

    /// What must be done once a tick: chunks go back to the kernel, waiters try again.
    fn tick(&self);

    /// What is out at the moment.
    fn usage(&self) -> Usage;
}

/// Whether the bytes of a receive are likely to be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Probably: inside a message.
    Now,
    /// Probably not: the next message is somebody else's turn.
    Later,
}

/// What an engine has lent out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Chunks held by sessions.
    pub chunks_held: usize,
    /// Operations under way, the engine's own included.
    pub operations: usize,
    /// Receives that found no chunk, since the start.
    pub chunk_waits: u64,
}

impl Usage {
    /// Whether anything has yet to come back.
    pub fn is_out(&self) -> bool {
        self.chunks_held > 0 || self.operations > 0
    }
}

/// What was moved, or `None` where it would have had to be waited for.
fn moved(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(moved) => Ok(Some(moved)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
