//! Connections in memory, with the ends that TCP has: FIN, reset, and what is lost by it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::world::{Sent, World};

/// Bytes of a send that are remembered.
const NOTED_BYTES: usize = 48;

/// One end of a connection; closed when it is dropped.
pub(crate) struct End {
    pub(crate) world: Rc<World>,
    /// Names the connection; both its ends have the same.
    pub(crate) connection: u64,
    /// Which of the two it is, for who reads a trace.
    name: char,
    inbound: Rc<RefCell<Pipe>>,
    outbound: Rc<RefCell<Pipe>>,
    /// Bytes that either direction holds.
    capacity_bytes: usize,
    resets: Cell<bool>,
    watched: Cell<bool>,
    deeds: Rc<Deeds>,
    peer_deeds: Rc<Deeds>,
    /// Grows when everything that is under way here is cancelled.
    pub(super) cancels: Cell<u32>,
}

/// What was done over one end, for who judges that from the other.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// When something was last read or written, FIN too.
    pub(crate) moved_ms: Cell<u64>,
    /// FIN was read.
    pub(crate) read_end: Cell<bool>,
    pub(crate) closed_ms: Cell<u64>,
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    accepted: u64,
    tail: Tail,
    /// A reset that neither a read nor a write has told of: it is told once.
    untold: bool,
    /// Nobody reads any more: what is written is answered by a reset.
    unread: bool,
    /// The reset has come: nothing can be written.
    broken: bool,
    /// When the next thing to read came: bytes, or what comes behind them.
    came_ms: u64,
    /// When the next read may bring something, once that was decided.
    readable_at_ms: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What comes behind the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tail {
    #[default]
    Open,
    Fin,
    Reset,
}

impl End {
    pub(super) fn pair(world: &Rc<World>) -> (Rc<Self>, Rc<Self>) {
        let connection = world.connections.replace(world.connections.get() + 1);
        world.ends_open.set(world.ends_open.get() + 2);
        let (up, down) = (Rc::default(), Rc::default());
        // Not the same on both sides of the worker: what came at once may have to go in pieces.
        let most = world.network.capacity_bytes;
        let capacity_bytes = world.any(&[most, most, (most / 8).max(most.min(200))]);
        let (near, far) = (Rc::<Deeds>::default(), Rc::<Deeds>::default());
        let end =
            |name, [inbound, outbound]: [&Rc<RefCell<Pipe>>; 2], [own, peer]: [&Rc<Deeds>; 2]| {
                Rc::new(Self {
                    world: world.clone(),
                    connection,
                    name,
                    inbound: inbound.clone(),
                    outbound: outbound.clone(),
                    capacity_bytes,
                    resets: Cell::new(false),
                    watched: Cell::new(false),
                    deeds: own.clone(),
                    peer_deeds: peer.clone(),
                    cancels: Cell::new(0),
                })
            };
        let first = end('>', [&up, &down], [&near, &far]);
        let second = end('<', [&down, &up], [&far, &near]);
        (first, second)
    }

    /// What the peer does, for as long as the connection is there and behind it.
    pub(crate) fn peer_deeds(&self) -> Rc<Deeds> {
        self.peer_deeds.clone()
    }

    fn moves(&self) {
        self.deeds.moved_ms.set(self.world.executor.now_ms());
    }

    /// Bytes that the other side has taken over.
    pub(super) fn accepted(&self) -> u64 {
        self.outbound.borrow().accepted
    }

    /// Whether the other side has reset the connection, whoever was told of it.
    pub(crate) fn was_reset(&self) -> bool {
        self.inbound.borrow().tail == Tail::Reset
    }

    /// Whether something has come that was not read, so that a close would be a reset.
    pub(crate) fn has_unread(&self) -> bool {
        !self.inbound.borrow().bytes.is_empty()
    }

    /// Whether a read would bring bytes, the end of the stream, or an error.
    pub(super) fn is_readable(&self) -> bool {
        let pipe = self.inbound.borrow();
        !pipe.bytes.is_empty() || pipe.tail != Tail::Open
    }

