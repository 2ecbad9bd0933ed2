//! Connections to backends: which one a request gets, from the pool or newly made.

mod budget;
mod connect;
mod pool;
mod report;
mod retry;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use budget::Budget;
pub(crate) use connect::Upstream;
pub(crate) use pool::Pool;
pub(crate) use report::Reports;
pub use retry::RetryOn;
pub(crate) use retry::{Reuse, Tried};

use crate::balance::{Ask, BackendId, Balancer, Outcome, Snapshot};
use crate::health::Fault;
use crate::io::{Address, Io};
use crate::stats::WorkerCounters;

/// What the upstream side may do, the same for every worker.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// To establish a connection; `None` is for ever.
    pub connect_timeout: Option<Duration>,
    /// Other backends that are tried after the first one failed.
    pub retries: u32,
    /// Idle connections kept per backend.
    pub pool_idle_max: usize,
    /// How long a connection may stay idle in the pool.
    pub pool_idle_timeout: Duration,
    /// What else than a refused connection makes a request go to another backend.
    pub retry_on: RetryOn,
    /// Hundredths of a retry that this worker may always make each second.
    pub retry_hundredths_per_second: u64,
}

/// All backends as one worker sees them.
pub(crate) struct Backends<I: Io> {
    io: I,
    fleet: RefCell<arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    balancer: Arc<dyn Balancer>,
    pub(crate) pool: Pool<I>,
    options: Options,
    counters: Arc<WorkerCounters>,
    budget: Budget,
    reports: Reports,
}

impl<I: Io> Backends<I> {
    pub(crate) fn new(
        io: I,
        fleet: Arc<ArcSwap<Snapshot>>,
        balancer: Arc<dyn Balancer>,
        options: Options,
        counters: Arc<WorkerCounters>,
        reports: Reports,
    ) -> Self {
        let pool = Pool::new(counters.backends.len(), options.pool_idle_max);
        let fleet = RefCell::new(arc_swap::Cache::new(fleet));
        Self {
            io,
            fleet,
            balancer,
            pool,
            options,
            budget: Budget::new(options.retry_hundredths_per_second),
            reports,
            counters,
        }
    }

    /// Picks a backend that is not among the `tried`, and hands it to `with`; `None` where there
    /// is none left.
    pub(crate) fn pick<T>(
        &self,
        tried: &Tried,
        now_ms: u64,
        with: impl FnOnce(&Snapshot, BackendId) -> T,
    ) -> Option<T> {
        let mut fleet = self.fleet.borrow_mut();
        let fleet = fleet.load();
        let ask = Ask {
            tried,
            now: now_ms,
            ..Ask::default()
        };
        let id = self.balancer.pick(fleet, &ask)?;
        Some(with(fleet, id))
    }

    /// Where `backend` listens.
    fn address(&self, backend: BackendId) -> Address {
        let mut fleet = self.fleet.borrow_mut();
        fleet.load().backend(backend).address.clone()
    }

    /// A request for which `backend` was picked got its whole response, with this status.
    pub(crate) fn answered(&self, backend: BackendId, status: u16, took_us: u64) {
        if status < 500 {
            return self.served(backend, took_us);
        }
        self.ended(backend, took_us);
        self.blame(backend, Fault::Status(status));
    }

    /// As [`Backends::answered`], for what has no status.
    pub(crate) fn served(&self, backend: BackendId, took_us: u64) {
        self.ended(backend, took_us);
        self.well(backend);
    }

    /// As [`Backends::served`], for what ended in a way that tells nothing of the backend.
    pub(crate) fn ended(&self, backend: BackendId, took_us: u64) {
        self.balancer.done(backend, &Outcome::Answered { took_us });
    }

    /// `backend` has begun to speak, which for TCP is as much as can be said of it for long.
    pub(crate) fn well(&self, backend: BackendId) {
        self.reports.well(backend, &self.counters.reports_lost);
    }

    /// A request for which `backend` was picked got no whole response, by its `fault` or not.
    pub(crate) fn failed(&self, backend: BackendId, fault: Option<Fault>) {
        self.balancer.done(backend, &Outcome::Failed);
        if let Some(fault) = fault {
            self.blame(backend, fault);
        }
    }

    fn blame(&self, backend: BackendId, fault: Fault) {
        self.counters.backends[backend.index()].failures.add(1);
        let lost = &self.counters.reports_lost;
        self.reports.fault(backend, fault, lost);
    }

    /// Closes pooled connections that have been idle for too long.
    pub(crate) fn tick(&self, now_ms: u64) {
        let timeout = self.options.pool_idle_timeout.as_millis() as u64;
        self.pool.close_idle_since(now_ms.saturating_sub(timeout));
        self.pool.close_forsaken();
    }
}
