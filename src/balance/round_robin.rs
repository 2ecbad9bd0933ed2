//! Round robin, weighted by the slots of the snapshot.
//!
//! One cursor serves all workers and outlives snapshots, so shares are exact over the process and
//! not only within one worker.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::{Ask, BackendId, Balancer, Snapshot};

/// Takes the slots of the snapshot in turn.
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// Padded, because every worker writes it and whatever shared its cache line would suffer.
    cursor: CachePadded<AtomicUsize>,
}

impl Balancer for RoundRobin {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        let slots = fleet.slots();
        // Relaxed: the cursor orders nothing but itself. It wraps at the end of its type, where
        // one period may be cut short, once in 2^64 picks.
        let turn = self
            .cursor
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(slots.len())?;
        let picked = slots[turn];
        if !ask.tried.contains(&picked) {
            return Some(picked);
        }
        next_untried(slots, turn, ask.tried)
    }
}

/// The first backend after `turn` that was not tried. As each try has a turn of its own, what a
/// dead backend leaves over goes to all others, not to its neighbour alone.
fn next_untried(slots: &[BackendId], turn: usize, tried: &[BackendId]) -> Option<BackendId> {
    let (before, after) = slots.split_at(turn);
    after
        .iter()
        .chain(before)
        .find(|id| !tried.contains(id))
        .copied()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::snapshot::tests::fleet;
    use crate::health::Health;

    fn snapshot(weights: &[u16]) -> Snapshot {
        Snapshot::new(fleet(weights), |_| Health::Up)
    }

    fn picks(balancer: &RoundRobin, snapshot: &Snapshot, count: usize) -> Vec<usize> {
        let pick = |_| balancer.pick(snapshot, &Ask::default()).unwrap().index();
        (0..count).map(pick).collect()
    }

    fn shares(picks: &[usize], backends: usize) -> Vec<usize> {
        (0..backends)
            .map(|id| picks.iter().filter(|&&pick| pick == id).count())
            .collect()
    }

    fn starting_at(cursor: usize) -> RoundRobin {
        RoundRobin {
            cursor: CachePadded::new(AtomicUsize::new(cursor)),
        }
    }

    #[test]
    fn each_backend_in_turn() {
        let balancer = RoundRobin::default();
        assert_eq!(
            picks(&balancer, &snapshot(&[1, 1, 1]), 7),
            [0, 1, 2, 0, 1, 2, 0]
        );
    }

    #[test]
    fn a_weight_of_five_comes_up_five_times() {
        let balancer = RoundRobin::default();
        assert_eq!(
            picks(&balancer, &snapshot(&[5, 1, 1]), 7),
            [0, 0, 1, 0, 2, 0, 0]
        );
    }

    #[test]
    fn the_cursor_outlives_a_snapshot() {
        let balancer = RoundRobin::default();
        assert_eq!(picks(&balancer, &snapshot(&[1, 1, 1]), 1), [0]);
        assert_eq!(picks(&balancer, &snapshot(&[1, 1]), 2), [1, 0]);
    }

    #[test]
    fn what_was_tried_is_passed_over_without_moving_the_cursor() {
        let (balancer, snapshot) = (RoundRobin::default(), snapshot(&[1, 1, 1]));
        let ids: Vec<BackendId> = snapshot.slots().to_vec();
        let again = |tried: &[BackendId]| {
            balancer
                .pick(
                    &snapshot,
                    &Ask {
                        tried,
                        ..Ask::default()
                    },
                )
                .map(BackendId::index)
        };
        assert_eq!(again(&ids[..2]), Some(2));
        assert_eq!(again(&ids[1..]), Some(0));
        assert_eq!(again(&ids), None);
        // Three picks moved the cursor by three, whatever they passed over.
        assert_eq!(again(&[]), Some(0));
    }

    #[test]
    fn the_search_for_an_untried_backend_goes_round_the_end() {
        let (balancer, snapshot) = (starting_at(2), snapshot(&[1, 1, 1]));
        let tried = [snapshot.slots()[2]];
        let ask = Ask {
            tried: &tried,
            ..Ask::default()
        };
        assert_eq!(
            balancer.pick(&snapshot, &ask).map(BackendId::index),
            Some(0)
        );
    }

    #[test]
    fn an_empty_fleet_has_no_backend() {
        assert_eq!(
            RoundRobin::default().pick(&snapshot(&[]), &Ask::default()),
            None
        );
    }

    #[test]
    fn the_cursor_wraps_round() {
        let balancer = starting_at(usize::MAX - 1);
        assert_eq!(picks(&balancer, &snapshot(&[1, 1]), 4), [0, 1, 0, 1]);
    }

    #[test]
    fn shares_are_exact_over_all_threads() {
        const THREADS: usize = 8;
        const PICKS: usize = 7_000;
        let (balancer, snapshot) = (RoundRobin::default(), snapshot(&[5, 1, 1]));
        let picked: Vec<usize> = thread::scope(|scope| {
            let picker = |_| scope.spawn(|| picks(&balancer, &snapshot, PICKS));
            let threads: Vec<_> = (0..THREADS).map(picker).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let period = THREADS * PICKS / 7;
        assert_eq!(shares(&picked, 3), [5 * period, period, period]);
    }

    proptest! {
        #[test]
        fn a_whole_period_gives_each_its_weight(
            weights in prop::collection::vec(1_u16..=256, 1..20),
            start in any::<u32>(),
        ) {
            let (balancer, snapshot) = (starting_at(start as usize), snapshot(&weights));
            let picked = picks(&balancer, &snapshot, snapshot.slots().len());
            let sum: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            let divisor = sum / picked.len();
            for (share, weight) in shares(&picked, weights.len()).into_iter().zip(weights) {
                prop_assert_eq!(share * divisor, usize::from(weight));
            }
        }
    }
}