    fn tell(&self, what: &str, bytes: &[u8]) {
        self.world.tell(|| {
            let Self {
                connection, name, ..
            } = self;
            let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(NOTED_BYTES)]);
            format!("{connection}{name} {what} {} {begin:?}", bytes.len())
        });
    }

    pub(crate) fn half_close(&self) {
        self.tell("half-close", &[]);
        let mut outbound = self.outbound.borrow_mut();
        if outbound.tail == Tail::Open {
            outbound.finish(&self.world);
            self.moves();
        }
        outbound.wake();
    }

    pub(crate) fn reset_on_close(&self) {
        self.resets.set(true);
    }

    /// Remembers what sends over this end begin with.
    pub(super) fn watch_sends(&self) {
        self.watched.set(true);
    }

    pub(super) fn note_send(&self, lead: &[u8]) {
        if self.watched.get() {
            let begin = lead[..lead.len().min(NOTED_BYTES)].to_vec();
            self.world.sends.borrow_mut().push(Sent {
                connection: self.connection,
                begin,
                neglects: self.has_neglected(),
            });
        }
    }

    /// Whether something to read, be it the end, was there before the clock last moved, and was
    /// not late: whoever waited for it has had it, and whoever looks finds it.
    fn has_neglected(&self) -> bool {
        let pipe = self.inbound.borrow();
        let since_ms = pipe.came_ms.max(pipe.readable_at_ms.unwrap_or(0));
        self.is_readable() && since_ms < self.world.executor.now_ms()
    }

    /// Cancels everything that is under way on this end.
    pub(super) fn cancel(&self) {
        self.cancels.set(self.cancels.get() + 1);
        self.inbound.borrow_mut().wake();
        self.outbound.borrow_mut().wake();
    }

    /// Ready where a read would bring bytes, the end of the stream, or an error.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let is_readable = self.is_readable();
        let (world, mut pipe) = (&self.world, self.inbound.borrow_mut());
        if !is_readable {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now_ms = world.executor.now_ms();
        let at_ms = *pipe.readable_at_ms.get_or_insert_with(|| {
            let late = world.happens(world.network.delays_per_mille);
            now_ms
                + if late {
                    world.between(1, world.network.delay_ms_max)
                } else {
                    0
                }
        });
        if at_ms > now_ms {
            world.executor.wake_at(at_ms, cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Reads what there is, or a part of it; zero bytes are the end of the stream.
    pub(crate) fn read_some(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.inbound.borrow_mut();
        pipe.readable_at_ms = None;
        // What this leaves is the same as what comes right behind it.
        pipe.came_ms = self.world.executor.now_ms();
        self.moves();
        if pipe.bytes.is_empty() {
            self.tell(
                if pipe.untold {
                    "read reset"
                } else {
                    "read end"
                },
                &[],
            );
            return match std::mem::take(&mut pipe.untold) {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => {
                    self.deeds.read_end.set(true);
                    Ok(0)
                }
            };
        }
        let most = pipe.bytes.len().min(into.len());
        let length = self.piece(most);
        let (front, back) = pipe.bytes.as_slices();
        let from_front = length.min(front.len());
        into[..from_front].copy_from_slice(&front[..from_front]);
        into[from_front..length].copy_from_slice(&back[..length - from_front]);
        drop(pipe.bytes.drain(..length));
        self.tell("read", &into[..length]);
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Ok(length)
    }

    /// Writes a part of `bytes`.
    pub(crate) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.outbound.borrow_mut();
        if pipe.broken && std::mem::take(&mut self.inbound.borrow_mut().untold) {
            self.world.count("reset told to a write");
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.broken || pipe.tail != Tail::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.unread {
            // The bytes leave; what comes back for them is a reset.
            pipe.accepted += bytes.len() as u64;
            pipe.broken = true;
            self.tell("write into nothing", bytes);
            self.inbound
                .borrow_mut()
                .reset(&self.world, self.connection);
            return Poll::Ready(Ok(bytes.len()));
        }
        let most = bytes.len().min(self.capacity_bytes - pipe.bytes.len());
        if most == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = self.piece(most);
        pipe.comes(&self.world);
        pipe.bytes.extend(&bytes[..length]);
        self.tell("write", &bytes[..length]);
        self.moves();
        pipe.accepted += length as u64;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(length))
    }

    /// How much of `most` bytes goes at once.
    fn piece(&self, most: usize) -> usize {
        let largest = most.min(self.world.network.piece_bytes_max);
        if largest == most && self.world.happens(700) {
            return most;
        }
        self.world.between(1, largest as u64) as usize
    }

    /// Reads as an actor of the run does: no more than `most` bytes, none at the end.
    pub(crate) async fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        poll_fn(|cx| self.poll_readable(cx)).await;
        let mut bytes = vec![0; most];
        let length = self.read_some(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// As [`End::read`], behind a pause of up to so many milliseconds.
    pub(crate) async fn read_slowly(&self, most: usize, pause_ms_max: u64) -> io::Result<Vec<u8>> {
        if pause_ms_max > 0 {
            let pause_ms = self.world.between(0, pause_ms_max);
            self.world.executor.sleep(pause_ms).await;
        }
        self.read(most).await
    }

    /// Writes as an actor of the run does.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

impl Pipe {
    /// Something comes behind what is there.
    fn comes(&mut self, world: &World) {
        if self.bytes.is_empty() {
            self.came_ms = world.executor.now_ms();
        }
    }

    fn finish(&mut self, world: &World) {
        self.comes(world);
        self.tail = Tail::Fin;
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// A reset comes to the reader of this pipe. What he has not read yet may never have reached
    /// him; where it has, and FIN with it, he sees a clean end.
    fn reset(&mut self, world: &World, connection: u64) {
        let lost = !self.bytes.is_empty() && world.happens(300);
        if lost {
            let kept = world.between(0, self.bytes.len() as u64 - 1) as usize;
            self.bytes.truncate(kept);
        }
        if lost || self.tail == Tail::Open {
            self.comes(world);
            self.tail = Tail::Reset;
            self.untold = true;
            world.resets.borrow_mut().insert(connection);
        }
        self.wake();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.world.ends_open.set(self.world.ends_open.get() - 1);
        self.deeds.closed_ms.set(self.world.executor.now_ms());
        let mut inbound = self.inbound.borrow_mut();
        let mut outbound = self.outbound.borrow_mut();
        inbound.unread = true;
        self.tell(
            if self.resets.get() {
                "reset with"
            } else {
                "close with"
            },
            inbound.bytes.as_slices().0,
        );
        // RFC 9293 section 3.6.1: a close with bytes unread is a reset.
        if self.resets.get() || !inbound.bytes.is_empty() {
            inbound.broken = true;
            inbound.bytes.clear();
            outbound.reset(&self.world, self.connection);
        } else if outbound.tail == Tail::Open {
            outbound.finish(&self.world);
        }
        inbound.wake();
        outbound.wake();
    }
}
