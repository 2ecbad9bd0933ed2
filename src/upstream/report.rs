//! What a worker tells the control thread: each failure, and the first success after one.

use std::cell::Cell;

use tokio::sync::mpsc;

use crate::balance::BackendId;
use crate::health::{Event, Fault, News};
use crate::stats::Counter;

/// A worker's line to the control thread.
pub(crate) struct Reports {
    line: mpsc::Sender<Event>,
    /// Whether the last request to a backend failed, by backend.
    failing: Box<[Cell<bool>]>,
}

impl Reports {
    pub(super) fn new(line: mpsc::Sender<Event>, backends: usize) -> Self {
        Self {
            line,
            failing: (0..backends).map(|_| Cell::new(false)).collect(),
        }
    }

    /// A request failed by the backend's fault.
    pub(super) fn fault(&self, backend: BackendId, fault: Fault, lost: &Counter) {
        self.failing[backend.index()].set(true);
        self.send(backend, News::Fault(fault), lost);
    }

    /// A request went well.
    pub(super) fn well(&self, backend: BackendId, lost: &Counter) {
        let failing = &self.failing[backend.index()];
        if failing.get() && self.send(backend, News::Recovered, lost) {
            failing.set(false);
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
