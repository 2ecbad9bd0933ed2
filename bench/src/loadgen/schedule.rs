//! The moments at which the open loop means to send, whatever the target does.
//!
//! Only numbers: no clock and no queue. A request whose moment has passed waits as a number, so a
//! target that stalls for long costs no memory, and its latency counts from that moment.

/// Nanoseconds in a second.
const SECOND_NS: u128 = 1_000_000_000;

/// The share that one thread has of a fixed rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    begin: u64,
    end: u64,
    rate: u64,
    /// The number of the next request among those of all threads.
    next: u64,
    step: u64,
    /// The moment of the next request, while there is one.
    moment: Option<u64>,
}

impl Schedule {
    /// `rate` requests a second from `begin` until before `end` (nanoseconds), of which this is
    /// the share of thread `thread` of `threads`.
    pub(super) fn new(begin: u64, end: u64, rate: u64, thread: usize, threads: usize) -> Self {
        assert!(rate > 0 && thread < threads, "a rate and a share of it");
        let mut schedule = Self {
            begin,
            end,
            rate,
            next: thread as u64,
            step: threads as u64,
            moment: None,
        };
        schedule.moment = schedule.moment_of_next();
        schedule
    }

    /// The moment of the next request, which may have passed; `None` once there is none.
    pub(super) fn next(&self) -> Option<u64> {
        self.moment
    }

    /// The next request is sent, or given up.
    pub(super) fn advance(&mut self) {
        self.next += self.step;
        self.moment = self.moment_of_next();
    }

    fn moment_of_next(&self) -> Option<u64> {
        let after = u128::from(self.next) * SECOND_NS / u128::from(self.rate);
        let moment = u64::try_from(after).ok()?.checked_add(self.begin)?;
        (moment < self.end).then_some(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn moments(mut schedule: Schedule) -> Vec<u64> {
        let mut moments = Vec::new();
        while let Some(moment) = schedule.next() {
            moments.push(moment);
            schedule.advance();
        }
        moments
    }

    #[test]
    fn the_rate_is_kept_without_drift() {
        let all = moments(Schedule::new(500, 10_000_000_500, 3, 0, 1));
        assert_eq!(all.len(), 30);
        assert_eq!(&all[..3], &[500, 333_333_833, 666_667_166]);
        assert_eq!(all[27], 9_000_000_500, "whole seconds are met exactly");
    }

    #[test]
    fn threads_share_the_moments() {
        let mut shares: Vec<u64> = (0..3)
            .flat_map(|thread| moments(Schedule::new(7, 1_000_000_007, 1000, thread, 3)))
            .collect();
        shares.sort_unstable();
        assert_eq!(shares, moments(Schedule::new(7, 1_000_000_007, 1000, 0, 1)));
    }

    /// One connection, a target that answers after 1 ms but stands still from 100 ms to 600 ms, a
    /// request every 10 ms: those whose moments fell into the stall waited for its rest.
    #[test]
    fn a_stall_is_seen_by_every_request_that_was_due_in_it() {
        const MS: u64 = 1_000_000;
        let mut schedule = Schedule::new(0, 1000 * MS, 100, 0, 1);
        let mut now = 0;
        let mut waits_ms = Vec::new();
        while let Some(moment) = schedule.next() {
            schedule.advance();
            now = now.max(moment);
            if (100 * MS..600 * MS).contains(&now) {
                now = 600 * MS;
            }
            now += MS;
            waits_ms.push((now - moment) / MS);
        }
        assert_eq!(waits_ms.len(), 100);
        assert_eq!(waits_ms.iter().max(), Some(&501));
        assert_eq!(
            waits_ms[35], 276,
            "the 26th in line, due 250 ms before the end"
        );
        let slow = waits_ms.iter().filter(|wait| **wait > 10).count();
        assert_eq!(
            slow, 55,
            "50 that were due in the stall, and who stood behind them"
        );
    }
}
