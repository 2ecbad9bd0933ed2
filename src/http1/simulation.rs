//! The HTTP path under seeded faults: clients, fastlb and backends in one thread, on the engine of
//! the simulation, with time that costs nothing.
//!
//! A seed decides everything, and a run that fails names its own: `FASTLB_SIM_SEED=7` runs that
//! one alone, with `FASTLB_SIM_TRACE=1` and `--nocapture` it tells every read and write, and
//! `FASTLB_SIM_SEEDS=100000` runs so many. What is checked stands in `ledger`, for each answer, in
//! [`Run::settle`], for the end, and in `World::new`, for every moment at which all wait.

mod backend;
mod client;
mod ledger;
mod message;
mod scenario;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use self::backend::Backend;
use self::client::Client;
use self::ledger::Ledger;
use self::scenario::Scenario;
use super::{Gateway, Sessions};
use crate::balance::{self, Ask, BackendId, Balancer, Outcome, RoundRobin, Snapshot, Weight};
use crate::health::Health;
use crate::io::Io;
use crate::io::sim::{Fault, Sim, World};
use crate::limits;
use crate::listener::{ConnectionLimit, Door};
use crate::stats::WorkerCounters;
use crate::upstream::Backends;

/// Runs of an ordinary test.
const SEEDS: u64 = 10_000;
/// Most milliseconds that a worker may take to be done behind the last client.
const SETTLE_MS_MAX: u64 = 60_000;

/// What came of runs: faults by kind, and other sums.
type Sums = BTreeMap<Fault, u64>;

#[test]
fn whatever_happens_the_answers_are_right_and_nothing_is_left() {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let (first, count) = match number("FASTLB_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("FASTLB_SIM_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, sums) = (AtomicU64::new(first), Mutex::new(Sums::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let of_run = run_or_name(seed, || next.store(u64::MAX / 2, Ordering::Relaxed));
                    let mut sums = sums.lock().unwrap();
                    for (name, sum) in of_run {
                        *sums.entry(name).or_default() += sum;
                    }
                }
            });
        }
    });
    for (name, sum) in sums.into_inner().unwrap() {
        println!("{sum:>10} {name}");
    }
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in 0..40 {
        let run = || run_or_name(seed, || ());
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// Runs a seed; where that fails, calls `stop` and says how to have it again.
fn run_or_name(seed: u64, stop: impl Fn()) -> Sums {
    let run = || match seed % 2 {
        0 => Run::<true>::whole(seed),
        _ => Run::<false>::whole(seed),
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        stop();
        eprintln!("failed: seed {seed}; again with FASTLB_SIM_SEED={seed}");
        resume_unwind(panic)
    })
}

/// One world with its worker.
struct Run<const ATTENDED: bool> {
    world: Rc<World>,
    ledger: Rc<Ledger>,
    scenario: Rc<Scenario>,
    balancer: Arc<Counted>,
    counters: Arc<WorkerCounters>,
    gateway: Rc<Gateway<Sim<ATTENDED>>>,
    door: Rc<Door>,
    stopped: Rc<Cell<bool>>,
    clients: Rc<Cell<u64>>,
}

impl<const ATTENDED: bool> Run<ATTENDED> {
    fn whole(seed: u64) -> Sums {
        let run = Self::new(seed);
        let world = run.world.clone();
        let ended = world.executor.block_on(run.live());
        let mut sums = ended.unwrap_or_else(|hang| panic!("{hang:?}"));
        sums.append(&mut world.faults.borrow_mut());
        sums
    }

    fn new(seed: u64) -> Self {
        let scenario = Rc::new(Scenario::of(seed));
        let world = World::new(seed, scenario.network, scenario.buffers);
        let io = Sim::<ATTENDED>(world.clone());
        let counters = Arc::new(WorkerCounters::new(scenario.backends));
        let balancer = Arc::<Counted>::default();
        let fleet: Vec<_> = (0..scenario.backends).map(member).collect();
        let backends = Backends::new(
            io.clone(),
            Arc::new(ArcSwap::from_pointee(Snapshot::new(fleet, |_| Health::Up))),
            balancer.clone(),
            scenario.upstream,
            counters.clone(),
            mpsc::channel(limits::REPORTS_MAX).0,
        );
        let http = scenario.http.clone();
        let gateway = Rc::new(Gateway::new(io, backends, counters.clone(), http));
        let limit = Arc::new(ConnectionLimit::new(scenario.connections_max));
        Self {
            ledger: Ledger::new(&world),
            world,
            scenario,
            balancer,
            door: Door::new(limit, counters.clone()),
            counters,
            gateway,
            stopped: Rc::default(),
            clients: Rc::default(),
        }
    }

    /// The run, from the first connection until nothing is left.
    async fn live(self) -> Sums {
        let world = self.world.clone();
        let listener = world.bind(front());
        self.start_backends();
        self.start_worker(&listener);
        self.start_clients();

        if let Some(drain_ms) = self.scenario.drain_ms {
            world.executor.sleep(drain_ms).await;
            world.count("drain under load");
        } else {
            self.until("clients", || self.clients.get() == 0).await;
        }
        self.ledger.draining.set(true);
        self.gateway.drain();
        self.door.close();
        self.gateway.io.cancel_accept(&listener);
        drop(listener);
        let patience = self.until_or(self.scenario.drain_timeout_ms, || self.door.guests() == 0);
        if !patience.await {
            world.count("drain cut");
            self.ledger.cut.set(true);
            self.gateway.wheel.cut();
            self.until("sessions", || self.door.guests() == 0).await;
        }
        world.unbind(front());
        self.until("clients", || self.clients.get() == 0).await;
        self.gateway.backends.pool.clear();
        self.stopped.set(true);
        for index in 0..self.scenario.backends {
            world.unbind(at(index));
        }
        self.until("tasks", || world.executor.live() == 0).await;
        self.settle()
    }

