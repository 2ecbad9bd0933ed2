//! Which requests belong to the measurement, and what is written down of them.
//!
//! A request belongs to it if its moment of sending does, however late its answer comes.

use std::ops::Range;

use super::expect::Judge;
use super::failure::Failure;
use super::response::Finished;
use super::tally::Tally;

/// One thread's account of its requests.
pub(super) struct Ledger<'a> {
    /// From when until before when requests are measured; nanoseconds of the thread's clock.
    pub(super) window: Range<u64>,
    pub(super) tally: Tally,
    judge: &'a Judge,
}

impl<'a> Ledger<'a> {
    /// Nothing is measured before the window is set.
    pub(super) fn new(judge: &'a Judge) -> Self {
        Self {
            window: u64::MAX..u64::MAX,
            tally: Tally::new(),
            judge,
        }
    }

    /// The request of moment `start` was answered.
    pub(super) fn answered(&mut self, target: usize, start: u64, now: u64, response: &Finished) {
        let fault = self.judge.fault(target, response);
        if self.window.contains(&start) {
            self.tally.answered(now - start, response, fault);
        }
    }

    /// The request of moment `start` will not be answered.
    pub(super) fn lost(&mut self, start: u64, now: u64, failure: Failure, backend: usize) {
        if self.window.contains(&start) {
            self.tally.lost(now.saturating_sub(start), failure, backend);
        }
    }
}
