//! When each backend is checked: times and results in, who is due out. It knows no clock and no
//! socket, and what is left to chance is thrown by the caller.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;

use crate::balance::BackendId;
use crate::health::FleetHealth;
use crate::limits;

/// The checks to come, and how many are under way.
pub(super) struct Schedule {
    interval_ms: u64,
    due: BinaryHeap<Reverse<(u64, BackendId)>>,
    under_way: usize,
    under_way_max: usize,
    /// Those that are checked earlier only because they have just gone down.
    gone_down: BTreeSet<BackendId>,
}

impl Schedule {
    /// A first round of checks, spread over one interval.
    pub(super) fn new(interval_ms: u64, backends: usize, under_way_max: usize) -> Self {
        let first = |index: usize| {
            let backend = BackendId::new(index).expect("a fleet has at most BACKENDS_MAX backends");
            let due_ms = index as u64 * interval_ms / backends as u64;
            Reverse((in_steps(due_ms), backend))
        };
        Self {
            interval_ms,
            due: (0..backends).map(first).collect(),
            under_way: 0,
            under_way_max,
            gone_down: BTreeSet::new(),
        }
    }

    /// When the next check begins; `None` while as many are under way as may be.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let &Reverse((due_ms, _)) = self.due.peek()?;
        (self.under_way < self.under_way_max).then_some(due_ms)
    }

    /// Whose check begins at `now_ms`; [`Schedule::ended`] is to be told of its end.
    pub(super) fn begin(&mut self, now_ms: u64) -> Option<BackendId> {
        if self.due_ms()? > now_ms {
            return None;
        }
        let Reverse((_, backend)) = self.due.pop()?;
        self.under_way += 1;
        Some(backend)
    }

    /// A check has ended: the next one of the same backend comes after an interval, or much earlier
    /// where that matters. `dice` throws a number of the range that it is given.
    pub(super) fn ended(
        &mut self,
        backend: BackendId,
        health: &FleetHealth,
        now_ms: u64,
        dice: impl FnOnce(RangeInclusive<u64>) -> u64,
    ) {
        self.under_way -= 1;
        let pause_ms = if self.is_soon(backend, health) {
            self.interval_ms / limits::HEALTH_FASTER_TIMES
        } else {
            self.interval_ms
        };
        let jitter_ms = pause_ms * limits::HEALTH_JITTER_PERCENT / 100;
        let pause_ms = dice(pause_ms - jitter_ms..=pause_ms + jitter_ms);
        self.due
            .push(Reverse((in_steps(now_ms + pause_ms), backend)));
    }

    fn is_soon(&mut self, backend: BackendId, health: &FleetHealth) -> bool {
        self.gone_down.remove(&backend);
        health.is_changing(backend)
            || health.has_just_gone_down(backend)
                && self.gone_down.len() < limits::HEALTH_FASTER_BACKENDS_MAX
                && self.gone_down.insert(backend)
    }
}

