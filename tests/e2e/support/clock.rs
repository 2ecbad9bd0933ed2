//! Waiting in real time: for a condition, with a deadline, and never longer than needed.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test calls it lost. Generous, because a loaded machine is
/// slow and a passing test never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[expect(
    clippy::disallowed_methods,
    reason = "the binary under test runs in real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time pass where time itself is what is tested: a trickle, a stall.
#[expect(
    clippy::disallowed_methods,
    reason = "a peer that is slow on purpose has to be slow"
)]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// Returns once `condition` holds; fails the test after [`PATIENCE`], naming `what`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(PATIENCE, what, || condition().then_some(()));
}

/// The first value that `look` returns; fails the test after `patience`, naming `what`.
#[track_caller]
pub(crate) fn wait_for<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < deadline, "waited {patience:?} for {what}");
        pause(LOOK_AGAIN);
    }
}
