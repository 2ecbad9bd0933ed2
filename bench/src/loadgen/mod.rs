//! The load generator: drives HTTP/1.1 targets and measures what they do with it.
//!
//! Closed loop (each connection sends when it is answered) or open loop (a fixed rate, latency
//! from the intended moment of sending, so that a target which stalls cannot hide it). Not a
//! client: no cookies, no redirects, no TLS. Each thread has its own loop, connections and counts.

mod backends;
mod clock;
mod connection;
mod dial;
mod driver;
mod expect;
mod failure;
mod gauge;
mod ledger;
mod plan;
mod report;
mod response;
mod schedule;
mod tally;
#[cfg(test)]
mod testing;
mod watch;

use std::io;
use std::sync::Barrier;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clock::Clock;
use driver::{Driver, Shared};
use expect::Judge;
pub use expect::{Checksum, Expect};
pub use failure::Failure;
use gauge::Gauge;
pub use plan::{Pace, Plan, Request, Reuse, Target};
pub use report::{json, prepare, summary, write_files};
pub use tally::Tally;

/// How often a run says how far it is.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Time since the run began, the opening of connections included.
    pub elapsed: Duration,
    /// Good responses so far, without those of the warm-up.
    pub good: u64,
    /// Failures so far.
    pub failed: u64,
}

/// Carries `plan` out and returns what was counted; calls `watch` now and then meanwhile.
///
/// # Errors
/// What the machine does not give: descriptors for the polls, or polling itself. Failures of the
/// targets are no errors but counts.
pub fn run(plan: &Plan, mut watch: impl FnMut(Progress)) -> io::Result<Tally> {
    let clock = Clock::new();
    let judge = Judge::new(plan);
    let start = Barrier::new(plan.threads);
    let gauges: Vec<Gauge> = (0..plan.threads).map(|_| Gauge::default()).collect();
    let shared = Shared {
        plan,
        judge: &judge,
        start: &start,
    };
    // All are made before any runs: one that could not be made would leave the others waiting.
    let drivers = gauges.iter().enumerate();
    let drivers = drivers.map(|(thread, gauge)| Driver::new(&shared, gauge, thread));
    let drivers = drivers.collect::<io::Result<Vec<_>>>()?;

    thread::scope(|scope| {
        let (ended, ends) = mpsc::channel::<()>();
        let threads: Vec<_> = drivers
            .into_iter()
            .map(|driver| {
                let ended = ended.clone();
                scope.spawn(move || {
                    let _ended = ended;
                    driver.run()
                })
            })
            .collect();
        drop(ended);
        while ends.recv_timeout(WATCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let (good, failed) = gauges.iter().map(Gauge::read).fold((0, 0), add);
            let elapsed = Duration::from_nanos(clock.now());
            watch(Progress {
                elapsed,
                good,
                failed,
            });
        }
        let mut sum = Tally::new();
        for thread in threads {
            match thread.join() {
                Ok(tally) => sum.merge(&tally?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(sum)
    })
}

fn add(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}
