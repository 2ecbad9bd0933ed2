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
        let most = limits::RETRY_BUDGET_MAX * RETRY;
        let left = self
            .hundredths
            .get()
            .saturating_add(self.grow(now_ms))
            .min(most);
        let enough = left >= RETRY;
        self.hundredths
            .set(if enough { left - RETRY } else { left });
        enough
    }

    /// The hundredths that have come with time. The time behind a fraction of one stays for the
    /// next call: a worker of many has its share in small pieces.
    fn grow(&self, now_ms: u64) -> u64 {
        let (rate, filled_ms) = (self.hundredths_per_second, self.filled_ms.get());
        let passed_ms = now_ms.saturating_sub(filled_ms);
        let grown = passed_ms.saturating_mul(rate) / 1000;
        let paid_ms = grown.saturating_mul(1000).checked_div(rate);
        self.filled_ms.set(filled_ms + paid_ms.unwrap_or(passed_ms));
        grown
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
    fn pieces_of_time_are_not_lost() {
        for (hundredths_per_second, retries) in [(100, 10), (15, 1), (10, 1), (7, 0), (0, 0)] {
            let budget = Budget::new(hundredths_per_second);
            spent(&budget, 0);
            let spent: usize = (1..=100).map(|tick| spent(&budget, tick * 100)).sum();
            assert_eq!(spent, retries, "{hundredths_per_second} a second for 10 s");
        }
    }
}
