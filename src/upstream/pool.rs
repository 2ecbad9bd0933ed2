//! Idle connections to backends, each with its next receive already under way.
//!
//! Whatever completes that receive while the connection is idle (the backend closed, reset, or
//! spoke unasked) takes it out of the pool and closes it at once. So a stale connection costs no
//! system call when a request comes, and none lingers in CLOSE_WAIT.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::connect::Upstream;
use crate::balance::BackendId;
use crate::io::{ChunkSize, Expect, Io};

/// The idle connections of one worker.
pub(crate) struct Pool<I: Io> {
    /// By backend; the one that was put back last is checked out first.
    idle: RefCell<Vec<Vec<Idle<I>>>>,
    idle_max: usize,
    /// Connections made so far, which names the next one.
    made: Cell<u64>,
    fired: Arc<Fired>,
}

struct Idle<I: Io> {
    upstream: Box<Upstream<I>>,
    since_ms: u64,
}

/// The connections whose receive completed while they were idle.
#[derive(Default)]
struct Fired(Mutex<FiredState>);

#[derive(Default)]
struct FiredState {
    connections: Vec<(BackendId, u64)>,
    keeper: Option<Waker>,
}

/// Tells the pool which connection its receive belongs to.
struct IdleWaker {
    backend: BackendId,
    serial: u64,
    fired: Arc<Fired>,
}

impl Wake for IdleWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Only this worker's thread comes here; the lock is what a waker's type demands.
        let mut fired = self.fired.0.lock().unwrap_or_else(PoisonError::into_inner);
        fired.connections.push((self.backend, self.serial));
        if let Some(keeper) = fired.keeper.take() {
            keeper.wake();
        }
    }
}

impl<I: Io> Pool<I> {
    pub(super) fn new(backends: usize, idle_max: usize) -> Self {
        let idle = RefCell::new((0..backends).map(|_| Vec::new()).collect());
        Self {
            idle,
            idle_max,
            made: Cell::new(0),
            fired: Arc::default(),
        }
    }

    /// A number for a new connection, and the waker that its receive is polled with while idle.
    pub(super) fn name(&self, backend: BackendId) -> (u64, Waker) {
        let serial = self.made.replace(self.made.get() + 1);
        let waker = Arc::new(IdleWaker {
            backend,
            serial,
            fired: self.fired.clone(),
        });
        (serial, Waker::from(waker))
    }

    /// Takes the connection to `backend` that was used last, if one is alive.
    pub(super) async fn checkout(&self, backend: BackendId) -> Option<Box<Upstream<I>>> {
        poll_fn(|cx| {
            loop {
                let popped = self.idle.borrow_mut()[backend.index()].pop();
                let Some(Idle { mut upstream, .. }) = popped else {
                    return Poll::Ready(None);
                };
                // From here on the receive wakes the request's task. A completed one says that
                // the connection is dead; it is dropped and the next one looked at.
                if upstream.stream.poll_armed(cx).is_pending() {
                    upstream.reused = true;
                    return Poll::Ready(Some(upstream));
                }
            }
        })
        .await
    }

    /// Keeps a connection whose response is complete for the next request.
    pub(crate) fn put_back(&self, mut upstream: Box<Upstream<I>>, now_ms: u64) {
        debug_assert!(upstream.stream.inbox.is_empty(), "bytes nobody asked for");
        if self.idle.borrow()[upstream.backend.index()].len() >= self.idle_max {
            return;
        }
        upstream.stream.arm(ChunkSize::Large, Expect::Later);
        if upstream.poll_idle().is_ready() {
            return;
        }
        self.idle.borrow_mut()[upstream.backend.index()].push(Idle {
            upstream,
            since_ms: now_ms,
        });
    }

    /// Removes every connection whose receive completes while it is idle; does not return.
    pub(crate) async fn keep(&self) {
        loop {
            let fired = poll_fn(|cx| self.fired.poll(cx)).await;
            for (backend, serial) in fired {
                drop(self.remove_dead(backend, serial));
            }
        }
    }

    /// Closes the connections that were put back before `since_ms`.
    pub(super) fn close_idle_since(&self, since_ms: u64) {
        for idle in &mut *self.idle.borrow_mut() {
            // In the order of their return: the oldest come first.
            let old = idle.partition_point(|idle| idle.since_ms < since_ms);
            idle.drain(..old);
        }
    }

    /// Closes one idle connection of the backend that has most of them, so that its descriptor
    /// can serve a client; `false` where none is idle.
    pub(crate) fn shed(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let most = idle.iter_mut().max_by_key(|idle| idle.len());
        most.is_some_and(|idle| !idle.is_empty() && idle.drain(..1).count() == 1)
    }

    /// Closes them all.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().iter_mut().for_each(Vec::clear);
    }

    fn remove_dead(&self, backend: BackendId, serial: u64) -> Option<Idle<I>> {
        let mut idle = self.idle.borrow_mut();
        let idle = &mut idle[backend.index()];
        // Not there: a request has it meanwhile, and finds out itself.
        let place = idle
            .iter()
            .position(|idle| idle.upstream.serial == serial)?;
        let dead = idle[place].upstream.poll_idle().is_ready();
        dead.then(|| idle.remove(place))
    }
}

impl Fired {
    fn poll(&self, cx: &Context<'_>) -> Poll<Vec<(BackendId, u64)>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.connections.is_empty() {
            state.keeper = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut state.connections))
    }
}
