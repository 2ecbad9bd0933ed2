//! The control thread: events go in, new snapshots come out.
//!
//! It has a runtime of its own, on which the backends are checked, and never runs on a worker.

use std::collections::HashMap;
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
use super::schedule::Schedule;
use crate::balance::{Backend, BackendId};
use crate::health::active::Check;
use crate::health::{Event, News};
use crate::io::Stopwatch;
use crate::limits;
use crate::proxy_protocol::Version;

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
    /// backends where there are `checks`, at most `checks_max` at once and each introduced as
    /// `send_proxy` says, and takes in what the workers report in any case. The `pulse` changes
    /// once a beat, or more often, from then on.
    ///
    /// # Errors
    /// Where the thread or its runtime cannot be had.
    pub fn prepare(
        fleet: Fleet,
        checks: Option<Checks>,
        checks_max: usize,
        send_proxy: Option<Version>,
        reports: mpsc::Receiver<Event>,
        pulse: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (begin, begun) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let backends = fleet.backends.clone();
        let rounds = checks.map(|checks| Rounds::new(checks, send_proxy, backends, checks_max));
        let steering = async move {
            if begun.await.is_ok() {
                steer(fleet, rounds, reports, &pulse).await;
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
    mut rounds: Option<Rounds>,
    mut reports: mpsc::Receiver<Event>,
    pulse: &AtomicU64,
) {
    let clock = Stopwatch::start();
    let mut batch = Vec::new();
    for turn in 0.. {
        pulse.store(turn, Ordering::Relaxed);
        let now_ms = clock.elapsed_ms();
        fleet.advance(now_ms);
        if let Some(rounds) = &mut rounds {
            rounds.begin_due(now_ms);
        }
        fleet.publish();
        let checks_due = rounds.as_ref().and_then(|rounds| rounds.schedule.due_ms());
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
                    let health = &fleet.health;
                    rounds.schedule.ended(backend, health, now_ms, fastrand::u64);
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

/// The checks that are under way, and the schedule of the others.
struct Rounds {
    checks: Arc<Checks>,
    send_proxy: Option<Version>,
    backends: Arc<[Backend]>,
    schedule: Schedule,
    under_way: JoinSet<News>,
    /// Of which backend each check is.
    asked: HashMap<task::Id, BackendId>,
}

impl Rounds {
    fn new(
        checks: Checks,
        send_proxy: Option<Version>,
        backends: Arc<[Backend]>,
        under_way_max: usize,
    ) -> Self {
        let interval_ms = checks.interval.as_millis() as u64;
        Self {
            checks: Arc::new(checks),
            send_proxy,
            schedule: Schedule::new(interval_ms, backends.len(), under_way_max),
            backends,
            under_way: JoinSet::new(),
            asked: HashMap::new(),
        }
    }

    fn begin_due(&mut self, now_ms: u64) {
        while let Some(backend) = self.schedule.begin(now_ms) {
            let (checks, backends) = (self.checks.clone(), self.backends.clone());
            let send_proxy = self.send_proxy;
            self.begin(backend, async move {
                let backend = &backends[backend.index()];
                let asking = checks.check.ask(backend, checks.timeout, send_proxy);
                asking.await
            });
        }
    }

    fn begin(&mut self, backend: BackendId, asking: impl Future<Output = News> + Send + 'static) {
        let task = self.under_way.spawn(asking);
        self.asked.insert(task.id(), backend);
    }

    /// The result of the next check that ends.
    async fn result(&mut self) -> Event {
        loop {
            let ended = self.under_way.join_next_with_id().await;
            match ended.and_then(|ended| self.event(ended)) {
                Some(event) => return event,
                None if self.under_way.is_empty() => pending().await,
                None => {}
            }
        }
    }

    /// The result of a check that has ended already, if there is one.
    fn next_ended(&mut self) -> Option<Event> {
        let ended = self.under_way.try_join_next_with_id()?;
        self.event(ended)
    }

    fn event(&mut self, ended: Result<(task::Id, News), task::JoinError>) -> Option<Event> {
        let (task, news) = ended.unwrap_or_else(|error| {
            // A check that panicked is a bug, and not the backend's fault.
            tracing::error!("a check failed in itself: {error}");
            (error.id(), News::Unknown)
        });
        let backend = self.asked.remove(&task)?;
        Some(Event { backend, news })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::fleet;
    use crate::health::Health;

    /// Looks at the pulse, and the time between two of them.
    const LOOKS: u64 = 1_000;
    const LOOK_MS: u64 = 20;

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

    /// Says so on standard error.
    #[test]
    fn a_check_that_panics_tells_nothing_and_comes_again() {
        let mut fleet = fleet("127.0.0.1:1");
        let mut rounds = Rounds::new(Checks::default(), None, fleet.backends.clone(), 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let backend = rounds.schedule.begin(0).unwrap();
        let event = runtime.block_on(async {
            rounds.begin(backend, async { panic!("on purpose") });
            rounds.result().await
        });
        let news = News::Unknown;
        assert_eq!(event, Event { backend, news });
        fleet.take(event, 0);
        assert_eq!(fleet.health.health(backend), Health::Up);
        assert_eq!(rounds.schedule.due_ms(), None);
        rounds
            .schedule
            .ended(backend, &fleet.health, 0, fastrand::u64);
        assert!(rounds.schedule.due_ms().is_some());
    }

    #[test]
    fn the_pulse_goes_on_where_nothing_happens() {
        const NOT_BEGUN: u64 = u64::MAX;
        let (reports, reported) = mpsc::channel(1);
        let pulse = Arc::new(AtomicU64::new(NOT_BEGUN));
        let mut control =
            Control::prepare(fleet("127.0.0.1:9"), None, 0, None, reported, pulse.clone()).unwrap();
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
