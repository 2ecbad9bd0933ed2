//! What was counted: latencies, failures by kind, statuses, backends.
//!
//! Each thread has its own; they are added up at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::backends::Backends;
use super::failure::Failure;
use super::response::Finished;
use super::watch::Watched;

/// Longest latency that is told from a longer one: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;
/// Statuses that are counted; httparse takes no other.
const STATUSES: usize = 1000;

/// The counts. Every request stands in exactly one of `good` and `failures`; a connection
/// that failed without one, as in its connect, stands in `failures` alone.
pub struct Tally {
    /// Nanoseconds, of good responses, and of requests that were given up with the time that they
    /// had waited until then.
    pub(super) latency: Histogram<u64>,
    pub(super) requests: u64,
    pub(super) good: u64,
    /// Requests that were sent after the end of the measurement, or never: the target did not keep
    /// up with the rate. How many of them were good.
    pub(super) late: u64,
    pub(super) good_late: u64,
    failures: [u64; Failure::ALL.len()],
    statuses: Box<[u64]>,
    pub(super) backends: Backends,
    /// Content of bodies that came, in bytes; how much of it for requests that were late.
    pub(super) received_bytes: u64,
    pub(super) received_bytes_late: u64,
    /// The numbers of the targets to which a connect failed, from the first moment on.
    pub(super) unreached: BTreeSet<usize>,
    /// Connections that were made, from the first moment on.
    pub(super) connects: u64,
    /// CPU time of the driving threads during the measurement.
    pub(super) cpu: Duration,
    /// What the watched process used meanwhile; the first thread reads it.
    pub(super) watched: Option<Watched>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("the bounds and digits are constants that it takes");
        Self {
            latency,
            requests: 0,
            good: 0,
            late: 0,
            good_late: 0,
            failures: [0; Failure::ALL.len()],
            statuses: vec![0; STATUSES].into_boxed_slice(),
            backends: Backends::default(),
            received_bytes: 0,
            received_bytes_late: 0,
            unreached: BTreeSet::new(),
            connects: 0,
            cpu: Duration::ZERO,
            watched: None,
        }
    }

    /// A response came `waited_ns` after its request was meant to be sent.
    pub(super) fn answered(
        &mut self,
        waited_ns: u64,
        is_late: bool,
        response: &Finished,
        fault: Option<Failure>,
    ) {
        self.requests += 1;
        self.received_bytes += response.length;
        if is_late {
            self.late += 1;
            self.good_late += u64::from(fault.is_none());
            self.received_bytes_late += response.length;
        }
        if let Some(status) = self.statuses.get_mut(usize::from(response.status)) {
            *status += 1;
        }
        let count = self.backends.count(response.backend);
        count.requests += 1;
        match fault {
            Some(failure) => {
                count.failures += 1;
                self.failures[failure as usize] += 1;
            }
            None => {
                self.good += 1;
                self.latency.saturating_record(waited_ns);
            }
        }
    }

    /// A request ended without a response after `waited_ns`. Who was given up enters the latencies
    /// with that time: leaving out who waited longest would flatter the target.
    pub(super) fn lost(&mut self, waited_ns: u64, is_late: bool, failure: Failure, backend: usize) {
        self.requests += 1;
        self.late += u64::from(is_late);
        self.failures[failure as usize] += 1;
        let count = self.backends.count(backend);
        count.requests += 1;
        count.failures += 1;
        if matches!(failure, Failure::Timeout | Failure::Unsent) {
            self.latency.saturating_record(waited_ns);
        }
    }

    /// A connection failed that no request waited for.
    pub(super) fn failed_alone(&mut self, failure: Failure) {
        self.failures[failure as usize] += 1;
        self.backends.count(0).failures += 1;
    }

    /// Requests that were answered as expected.
    pub fn good(&self) -> u64 {
        self.good
    }

    /// Failures of all kinds.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// The kinds of failures that there were, with their numbers.
    pub(super) fn failures(&self) -> impl Iterator<Item = (Failure, u64)> {
        Failure::ALL
            .into_iter()
            .zip(self.failures)
            .filter(|(_, count)| *count > 0)
    }

    /// The statuses that there were, with their numbers.
    pub(super) fn statuses(&self) -> impl Iterator<Item = (usize, u64)> {
        let all = self.statuses.iter().copied().enumerate();
        all.filter(|(_, count)| *count > 0)
    }

    /// Adds what another thread counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.latency
            .add(&other.latency)
            .expect("both have the same bounds");
        self.requests += other.requests;
        self.good += other.good;
        self.late += other.late;
        self.good_late += other.good_late;
        for (sum, count) in self.failures.iter_mut().zip(other.failures) {
            *sum += count;
        }
        for (sum, count) in self.statuses.iter_mut().zip(&other.statuses) {
            *sum += count;
        }
        self.backends.merge(&other.backends);
        self.received_bytes += other.received_bytes;
        self.received_bytes_late += other.received_bytes_late;
        self.unreached.extend(&other.unreached);
        self.connects += other.connects;
        self.cpu += other.cpu;
        if other.watched.is_some() {
            self.watched.clone_from(&other.watched);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::loadgen::backends::Count;
    use crate::loadgen::failure::Failure;
    use crate::loadgen::response::Finished;

    #[test]
    fn every_request_stands_in_one_place() {
        let mut tally = Tally::new();
        let backend = tally.backends.number(b"a");
        let response = Finished {
            status: 200,
            length: 7,
            backend,
            ..Finished::default()
        };
        tally.answered(1_000, false, &response, None);
        tally.answered(1, true, &response, Some(Failure::Length));
        tally.lost(5_000_000, false, Failure::Timeout, 0);
        tally.lost(2, true, Failure::Reset, backend);
        tally.failed_alone(Failure::ConnectRefused);

        let mut sum = Tally::new();
        sum.merge(&tally);
        assert_eq!((sum.requests, sum.good, sum.failed()), (4, 1, 4));
        assert_eq!(
            (sum.late, sum.good_late, sum.received_bytes_late),
            (2, 0, 7)
        );
        assert_eq!(sum.statuses().collect::<Vec<_>>(), [(200, 2)]);
        assert_eq!(sum.latency.len(), 2, "the good one and the one given up");
        assert!(sum.latency.max() >= 5_000_000);
        let count = |requests, failures| Count { requests, failures };
        let rows = [("-".to_owned(), count(1, 2)), ("a".to_owned(), count(3, 2))];
        assert_eq!(sum.backends.sorted(), rows);
        let kinds: Vec<_> = sum.failures().map(|(failure, _)| failure.key()).collect();
        assert_eq!(kinds, ["connect_refused", "timeout", "reset", "length"]);
    }
}