    fn start_backends(&self) {
        for index in 0..self.scenario.backends {
            let host = self.world.bind(at(index));
            let backend = Backend {
                world: self.world.clone(),
                ledger: self.ledger.clone(),
                scenario: self.scenario.clone(),
                stopped: self.stopped.clone(),
            };
            if self.scenario.moody {
                self.world
                    .executor
                    .spawn(backend.clone().change_mood(host.clone()));
            }
            self.world.executor.spawn(backend.serve(host));
        }
    }

    /// Does what `worker` does on a real engine.
    fn start_worker(&self, listener: &Rc<crate::io::sim::Host>) {
        let executor = &self.world.executor;
        let sessions = Sessions::new(self.gateway.clone());
        let world = self.world.clone();
        let serve = move |socket, peer, guest| {
            world
                .executor
                .spawn(sessions.clone().open(socket, peer, guest));
        };
        let gateway = self.gateway.clone();
        let shed = move || gateway.backends.pool.shed();
        let io = self.gateway.io.clone();
        executor.spawn(self.door.clone().accept(io, listener.clone(), serve, shed));
        executor.spawn(keep_pool(self.gateway.clone(), self.stopped.clone()));
        let world = self.world.clone();
        executor.spawn(tick(
            world,
            self.gateway.clone(),
            self.door.clone(),
            self.stopped.clone(),
        ));
    }

    fn start_clients(&self) {
        self.clients.set(self.scenario.clients);
        for _ in 0..self.scenario.clients {
            let client = Client {
                world: self.world.clone(),
                ledger: self.ledger.clone(),
                scenario: self.scenario.clone(),
                address: front(),
            };
            let clients = self.clients.clone();
            self.world.executor.spawn(async move {
                client.run().await;
                clients.set(clients.get() - 1);
            });
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        assert!(
            self.until_or(4 * SETTLE_MS_MAX, is_so).await,
            "hangs: {what}"
        );
    }

    async fn until_or(&self, patience_ms: u64, is_so: impl Fn() -> bool) -> bool {
        let executor = &self.world.executor;
        let over_ms = executor.now_ms() + patience_ms;
        while !is_so() {
            if executor.now_ms() >= over_ms {
                return false;
            }
            executor.sleep(limits::TICK_MS / 2).await;
        }
        true
    }

    /// Everything that was taken is given back.
    fn settle(self) -> Sums {
        let usage = self.gateway.io.usage();
        assert_eq!(usage.chunks_held, 0, "chunks");
        assert_eq!(usage.operations, 0, "operations");
        assert_eq!(self.world.ends_open(), 0, "sockets");
        assert_eq!(self.gateway.wheel.deadlines(), 0, "deadlines");
        assert_eq!(self.counters.active.read(), 0, "sessions");
        let (picked, done) = (&self.balancer.picked, &self.balancer.done);
        let read = |counts: &[AtomicU64; 4]| counts.each_ref().map(|n| n.load(Ordering::Relaxed));
        assert_eq!(read(picked), read(done), "picks and their ends");
        Sums::from([
            ("-- runs", 1),
            ("-- answers", self.ledger.answers.get()),
            ("-- polls", self.world.executor.polls()),
            ("-- milliseconds", self.world.executor.now_ms()),
            ("-- sessions", self.counters.accepted.read()),
        ])
    }
}

async fn keep_pool<I: Io>(gateway: Rc<Gateway<I>>, stopped: Rc<Cell<bool>>) {
    let mut keeping = pin!(gateway.backends.pool.keep());
    let mut pause = gateway.io.sleep(Duration::from_millis(limits::TICK_MS));
    poll_fn(|cx| {
        let never = keeping.as_mut().poll(cx);
        debug_assert!(never.is_pending());
        while !stopped.get() && pin!(&mut pause).poll(cx).is_ready() {
            pause = gateway.io.sleep(Duration::from_millis(limits::TICK_MS));
        }
        if stopped.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn tick<I: Io>(
    world: Rc<World>,
    gateway: Rc<Gateway<I>>,
    door: Rc<Door>,
    stopped: Rc<Cell<bool>>,
) {
    while !stopped.get() {
        gateway
            .io
            .sleep(Duration::from_millis(limits::TICK_MS))
            .await;
        let now_ms = world.executor.now_ms();
        gateway.wheel.advance(now_ms);
        gateway.backends.tick(now_ms);
        gateway.io.tick();
        door.tick();
    }
}

/// Round robin, with what it picked and what it was told.
#[derive(Default)]
struct Counted {
    balancer: RoundRobin,
    picked: [AtomicU64; 4],
    done: [AtomicU64; 4],
}

impl Balancer for Counted {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        let picked = self.balancer.pick(fleet, ask)?;
        self.picked[picked.index()].fetch_add(1, Ordering::Relaxed);
        Some(picked)
    }

    fn done(&self, id: BackendId, _outcome: &Outcome) {
        self.done[id.index()].fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the worker listens.
fn front() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

/// Where a backend listens.
fn at(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, index as u8], 80))
}

fn member(index: usize) -> balance::Backend {
    balance::Backend {
        id: BackendId::new(index).expect("a small fleet"),
        address: at(index).into(),
        authority: "sim".into(),
        weight: Weight::default(),
    }
}
