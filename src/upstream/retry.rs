//! Which backend comes next when one could not be reached.

use std::rc::Rc;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::Backends;
use super::connect::{DialError, Upstream, WhenFull};
use crate::balance::BackendId;
use crate::health::Fault;
use crate::http1::end::Cause;
use crate::io::{Deadline, Io};
use crate::limits;
use crate::proxy_protocol::Written;

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
    /// The connection ended before the response began. Only safe methods.
    pub reset: bool,
    /// The response has a status of 500 or above. Only safe methods.
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
    /// A connection for a request, to `backend` if that works, otherwise to another one. One that
    /// has a `preface` begins with it, and serves nobody else.
    pub(crate) async fn connection(
        &self,
        mut backend: BackendId,
        reuse: Reuse,
        preface: Option<&Rc<Written>>,
        tried: &mut Tried,
        deadline: &Deadline,
        now_ms: u64,
    ) -> Result<Box<Upstream<I>>, Cause> {
        let (mut tries, mut when_full) = (1, WhenFull::Fail);
        loop {
            let counters = &self.counters.backends[backend.index()];
            if reuse == Reuse::Allowed
                && let Some(upstream) = self.pool.checkout(backend, preface).await
            {
                counters.reused.add(1);
                return Ok(upstream);
            }
            let address = self.address(backend);
            let dialling = self.dial(backend, &address, when_full, preface, deadline);
            let failure = match dialling.await {
                Ok(upstream) => return Ok(upstream),
                Err(failure) => failure,
            };
            if deadline.is_cut() {
                self.failed(backend, None);
                return Err(Cause::Cut);
            }
            if failure == DialError::Exhausted {
                // No backend's fault, and no other would be easier to reach.
                self.failed(backend, None);
                return Err(Cause::Exhausted);
            }
            let next = self.redispatch(backend, tried, now_ms);
            if failure == DialError::Full {
                // It has more to do than it can, which is no fault yet.
                match next {
                    Some(next) => {
                        self.failed(backend, None);
                        backend = next;
                        self.counters.retries.add(1);
                    }
                    None => when_full = WhenFull::Wait,
                }
                continue;
            }
            counters.connect_failures.add(1);
            let again = failure == DialError::Failed && self.tries_again(tries, tried);
            if next.is_none() && again {
                tries += 1;
                self.io.sleep(SAME_BACKEND_PAUSE).await;
                self.counters.retries.add(1);
                continue;
            }
            self.failed(backend, Some(Fault::Connect));
            backend = next.ok_or_else(|| self.unreachable(failure, tried))?;
            when_full = WhenFull::Fail;
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
    fn tries_again(&self, tries: u32, tried: &Tried) -> bool {
        let again = self.options.retry_on.connect && self.options.retries > 0;
        again && tries < limits::SAME_BACKEND_TRIES && !self.is_any_left(tried)
    }

    /// Whether a backend is up that is not among the `tried`.
    fn is_any_left(&self, tried: &Tried) -> bool {
        let mut fleet = self.fleet.borrow_mut();
        fleet.load().slots().iter().any(|id| !tried.contains(id))
    }

    fn unreachable(&self, failure: DialError, tried: &Tried) -> Cause {
        match failure {
            DialError::TimedOut => Cause::ConnectTimeout,
            _ if self.is_any_left(tried) => Cause::ConnectFailed,
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arc_swap::ArcSwap;
    use tokio::sync::mpsc;

    use super::*;
    use crate::balance::{Ask, Backend, Balancer, Outcome, RoundRobin, Snapshot, Weight};
    use crate::health::Health;
    use crate::io::sim::{Dial, Network, Sim, World};
    use crate::io::{BufferOptions, Wheel};
    use crate::stats::WorkerCounters;
    use crate::upstream::{Options, Reports};

    #[derive(Default)]
    struct Counted {
        balancer: RoundRobin,
        picked: AtomicUsize,
        done: AtomicUsize,
    }

    impl Balancer for Counted {
        fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
            let picked = self.balancer.pick(fleet, ask)?;
            self.picked.fetch_add(1, Ordering::Relaxed);
            Some(picked)
        }

        fn done(&self, _id: BackendId, _outcome: &Outcome) {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn at(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 1, index as u8], 80))
    }

    fn quiet_world() -> Rc<World> {
        World::new(0, Network::default(), BufferOptions::default())
    }

    /// Makes a connection for a request, to a fleet of so many.
    fn connection(world: &Rc<World>, fleet: usize, retries: u32) -> Result<BackendId, Cause> {
        counted(world, fleet, retries).0
    }

    /// As [`connection`], with the failures that backends were blamed for.
    fn counted(world: &Rc<World>, fleet: usize, retries: u32) -> (Result<BackendId, Cause>, u64) {
        let member = |index| Backend {
            id: BackendId::new(index).unwrap(),
            address: at(index).into(),
            authority: "sim".into(),
            weight: Weight::default(),
        };
        let snapshot = Snapshot::new((0..fleet).map(member).collect::<Vec<_>>(), |_| Health::Up);
        let balancer = Arc::<Counted>::default();
        let options = Options {
            connect_timeout: Some(Duration::from_secs(1)),
            retries,
            pool_idle_max: 1,
            pool_idle_timeout: Duration::from_secs(1),
            retry_on: RetryOn::default(),
            retry_hundredths_per_second: 100,
        };
        let (line, _heard) = mpsc::channel(16);
        let counters = Arc::new(WorkerCounters::new(fleet));
        let backends = Backends::new(
            Sim::<true>(world.clone()),
            Arc::new(ArcSwap::from_pointee(snapshot)),
            balancer.clone(),
            options,
            counters.clone(),
            Reports::new(line, fleet),
        );
        let wheel = Wheel::default();
        world.turn(&wheel);
        let (mut tried, deadline) = (Tried::default(), wheel.deadline());
        let first = backends.pick(&tried, 0, |_, id| id).unwrap();
        let connecting = backends.connection(first, Reuse::Allowed, None, &mut tried, &deadline, 0);
        let connection = world.executor.block_on(connecting).unwrap();
        let connection = connection.map(|upstream| upstream.backend);
        if let Ok(backend) = connection {
            backends.served(backend, 0);
        }
        let (picked, done) = (&balancer.picked, &balancer.done);
        assert_eq!(
            picked.load(Ordering::Relaxed),
            done.load(Ordering::Relaxed),
            "{fleet} backends, {retries} retries"
        );
        let failures = counters.backends.iter().map(|one| one.failures.read());
        (connection, failures.sum())
    }

    /// How a request ends where nobody listens.
    fn refused_by_all(fleet: usize, retries: u32) -> Option<Cause> {
        connection(&quiet_world(), fleet, retries).err()
    }

    #[test]
    fn each_pick_has_an_end_also_where_the_retries_run_out() {
        assert_eq!(refused_by_all(3, 0), Some(Cause::ConnectFailed));
        assert_eq!(refused_by_all(3, 1), Some(Cause::ConnectFailed));
        assert_eq!(refused_by_all(3, 2), Some(Cause::NoBackend));
        assert_eq!(refused_by_all(3, 9), Some(Cause::NoBackend));
        assert_eq!(refused_by_all(1, 0), Some(Cause::NoBackend));
    }

    /// How a request ends whose backend accepts from a moment on, how often that one has refused,
    /// and when it ended.
    fn lone(accepts_at_ms: Option<u64>, retries: u32) -> (Result<BackendId, Cause>, u64, u64) {
        let world = quiet_world();
        let host = world.bind(at(0));
        host.dial.set(Dial::Refused);
        if let Some(accepts_at_ms) = accepts_at_ms {
            let inside = world.clone();
            world.executor.spawn(async move {
                inside.executor.sleep(accepts_at_ms).await;
                host.dial.set(Dial::Accepted);
            });
        }
        let ended = connection(&world, 1, retries);
        let refused = world.faults.borrow().get("connect refused").copied();
        (ended, refused.unwrap_or(0), world.executor.run_ms())
    }

    #[test]
    fn a_lone_backend_has_three_tries_ten_milliseconds_apart() {
        let backend = BackendId::new(0).unwrap();
        let none = Err(Cause::NoBackend);
        assert_eq!(lone(Some(5), 1), (Ok(backend), 1, 10));
        assert_eq!(lone(Some(15), 1), (Ok(backend), 2, 20));
        assert_eq!(lone(Some(25), 1), (none, 3, 20));
        assert_eq!(lone(None, 9), (none, 3, 20));
        assert_eq!(lone(Some(5), 0), (none, 1, 0), "no retries are no retries");
    }

    #[test]
    fn where_there_is_another_nobody_waits() {
        let world = quiet_world();
        let _host = world.bind(at(1));
        let ended = connection(&world, 2, 1);
        assert_eq!(ended.err(), None);
        assert_eq!(world.executor.run_ms(), 0);
        assert_eq!(world.faults.borrow().get("connect refused"), Some(&1));
        // Nor where it may not be asked, because the retries have run out.
        let world = quiet_world();
        assert_eq!(connection(&world, 3, 1).err(), Some(Cause::ConnectFailed));
        assert_eq!(world.faults.borrow().get("connect refused"), Some(&2));
        assert_eq!(world.executor.run_ms(), 0);
    }

    /// How a request ends whose first backend has a full queue until a moment, with the failures
    /// that backends were blamed for, and when it ended.
    fn full_until(room_ms: u64, fleet: usize) -> (Result<BackendId, Cause>, u64, u64) {
        let world = quiet_world();
        let hosts: Vec<_> = (0..fleet).map(|index| world.bind(at(index))).collect();
        hosts[0].dial.set(Dial::Full);
        let inside = world.clone();
        world.executor.spawn(async move {
            inside.executor.sleep(room_ms).await;
            hosts[0].dial.set(Dial::Accepted);
        });
        let (ended, failures) = counted(&world, fleet, 2);
        (ended, failures, world.executor.run_ms())
    }

    #[test]
    fn a_full_queue_is_passed_by_or_waited_for() {
        let [first, second] = [0, 1].map(|index| BackendId::new(index).unwrap());
        assert_eq!(full_until(45, 1), (Ok(first), 0, 50));
        assert_eq!(full_until(45, 2), (Ok(second), 0, 0));
        // As long as a connection may take, and two ticks.
        let (ended, failures, ended_ms) = full_until(5_000, 1);
        assert_eq!((ended, failures), (Err(Cause::ConnectTimeout), 1));
        assert!((1_000..=1_200).contains(&ended_ms), "{ended_ms} ms");
    }

    #[test]
    fn the_last_of_several_is_tried_again_where_retries_are_left() {
        let world = quiet_world();
        assert_eq!(connection(&world, 2, 2).err(), Some(Cause::NoBackend));
        // One try of the first, and three of the other.
        assert_eq!(world.faults.borrow().get("connect refused"), Some(&4));
        assert_eq!(world.executor.run_ms(), 20);
    }
}
