//! Connections to backends: which one a request gets, from the pool or newly made.

mod connect;
mod pool;
mod retry;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub(crate) use connect::Upstream;
pub(crate) use pool::Pool;
pub(crate) use retry::{Reuse, Tried};

use crate::balance::{Ask, BackendId, Balancer, Outcome, Snapshot};
use crate::io::Io;
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
}

/// All backends as one worker sees them.
pub(crate) struct Backends<I: Io> {
    io: I,
    fleet: RefCell<arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    balancer: Arc<dyn Balancer>,
    pub(crate) pool: Pool<I>,
    options: Options,
    counters: Arc<WorkerCounters>,
}

impl<I: Io> Backends<I> {
    pub(crate) fn new(
        io: I,
        fleet: Arc<ArcSwap<Snapshot>>,
        balancer: Arc<dyn Balancer>,
        options: Options,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        let pool = Pool::new(counters.backends.len(), options.pool_idle_max);
        let fleet = RefCell::new(arc_swap::Cache::new(fleet));
        Self {
            io,
            fleet,
            balancer,
            pool,
            options,
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

    /// Tells the algorithm how a request that was picked for `backend` ended.
    pub(crate) fn done(&self, backend: BackendId, outcome: &Outcome) {
        self.balancer.done(backend, outcome);
    }

    /// Closes pooled connections that have been idle for too long.
    pub(crate) fn tick(&self, now_ms: u64) {
        let timeout = self.options.pool_idle_timeout.as_millis() as u64;
        self.pool.close_idle_since(now_ms.saturating_sub(timeout));
    }
}
