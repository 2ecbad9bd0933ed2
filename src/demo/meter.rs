//! Turns the balancer's counters into the rows of the table: pairs them with the workers, in the
//! order in which both were started, and makes rates out of two readings.

use std::time::Duration;

use tokio::time::Instant;

use super::children::Children;
use super::table::{Counters, Row};
use crate::balance::Snapshot;

/// Shortest time that a rate is made of; within less, one request more or less is all of it.
const RATE_TIME_MIN: Duration = Duration::from_millis(500);

/// The rates of late, and the counters from which the next ones will be made.
pub(super) struct Meter {
    taken: Instant,
    last: Vec<Counters>,
    rates: Vec<f64>,
}

impl Meter {
    /// A meter that counts from now on.
    pub(super) fn new(now: Instant, backends: usize) -> Self {
        Self {
            taken: now,
            last: vec![Counters::default(); backends],
            rates: vec![0.0; backends],
        }
    }

    /// The rows at `now`.
    pub(super) fn rows(
        &mut self,
        now: Instant,
        counters: Vec<Counters>,
        fleet: &Snapshot,
        children: &mut Children,
    ) -> Vec<Row> {
        self.update_rates(now, &counters);
        children
            .iter_mut()
            .zip(counters)
            .zip(&self.rates)
            .zip(fleet.backends())
            .map(|(((child, counters), rate), backend)| Row {
                name: child.name.clone(),
                address: child.address.to_string(),
                process: child.state(),
                health: fleet.health(backend.id).to_string(),
                counters,
                rate: *rate,
            })
            .collect()
    }

    fn update_rates(&mut self, now: Instant, counters: &[Counters]) {
        let elapsed = now.duration_since(self.taken);
        if elapsed < RATE_TIME_MIN {
            return;
        }
        let pairs = counters.iter().zip(&self.last);
        self.rates = pairs
            .map(|(now, last)| now.requests.saturating_sub(last.requests) as f64)
            .map(|requests| requests / elapsed.as_secs_f64())
            .collect();
        self.taken = now;
        self.last = counters.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Counters, Meter};

    #[test]
    fn rates_are_made_of_readings_that_lie_far_enough_apart() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 1);
        let mut rate = |after_ms, requests| {
            let counters = Counters {
                requests,
                ..Counters::default()
            };
            meter.update_rates(start + Duration::from_millis(after_ms), &[counters]);
            meter.rates[0]
        };
        assert_eq!(rate(1, 5), 0.0);
        assert_eq!(rate(1_000, 20), 20.0);
        assert_eq!(rate(1_010, 25), 20.0);
        assert_eq!(rate(3_000, 60), 20.0);
        assert_eq!(rate(4_000, 60), 0.0);
    }
}
