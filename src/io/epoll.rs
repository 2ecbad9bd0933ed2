//! The epoll engine: tokio's current-thread runtime, readiness first, then a pooled chunk.
//!
//! It runs where io_uring is forbidden. Nothing is ever under way in the kernel, so dropping a
//! wait loses nothing.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::LocalSet;

use super::buffer::{BufferOptions, Chunk, ChunkSize, Group};
use super::pipe::{Pipe, Pipes};
use super::queue::Turn;
use super::turns::{BulkTurn, Turns};
use super::{Address, Expect, Io, Parcel, Usage, moved, sys};

/// A handle to the epoll engine of the thread it lives on.
#[derive(Clone)]
pub struct Epoll(Rc<Inner>);

struct Inner {
    small: Rc<Group>,
    large: Rc<Group>,
    pipes: Rc<Pipes>,
    turns: Rc<Turns>,
    chunk_waits: Cell<u64>,
}

/// A socket, watched by the runtime.
type Watched = AsyncFd<OwnedFd>;

/// A listening socket, and whether the wait for a connection was cancelled.
pub struct Listener {
    socket: Watched,
    cancelled: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Io for Epoll {
    const SENDS_UNATTENDED: bool = false;

    type Socket = Rc<Watched>;
    type Listener = Rc<Listener>;
    type Recv = Recv;
    type Readable = Readable;

    fn run<F: Future>(
        buffers: BufferOptions,
        main: impl FnOnce(Self) -> F,
    ) -> io::Result<(F::Output, Usage)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let io = Self(Rc::new(Inner {
            small: Group::new(ChunkSize::Small, buffers.small_chunks_max),
            large: Group::new(ChunkSize::Large, buffers.large_chunks_max),
            pipes: Rc::default(),
            turns: Rc::default(),
            chunk_waits: Cell::new(0),
        }));
        let output = LocalSet::new().block_on(&runtime, async {
            let (turns, pausing) = (io.0.turns.clone(), io.clone());
            let keeper = turns.keep(async move || pausing.pause().await);
            let keeper = tokio::task::spawn_local(keeper);
            let output = main(io.clone()).await;
            keeper.abort();
            output
        });
        Ok((output, io.usage()))
    }

    fn listener(&self, socket: OwnedFd) -> io::Result<Self::Listener> {
        let socket = watch(socket)?;
        Ok(Rc::new(Listener {
            socket,
            cancelled: Cell::new(false),
            waiter: Cell::new(None),
        }))
    }

    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Socket, Option<SocketAddr>)>> + Unpin {
        let listener = listener.clone();
        std::future::poll_fn(move |cx| listener.poll_accept(cx))
    }

    fn cancel_accept(&self, listener: &Self::Listener) {
        listener.cancelled.set(true);
        if let Some(waiter) = listener.waiter.take() {
            waiter.wake();
        }
    }

    fn accept_queued(
        &self,
        listener: &Self::Listener,
    ) -> io::Result<Option<(Self::Socket, Option<SocketAddr>)>> {
        let Some((socket, peer)) = sys::accept_queued(&listener.socket)? else {
            return Ok(None);
        };
        Ok(Some((Rc::new(watch(socket)?), peer)))
    }

    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Socket>> + Unpin {
        let mut started = Some(begin_connect(address));
        let mut socket = None;
        std::future::poll_fn(move |cx| {
            if let Some(started) = started.take() {
                let (connecting, done) = started?;
                if done {
                    return Poll::Ready(Ok(connecting));
                }
                socket = Some(connecting);
            }
            let connecting = socket.as_ref().expect("polled once after its end");
            ready!(connecting.poll_write_ready(cx))?.retain_ready();
            sys::connect_end(&**connecting)?;
            Poll::Ready(Ok(connecting.clone()))
        })
    }

    fn recv(&self, socket: &Self::Socket, size: ChunkSize, _expect: Expect) -> Self::Recv {
        Recv {
            engine: self.0.clone(),
            socket: socket.clone(),
            size,
            turn: None,
        }
    }

    fn recv_queued(&self, socket: &Self::Socket) -> io::Result<Option<Chunk>> {
        let recv =
            |bytes: &mut [u8]| socket.try_io(Interest::READABLE, |socket| sys::recv(socket, bytes));
        self.0.large.fill(recv)
    }

    fn send(
        &self,
        socket: &Self::Socket,
        parcel: Parcel,
    ) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin {
        let socket = socket.clone();
        let mut parcel = Some(parcel);
        let mut sent = 0;
        std::future::poll_fn(move |cx| {
            let pending = parcel.as_ref().expect("not polled after its end");
            let result = ready!(poll_send(&socket, pending, &mut sent, cx));
            Poll::Ready((result, parcel.take().expect("checked above")))
        })
    }

    fn readable(&self, socket: &Self::Socket) -> Self::Readable {
        Readable {
            socket: socket.clone(),
            yielded: false,
        }
    }

    fn writable(&self, socket: &Self::Socket) -> impl Future<Output = io::Result<()>> + Unpin {
        let socket = socket.clone();
        std::future::poll_fn(move |cx| {
            let ready = ready!(socket.poll_write_ready(cx));
            Poll::Ready(ready.map(|mut ready| ready.retain_ready()))
        })
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
        let filled = from.try_io(Interest::READABLE, |socket| pipe.fill(socket, most));
        self.0.turns.counted(moved(filled))
    }

    fn splice_out(&self, pipe: &mut Pipe, to: &Self::Socket) -> io::Result<Option<usize>> {
        moved(to.try_io(Interest::WRITABLE, |socket| pipe.empty(socket)))
    }

    fn acknowledged(&self, socket: &Self::Socket) -> u64 {
        sys::acknowledged(&**socket)
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        sys::local_address(&**socket).ok()
    }

    fn is_lost(&self, socket: &Self::Socket) -> bool {
        sys::is_lost(&**socket)
    }

    fn has_unread(&self, socket: &Self::Socket) -> bool {
        sys::has_unread(&**socket)
    }

    fn is_readable(&self, socket: &Self::Socket) -> bool {
        sys::is_readable(&**socket)
    }

    fn half_close(&self, socket: &Self::Socket) {
        sys::half_close(&**socket);
    }

    fn abort(&self, socket: &Self::Socket) {
        sys::reset_on_close(&**socket);
    }

    fn pause(&self) -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Unpin {
        Box::pin(tokio::time::sleep(duration))
    }

    fn tick(&self) {
        self.0.small.grant_available();
        self.0.pipes.tick();
    }

    fn usage(&self) -> Usage {
        Usage {
            chunks_held: self.0.small.held() + self.0.large.held(),
            operations: 0,
            chunk_waits: self.0.chunk_waits.get(),
        }
    }
}

