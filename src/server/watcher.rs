//! The thread that watches over the others. It ends a process in which a worker hangs: that holds
//! connections that nobody else can serve, and whoever started the process can start it again.
//!
//! Where the control thread hangs, or has panicked, the traffic is well and goes on: only the log
//! says that nobody judges the backends any more.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tracing::{error, info};

use super::{Error, setup};
use crate::limits;

/// The pulse of a thread that does not run: not yet, or no longer.
pub(super) const NOT_RUNNING: u64 = u64::MAX;

/// Watches over the workers whose `pulses` these are, and over the control thread, which is
/// `judging`, from when each begins to run, until what it returns is dropped.
pub(super) fn start(
    pulses: Vec<Arc<AtomicU64>>,
    judging: Arc<AtomicU64>,
) -> Result<mpsc::Sender<()>, Error> {
    let (watching, stop) = mpsc::channel::<()>();
    let beat = Duration::from_millis(limits::BEAT_MS);
    let body = move || {
        let mut beats = vec![Beats::default(); pulses.len()];
        let mut judge = Beats::default();
        // Beats are counted, not time: a machine that is paused pauses them too.
        while stop.recv_timeout(beat) == Err(mpsc::RecvTimeoutError::Timeout) {
            for (index, (pulse, beats)) in pulses.iter().zip(&mut beats).enumerate() {
                if beats.are_missed(pulse.load(Ordering::Relaxed)) {
                    error!(
                        "worker {index} has been stuck for {} seconds; giving up",
                        beats.missed
                    );
                    process::exit(1);
                }
            }
            match judge.turn(judging.load(Ordering::Relaxed)) {
                Some(Turn::Stuck) => error!(
                    "the control thread has been stuck for {} seconds: the health of the backends \
                     is not judged any more, and traffic goes by what was known last",
                    judge.missed
                ),
                Some(Turn::Back) => info!("the control thread judges the backends again"),
                None => {}
            }
        }
    };
    let thread = thread::Builder::new().name("watcher".to_owned());
    thread
        .spawn(body)
        .map_err(setup("starting the watcher thread"))?;
    Ok(watching)
}

/// What has come of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has missed too many beats.
    Stuck,
    /// It goes on.
    Back,
}

/// The beats in which a thread, or a worker's engine, has completed nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Beats {
    pulse: u64,
    missed: u32,
}

impl Beats {
    /// Takes in the pulse of this beat; whether too many were missed.
    fn are_missed(&mut self, pulse: u64) -> bool {
        if pulse == self.pulse && pulse != NOT_RUNNING {
            self.missed = self.missed.saturating_add(1);
        } else {
            *self = Self { pulse, missed: 0 };
        }
        self.is_stuck()
    }

    /// Takes in the pulse of this beat, and tells what is news of it.
    fn turn(&mut self, pulse: u64) -> Option<Turn> {
        let was_stuck = self.is_stuck();
        match (was_stuck, self.are_missed(pulse)) {
            (false, true) => Some(Turn::Stuck),
            (true, false) => Some(Turn::Back),
            _ => None,
        }
    }

    fn is_stuck(self) -> bool {
        self.missed >= limits::BEATS_MISSED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_beats_in_a_row_count_and_only_while_it_runs() {
        let mut beats = Beats::default();
        for pulse in [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3] {
            assert!(!beats.are_missed(pulse), "pulse {pulse}");
        }
        for _ in 1..limits::BEATS_MISSED_MAX {
            assert!(!beats.are_missed(3));
        }
        assert!(beats.are_missed(3));
        let mut ended = Beats::default();
        assert!((0..100).all(|_| !ended.are_missed(NOT_RUNNING)));
    }

    #[test]
    fn being_stuck_is_news_once_and_so_is_the_way_back() {
        let mut beats = Beats::default();
        let mut news = |pulses: &[u64]| -> Vec<Turn> {
            let turns = pulses.iter().map(|&pulse| beats.turn(pulse));
            turns.flatten().collect()
        };
        assert_eq!(news(&[NOT_RUNNING; 100]), []);
        assert_eq!(news(&[0, 1, 1, 1, 1, 1]), []);
        assert_eq!(news(&[1]), [Turn::Stuck]);
        assert_eq!(news(&[1; 100]), []);
        assert_eq!(news(&[2, 3]), [Turn::Back]);
        assert_eq!(news(&[3; 5]), [Turn::Stuck]);
    }
}
