//! What a pick costs and how fair it is: ours beside the three designs that balancers of this kind
//! usually begin with.

mod designs;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;

use fastlb::io::Stopwatch;

pub use designs::{Cursor, GlobalLock, Ours, TwoLists};

/// Picks per backend that is up, from which its share is told.
const TURNS: usize = 100;

/// A way to share out requests over the backends that are up.
pub trait Design: Sync {
    /// What one thread picks with.
    fn hand(&self) -> impl FnMut() -> usize;
}

/// Which of `backends` are up: all of them, or one in ten at places that look random and are the
/// same every time. At least one is.
pub fn fleet(backends: usize, mostly_dead: bool) -> Vec<bool> {
    if !mostly_dead {
        return vec![true; backends];
    }
    let mut random = fastrand::Rng::with_seed(backends as u64);
    let alive = random.choose_multiple(0..backends, (backends / 10).max(1));
    (0..backends).map(|index| alive.contains(&index)).collect()
}

/// Nanoseconds of one pick as each of `threads` sees it that pick at once; the median of `rounds`.
pub fn time_per_pick<D: Design>(design: &D, threads: usize, picks: usize, rounds: usize) -> f64 {
    let mut times: Vec<u64> = (0..rounds).map(|_| round(design, threads, picks)).collect();
    times.sort_unstable();
    times[rounds / 2] as f64 * 1000.0 / picks as f64
}

/// Microseconds that the slowest of the threads took.
fn round<D: Design>(design: &D, threads: usize, picks: usize) -> u64 {
    let start = Barrier::new(threads);
    let run = || {
        let mut hand = design.hand();
        start.wait();
        let clock = Stopwatch::start();
        for _ in 0..picks {
            black_box(hand());
        }
        clock.elapsed_us()
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let times = running.into_iter().map(|thread| thread.join());
        let times = times.map(|time| time.expect("picking does not panic"));
        times.max().unwrap_or_default()
    })
}

/// How far the share of the one backend that is worst off, or best, is from the equal share, in
/// percent of that, where `threads` pick at once. Backends that are not up must get nothing.
pub fn deviation_percent<D: Design>(design: &D, threads: usize, up: &[bool]) -> f64 {
    let alive = up.iter().filter(|&&up| up).count();
    let start = Barrier::new(threads);
    let picks = |thread| (thread..alive * TURNS).step_by(threads).count();
    let run = |thread| {
        let mut shares = vec![0_usize; up.len()];
        let mut hand = design.hand();
        start.wait();
        for _ in 0..picks(thread) {
            shares[hand()] += 1;
        }
        shares
    };
    let run = &run;
    let shares = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        let mut sums = vec![0_usize; up.len()];
        for thread in running {
            let shares = thread.join().expect("picking does not panic");
            sums.iter_mut()
                .zip(shares)
                .for_each(|(sum, share)| *sum += share);
        }
        sums
    });
    let of = |(&share, &up): (&usize, &bool)| {
        assert!(up || share == 0, "a dead backend was picked");
        up.then(|| (share as f64 - TURNS as f64).abs())
    };
    let worst = shares.iter().zip(up).filter_map(of).fold(0.0, f64::max);
    100.0 * worst / TURNS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_in_ten_are_dead_and_one_is_up() {
        let up = |backends| fleet(backends, true).iter().filter(|&&up| up).count();
        assert_eq!([3, 100, 10_000].map(up), [1, 10, 1000]);
        assert_eq!(fleet(100, true), fleet(100, true));
        assert_eq!(fleet(3, false), [true; 3]);
    }

    #[test]
    fn only_the_scanning_cursor_is_unfair() {
        let up = fleet(100, true);
        for threads in [1, 2, 4] {
            assert_eq!(deviation_percent(&GlobalLock::new(&up), threads, &up), 0.0);
            assert_eq!(deviation_percent(&TwoLists::new(&up), threads, &up), 0.0);
            assert_eq!(deviation_percent(&Ours::new(&up), threads, &up), 0.0);
            // Whoever follows a run of dead backends gets the turns of all of them.
            assert!(deviation_percent(&Cursor::new(&up), threads, &up) > 100.0);
        }
    }

    #[test]
    fn a_pick_takes_time() {
        let up = fleet(3, false);
        let time = time_per_pick(&GlobalLock::new(&up), 2, 100_000, 3);
        assert!(time > 0.0, "{time}");
    }
}
