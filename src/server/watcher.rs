//! The thread that watches over the workers, and ends a process in which one hangs: it holds
//! connections that nobody else can serve, and whoever started the process can start it again.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tracing::error;

use super::{Error, setup};
use crate::limits;

/// The pulse of a worker that does not run: not yet, or no longer.
pub(super) const NOT_RUNNING: u64 = u64::MAX;

/// Watches over the workers whose `pulses` these are, from when each begins to run, until what it
/// returns is dropped.
pub(super) fn start(pulses: Vec<Arc<AtomicU64>>) -> Result<mpsc::Sender<()>, Error> {
    let (watching, stop) = mpsc::channel::<()>();
    let beat = Duration::from_millis(limits::BEAT_MS);
    let body = move || {
        let mut beats = vec![Beats::default(); pulses.len()];
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
        }
    };
    let thread = thread::Builder::new().name("watcher".to_owned());
    thread
        .spawn(body)
        .map_err(setup("starting the watcher thread"))?;
    Ok(watching)
}

/// The beats in which a worker's engine has completed nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Beats {
    pulse: u64,
    missed: u32,
}

impl Beats {
    /// Takes in the pulse of this beat; whether too many were missed.
    fn are_missed(&mut self, pulse: u64) -> bool {
        if pulse == self.pulse && pulse != NOT_RUNNING {
            self.missed += 1;
        } else {
            *self = Self { pulse, missed: 0 };
        }
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
}
