//! The control thread: events go in, new snapshots come out.
//!
//! It has a runtime of its own, on which the backends are checked, and never runs on a worker.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::sleep;

use super::Fleet;
use crate::balance::{Backend, BackendId};
use crate::health::active::Check;
use crate::health::{Event, FleetHealth, News};
use crate::io::Stopwatch;
use crate::limits;

/// How the backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// What is asked.
    pub check: Check,
    /// Time between two checks of a backend whose state is not changing.
    pub interval: Duration,
    /// Time that a check may take.
    pub timeout: Duration,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            check: Check::Tcp,
            interval: Duration::from_millis(limits::HEALTH_INTERVAL_MS),
            timeout: Duration::from_millis(limits::HEALTH_TIMEOUT_MS),
        }
    }
}

/// The control thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Control {
    begin: Option<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts the thread, with everything that may fail. Once it is told to begin it checks the
    /// backends where there are `checks`, and takes in what the workers report in any case. The
    /// `pulse` changes once a beat, or more often, from then on.
    ///
    /// # Errors
    /// Where the thread or its runtime cannot be had.
    pub fn prepare(
        fleet: Fleet,
        checks: Option<Checks>,
        reports: mpsc::Receiver<Event>,
        pulse: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (begin, begun) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let steering = async move {
            if begun.await.is_ok() {
                steer(fleet, checks, reports, &pulse).await;
            }
        };
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = steering => {}
                    // Dropped without a word is as good as told.
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("control".to_owned());
        Ok(Self {
            begin: Some(begin),
            stop: Some(stop),
            thread: Some(thread.spawn(body)?),
        })
    }

    /// Begins to check and to judge.
    pub fn begin(&mut self) {
        if let Some(begin) = self.begin.take() {
            // Nobody waits for it where the thread has panicked, which is said already.
            let _ = begin.send(());
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

/// Does not return.
async fn steer(
    mut fleet: Fleet,
    checks: Option<Checks>,
    mut reports: mpsc::Receiver<Event>,
    pulse: &AtomicU64,
) {
    let clock = Stopwatch::start();
    let mut rounds = checks.map(|checks| Rounds::new(checks, fleet.backends.clone()));
    let mut batch = Vec::new();
    for turn in 0.. {
        pulse.store(turn, Ordering::Relaxed);
        let now_ms = clock.elapsed_ms();
        fleet.advance(now_ms);
        if let Some(rounds) = &mut rounds {
            rounds.begin_due(now_ms);
        }
        fleet.publish();
        let checks_due = rounds.as_ref().and_then(Rounds::due_ms);
        let beat_ms = now_ms + limits::BEAT_MS;
        let due_ms = checks_due.into_iter().chain(fleet.due_ms()).min();
        let pause_ms = due_ms
            .map_or(beat_ms, |due_ms| due_ms.min(beat_ms))
            .saturating_sub(now_ms);
        tokio::select! {
            () = sleep(Duration::from_millis(pause_ms)) => {}
            // All that is there makes one snapshot. More may come as fast as it is taken: that is
            // for the next turn.
            1.. = reports.recv_many(&mut batch, limits::REPORTS_MAX) => {
                let now_ms = clock.elapsed_ms();
                for event in batch.drain(..) {
                    fleet.take(event, now_ms);
                }
            }
            event = result(&mut rounds) => {
                let (mut ended, now_ms) = (Some(event), clock.elapsed_ms());
                // Checks that began together end together.
                while let (Some(event), Some(rounds)) = (ended.take(), &mut rounds) {
                    let backend = event.backend;
                    fleet.take(event, now_ms);
                    rounds.schedule(backend, &fleet.health, now_ms);
                    ended = rounds.next_ended();
                }
            }
        }
    }
}

/// The result of the next check that ends.
async fn result(rounds: &mut Option<Rounds>) -> Event {
    match rounds {
        Some(rounds) => rounds.result().await,
        None => pending().await,
    }
}

/// The checks that are under way, and when the others are due.
struct Rounds {
    checks: Arc<Checks>,
    backends: Arc<[Backend]>,
    due: BinaryHeap<Reverse<(u64, BackendId)>>,
    under_way: JoinSet<Event>,
    /// Of which backend each check is.
    asked: HashMap<task::Id, BackendId>,
    /// Those that are checked earlier only because they have just gone down.
    gone_down: BTreeSet<BackendId>,
}

impl Rounds {
    /// The first round is spread over one interval.
    fn new(checks: Checks, backends: Arc<[Backend]>) -> Self {
        let interval_ms = checks.interval.as_millis() as u64;
        let count = backends.len() as u64;
        let first = |(place, backend): (u64, &Backend)| {
            let due_ms = place * interval_ms / count;
            Reverse((due_ms.next_multiple_of(limits::HEALTH_STEP_MS), backend.id))
        };
        let due = (0..).zip(backends.iter()).map(first).collect();
        Self {
            checks: Arc::new(checks),
            backends,
            due,
            under_way: JoinSet::new(),
            asked: HashMap::new(),
            gone_down: BTreeSet::new(),
        }
    }

    /// When the next check begins; `None` while as many are under way as may be.
    fn due_ms(&self) -> Option<u64> {
        let &Reverse((due_ms, _)) = self.due.peek()?;
        (self.under_way.len() < limits::HEALTH_CHECKS_MAX).then_some(due_ms)
    }

    fn begin_due(&mut self, now_ms: u64) {
        while self.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            let Some(Reverse((_, id))) = self.due.pop() else {
                return;
            };
            let (checks, backends) = (self.checks.clone(), self.backends.clone());
            let task = self.under_way.spawn(async move {
                let asking = checks.check.ask(&backends[id.index()], checks.timeout);
                let news = asking.await;
                Event { backend: id, news }
            });
            self.asked.insert(task.id(), id);
        }
    }

    async fn result(&mut self) -> Event {
        loop {
            let ended = self.under_way.join_next_with_id().await;
            match ended.and_then(|ended| self.news_of(ended)) {
                Some(event) => return event,
                None if self.under_way.is_empty() => pending().await,
                None => {}
            }
        }
    }

    /// The result of a check that has ended already, if there is one.
    fn next_ended(&mut self) -> Option<Event> {
        let ended = self.under_way.try_join_next_with_id()?;
        self.news_of(ended)
    }

    fn news_of(&mut self, ended: Result<(task::Id, Event), task::JoinError>) -> Option<Event> {
        match ended {
            Ok((task, event)) => {
                self.asked.remove(&task);
                Some(event)
            }
            Err(error) => {
                // A check that panicked is a bug, and not the backend's fault.
                tracing::error!("a check failed in itself: {error}");
                let backend = self.asked.remove(&error.id())?;
                let news = News::Unknown;
                Some(Event { backend, news })
            }
        }
    }

    /// Has a backend checked again after an interval, or much earlier where that matters.
    fn schedule(&mut self, backend: BackendId, health: &FleetHealth, now_ms: u64) {
        self.gone_down.remove(&backend);
        let soon = health.is_changing(backend)
            || health.has_just_gone_down(backend)
                && self.gone_down.len() < limits::HEALTH_FASTER_BACKENDS_MAX
                && self.gone_down.insert(backend);
        let interval_ms = self.checks.interval.as_millis() as u64;
        let pause_ms = if soon {
            interval_ms / limits::HEALTH_FASTER_TIMES
        } else {
            interval_ms
        };
        let jitter_ms = pause_ms * limits::HEALTH_JITTER_PERCENT / 100;
        let pause_ms = pause_ms - jitter_ms + fastrand::u64(0..=2 * jitter_ms);
        // In steps, so that a large fleet is checked in a few turns and not in thousands.
        let due_ms = (now_ms + pause_ms).next_multiple_of(limits::HEALTH_STEP_MS);
        self.due.push(Reverse((due_ms, backend)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendList;
    use crate::health::{CheckFailure, CheckRules, EjectRules};

    /// Looks at the pulse, and the time between two of them.
    const LOOKS: u64 = 1_000;
    const LOOK_MS: u64 = 20;

    fn fleet(list: &str) -> Fleet {
        let backends = list.parse::<BackendList>().unwrap().resolve().unwrap();
        let (check, eject) = (CheckRules::default(), EjectRules::default());
        let health = FleetHealth::new(backends.len(), check, eject);
        Fleet::new(&backends, health)
    }

    #[test]
    fn a_flood_of_reports_is_taken_in_turns() {
        const TURNS: usize = 3;
        const FLOOD: usize = TURNS * limits::REPORTS_MAX;
        let (line, reports) = mpsc::channel(FLOOD);
        let (backend, news) = (BackendId::new(0).unwrap(), News::Recovered);
        for _ in 0..FLOOD {
            let news = news.clone();
            line.try_send(Event { backend, news }).unwrap();
        }
        let pulse = AtomicU64::new(0);
        let all_taken = async {
            while line.capacity() < FLOOD {
                task::yield_now().await;
            }
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            tokio::select! {
                biased;
                () = steer(fleet("127.0.0.1:1"), None, reports, &pulse) => {}
                () = all_taken => {}
            }
        });
        assert_eq!(pulse.into_inner(), TURNS as u64);
    }

    #[test]
    fn a_crowd_that_goes_down_at_once_is_not_checked_faster_as_a_whole() {
        const COUNT: usize = 4 * limits::HEALTH_FASTER_BACKENDS_MAX;
        let list: Vec<_> = (1..=COUNT)
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let mut fleet = fleet(&list.join(","));
        let mut rounds = Rounds::new(Checks::default(), fleet.backends.clone());
        for round in 0..3 {
            rounds.due.clear();
            for index in 0..COUNT {
                let backend = BackendId::new(index).unwrap();
                let news = News::CheckFailed(CheckFailure::Timeout);
                fleet.take(Event { backend, news }, 0);
                rounds.schedule(backend, &fleet.health, 0);
            }
            let early = |due: &&Reverse<(u64, BackendId)>| due.0.0 < limits::HEALTH_INTERVAL_MS / 2;
            let early = rounds.due.iter().filter(early).count();
            assert_eq!(early, limits::HEALTH_FASTER_BACKENDS_MAX, "round {round}");
        }
    }

    #[test]
    fn the_pulse_goes_on_where_nothing_happens() {
        const NOT_BEGUN: u64 = u64::MAX;
        let (reports, reported) = mpsc::channel(1);
        let pulse = Arc::new(AtomicU64::new(NOT_BEGUN));
        let mut control =
            Control::prepare(fleet("127.0.0.1:9"), None, reported, pulse.clone()).unwrap();
        assert_eq!(pulse.load(Ordering::Relaxed), NOT_BEGUN);
        control.begin();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let moves = async {
            for _ in 0..LOOKS {
                if (2..NOT_BEGUN).contains(&pulse.load(Ordering::Relaxed)) {
                    return true;
                }
                sleep(Duration::from_millis(LOOK_MS)).await;
            }
            false
        };
        assert!(runtime.enable_time().build().unwrap().block_on(moves));
        drop((control, reports));
    }
}
