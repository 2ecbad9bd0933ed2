//! The memory that bytes are received into: two groups of chunks per worker, lent and given back.
//!
//! A small chunk takes the first bytes of a message and is copied out at once; a large one takes
//! bodies and may be held while its send is pending. Whoever finds no large chunk reads into a
//! small one, so that slow readers who hold every large chunk starve nobody.
//!
//! This file knows neither the kernel nor a socket. An id is at any time in one place: at home
//! here, with the kernel (the ring engine lends it from home), or in a [`Chunk`].

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use super::queue::{Queue, Turn};
use super::{moved, sys};
use crate::limits;

/// Which of a worker's groups a chunk is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkSize {
    /// For the first bytes of a message.
    Small,
    /// For a body on its way.
    Large,
}

/// How much memory a worker may receive into.
#[derive(Clone, Copy, Debug)]
pub struct BufferOptions {
    /// Most small chunks; at least one.
    pub small_chunks_max: usize,
    /// Most large chunks; none is fine.
    pub large_chunks_max: usize,
}

impl Default for BufferOptions {
    fn default() -> Self {
        Self {
            small_chunks_max: limits::SMALL_CHUNKS_MAX,
            large_chunks_max: limits::RELAY_BYTES_MAX / limits::LARGE_CHUNK_BYTES,
        }
    }
}

/// Received bytes, owned by whoever holds this; the memory goes home when it is dropped.
///
/// Invariant: no other chunk and no operation of the kernel refers to the buffer `id` while this
/// exists, and `at + len` stays within it.
pub struct Chunk {
    group: Rc<Group>,
    start: NonNull<u8>,
    id: u16,
    at: u32,
    len: u32,
}

impl Chunk {
    /// The bytes received and not yet consumed.
    pub fn bytes(&self) -> &[u8] {
        debug_assert!((self.at + self.len) as usize <= self.group.chunk_bytes);
        // SAFETY: by the invariant of the type the buffer is ours alone and at + len is inside it;
        // slabs are zeroed when made and never freed.
        unsafe {
            let first = self.start.as_ptr().add(self.at as usize);
            std::slice::from_raw_parts(first, self.len as usize)
        }
    }

    /// The same bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        debug_assert!((self.at + self.len) as usize <= self.group.chunk_bytes);
        // SAFETY: as in `bytes`, and `&mut self` is the only way to this buffer.
        unsafe {
            let first = self.start.as_ptr().add(self.at as usize);
            std::slice::from_raw_parts_mut(first, self.len as usize)
        }
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the buffer has room for no more, so that more may have come than it holds.
    pub fn is_full(&self) -> bool {
        (self.at + self.len) as usize == self.group.chunk_bytes
    }

    /// Whether everything was consumed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed more than was received");
        self.at += n as u32;
        self.len -= n as u32;
    }

    /// Keeps the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n as u32);
    }
}

impl Drop for Chunk {
    // Only the id moves here: a drop may run while the driver of the ring is borrowed, where
    // submitting an operation would panic.
    fn drop(&mut self) {
        self.group.held.set(self.group.held.get() - 1);
        self.group.home.borrow_mut().push(self.id);
        self.group.waiting.grant_one();
    }
}

/// All chunks of one size, and those who wait for one.
pub(super) struct Group {
    chunk_bytes: usize,
    chunks_max: usize,
    slabs: RefCell<Vec<NonNull<u8>>>,
    home: RefCell<Vec<u16>>,
    held: Cell<usize>,
    waiting: Rc<Queue>,
}

