//! Idle connections to backends, each with its next receive already under way.
//!
//! Whatever completes that receive while the connection is idle (the backend closed, reset, or
//! spoke unasked) takes it out of the pool and closes it at once. So a stale connection costs no
//! system call when a request comes, and none lingers in CLOSE_WAIT.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::connect::Upstream;
use crate::balance::BackendId;
use crate::io::{ChunkSize, Expect, Io};
use crate::proxy_protocol::Written;

/// The idle connections of one worker.
pub(crate) struct Pool<I: Io> {
    /// By backend; the one that was put back last is checked out first.
    idle: RefCell<Vec<Vec<Idle<I>>>>,
    idle_max: usize,
    /// Connections made so far, which names the next one.
    made: Cell<u64>,
    /// Connections are there that serve one client alone.
    private: Cell<bool>,
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
            private: Cell::new(false),
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

    /// Takes the connection to `backend` that was used last, if one is alive; of a client with a
    /// `preface`, one of its own.
    pub(super) async fn checkout(
        &self,
        backend: BackendId,
        preface: Option<&Rc<Written>>,
    ) -> Option<Box<Upstream<I>>> {
        poll_fn(|cx| {
            loop {
                let popped = {
                    let idle = &mut self.idle.borrow_mut()[backend.index()];
                    match preface {
                        None => idle.pop(),
                        Some(preface) => last_of(idle, preface),
                    }
                };
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

    /// Keeps a connection whose response is complete, and behind which nothing was found
    /// (`Stream::is_drained`), for the next request.
    pub(crate) fn put_back(&self, mut upstream: Box<Upstream<I>>, now_ms: u64) {
        debug_assert!(upstream.stream.inbox.is_empty(), "bytes nobody asked for");
        if !self.has_room(&upstream) {
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

    /// Whether the connection may be kept. One that serves a single client takes the place of the
    /// oldest: the others are of no use to that client, and each may be the last of its own.
    fn has_room(&self, upstream: &Upstream<I>) -> bool {
        let idle = &mut self.idle.borrow_mut()[upstream.backend.index()];
        if upstream.preface.is_some() {
            self.private.set(true);
            let excess = (idle.len() + 1).saturating_sub(self.idle_max);
            idle.drain(..excess.min(idle.len()));
        }
        idle.len() < self.idle_max
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

    /// Closes the connections that serve a client who has left.
    pub(super) fn close_forsaken(&self) {
        let is_of_use = |idle: &mut Idle<I>| {
            let preface = idle.upstream.preface.as_ref();
            preface.is_none_or(|preface| preface.strong_count() > 0)
        };
        if self.private.get() {
            let mut all = self.idle.borrow_mut();
            all.iter_mut().for_each(|idle| idle.retain_mut(is_of_use));
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

/// Takes the client's own connection that was put back last.
fn last_of<I: Io>(idle: &mut Vec<Idle<I>>, preface: &Rc<Written>) -> Option<Idle<I>> {
    let is_own = |idle: &Idle<I>| {
        let of = idle.upstream.preface.as_ref();
        of.is_some_and(|of| Weak::as_ptr(of) == Rc::as_ptr(preface))
    };
    let place = idle.iter().rposition(is_own)?;
    Some(idle.remove(place))
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::io::BufferOptions;
    use crate::io::sim::{Host, Network, Sim, World};
    use crate::proxy_protocol::{Origin, Version, write};
    use crate::relay::Stream;

    const IDLE_MAX: usize = 2;

    fn backend() -> BackendId {
        BackendId::new(0).unwrap()
    }

    /// A pool of one backend that takes all connections, and where to make them.
    struct Bench {
        io: Sim<true>,
        address: SocketAddr,
        host: Rc<Host>,
        pool: Pool<Sim<true>>,
    }

    impl Bench {
        fn run(play: impl AsyncFnOnce(&Self)) {
            let world = World::new(0, Network::default(), BufferOptions::default());
            let address = SocketAddr::from(([10, 0, 0, 1], 80));
            let bench = Self {
                io: Sim(world.clone()),
                address,
                host: world.bind(address),
                pool: Pool::new(1, IDLE_MAX),
            };
            world.executor.block_on(play(&bench)).unwrap();
        }

        async fn connect(&self, preface: Option<&Rc<Written>>) -> Box<Upstream<Sim<true>>> {
            let socket = self.io.connect(&self.address.into()).await.unwrap();
            let (serial, idle_waker) = self.pool.name(backend());
            Box::new(Upstream {
                stream: Stream::new(self.io.clone(), socket),
                backend: backend(),
                reused: false,
                preface: preface.map(Rc::downgrade),
                serial,
                idle_waker,
            })
        }

        /// Makes a connection, has it serve a request, and returns its number.
        async fn serve(&self, preface: Option<&Rc<Written>>) -> u64 {
            let upstream = self.connect(preface).await;
            let serial = upstream.serial;
            self.pool.put_back(upstream, 0);
            serial
        }

        async fn checkout(&self, preface: Option<&Rc<Written>>) -> Option<u64> {
            let upstream = self.pool.checkout(backend(), preface).await;
            upstream.map(|upstream| upstream.serial)
        }

        fn idle(&self) -> usize {
            self.pool.idle.borrow()[0].len()
        }
    }

    /// Two clients of whom nobody knows anything: their connections are told apart all the same.
    fn clients() -> [Rc<Written>; 2] {
        let preface = || Rc::new(write(Version::V2, Origin::Unknown));
        [preface(), preface()]
    }

    #[test]
    fn connections_without_a_client_are_shared() {
        Bench::run(async |bench| {
            let first = bench.serve(None).await;
            let second = bench.serve(None).await;
            bench.serve(None).await;
            assert_eq!(bench.idle(), IDLE_MAX, "the third finds no room");
            bench.pool.close_forsaken();
            assert_eq!(bench.checkout(None).await, Some(second));
            assert_eq!(bench.checkout(None).await, Some(first));
            assert_eq!(bench.checkout(None).await, None);
        });
    }

    #[test]
    fn a_connection_on_which_something_came_unasked_serves_nobody() {
        for closes in [false, true] {
            Bench::run(async |bench| {
                let says = async || {
                    let end = bench.host.next().await.unwrap();
                    end.write(b"HTTP/1.1 200 OK\r\n").await.unwrap();
                    (!closes).then_some(end)
                };
                let upstream = bench.connect(None).await;
                let _open = says().await;
                bench.pool.put_back(upstream, 0);
                assert_eq!(bench.idle(), 0, "it had come before, closes: {closes}");

                bench.serve(None).await;
                let _open = says().await;
                assert_eq!(bench.idle(), 1, "nobody keeps this pool");
                assert_eq!(bench.checkout(None).await, None, "closes: {closes}");
            });
        }
    }

    #[test]
    fn a_client_is_given_its_own_connection() {
        Bench::run(async |bench| {
            let [one, other] = clients();
            let of_one = bench.serve(Some(&one)).await;
            let of_other = bench.serve(Some(&other)).await;
            assert_eq!(bench.checkout(Some(&one)).await, Some(of_one));
            assert_eq!(bench.checkout(Some(&one)).await, None);
            assert_eq!(bench.checkout(Some(&other)).await, Some(of_other));
        });
    }

    #[test]
    fn the_oldest_connection_of_a_client_makes_room() {
        Bench::run(async |bench| {
            let [one, other] = clients();
            bench.serve(Some(&one)).await;
            let of_other = bench.serve(Some(&other)).await;
            let newest = bench.serve(Some(&one)).await;
            assert_eq!(bench.idle(), IDLE_MAX);
            assert_eq!(bench.checkout(Some(&one)).await, Some(newest));
            assert_eq!(bench.checkout(Some(&one)).await, None);
            assert_eq!(bench.checkout(Some(&other)).await, Some(of_other));
        });
    }

    #[test]
    fn the_connections_of_a_client_who_has_left_are_closed() {
        Bench::run(async |bench| {
            let [one, other] = clients();
            bench.serve(Some(&one)).await;
            let of_other = bench.serve(Some(&other)).await;
            drop(one);
            bench.pool.close_forsaken();
            assert_eq!(bench.idle(), 1);
            assert_eq!(bench.checkout(Some(&other)).await, Some(of_other));
        });
    }
}
