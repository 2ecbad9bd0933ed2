//! How far a thread is, for who watches it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Written by one driver once a turn, read by the progress bar. Alone on its cache lines.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct Gauge {
    good: AtomicU64,
    failed: AtomicU64,
}

impl Gauge {
    pub(super) fn set(&self, good: u64, failed: u64) {
        self.good.store(good, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
    }

    /// Good responses and failures so far.
    pub(super) fn read(&self) -> (u64, u64) {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        (read(&self.good), read(&self.failed))
    }
}
