//! Answers that wait for their time, soonest first. The clock of the origin is read here only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Who waits: a client's key, and its serial number since keys are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiter {
    pub(super) key: usize,
    pub(super) serial: u64,
}

/// The queue. Where it is empty no clock is read.
#[derive(Default)]
pub(super) struct Delays {
    queue: BinaryHeap<Reverse<(Instant, Waiter)>>,
}

impl Delays {
    /// Lets `waiter` wait for `ms` milliseconds from now.
    pub(super) fn push(&mut self, ms: u64, waiter: Waiter) {
        self.queue
            .push(Reverse((now() + Duration::from_millis(ms), waiter)));
    }

    /// Time until the first is due; `None` when nobody waits.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let Reverse((due, _)) = self.queue.peek()?;
        Some(due.saturating_duration_since(now()))
    }

    /// Takes one whose time has come.
    pub(super) fn pop_due(&mut self) -> Option<Waiter> {
        let Reverse((due, _)) = self.queue.peek()?;
        if *due > now() {
            return None;
        }
        self.queue.pop().map(|Reverse((_, waiter))| waiter)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the origin's only clock, read while somebody waits"
)]
fn now() -> Instant {
    Instant::now()
}
