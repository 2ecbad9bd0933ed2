//! Which backend comes next when one could not be reached.

use std::time::Duration;

use arrayvec::ArrayVec;

use super::Backends;
use super::connect::{DialError, Upstream};
use crate::balance::BackendId;
use crate::health::Fault;
use crate::http1::end::Cause;
use crate::io::{Deadline, Io};
use crate::limits;

/// The backends that a request has failed on, in order: the first and one for each retry.
pub(crate) type Tried = ArrayVec<BackendId, { limits::RETRIES_MAX as usize + 1 }>;

/// Whether a request may go over a connection that served others before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    Allowed,
    /// A pooled one has just turned out to be dead, and the others may be too.
    Refused,
}

/// What makes a request go to another backend, besides a list of backends that were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn {
    /// The connection could not be made.
    pub connect: bool,
    /// The connection ended before the response began. Only requests that do no harm twice.
    pub reset: bool,
    /// The response has a status of 500 or above. Only requests that do no harm twice.
    pub status_5xx: bool,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            connect: true,
            reset: true,
            status_5xx: false,
        }
    }
}

impl<I: Io> Backends<I> {
    /// A connection for a request, to `backend` if that works, otherwise to another one.
    pub(crate) async fn connection(
        &self,
        mut backend: BackendId,
        reuse: Reuse,
        tried: &mut Tried,
        deadline: &Deadline,
        now_ms: u64,
    ) -> Result<Box<Upstream<I>>, Cause> {
        let mut tries = 1;
        loop {
            let counters = &self.counters.backends[backend.index()];
            if reuse == Reuse::Allowed
                && let Some(upstream) = self.pool.checkout(backend).await
            {
                counters.reused.add(1);
                return Ok(upstream);
            }
            let address = self.address(backend);
            let failure = match self.dial(backend, &address, deadline).await {
                Ok(upstream) => return Ok(upstream),
                Err(failure) => failure,
            };
            if failure == DialError::Exhausted {
                // No backend's fault, and no other would be easier to reach.
                self.failed(backend, None);
                return Err(Cause::Exhausted);
            }
            counters.connect_failures.add(1);
            let next = self.redispatch(backend, tried, now_ms);
            if next.is_none() && failure == DialError::Failed && self.tries_again(tries) {
                tries += 1;
                self.io.sleep(SAME_BACKEND_PAUSE).await;
                self.counters.retries.add(1);
                continue;
            }
            self.failed(backend, Some(Fault::Connect));
            backend = next.ok_or_else(|| self.unreachable(failure, tried))?;
            self.counters.retries.add(1);
        }
    }

    /// The backend that a request goes to after it failed on `backend`; `None` where it has gone
    /// to enough of them, or there is no other.
    fn redispatch(&self, backend: BackendId, tried: &mut Tried, now_ms: u64) -> Option<BackendId> {
        let another = self.options.retry_on.connect && self.options.retries > 0;
        if !tried.contains(&backend) && !tried.is_full() {
            tried.push(backend);
        }
        if !another || tried.len() > self.options.retries as usize {
            return None;
        }
        self.pick(tried, now_ms, |_, id| id)
    }

    /// Whether a backend that refused is tried once more, there being no other: it may be on its
    /// way up.
    fn tries_again(&self, tries: u32) -> bool {
        let again = self.options.retry_on.connect && self.options.retries > 0;
        again && tries < limits::SAME_BACKEND_TRIES
    }

    fn unreachable(&self, failure: DialError, tried: &Tried) -> Cause {
        let mut fleet = self.fleet.borrow_mut();
        let another = fleet.load().slots().iter().any(|id| !tried.contains(id));
        match failure {
            DialError::TimedOut => Cause::ConnectTimeout,
            _ if another => Cause::ConnectFailed,
            _ => Cause::NoBackend,
        }
    }

    /// As [`Backends::connection`] goes to another backend, for a request that has reached one
    /// and got no good answer. It costs the budget, because the backend had the work already.
    pub(crate) fn elsewhere(
        &self,
        backend: BackendId,
        tried: &mut Tried,
        now_ms: u64,
    ) -> Option<BackendId> {
        if tried.len() >= self.options.retries as usize {
            return None;
        }
        let mut untried = tried.clone();
        untried.push(backend);
        let next = self.pick(&untried, now_ms, |_, id| id)?;
        if !self.budget.spend(now_ms) {
            self.failed(next, None);
            self.counters.retries_refused.add(1);
            return None;
        }
        *tried = untried;
        Some(next)
    }

    /// Counts a request towards the budget of retries.
    pub(crate) fn earn_retries(&self) {
        self.budget.earn();
    }

    pub(crate) fn retry_on(&self) -> RetryOn {
        self.options.retry_on
    }
}

/// Time for a backend that refused to come up.
const SAME_BACKEND_PAUSE: Duration = Duration::from_millis(limits::SAME_BACKEND_PAUSE_MS);
