//! The io_uring engine: tokio-uring's executor with our own one-shot operations.
//!
//! The rules it keeps are in `docs/architecture.md`: no multishot, no submission from a drop, no
//! operation dropped without its completion being waited for.

mod op;
mod poll;
mod probe;
mod recv;
mod stream;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::opcode;

pub use poll::Readable;
pub use probe::{ProbeError, probe};
pub use recv::Recv;

use super::buffer::{BufferOptions, Chunk, ChunkSize, Group};
use super::pipe::{Pipe, Pipes};
use super::turns::{BulkTurn, Turns};
use super::{Address, Expect, Io, Parcel, Stopwatch, Usage, moved, sys};
use crate::limits;
use op::Orphans;
use stream::Gather;

/// A handle to the ring of the thread it lives on.
#[derive(Clone)]
pub struct Uring(Rc<Ring>);

/// The kernel's number for the chunks that are lent to it.
const BUFFER_GROUP: u16 = 0;

struct Ring {
    /// Lent to the kernel, which takes one when bytes come.
    small: Rc<Group>,
    /// Filled by recv(2), the one that was used last first, because it is still in the cache.
    large: Rc<Group>,
    orphans: Rc<Orphans>,
    pipes: Rc<Pipes>,
    turns: Rc<Turns>,
    /// Headers of vectored sends, kept for the next ones.
    #[expect(
        clippy::vec_box,
        reason = "the kernel holds pointers into a header, which may not move"
    )]
    gathers: RefCell<Vec<Box<Gather>>>,
    chunk_waits: Cell<u64>,
    /// Sends to come that do not wait for the end of a turn in which bulk is spliced.
    sends_at_once: Cell<u32>,
}

/// The options that a ring is built with, for the workers and for the probe alike.
fn builder() -> tokio_uring::Builder {
    let mut ring = tokio_uring::uring_builder();
    // Completions run when the worker enters the kernel anyway, not by interrupting it. Not
    // DEFER_TASKRUN: tokio-uring never enters with GETEVENTS, and nothing would complete.
    ring.setup_coop_taskrun()
        .setup_single_issuer()
        .setup_cqsize(limits::RING_COMPLETIONS)
        .setup_clamp();
    let mut builder = tokio_uring::builder();
    builder.entries(limits::RING_ENTRIES).uring_builder(&ring);
    builder
}

impl Uring {
    fn new(buffers: BufferOptions) -> Self {
        let ring = Ring {
            small: Group::new(ChunkSize::Small, buffers.small_chunks_max),
            large: Group::new(ChunkSize::Large, buffers.large_chunks_max),
            orphans: Rc::default(),
            pipes: Rc::default(),
            turns: Rc::default(),
            gathers: RefCell::default(),
            chunk_waits: Cell::new(0),
            sends_at_once: Cell::new(0),
        };
        Self(Rc::new(ring))
    }

    /// Waits until no operation is under way and no chunk is out; `false` where that takes so long
    /// that it is better to say what is left than to hang.
    async fn settle(&self) -> bool {
        let clock = Stopwatch::start();
        while self.usage().is_out() {
            if clock.elapsed_ms() > limits::SETTLE_TIMEOUT_MS {
                tracing::error!(usage = ?self.usage(), "operations did not come back");
                return false;
            }
            tokio::time::sleep(Duration::from_millis(limits::TICK_MS / 10)).await;
        }
        true
    }
}

impl Io for Uring {
    const SENDS_UNATTENDED: bool = true;

    type Socket = Rc<OwnedFd>;
    type Listener = Rc<OwnedFd>;
    type Recv = Recv;
    type Readable = Readable;

    fn run<F: Future>(
        buffers: BufferOptions,
        main: impl FnOnce(Self) -> F,
    ) -> io::Result<(F::Output, Usage)> {
        let building = |error| io::Error::other(ProbeError::building(error));
        let runtime = tokio_uring::Runtime::new(&builder()).map_err(building)?;
        let (output, usage, settled) = runtime.block_on(async {
            let io = Self::new(buffers);
            let keeper = tokio::task::spawn_local(io.0.orphans.clone().keep());
            let (turns, pausing) = (io.0.turns.clone(), io.clone());
            let turns = turns.keep(async move || pausing.pause().await);
            let turns = tokio::task::spawn_local(turns);
            io.0.fill();
            let output = main(io.clone()).await;
            let settled = io.settle().await;
            keeper.abort();
            turns.abort();
            (output, io.usage(), settled)
        });
        if !settled {
            // The end of the runtime would free what the kernel may still write to.
            std::mem::forget(runtime);
        }
        Ok((output, usage))
    }