/// In steps, so that a large fleet is checked in a few turns and not in thousands.
fn in_steps(due_ms: u64) -> u64 {
    due_ms.next_multiple_of(limits::HEALTH_STEP_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{CheckFailure, CheckRules, EjectRules, Event, News};

    const INTERVAL_MS: u64 = limits::HEALTH_INTERVAL_MS;
    const FASTER_MS: u64 = INTERVAL_MS / limits::HEALTH_FASTER_TIMES;
    const SLOTS: usize = 1_000;

    fn id(index: usize) -> BackendId {
        BackendId::new(index).unwrap()
    }

    fn health(backends: usize) -> FleetHealth {
        FleetHealth::new(backends, CheckRules::default(), EjectRules::default())
    }

    fn news(passed: bool) -> News {
        if passed {
            News::CheckPassed
        } else {
            News::CheckFailed(CheckFailure::Timeout)
        }
    }

    /// Who begins when, over the first `until_ms`, where no check ends.
    fn begun(schedule: &mut Schedule, until_ms: u64) -> Vec<(u64, usize)> {
        let mut begun = Vec::new();
        while let Some(due_ms) = schedule.due_ms().filter(|&due_ms| due_ms <= until_ms) {
            let backend = schedule.begin(due_ms).unwrap();
            begun.push((due_ms, backend.index()));
        }
        begun
    }

    #[test]
    fn the_first_round_is_spread_over_one_interval() {
        let table: [(usize, &[(u64, usize)]); 4] = [
            (1, &[(0, 0)]),
            (3, &[(0, 0), (700, 1), (1_400, 2)]),
            (4, &[(0, 0), (500, 1), (1_000, 2), (1_500, 3)]),
            (5, &[(0, 0), (400, 1), (800, 2), (1_200, 3), (1_600, 4)]),
        ];
        for (backends, expected) in table {
            let mut schedule = Schedule::new(INTERVAL_MS, backends, SLOTS);
            assert_eq!(begun(&mut schedule, u64::MAX), expected);
        }
        let mut schedule = Schedule::new(INTERVAL_MS, SLOTS, SLOTS);
        for step in 0..=INTERVAL_MS / limits::HEALTH_STEP_MS {
            let now = begun(&mut schedule, step * limits::HEALTH_STEP_MS).len() as u64;
            let share = SLOTS as u64 * limits::HEALTH_STEP_MS / INTERVAL_MS;
            assert!(now <= share, "{now} in step {step}");
        }
        assert_eq!(schedule.under_way, SLOTS);
    }

    #[test]
    fn nobody_begins_before_it_is_due() {
        let mut schedule = Schedule::new(INTERVAL_MS, 2, SLOTS);
        assert_eq!(schedule.begin(0), Some(id(0)));
        assert_eq!(schedule.begin(INTERVAL_MS / 2 - 1), None);
        assert_eq!(schedule.begin(INTERVAL_MS / 2), Some(id(1)));
        assert_eq!((schedule.due_ms(), schedule.begin(u64::MAX)), (None, None));
    }

    /// Results of the checks of one backend from the start, and when the next one is due after
    /// the last of them, with the dice at its lowest and at its highest.
    #[test]
    fn a_backend_whose_state_is_changing_is_checked_earlier() {
        let confirmed = [false; limits::HEALTH_FASTER_CHECKS as usize];
        let long_down = [&[false][..], &confirmed].concat();
        let coming_back = [&long_down[..], &[true]].concat();
        let table: [(&str, &[bool], [u64; 2]); 8] = [
            ("up", &[true], [1_800, 2_200]),
            ("failed once", &[true, false], [500, 600]),
            ("failed twice", &[true, false, false], [500, 600]),
            ("well again", &[true, false, true], [1_800, 2_200]),
            ("down from the start", &[false], [500, 600]),
            ("just gone down", &[true, false, false, false], [500, 600]),
            ("down for long", &long_down, [1_800, 2_200]),
            ("coming back", &coming_back, [500, 600]),
        ];
        for (name, results, expected) in table {
            let lowest = due_after(results, |range| *range.start());
            let highest = due_after(results, |range| *range.end());
            assert_eq!([lowest, highest], expected, "{name}");
        }
    }

    fn due_after(results: &[bool], dice: fn(RangeInclusive<u64>) -> u64) -> u64 {
        let mut health = health(2);
        let mut schedule = Schedule::new(INTERVAL_MS, 1, SLOTS);
        for &passed in results {
            let (backend, news) = (schedule.begin(u64::MAX).unwrap(), news(passed));
            health.take(Event { backend, news }, 0);
            schedule.ended(backend, &health, 0, dice);
        }
        schedule.due_ms().unwrap()
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let (mut schedule, health) = (Schedule::new(INTERVAL_MS, 10, 4), health(10));
        assert_eq!(begun(&mut schedule, u64::MAX).len(), 4);
        assert_eq!(schedule.begin(u64::MAX), None);
        schedule.ended(id(0), &health, INTERVAL_MS, |range| *range.end());
        assert_eq!(
            schedule.begin(INTERVAL_MS),
            Some(id(4)),
            "who waits goes first"
        );
        assert_eq!(schedule.begin(INTERVAL_MS), None);
    }

    #[test]
    fn where_all_may_be_under_way_nobody_waits_for_those_who_do_not_answer() {
        let longest_ms = INTERVAL_MS * (100 + limits::HEALTH_JITTER_PERCENT) / 100;
        let longest_ms = longest_ms + limits::HEALTH_STEP_MS;
        assert_eq!(gap_ms_max(900, 1_000, 1_000), longest_ms);
        // This is what becomes of it where most have to wait.
        assert!(gap_ms_max(900, 1_000, limits::HEALTH_CHECKS_MIN) > 5 * longest_ms);
    }

    /// Longest time between two checks of one who answers at once, where so many never do.
    fn gap_ms_max(silent: usize, backends: usize, under_way_max: usize) -> u64 {
        let mut schedule = Schedule::new(INTERVAL_MS, backends, under_way_max);
        let (mut health, mut ends) = (health(backends), BinaryHeap::new());
        let (mut last_ms, mut gap_ms, mut now_ms) = (vec![0; backends], 0, 0);
        while now_ms < 50 * INTERVAL_MS {
            while let Some(backend) = schedule.begin(now_ms) {
                let answers = backend.index() >= silent;
                let took_ms = if answers {
                    1
                } else {
                    limits::HEALTH_TIMEOUT_MS
                };
                ends.push(Reverse((now_ms + took_ms, backend)));
                if answers {
                    let before_ms = std::mem::replace(&mut last_ms[backend.index()], now_ms);
                    gap_ms = gap_ms.max(now_ms - before_ms);
                }
            }
            let next_end = ends.peek().map(|&Reverse((end_ms, _))| end_ms);
            now_ms = next_end.into_iter().chain(schedule.due_ms()).min().unwrap();
            while let Some(&Reverse((end_ms, backend))) = ends.peek()
                && end_ms <= now_ms
            {
                ends.pop();
                let news = news(backend.index() >= silent);
                health.take(Event { backend, news }, now_ms);
                schedule.ended(backend, &health, now_ms, |range| *range.end());
            }
        }
        gap_ms
    }

    #[test]
    fn a_crowd_that_goes_down_at_once_is_not_checked_faster_as_a_whole() {
        const COUNT: usize = 4 * limits::HEALTH_FASTER_BACKENDS_MAX;
        let (mut schedule, mut health) = (Schedule::new(INTERVAL_MS, COUNT, COUNT), health(COUNT));
        for round in 0..3 {
            assert_eq!(begun(&mut schedule, u64::MAX).len(), COUNT);
            for backend in (0..COUNT).map(id) {
                let news = news(false);
                health.take(Event { backend, news }, 0);
                schedule.ended(backend, &health, 0, |range| *range.start());
            }
            let early = |due: &&Reverse<(u64, BackendId)>| due.0.0 <= FASTER_MS;
            let early = schedule.due.iter().filter(early).count();
            assert_eq!(early, limits::HEALTH_FASTER_BACKENDS_MAX, "round {round}");
        }
    }
}
