//! How much of the traffic may be sent a second time: a backend in trouble is not helped by twice
//! as many requests.

use std::cell::Cell;

use crate::limits;

/// The retries that a worker may still make: a share of its requests, and some each second.
///
/// Tokens are counted in hundredths, so that one request's percentage is a whole number of them.
pub(super) struct Budget {
    hundredths: Cell<u64>,
    hundredths_per_second: u64,
    filled_ms: Cell<u64>,
}

/// What one retry costs.
const RETRY: u64 = 100;

impl Budget {
    /// A full budget that grows by so many hundredths of a retry a second, and by
    /// [`limits::RETRY_BUDGET_PERCENT`] of the requests.
    pub(super) fn new(hundredths_per_second: u64) -> Self {
        Self {
            hundredths: Cell::new(limits::RETRY_BUDGET_MAX * RETRY),
            hundredths_per_second,
            filled_ms: Cell::new(0),
        }
    }

    /// Counts a request.
    pub(super) fn earn(&self) {
        let earned = self.hundredths.get() + limits::RETRY_BUDGET_PERCENT;
        self.hundredths
            .set(earned.min(limits::RETRY_BUDGET_MAX * RETRY));
    }

    /// Takes a retry out of it at `now_ms`; `false` where there is none.
    pub(super) fn spend(&self, now_ms: u64) -> bool {
        let filled_ms = self.filled_ms.get().max(now_ms);
        let passed_ms = filled_ms - self.filled_ms.replace(filled_ms);
        let grown = passed_ms.saturating_mul(self.hundredths_per_second) / 1000;
        let most = limits::RETRY_BUDGET_MAX * RETRY;
        let left = self.hundredths.get().saturating_add(grown).min(most);
        let enough = left >= RETRY;
        self.hundredths
            .set(if enough { left - RETRY } else { left });
        enough
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
        let budget = Budget::new(10 * RETRY);
        let most = limits::RETRY_BUDGET_MAX as usize;
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
    fn time_that_goes_back_fills_nothing() {
        let budget = Budget::new(10 * RETRY);
        spent(&budget, 5_000);
        assert_eq!(spent(&budget, 1_000), 0);
        assert_eq!(spent(&budget, 5_000), 0);
        assert_eq!(spent(&budget, 6_000), 10);
    }

    #[test]
    fn pieces_of_time_are_not_lost_for_ever() {
        let budget = Budget::new(RETRY);
        spent(&budget, 0);
        let retries: usize = (1..=100).map(|tick| spent(&budget, tick * 100)).sum();
        assert_eq!(retries, 10);
    }
}
