//! How much of the traffic may be sent a second time: a backend in trouble is not helped by twice
//! as many requests.

use std::cell::Cell;

use crate::limits;

/// The retries that a worker may still make: a share of its requests, and some each second.
///
/// Tokens are counted in hundredths, so that one request's percentage is a whole number of them.
pub(super) struct Budget {
    hundredths: Cell<u64>,
    per_second: u64,
    filled_ms: Cell<u64>,
}

/// What one retry costs.
const RETRY: u64 = 100;

impl Budget {
    /// A full budget that grows by `per_second` retries a second, and by
    /// [`limits::RETRY_BUDGET_PERCENT`] of the requests.
    pub(super) fn new(per_second: u64) -> Self {
        let budget = Self {
            hundredths: Cell::new(0),
            per_second: per_second.max(1),
            filled_ms: Cell::new(0),
        };
        budget.hundredths.set(budget.most());
        budget
    }

    /// Counts a request.
    pub(super) fn earn(&self) {
        let earned = self.hundredths.get() + limits::RETRY_BUDGET_PERCENT;
        self.hundredths.set(earned.min(self.most()));
    }

    /// Takes a retry out of it at `now_ms`; `false` where there is none.
    pub(super) fn spend(&self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.filled_ms.replace(now_ms));
        let grown = passed_ms.saturating_mul(self.per_second * RETRY) / 1000;
        let left = self.hundredths.get().saturating_add(grown).min(self.most());
        let enough = left >= RETRY;
        self.hundredths
            .set(if enough { left - RETRY } else { left });
        enough
    }

    /// What may be saved up, so that a backend's end costs none of the many requests it had.
    fn most(&self) -> u64 {
        self.per_second * RETRY * limits::RETRY_BUDGET_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &Budget, now_ms: u64) -> usize {
        (0..1_000_000).take_while(|_| budget.spend(now_ms)).count()
    }

    #[test]
    fn it_is_full_at_first_and_grows_with_time_and_requests() {
        let budget = Budget::new(10);
        let most = 10 * limits::RETRY_BUDGET_SECONDS as usize;
        assert_eq!(spent(&budget, 0), most);
        assert_eq!(spent(&budget, 1_000), 10);
        assert_eq!(spent(&budget, 1_050), 0);
        (0..50).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, 1_050), 10, "20 % of 50");
        (0..1_000_000).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, 1_050), most);
        assert_eq!(spent(&budget, 10_000_000), most);
    }

    #[test]
    fn pieces_of_time_are_not_lost_for_ever() {
        let budget = Budget::new(1);
        spent(&budget, 0);
        let retries: usize = (1..=100).map(|tick| spent(&budget, tick * 100)).sum();
        assert_eq!(retries, 10);
    }
}
