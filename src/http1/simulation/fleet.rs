//! The fleet of a run: checks and the worker's reports go in, snapshots come out, while requests
//! are under way. The judge is the real one; who hears of the change, and when, is the run's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::scenario::Scenario;
use crate::balance::{self, Ask, BackendId, Balancer, Outcome, RoundRobin, Snapshot, Weight};
use crate::health::{CheckFailure, Event, FleetHealth, Health, News};
use crate::io::sim::{Dial, Host, World};

/// Most backends of a run.
pub(super) const BACKENDS_MAX: usize = 4;

/// What the control thread is for a worker.
pub(super) struct Control {
    world: Rc<World>,
    scenario: Rc<Scenario>,
    stopped: Rc<Cell<bool>>,
    published: Arc<ArcSwap<Snapshot>>,
    reports: mpsc::Receiver<Event>,
    health: FleetHealth,
}

impl Control {
    pub(super) fn new(
        world: &Rc<World>,
        scenario: &Rc<Scenario>,
        published: &Arc<ArcSwap<Snapshot>>,
        reports: mpsc::Receiver<Event>,
        stopped: &Rc<Cell<bool>>,
    ) -> Self {
        let (check, eject) = (scenario.judge.check, scenario.judge.eject);
        Self {
            world: world.clone(),
            scenario: scenario.clone(),
            stopped: stopped.clone(),
            published: published.clone(),
            reports,
            health: FleetHealth::new(scenario.backends, check, eject),
        }
    }

    /// Judges and publishes until the run is over.
    pub(super) async fn run(mut self, hosts: Vec<Rc<Host>>) {
        let mut heard = Vec::new();
        while !self.stopped.get() {
            let pause_ms = self.world.between(1, self.scenario.judge.pause_ms_max);
            self.world.executor.sleep(pause_ms).await;
            for (index, host) in hosts.iter().enumerate() {
                heard.extend(self.check(id(index), host));
            }
            heard.extend(std::iter::from_fn(|| self.reports.try_recv().ok()));
            self.judge(heard.drain(..));
        }
    }

    /// What a check of a backend found, where it is its turn.
    fn check(&self, backend: BackendId, host: &Host) -> Option<Event> {
        if !self.world.happens(self.scenario.judge.checks_per_mille) {
            return None;
        }
        let wrong = self
            .world
            .happens(self.scenario.judge.wrong_checks_per_mille);
        let accepts = host.dial.get() == Dial::Accepted;
        let news = match accepts != wrong {
            true => News::CheckPassed,
            false => News::CheckFailed(CheckFailure::Timeout),
        };
        Some(Event { backend, news })
    }

    fn judge(&mut self, heard: impl Iterator<Item = Event>) {
        let now_ms = self.world.executor.now_ms();
        let mut changes = self.health.advance(now_ms);
        changes.extend(heard.flat_map(|event| self.health.take(event, now_ms)));
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            self.world.count(match change.health {
                Health::Up => "fleet: a backend is up again",
                Health::Down => "fleet: checks take a backend down",
                Health::Ejected => "fleet: traffic ejects a backend",
            });
        }
        let members = self.published.load().backends().to_vec();
        let next = Snapshot::new(members, |backend| self.health.health(backend));
        if next.slots().is_empty() {
            self.world.count(NOBODY_UP);
        }
        self.published.store(Arc::new(next));
    }
}

/// What is counted where the last backend goes.
pub(super) const NOBODY_UP: &str = "fleet: nobody is up";

/// Round robin that keeps accounts, and looks at what it is given.
pub(super) struct Counted {
    balancer: RoundRobin,
    published: Arc<ArcSwap<Snapshot>>,
    picked: [AtomicU64; BACKENDS_MAX],
    done: [AtomicU64; BACKENDS_MAX],
}

impl Counted {
    pub(super) fn new(published: &Arc<ArcSwap<Snapshot>>) -> Self {
        Self {
            balancer: RoundRobin::default(),
            published: published.clone(),
            picked: Default::default(),
            done: Default::default(),
        }
    }

    /// Each pick has had one end.
    pub(super) fn settle(&self) {
        let read = |counts: &[AtomicU64]| -> Vec<u64> {
            let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
            counts.collect()
        };
        assert_eq!(read(&self.picked), read(&self.done), "picks and their ends");
    }
}

impl Balancer for Counted {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        let published = self.published.load();
        assert!(std::ptr::eq(fleet, &**published), "an old snapshot");
        let picked = self.balancer.pick(fleet, ask)?;
        assert_eq!(fleet.health(picked), Health::Up, "nobody else is picked");
        assert!(!ask.tried.contains(&picked), "picked again");
        self.picked[picked.index()].fetch_add(1, Ordering::Relaxed);
        Some(picked)
    }

    fn done(&self, id: BackendId, _outcome: &Outcome) {
        self.done[id.index()].fetch_add(1, Ordering::Relaxed);
    }
}

/// A fleet whose backends are all up.
pub(super) fn of(backends: usize) -> Arc<ArcSwap<Snapshot>> {
    let member = |index| balance::Backend {
        id: id(index),
        address: at(index).into(),
        authority: "sim".into(),
        weight: Weight::default(),
    };
    let members: Vec<_> = (0..backends).map(member).collect();
    Arc::new(ArcSwap::from_pointee(Snapshot::new(members, |_| {
        Health::Up
    })))
}

/// Where a backend listens.
pub(super) fn at(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, index as u8], 80))
}

fn id(index: usize) -> BackendId {
    BackendId::new(index).expect("a small fleet")
}
