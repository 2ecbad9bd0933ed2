//! What the workers tell the control thread: each failure, and the first success after one,
//! whichever worker saw the one and the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::CachePadded;
use tokio::sync::mpsc;

use crate::balance::BackendId;
use crate::health::{Event, Fault, News};
use crate::stats::Counter;

/// The line to the control thread, of which every worker has a clone.
#[derive(Clone)]
pub(crate) struct Reports {
    line: mpsc::Sender<Event>,
    /// Whether the last request to a backend failed, by backend. Written only where that changes,
    /// so that all workers can read it at no cost while all is well.
    failing: Arc<[CachePadded<AtomicBool>]>,
}

impl Reports {
    /// A line about so many backends.
    pub(crate) fn new(line: mpsc::Sender<Event>, backends: usize) -> Self {
        Self {
            line,
            failing: (0..backends).map(|_| CachePadded::default()).collect(),
        }
    }

    /// A request failed by the backend's fault.
    pub(super) fn fault(&self, backend: BackendId, fault: Fault, lost: &Counter) {
        let failing = &self.failing[backend.index()];
        // Relaxed, here and below: the flag orders nothing but itself.
        if !failing.load(Ordering::Relaxed) {
            failing.store(true, Ordering::Relaxed);
        }
        self.send(backend, News::Fault(fault), lost);
    }

    /// A request went well.
    pub(super) fn well(&self, backend: BackendId, lost: &Counter) {
        let failing = &self.failing[backend.index()];
        if failing.load(Ordering::Relaxed)
            && failing.swap(false, Ordering::Relaxed)
            && !self.send(backend, News::Recovered, lost)
        {
            failing.store(true, Ordering::Relaxed);
        }
    }

    /// Never waits: what the control thread has no room for is counted, and lost.
    fn send(&self, backend: BackendId, news: News, lost: &Counter) -> bool {
        let sent = self.line.try_send(Event { backend, news }).is_ok();
        lost.add(u64::from(!sent));
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_success_after_a_failure_is_told() {
        let (line, mut heard) = mpsc::channel(10);
        let (reports, lost) = (Reports::new(line, 2), Counter::default());
        let [first, second] = [0, 1].map(|index| BackendId::new(index).unwrap());
        reports.well(first, &lost);
        reports.fault(first, Fault::Broken, &lost);
        reports.well(second, &lost);
        reports.well(first, &lost);
        reports.well(first, &lost);
        let event = |news| Event {
            backend: first,
            news,
        };
        assert_eq!(heard.try_recv(), Ok(event(News::Fault(Fault::Broken))));
        assert_eq!(heard.try_recv(), Ok(event(News::Recovered)));
        assert!(heard.try_recv().is_err());
        assert_eq!(lost.read(), 0);
    }

    #[test]
    fn a_success_counts_whichever_worker_saw_the_failure() {
        let (line, mut heard) = mpsc::channel(10);
        let (reports, lost) = (Reports::new(line, 1), Counter::default());
        let (here, there) = (reports.clone(), reports);
        let backend = BackendId::new(0).unwrap();
        here.fault(backend, Fault::Connect, &lost);
        there.well(backend, &lost);
        here.well(backend, &lost);
        let mut news = || heard.try_recv().map(|event| event.news);
        assert_eq!(news(), Ok(News::Fault(Fault::Connect)));
        assert_eq!(news(), Ok(News::Recovered));
        assert!(news().is_err());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (line, heard) = mpsc::channel(1);
        let (reports, lost) = (Reports::new(line, 1), Counter::default());
        let backend = BackendId::new(0).unwrap();
        for _ in 0..3 {
            reports.fault(backend, Fault::Connect, &lost);
        }
        assert_eq!(lost.read(), 2);
        drop(heard);
        reports.well(backend, &lost);
        assert_eq!(lost.read(), 3);
    }
}