    fn listener(&self, socket: OwnedFd) -> io::Result<Self::Listener> {
        Ok(Rc::new(socket))
    }

    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, Option<SocketAddr>)>> + Unpin {
        stream::accept(&self.0, listener)
    }

    fn cancel_accept(&self, listener: &Self::Listener) {
        op::cancel(listener.as_raw_fd());
    }

    fn accept_queued(
        &self,
        listener: &Self::Listener,
    ) -> io::Result<Option<(Self::Socket, Option<SocketAddr>)>> {
        let accepted = sys::accept_queued(listener)?;
        Ok(accepted.map(|(socket, address)| (Rc::new(socket), address)))
    }

    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Socket>> + Unpin {
        stream::connect(&self.0, address)
    }

    fn recv(&self, socket: &Self::Socket, _size: ChunkSize, expect: Expect) -> Self::Recv {
        Recv::new(&self.0, socket, expect)
    }

    fn recv_queued(&self, socket: &Self::Socket) -> io::Result<Option<Chunk>> {
        self.0.large.fill(|bytes| sys::recv(socket, bytes))
    }

    fn send(
        &self,
        socket: &Self::Socket,
        parcel: Parcel,
    ) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin {
        stream::send(&self.0, socket, parcel)
    }

    fn readable(&self, socket: &Self::Socket) -> Self::Readable {
        poll::readable(&self.0, socket)
    }

    fn writable(&self, socket: &Self::Socket) -> impl Future<Output = io::Result<()>> + Unpin {
        poll::writable(&self.0, socket)
    }

    fn bulk_turn(&self) -> BulkTurn {
        BulkTurn::new(&self.0.turns)
    }

    fn pipe(&self) -> Option<Pipe> {
        self.0.pipes.lend()
    }

    fn splice_in(
        &self,
        from: &Self::Socket,
        pipe: &mut Pipe,
        most: usize,
    ) -> io::Result<Option<usize>> {
        self.0.sends_at_once.set(limits::SENDS_AT_ONCE);
        self.0.turns.counted(moved(pipe.fill(from, most)))
    }

    fn splice_out(&self, pipe: &mut Pipe, to: &Self::Socket) -> io::Result<Option<usize>> {
        moved(pipe.empty(to))
    }

    fn acknowledged(&self, socket: &Self::Socket) -> u64 {
        sys::acknowledged(socket)
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        sys::local_address(socket).ok()
    }

    fn is_lost(&self, socket: &Self::Socket) -> bool {
        sys::is_lost(socket)
    }

    fn has_unread(&self, socket: &Self::Socket) -> bool {
        sys::has_unread(socket)
    }

    fn is_readable(&self, socket: &Self::Socket) -> bool {
        sys::is_readable(socket)
    }

    fn half_close(&self, socket: &Self::Socket) {
        sys::half_close(socket);
    }

    fn abort(&self, socket: &Self::Socket) {
        sys::reset_on_close(socket);
    }

    fn pause(&self) -> impl Future<Output = ()> {
        stream::pause(&self.0)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Unpin {
        stream::sleep(&self.0, duration)
    }

    fn tick(&self) {
        self.0.provide();
        self.0.small.grant_available();
        self.0.pipes.tick();
    }

    fn usage(&self) -> Usage {
        Usage {
            chunks_held: self.0.small.held() + self.0.large.held(),
            operations: self.0.orphans.under_way(),
            chunk_waits: self.0.chunk_waits.get(),
        }
    }
}

impl Ring {
    /// Whether a send is worth a system call of its own. What is submitted goes when the worker
    /// has nothing else to do, which is cheaper; but beside flows that are spliced that may be
    /// milliseconds later.
    fn takes_sends_at_once(&self) -> bool {
        let left = self.sends_at_once.get();
        self.sends_at_once.set(left.saturating_sub(1));
        left > 0
    }

    /// Gives the kernel the chunks that a burst of messages takes.
    fn fill(&self) {
        while self.small.made() < limits::CHUNKS_AT_START && self.small.grow() {}
        self.provide();
    }

    /// Hands the small chunks at home to the kernel, each run of neighbours in one operation.
    fn provide(&self) {
        self.small.lend(|run| {
            let entry = opcode::ProvideBuffers::new(
                self.small.start(run[0]).as_ptr(),
                self.small.chunk_bytes() as i32,
                run.len() as u16,
                BUFFER_GROUP,
                run[0],
            );
            op::submit_unwatched(entry.build());
        });
    }
}
