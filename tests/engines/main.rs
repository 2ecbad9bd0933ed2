//! The engines and the balancer as a library: what cannot be asked of the binary.
//!
//! Descriptors are counted in this process, so the tests take turns.
#![expect(
    clippy::unwrap_used,
    reason = "a test has nothing better to do with an error"
)]

mod operations;
mod pressure;
mod server;
mod splice;
mod start;
mod tcp;

use std::env;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastlb::io::{self, BufferOptions, Epoll, Io, Stopwatch};

/// How long anything may take that should take no time.
const PATIENCE_MS: u64 = 20_000;

/// Waits until nobody else's descriptors are open.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has poisoned it, which is its own affair.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` by itself and demands that as many descriptors are open behind it as before it.
fn leaves_nothing_open(test: impl FnOnce()) {
    let _alone = alone();
    // The first runtime of a process opens what all later ones share.
    Epoll::run(BufferOptions::default(), async |_| ()).unwrap();
    let before = descriptors();
    test();
    eventually("the descriptors to be closed", || descriptors() <= before);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let clock = Stopwatch::start();
    while !happens() {
        assert!(
            clock.elapsed_ms() < PATIENCE_MS,
            "waited in vain for {what}"
        );
        pause(5);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at what another thread or the kernel does"
)]
fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Whether tests of the ring can run here; says so where they cannot.
fn uring_runs_here() -> bool {
    let refusal = io::probe().err();
    if let Some(refusal) = &refusal {
        let required = env::var("FASTLB_REQUIRE_URING").is_ok_and(|value| value == "1");
        assert!(!required, "io_uring is required here: {refusal}");
        eprintln!("SKIPPED: io_uring cannot be used here: {refusal}");
    }
    refusal.is_none()
}

/// Makes one test per engine of each function: generic over the engine's type, or called with the
/// choice of it.
macro_rules! on_both_engines {
    (types: $($test:ident),* $(,)?) => {
        on_both_engines!(@ $($test, [::<fastlb::io::Uring>()], [::<fastlb::io::Epoll>()]);*);
    };
    (choices: $($test:ident),* $(,)?) => {
        on_both_engines!(@ $($test, [(fastlb::io::EngineChoice::IoUring)],
            [(fastlb::io::EngineChoice::Epoll)]);*);
    };
    (@ $($test:ident, [$($uring:tt)*], [$($epoll:tt)*]);*) => {
        mod io_uring {
            $(#[test]
            fn $test() {
                if crate::uring_runs_here() {
                    super::$test $($uring)*;
                }
            })*
        }
        mod epoll {
            $(#[test]
            fn $test() {
                super::$test $($epoll)*;
            })*
        }
    };
}
use on_both_engines;
