//! A gate between threads: an origin waits before it until the test opens it.

use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// Closed at first. Clones are the same gate.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through, now and from now on.
    pub(crate) fn open(&self) {
        let (open, changed) = &*self.0;
        *open.lock().expect("no holder of the gate panics") = true;
        changed.notify_all();
    }

    /// Returns once the gate is open. Gives up like everything else, so that a failed test, which
    /// never opens it, does not hang.
    pub(crate) fn pass(&self) {
        let (open, changed) = &*self.0;
        let guard = open.lock().expect("no holder of the gate panics");
        let waited = changed.wait_timeout_while(guard, PATIENCE, |open| !*open);
        drop(waited.expect("no holder of the gate panics"));
    }
}
