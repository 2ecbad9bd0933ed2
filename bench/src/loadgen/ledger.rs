//! Which requests belong to the measurement, and what is written down of them.
//!
//! A request belongs to it if the moment that it was due does, however late its answer comes. One
//! of the warm-up that comes to nothing in the measurement is a failure of it as well: a target
//! that had stopped to answer before would fail nothing otherwise.

use std::ops::Range;

use super::expect::Judge;
use super::failure::Failure;
use super::response::Finished;
use super::tally::Tally;

/// The moments of a request; nanoseconds of the thread's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moments {
    /// When it was meant to be sent.
    pub(super) due: u64,
    /// When it was. In the closed loop that is the same.
    pub(super) sent: u64,
}

/// One thread's account of its requests.
pub(super) struct Ledger<'a> {
    /// From when until before when requests are measured.
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

    /// A request was answered.
    pub(super) fn answered(&mut self, target: usize, of: Moments, now: u64, response: &Finished) {
        let fault = self.judge.fault(target, response);
        if self.window.contains(&of.due) {
            let is_late = of.sent >= self.window.end;
            self.tally.answered(now - of.due, is_late, response, fault);
        }
    }

    /// A request that was sent will not be answered.
    pub(super) fn lost(&mut self, of: Moments, now: u64, failure: Failure, backend: usize) {
        if of.due < self.window.end && now >= self.window.start {
            let is_late = of.sent >= self.window.end;
            self.tally
                .lost(now.saturating_sub(of.due), is_late, failure, backend);
        }
    }

    /// A request that was due then was never sent.
    pub(super) fn unsent(&mut self, due: u64, now: u64) {
        if self.window.contains(&due) {
            self.tally
                .lost(now.saturating_sub(due), true, Failure::Unsent, 0);
        }
    }
}
