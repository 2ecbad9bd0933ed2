//! Receiving into a provided buffer: the kernel takes one when bytes arrive, none before.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{opcode, squeue, types};

use super::Ring;
use super::op::{Completion, Data, Ending, Op};
use crate::io::Expect;
use crate::io::buffer::{Chunk, Group};
use crate::io::queue::Turn;
use crate::limits;

/// A receive that is under way.
pub struct Recv {
    ring: Rc<Ring>,
    socket: Rc<OwnedFd>,
    state: State,
}

enum State {
    /// With the kernel.
    UnderWay(Op<RecvData>),
    /// There was no chunk; waiting for one to come home.
    Queued(Turn),
}

impl Recv {
    pub(super) fn new(ring: &Rc<Ring>, socket: &Rc<OwnedFd>, expect: Expect) -> Self {
        let state = State::UnderWay(submit(ring, socket, expect));
        Self {
            ring: ring.clone(),
            socket: socket.clone(),
            state,
        }
    }

    /// Tries again where there are more chunks to be had, and waits for one otherwise: they come
    /// home within a turn.
    fn without_buffer(&mut self) {
        let Ring {
            small, chunk_waits, ..
        } = &*self.ring;
        chunk_waits.set(chunk_waits.get() + 1);
        self.state = match small.at_home() > 0 || small.grow_if_held() {
            true => self.submit_behind_buffers(),
            false => State::Queued(small.wait()),
        };
    }

    fn submit_behind_buffers(&self) -> State {
        self.ring.provide();
        State::UnderWay(submit(&self.ring, &self.socket, Expect::Now))
    }
}

impl Future for Recv {
    type Output = io::Result<Option<Chunk>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::UnderWay(op) => {
                    let (data, completion) = ready!(Pin::new(op).poll(cx));
                    if !completion.lacks_buffer() {
                        return Poll::Ready(data.chunk(completion));
                    }
                    self.without_buffer();
                }
                State::Queued(turn) => {
                    ready!(turn.poll(cx));
                    self.state = self.submit_behind_buffers();
                }
            }
        }
    }
}

struct RecvData {
    socket: Rc<OwnedFd>,
    group: Rc<Group>,
}

impl RecvData {
    fn chunk(&self, completion: Completion) -> io::Result<Option<Chunk>> {
        // A buffer may come even with an error or at the end of the stream; then it goes home.
        let buffer = completion.buffer();
        let received = completion.result();
        let len = received.as_ref().map_or(0, |&len| len as usize);
        let chunk = buffer.map(|id| self.group.claim(id, len));
        received?;
        Ok(chunk.filter(|chunk| !chunk.is_empty()))
    }
}

impl Data for RecvData {
    fn ending(&self) -> Ending {
        Ending::Shutdown(self.socket.as_raw_fd())
    }

    fn take_back(self, completion: Completion) {
        drop(self.chunk(completion));
    }
}

fn submit(ring: &Rc<Ring>, socket: &Rc<OwnedFd>, expect: Expect) -> Op<RecvData> {
    let group = &ring.small;
    if group.at_home() >= limits::CHUNKS_RETURN_BATCH {
        ring.provide();
    }
    let descriptor = types::Fd(socket.as_raw_fd());
    let length = group.chunk_bytes() as u32;
    let mut entry = opcode::Recv::new(descriptor, std::ptr::null_mut(), length)
        .buf_group(super::BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    if expect == Expect::Later {
        poll_first(&mut entry);
    }
    let data = RecvData {
        socket: socket.clone(),
        group: group.clone(),
    };
    // SAFETY: the entry points to nothing; the buffers that the kernel selects from are leaked.
    unsafe { Op::submit(&ring.orphans, data, entry) }
}

/// Has the kernel wait for bytes before it tries to receive them, which saves the first attempt.
fn poll_first(entry: &mut squeue::Entry) {
    const IOPRIO_OFFSET: usize = 2;
    const IORING_RECVSEND_POLL_FIRST: u16 = 1;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: an entry is a `repr(C)` wrapper of the kernel's 64-byte `io_uring_sqe`, whose
    // `ioprio` is the aligned u16 at offset 2; the opcode's builder has no setter for it.
    unsafe {
        let ioprio = std::ptr::from_mut(entry)
            .cast::<u8>()
            .add(IOPRIO_OFFSET)
            .cast::<u16>();
        ioprio.write(IORING_RECVSEND_POLL_FIRST);
    }
}
