//! Bytes that were received and not yet understood.
//!
//! They stay in the chunk they came in for as long as nobody has to wait for more; then they move
//! to memory of their own, sized for them, so that waiting costs the worker no chunk.

use crate::io::{Chunk, Parcel};

/// Received bytes, in order.
#[derive(Default)]
pub(crate) enum Inbox {
    #[default]
    Empty,
    /// As they were received.
    Chunk(Chunk),
    /// Copied out; those before `at` are consumed.
    Heap { bytes: Vec<u8>, at: usize },
}

impl Inbox {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Chunk(chunk) => chunk.bytes(),
            Self::Heap { bytes, at } => &bytes[*at..],
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Empty => &mut [],
            Self::Chunk(chunk) => chunk.bytes_mut(),
            Self::Heap { bytes, at } => &mut bytes[*at..],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Adds what was received next.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        if self.is_empty() {
            *self = Self::Chunk(chunk);
            return;
        }
        self.settle();
        if let Self::Heap { bytes, at } = self {
            bytes.drain(..std::mem::take(at));
            bytes.extend_from_slice(chunk.bytes());
        }
    }

    /// Drops the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        match self {
            Self::Empty => debug_assert_eq!(n, 0, "nothing is there to consume"),
            Self::Chunk(chunk) => chunk.consume(n),
            Self::Heap { at, .. } => *at += n,
        }
        if self.bytes().is_empty() {
            *self = Self::Empty;
        }
    }

    /// Makes ready for a wait: holds no chunk from here on.
    pub(crate) fn settle(&mut self) {
        if let Self::Chunk(chunk) = self {
            *self = Self::Heap {
                bytes: chunk.bytes().to_vec(),
                at: 0,
            };
        }
    }

    /// Moves the first `payload` bytes behind what is in `parcel`, and drops the first `consumed`
    /// bytes. Where everything is consumed the chunk itself goes along, without a copy.
    pub(crate) fn hand_over(&mut self, payload: usize, consumed: usize, parcel: &mut Parcel) {
        match std::mem::take(self) {
            Self::Chunk(mut chunk) => {
                if consumed < chunk.len() {
                    *self = Self::Heap {
                        bytes: chunk.bytes()[consumed..].to_vec(),
                        at: 0,
                    };
                }
                chunk.truncate(payload);
                parcel.attach(chunk);
            }
            mut heap => {
                parcel.lead.extend_from_slice(&heap.bytes()[..payload]);
                heap.consume(consumed);
                *self = heap;
            }
        }
    }
}