impl Listener {
    fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Rc<Watched>, Option<SocketAddr>)>> {
        loop {
            if self.cancelled.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
            }
            let Poll::Ready(ready) = self.socket.poll_read_ready(cx) else {
                self.waiter.set(Some(cx.waker().clone()));
                return Poll::Pending;
            };
            let mut ready = ready?;
            match sys::accept_queued(&self.socket)? {
                Some((socket, peer)) => {
                    ready.retain_ready();
                    return Poll::Ready(Ok((Rc::new(watch(socket)?), peer)));
                }
                None => ready.clear_ready(),
            }
        }
    }
}

fn watch(socket: OwnedFd) -> io::Result<Watched> {
    // SAFETY: an owned descriptor stays open, and stays the same, until the watch drops it.
    let watched = unsafe { AsyncFd::register(socket) };
    Ok(watched?)
}

fn begin_connect(address: &Address) -> io::Result<(Rc<Watched>, bool)> {
    let socket = sys::stream_socket(address)?;
    let done = sys::connect_begin(&socket, address)?;
    Ok((Rc::new(watch(socket)?), done))
}

/// A receive that waits for readiness; it takes a chunk only when bytes are there.
pub struct Recv {
    engine: Rc<Inner>,
    socket: Rc<Watched>,
    size: ChunkSize,
    turn: Option<Turn>,
}

impl Recv {
    /// A chunk of the size asked for, else a small one, else a place in the queue for a small one.
    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Chunk> {
        let mut size = self.size;
        loop {
            if let Some(turn) = &self.turn {
                ready!(turn.poll(cx));
                self.turn = None;
                // Whoever is next in the queue waits for this chunk to come home, and no other.
                size = ChunkSize::Small;
            }
            let (small, large) = (&self.engine.small, &self.engine.large);
            let wanted = match size {
                ChunkSize::Large => large.take(large.chunk_bytes()),
                ChunkSize::Small => None,
            };
            if let Some(chunk) = wanted.or_else(|| small.take(small.chunk_bytes())) {
                return Poll::Ready(chunk);
            }
            self.engine
                .chunk_waits
                .set(self.engine.chunk_waits.get() + 1);
            self.turn = Some(small.wait());
        }
    }
}

impl Future for Recv {
    type Output = io::Result<Option<Chunk>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let socket = self.socket.clone();
            let mut ready = ready!(socket.poll_read_ready(cx))?;
            let mut chunk = ready!(self.poll_chunk(cx));
            let asked = chunk.len();
            match sys::recv(&*socket, chunk.bytes_mut()) {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(received) => {
                    // Less than asked: all that was there. The next edge tells of more.
                    if received < asked {
                        ready.clear_ready();
                    }
                    chunk.truncate(received);
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// A wait for something to read.
pub struct Readable {
    socket: Rc<Watched>,
    /// The others have had their turn.
    yielded: bool,
}

impl Future for Readable {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(ready) = self.socket.poll_read_ready(cx) else {
            self.yielded = true;
            return Poll::Pending;
        };
        ready?.retain_ready();
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(Ok(()));
        }
        // Waking the task alone would have it run again before the kernel is asked for events; its
        // first poll puts it behind that.
        let turn = std::pin::pin!(tokio::task::yield_now());
        let begun = turn.poll(cx).is_pending();
        debug_assert!(begun, "a turn takes two polls");
        Poll::Pending
    }
}

fn poll_send(
    socket: &Watched,
    parcel: &Parcel,
    sent: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *sent < parcel.len() {
        let mut ready = ready!(socket.poll_write_ready(cx))?;
        let (lead, body) = parcel.behind(*sent);
        match sys::send(socket, lead, body) {
            Ok(bytes) => *sent += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && *sent > 0 => {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}