impl Group {
    pub(super) fn new(size: ChunkSize, chunks_max: usize) -> Rc<Self> {
        let chunk_bytes = match size {
            ChunkSize::Small => limits::SMALL_CHUNK_BYTES,
            ChunkSize::Large => limits::LARGE_CHUNK_BYTES,
        };
        assert!(
            chunks_max <= u16::MAX as usize,
            "chunk ids are sixteen bits"
        );
        Rc::new(Self {
            chunk_bytes,
            chunks_max,
            slabs: RefCell::default(),
            home: RefCell::default(),
            held: Cell::new(0),
            waiting: Rc::default(),
        })
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Chunks that are held by sessions.
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Chunks at home, which nobody uses.
    pub(super) fn at_home(&self) -> usize {
        self.home.borrow().len()
    }

    /// Adds a slab of chunks to those at home; `false` where the group is at its limit.
    pub(super) fn grow(&self) -> bool {
        let mut slabs = self.slabs.borrow_mut();
        let per_slab = self.chunks_per_slab();
        let first = slabs.len() * per_slab;
        let last = (first + per_slab).min(self.chunks_max);
        if first >= last {
            return false;
        }
        let Ok(slab) = sys::map_pages(limits::SLAB_BYTES) else {
            return false;
        };
        slabs.push(slab);
        self.home
            .borrow_mut()
            .extend((first..last).map(|id| id as u16));
        true
    }

    /// Adds a slab where sessions hold most of what there is. Where they do not, chunks are only
    /// on their way through, and memory for such a moment would never be given back.
    pub(super) fn grow_if_held(&self) -> bool {
        self.held() * 2 > self.made() && self.grow()
    }

    /// Takes a chunk of `len` bytes from home, growing where it is empty.
    pub(super) fn take(self: &Rc<Self>, len: usize) -> Option<Chunk> {
        if self.at_home() == 0 && !self.grow() {
            return None;
        }
        let id = self.home.borrow_mut().pop()?;
        Some(self.claim(id, len))
    }

    /// A chunk of what `recv` finds to receive, without a wait.
    pub(super) fn fill(
        self: &Rc<Self>,
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<Chunk>> {
        let Some(mut chunk) = self.take(self.chunk_bytes) else {
            return Ok(None);
        };
        let received = moved(recv(chunk.bytes_mut()))?.unwrap_or(0);
        chunk.truncate(received);
        Ok((received > 0).then_some(chunk))
    }

    /// Lends what is at home to the kernel: `hand_over` is called with the ids of each run of
    /// neighbours in memory.
    pub(super) fn lend(&self, mut hand_over: impl FnMut(&[u16])) {
        let mut home = self.home.borrow_mut();
        home.sort_unstable();
        for run in home.chunk_by(|&id, &next| id + 1 == next && self.has_neighbour(id)) {
            hand_over(run);
        }
        home.clear();
    }

    /// Where the buffer `id` begins.
    pub(super) fn start(&self, id: u16) -> NonNull<u8> {
        let per_slab = self.chunks_per_slab();
        let slab = self.slabs.borrow()[usize::from(id) / per_slab];
        // SAFETY: the slab has `per_slab` chunks of `chunk_bytes`, and the remainder is one.
        unsafe { slab.add(usize::from(id) % per_slab * self.chunk_bytes) }
    }

    /// Whether the buffer after `id` is its neighbour in memory.
    fn has_neighbour(&self, id: u16) -> bool {
        !(usize::from(id) + 1).is_multiple_of(self.chunks_per_slab())
    }

    /// Makes the chunk of a buffer that the caller got back from the kernel, or from home.
    pub(super) fn claim(self: &Rc<Self>, id: u16, len: usize) -> Chunk {
        assert!(len <= self.chunk_bytes, "more bytes than the buffer holds");
        self.held.set(self.held.get() + 1);
        Chunk {
            group: self.clone(),
            start: self.start(id),
            id,
            at: 0,
            len: len as u32,
        }
    }

    /// A place in the queue of those who wait for a chunk.
    pub(super) fn wait(&self) -> Turn {
        self.waiting.wait()
    }

    /// Lets waiters try again for the chunks that nobody holds. A waiter that was let in may find
    /// nothing to read and leave its chunk with the kernel, so a returning chunk alone does not
    /// wake everybody in time; the tick calls this.
    pub(super) fn grant_available(&self) {
        for _ in 0..self.made().saturating_sub(self.held()) {
            if !self.waiting.grant_one() {
                return;
            }
        }
    }

    /// Chunks that there are, wherever they are.
    pub(super) fn made(&self) -> usize {
        (self.slabs.borrow().len() * self.chunks_per_slab()).min(self.chunks_max)
    }

    fn chunks_per_slab(&self) -> usize {
        limits::SLAB_BYTES / self.chunk_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn waiting(turn: &Turn) -> bool {
        turn.poll(&Context::from_waker(Waker::noop())).is_pending()
    }

    #[test]
    fn a_chunk_goes_home_when_it_is_dropped() {
        let group = Group::new(ChunkSize::Small, 2);
        let first = group.take(10).unwrap();
        let second = group.take(10).unwrap();
        assert!(group.take(10).is_none());
        assert_eq!(group.held(), 2);
        drop(first);
        drop(second);
        assert_eq!((group.held(), group.at_home()), (0, 2));
    }

    #[test]
    fn a_chunk_is_consumed_from_both_ends() {
        let group = Group::new(ChunkSize::Small, 1);
        let mut chunk = group.take(5).unwrap();
        chunk.bytes_mut().copy_from_slice(b"abcde");
        chunk.consume(1);
        chunk.truncate(3);
        assert_eq!(chunk.bytes(), b"bcd");
    }

    #[test]
    #[should_panic(expected = "consumed more")]
    fn more_than_was_received_cannot_be_consumed() {
        Group::new(ChunkSize::Small, 1).take(5).unwrap().consume(6);
    }

    #[test]
    fn neighbours_in_memory_are_known_across_slabs() {
        let group = Group::new(ChunkSize::Large, 40);
        assert!(group.grow() && group.grow() && group.grow() && !group.grow());
        assert_eq!(group.at_home(), 40);
        let step = limits::LARGE_CHUNK_BYTES;
        assert_eq!(
            group.start(1).as_ptr() as usize - group.start(0).as_ptr() as usize,
            step
        );
        let mut runs = Vec::new();
        group.lend(|run| runs.push((run[0], run.len())));
        assert_eq!(runs, [(0, 16), (16, 16), (32, 8)]);
        assert_eq!(group.at_home(), 0);
    }

    #[test]
    fn those_who_wait_are_served_in_order_and_the_gone_are_passed_over() {
        let group = Group::new(ChunkSize::Small, 1);
        let held = group.take(1).unwrap();
        let (first, second, third) = (group.wait(), group.wait(), group.wait());
        assert!(waiting(&first) && waiting(&second) && waiting(&third));
        drop(first);
        drop(held);
        assert!(!waiting(&second));
        assert!(waiting(&third));
    }

    #[test]
    fn a_turn_that_is_not_used_is_passed_on() {
        let group = Group::new(ChunkSize::Small, 1);
        let held = group.take(1).unwrap();
        let (first, second) = (group.wait(), group.wait());
        assert!(waiting(&second));
        drop(held);
        drop(first);
        assert!(!waiting(&second));
    }

    #[test]
    fn the_tick_wakes_as_many_as_there_are_chunks() {
        let group = Group::new(ChunkSize::Small, 2);
        assert!(group.grow());
        let turns: Vec<_> = (0..3).map(|_| group.wait()).collect();
        assert!(turns.iter().all(waiting));
        group.grant_available();
        assert_eq!(turns.iter().filter(|turn| !waiting(turn)).count(), 2);
    }
}
