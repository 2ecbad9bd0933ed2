//! The least rate that a client must have while it is waited for: who sends or takes a byte now and
//! then is never idle, and would hold a connection and a backend for as long as he likes.
//!
//! Only time that was spent on waiting for him counts, so that neither a slow backend nor a pause
//! between two pieces of a response is held against him.

use std::cell::Cell;
use std::time::Duration;

/// So many bytes a second, on average over such a time of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes in each second.
    pub bytes_per_s: u64,
    /// How long somebody may be slower; the judgement comes behind each.
    pub window: Duration,
}

/// What somebody moved while he was waited for, since the last judgement.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: Cell<u64>,
    waited_ms: Cell<u64>,
}

impl Meter {
    /// Notes that so many bytes moved in such a time; `false` where that is too slow.
    pub(super) fn note(&self, bytes: u64, waited_ms: u64, least: MinRate) -> bool {
        let bytes = self.bytes.get().saturating_add(bytes);
        let waited_ms = self.waited_ms.get() + waited_ms;
        let is_over = waited_ms >= least.window.as_millis() as u64;
        let is_slow = bytes.saturating_mul(1_000) < least.bytes_per_s.saturating_mul(waited_ms);
        let (left, left_ms) = if is_over { (0, 0) } else { (bytes, waited_ms) };
        self.bytes.set(left);
        self.waited_ms.set(left_ms);
        !(is_over && is_slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: MinRate = MinRate {
        bytes_per_s: 100,
        window: Duration::from_secs(10),
    };

    /// How many such pieces somebody gets through who never stops, of 1 000.
    fn pieces(bytes: u64, each_ms: u64) -> usize {
        let meter = Meter::default();
        (0..1_000)
            .take_while(|_| meter.note(bytes, each_ms, LEAST))
            .count()
    }

    #[test]
    fn who_is_slower_is_found_behind_the_first_window() {
        assert_eq!(pieces(1, 1_000), 9);
        assert_eq!(pieces(99, 1_000), 9);
        assert_eq!(pieces(100, 1_000), 1_000);
        assert_eq!(pieces(1, 10), 1_000);
        assert_eq!(pieces(0, 0), 1_000, "nobody waited for him");
    }

    #[test]
    fn what_came_at_once_counts_for_one_window_only() {
        let meter = Meter::default();
        assert!(meter.note(1 << 30, 0, LEAST));
        let trickle = (0..100).take_while(|_| meter.note(1, 1_000, LEAST));
        assert_eq!(trickle.count(), 19);
    }

    #[test]
    fn a_pause_within_the_window_may_be_made_up_for() {
        let meter = Meter::default();
        assert!(meter.note(1, 9_900, LEAST));
        assert!(meter.note(1_100, 100, LEAST));
        assert!(meter.note(1, 9_900, LEAST));
        assert!(!meter.note(1, 100, LEAST));
    }

    #[test]
    fn no_number_is_too_large() {
        let meter = Meter::default();
        assert!(meter.note(u64::MAX, 1, LEAST));
        assert!(meter.note(u64::MAX, 20_000, LEAST));
    }
}
