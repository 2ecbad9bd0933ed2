//! Which backend comes next when one could not be reached.

use arrayvec::ArrayVec;

use super::Backends;
use super::connect::{DialError, Upstream};
use crate::balance::{BackendId, Outcome};
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
        loop {
            let counters = &self.counters.backends[backend.index()];
            if reuse == Reuse::Allowed
                && let Some(upstream) = self.pool.checkout(backend).await
            {
                counters.reused.add(1);
                return Ok(upstream);
            }
            let address = self.fleet.borrow_mut().load().backend(backend).address;
            let failure = match self.dial(backend, address, deadline).await {
                Ok(upstream) => return Ok(upstream),
                Err(failure) => failure,
            };
            self.done(backend, &Outcome::Failed);
            if failure == DialError::Exhausted {
                // No backend's fault, and no other would be easier to reach.
                return Err(Cause::Exhausted);
            }
            counters.connect_failures.add(1);
            tried.push(backend);
            let next = self.pick(tried, now_ms, |_, id| id);
            backend = match next {
                Some(next) if tried.len() <= self.options.retries as usize => next,
                _ if failure == DialError::TimedOut => return Err(Cause::ConnectTimeout),
                Some(_) => return Err(Cause::ConnectFailed),
                None => return Err(Cause::NoBackend),
            };
            self.counters.retries.add(1);
        }
    }
}
