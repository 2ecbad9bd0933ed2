//! What one send carries: bytes that were written for it, then bytes as they were received.

use super::buffer::Chunk;
use crate::limits;

/// Bytes on their way out, which belong to the engine while it sends them.
#[derive(Default)]
pub struct Parcel {
    /// Heads, chunk sizes and small bodies; its memory is kept from send to send.
    pub lead: Vec<u8>,
    body: Option<Chunk>,
}

impl Parcel {
    /// Adds received bytes behind what is there. A small chunk is copied and goes home at once, so
    /// that it never waits for a slow receiver; a large one is carried as it is.
    pub fn attach(&mut self, chunk: Chunk) {
        debug_assert!(self.body.is_none(), "one chunk a send");
        if chunk.len() <= limits::SMALL_CHUNK_BYTES {
            self.lead.extend_from_slice(chunk.bytes());
        } else {
            self.body = Some(chunk);
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.lead.len() + self.body().len()
    }

    /// What follows the first `sent` bytes: of the lead, and of the body behind it.
    pub(super) fn behind(&self, sent: usize) -> (&[u8], &[u8]) {
        let from_lead = sent.min(self.lead.len());
        (&self.lead[from_lead..], &self.body()[sent - from_lead..])
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lead.is_empty() && self.body.is_none()
    }

    /// Whether received bytes are carried, which stay behind the lead.
    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Forgets what was sent and keeps the memory.
    pub fn clear(&mut self) {
        self.lead.clear();
        self.body = None;
        if self.lead.capacity() > limits::SPARE_BUFFER_BYTES_MAX {
            self.lead = Vec::new();
        }
    }

    /// The received part.
    pub(super) fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], Chunk::bytes)
    }
}
