//! Counters that one worker writes and anybody may read.
//!
//! Because nobody else writes, counting is a load and a store: no locked instruction and no cache
//! line that two workers fight over.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::{BackendTotals, Limit, Totals};

/// A number that only grows, by its one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more. Only the worker that owns the counter may call this: of two writers, one
    /// would undo what the other counted.
    pub fn add(&self, n: u64) {
        self.0.store(self.read().wrapping_add(n), Ordering::Relaxed);
    }

    /// The count of this moment.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, by its one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more. Only the worker that owns the gauge may call this.
    pub fn raise(&self) {
        self.0.store(self.read() + 1, Ordering::Relaxed);
    }

    /// One less. Only the worker that owns the gauge may call this.
    pub fn lower(&self) {
        debug_assert!(self.read() > 0, "what was not raised is not lowered");
        self.0
            .store(self.read().saturating_sub(1), Ordering::Relaxed);
    }

    /// The number of this moment.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker counts. What each field means stands at [`Totals`], their sum.
///
/// Aligned to two cache lines, which the hardware fetches together, so that no other worker's
/// writes are on them.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "Totals documents each field once")]
#[repr(align(128))]
pub struct WorkerCounters {
    pub accepted: Counter,
    pub proxy_refused: Counter,
    pub active: Gauge,
    pub requests: Counter,
    pub responses: [Counter; 4],
    pub own_replies: Counter,
    pub limited: [Counter; Limit::COUNT],
    pub retries: Counter,
    pub retries_refused: Counter,
    pub reports_lost: Counter,
    pub chunk_waits: Counter,
    pub backends: Box<[CachePadded<BackendCounters>]>,
}

/// What one worker counts for one backend. What each field means stands at [`BackendTotals`].
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "BackendTotals documents each field once")]
pub struct BackendCounters {
    pub requests: Counter,
    pub failures: Counter,
    pub connects: Counter,
    pub connect_failures: Counter,
    pub reused: Counter,
    pub replaced: Counter,
    pub answered: Counter,
    pub latency_us: Counter,
}

impl WorkerCounters {
    /// Counters at zero, with a row for each of `backends`.
    pub fn new(backends: usize) -> Self {
        let backends = (0..backends).map(|_| CachePadded::default()).collect();
        Self {
            backends,
            ..Self::default()
        }
    }

    /// Counts a final response. An invalid status counts as 5xx (RFC 9110 section 15).
    pub fn count_response(&self, status: u16) {
        debug_assert!(status >= 200, "an interim response is not the response");
        let class = usize::from(status / 100)
            .saturating_sub(2)
            .min(self.responses.len() - 1);
        self.responses[class].add(1);
    }

    /// Counts a request or a connection that a limit ended.
    pub fn count_limited(&self, limit: Limit) {
        self.limited[limit as usize].add(1);
    }

    /// Adds what this worker counted to `totals`.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        totals.accepted += self.accepted.read();
        totals.proxy_refused += self.proxy_refused.read();
        totals.active += self.active.read();
        totals.requests += self.requests.read();
        for (total, counter) in totals.responses.iter_mut().zip(&self.responses) {
            *total += counter.read();
        }
        totals.own_replies += self.own_replies.read();
        for (total, counter) in totals.limited.iter_mut().zip(&self.limited) {
            *total += counter.read();
        }
        totals.retries += self.retries.read();
        totals.retries_refused += self.retries_refused.read();
        totals.reports_lost += self.reports_lost.read();
        totals.chunk_waits += self.chunk_waits.read();
        for (total, counters) in totals.backends.iter_mut().zip(&self.backends) {
            counters.add_to(total);
        }
    }
}

impl BackendCounters {
    fn add_to(&self, totals: &mut BackendTotals) {
        totals.requests += self.requests.read();
        totals.failures += self.failures.read();
        totals.connects += self.connects.read();
        totals.connect_failures += self.connect_failures.read();
        totals.reused += self.reused.read();
        totals.replaced += self.replaced.read();
        totals.answered += self.answered.read();
        totals.latency_us += self.latency_us.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts() {
        let counter = Counter::default();
        counter.add(2);
        counter.add(3);
        assert_eq!(counter.read(), 5);
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let gauge = Gauge::default();
        gauge.raise();
        gauge.raise();
        gauge.lower();
        assert_eq!(gauge.read(), 1);
    }

    #[test]
    fn responses_count_by_their_first_digit() {
        let worker = WorkerCounters::new(0);
        for status in [200, 204, 304, 404, 502, 599, 999] {
            worker.count_response(status);
        }
        assert_eq!(worker.responses.each_ref().map(Counter::read), [2, 1, 1, 3]);
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<WorkerCounters>(), 128);
        assert_eq!(size_of::<WorkerCounters>() % 128, 0);
    }
}
