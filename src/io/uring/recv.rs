//! Receiving into a provided buffer: the kernel takes one when bytes arrive, none before.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{opcode, squeue, types};

use super::Ring;
use super::op::{Completion, Data, Op};
use crate::io::Expect;
use crate::io::buffer::{Chunk, ChunkSize, Group};
use crate::io::queue::Turn;

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
    pub(super) fn new(
        ring: &Rc<Ring>,
        socket: &Rc<OwnedFd>,
        size: ChunkSize,
        expect: Expect,
    ) -> Self {
        let state = State::UnderWay(submit(ring, socket, size, expect));
        Self {
            ring: ring.clone(),
            socket: socket.clone(),
            state,
        }
    }

    /// A group that was empty is refilled where it can be. Otherwise a large chunk is done without,
    /// and a small one waited for: those come home within a turn.
    fn without_buffer(&mut self, group: &Rc<Group>) {
        self.ring.chunk_waits.set(self.ring.chunk_waits.get() + 1);
        let refilled = group.at_home() > 0 || group.grow_if_held();
        self.state = match group.size() {
            _ if refilled => self.submit_behind_buffers(group.size()),
            ChunkSize::Large => self.submit_behind_buffers(ChunkSize::Small),
            ChunkSize::Small => State::Queued(group.wait()),
        };
    }

    fn submit_behind_buffers(&self, size: ChunkSize) -> State {
        self.ring.provide(self.ring.group(size));
        State::UnderWay(submit(&self.ring, &self.socket, size, Expect::Now))
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
                    self.without_buffer(&data.group);
                }
                State::Queued(turn) => {
                    ready!(turn.poll(cx));
                    self.state = self.submit_behind_buffers(ChunkSize::Small);
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
    fn descriptor(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn take_back(self, completion: Completion) {
        drop(self.chunk(completion));
    }
}

fn submit(ring: &Rc<Ring>, socket: &Rc<OwnedFd>, size: ChunkSize, expect: Expect) -> Op<RecvData> {
    let group = ring.group(size);
    if group.at_home() >= crate::limits::CHUNKS_RETURN_BATCH {
        ring.provide(group);
    }
    let descriptor = types::Fd(socket.as_raw_fd());
    let length = group.chunk_bytes() as u32;
    let mut entry = opcode::Recv::new(descriptor, std::ptr::null_mut(), length)
        .buf_group(super::group_id(size))
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
