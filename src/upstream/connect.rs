//! Dialling a backend.

use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Backends;
use crate::balance::BackendId;
use crate::http1::end::Cause;
use crate::http1::head::BadHead;
use crate::io::{Address, Deadline, Expired, Io, Parcel, is_out_of_descriptors};
use crate::limits;
use crate::proxy_protocol::Written;
use crate::relay::Stream;

/// A connection to a backend, for one request at a time.
pub(crate) struct Upstream<I: Io> {
    pub(crate) stream: Stream<I>,
    pub(crate) backend: BackendId,
    /// It served a request before, so the backend may have closed it meanwhile.
    pub(crate) reused: bool,
    /// What the backend was told of its client, where it was: it serves that one alone.
    pub(super) preface: Option<Weak<Written>>,
    /// Names this connection among the idle ones of its backend.
    pub(super) serial: u64,
    /// Wakes the pool when something happens while the connection is idle.
    pub(super) idle_waker: Waker,
}

impl<I: Io> Upstream<I> {
    /// Demands that the backend has not answered before it was asked. Of a connection that was in
    /// the pool that is known; a new one is looked at once.
    pub(crate) fn expect_silence(&self) -> Result<(), Cause> {
        match !self.reused && self.stream.io.has_unread(&self.stream.socket) {
            true => Err(Cause::BadResponse(BadHead::Unasked)),
            false => Ok(()),
        }
    }

    /// Polls the receive that is under way for the pool; ready where the connection is dead.
    pub(super) fn poll_idle(&mut self) -> Poll<()> {
        let Self {
            stream, idle_waker, ..
        } = self;
        stream
            .poll_armed(&mut Context::from_waker(idle_waker))
            .map(drop)
    }
}

/// Why a backend could not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialError {
    /// It refused, or cannot be reached.
    Failed,
    TimedOut,
    /// Its queue is full, which only a Unix socket says: of TCP the kernel would try again by
    /// itself until there is room.
    Full,
    /// There is no descriptor left for it.
    Exhausted,
}

/// What becomes of a dial that finds a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// It fails at once.
    Fail,
    /// It waits for room, until the deadline.
    Wait,
}

impl From<Expired> for DialError {
    fn from(Expired: Expired) -> Self {
        Self::TimedOut
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        if is_out_of_descriptors(&error) {
            Self::Exhausted
        } else if is_full(&error) {
            Self::Full
        } else {
            Self::Failed
        }
    }
}

impl<I: Io> Backends<I> {
    /// Makes a new connection to `backend`.
    pub(super) async fn dial(
        &self,
        backend: BackendId,
        address: &Address,
        when_full: WhenFull,
        preface: Option<&Rc<Written>>,
        deadline: &Deadline,
    ) -> Result<Box<Upstream<I>>, DialError> {
        let counters = &self.counters.backends[backend.index()];
        deadline.set(self.options.connect_timeout);
        let socket = loop {
            match deadline.guard(self.io.connect(address)).await? {
                Ok(socket) => break socket,
                // No descriptor left for us: an idle connection's is free a moment after.
                Err(error) if is_out_of_descriptors(&error) && self.pool.shed() => {
                    deadline.guard(self.io.sleep(SHED_PAUSE)).await?;
                }
                Err(error) if is_full(&error) && when_full == WhenFull::Wait => {
                    deadline.guard(self.io.sleep(FULL_PAUSE)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        counters.connects.add(1);
        if let Some(preface) = preface {
            // On its own, because it belongs to the connection and not to what is sent over it: a
            // backend may be the first to speak, and a request may have to go elsewhere.
            let mut parcel = Parcel::default();
            parcel.lead.extend_from_slice(preface);
            let (sent, _) = deadline.guard(self.io.send(&socket, parcel)).await?;
            sent.map_err(|_| DialError::Failed)?;
        }
        let (serial, idle_waker) = self.pool.name(backend);
        let stream = Stream::new(self.io.clone(), socket);
        // Boxed, because it moves between the pool and the exchanges.
        Ok(Box::new(Upstream {
            stream,
            backend,
            reused: false,
            preface: preface.map(Rc::downgrade),
            serial,
            idle_waker,
        }))
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Time for a backend to take connections out of its queue.
const FULL_PAUSE: Duration = Duration::from_millis(limits::QUEUE_FULL_PAUSE_MS);
/// Time for a connection that was shed to be closed.
const SHED_PAUSE: Duration = Duration::from_millis(limits::TICK_MS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_backend_lacks_says_nothing_of_the_others() {
        let dialled = |errno| DialError::from(io::Error::from_raw_os_error(errno));
        assert_eq!(dialled(libc::EMFILE), DialError::Exhausted);
        // No address of its family here, or no port left that leads to it.
        assert_eq!(dialled(libc::EADDRNOTAVAIL), DialError::Failed);
        assert_eq!(dialled(libc::ECONNREFUSED), DialError::Failed);
        assert_eq!(dialled(libc::EAGAIN), DialError::Full);
    }
}
