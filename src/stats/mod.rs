//! What the balancer counts, and the sums over its workers.

mod counters;
mod limit;

use std::sync::Arc;

pub use counters::{BackendCounters, Counter, Gauge, WorkerCounters};
pub use limit::Limit;

/// The counters of all workers. Reading them costs the workers nothing but a cache miss.
#[derive(Clone, Debug)]
pub struct Stats {
    workers: Vec<Arc<WorkerCounters>>,
    backends: usize,
}

/// Sums over all workers at one moment. Each number is exact; together they may be torn, because
/// workers go on counting while they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections accepted from clients.
    pub accepted: u64,
    /// Those among them that ended because of their PROXY header: the sender was not trusted, it
    /// was refused, or it did not come in time.
    pub proxy_refused: u64,
    /// Connections of clients that are open now.
    pub active: u64,
    /// Requests whose head was understood.
    pub requests: u64,
    /// Final responses by the first digit of their status, from 2xx to 5xx.
    pub responses: [u64; 4],
    /// Responses that fastlb gave itself, which are among the above.
    pub own_replies: u64,
    /// Requests and connections of clients that a limit ended, in the order of [`Limit::ALL`].
    pub limited: [u64; Limit::COUNT],
    /// Attempts after the first one of a request.
    pub retries: u64,
    /// Attempts that were not made because too many were.
    pub retries_refused: u64,
    /// Reports of failures that the control thread had no room for.
    pub reports_lost: u64,
    /// Receives that found no chunk of the size they wanted, and were done with another, or again.
    pub chunk_waits: u64,
    /// One row per backend, in the order of the fleet.
    pub backends: Vec<BackendTotals>,
}

/// What all workers saw of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendTotals {
    /// Requests written to it; in TCP mode, connections of clients joined to it.
    pub requests: u64,
    /// Requests that it answered with a 5xx, or not with a whole response; connections that it
    /// reset.
    pub failures: u64,
    /// Connections established.
    pub connects: u64,
    /// Connections that could not be established.
    pub connect_failures: u64,
    /// Requests that went over a pooled connection.
    pub reused: u64,
    /// Pooled connections that were found dead and replaced.
    pub replaced: u64,
    /// Requests whose response reached the client whole; connections of clients and tunnels that
    /// have ended.
    pub answered: u64,
    /// Microseconds from the pick to the end of the response, summed over what was answered; to
    /// the connection where that is a TCP session, to the switch where it is a tunnel.
    pub latency_us: u64,
}

impl Stats {
    /// One set of counters for each of `workers`, with a row for each of `backends`.
    pub fn new(workers: usize, backends: usize) -> Self {
        let counters = |_| Arc::new(WorkerCounters::new(backends));
        Self {
            workers: (0..workers).map(counters).collect(),
            backends,
        }
    }

    /// The counters that worker `index` writes, and nobody else.
    pub fn worker(&self, index: usize) -> Arc<WorkerCounters> {
        Arc::clone(&self.workers[index])
    }

    /// The sums of this moment.
    pub fn totals(&self) -> Totals {
        let rows = vec![BackendTotals::default(); self.backends];
        let mut totals = Totals {
            backends: rows,
            ..Totals::default()
        };
        for worker in &self.workers {
            worker.add_to(&mut totals);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_workers() {
        let stats = Stats::new(2, 3);
        for index in 0..2 {
            let worker = stats.worker(index);
            worker.accepted.add(2);
            worker.active.raise();
            worker.count_response(200);
            worker.count_response(503);
            worker.backends[2].requests.add(5);
            worker.backends[2].latency_us.add(1_000);
        }
        stats.worker(1).active.lower();
        let totals = stats.totals();
        assert_eq!((totals.accepted, totals.active), (4, 1));
        assert_eq!(totals.responses, [2, 0, 0, 2]);
        assert_eq!(totals.backends.len(), 3);
        let busy = BackendTotals {
            requests: 10,
            latency_us: 2_000,
            ..BackendTotals::default()
        };
        assert_eq!(totals.backends[2], busy);
        assert_eq!(totals.backends[0], BackendTotals::default());
    }

    #[test]
    fn a_reader_sees_a_worker_count() {
        const COUNT: u64 = 10_000;
        let stats = Stats::new(1, 1);
        let worker = stats.worker(0);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..COUNT).for_each(|_| worker.requests.add(1)));
            let mut before = 0;
            while before < COUNT {
                let now = stats.totals().requests;
                assert!(now >= before, "a counter never goes back");
                before = now;
            }
        });
        assert_eq!(stats.totals().requests, COUNT);
    }
}
