//! How fast each client asks, over all workers: a token bucket for each (the generic cell rate
//! algorithm of ITU-T I.371, which keeps one moment instead of tokens and a time).
//!
//! Looked up once a request, without a lock. Memory is what it is from the start on: a table of
//! sets, and whoever comes when its set is full takes the place of who is nearest to a full bucket.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::ClientKey;
use crate::limits;

/// So many requests in such a time, and as many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    period: Duration,
}

/// The text is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate is a whole number from 1 to {max} with /s or /m behind it, as in 100/s, or `off` for \
     no limit",
    max = limits::CLIENT_RATE_MAX
)]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, period_s) = match text.split_once('/') {
            None => (text, 1),
            Some((number, "s")) => (number, 1),
            Some((number, "m")) => (number, 60),
            Some(_) => return Err(RateError),
        };
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let requests = number.parse().ok().filter(|_| digits);
        let requests = requests.filter(|requests| (1..=limits::CLIENT_RATE_MAX).contains(requests));
        Ok(Self {
            requests: requests.ok_or(RateError)?,
            period: Duration::from_secs(period_s),
        })
    }
}

/// The buckets of all clients.
#[derive(Debug)]
pub struct Rates {
    /// What one request takes of a bucket, and what a full one holds, as time.
    request_ns: u64,
    full_ns: u64,
    /// Keyed by chance at the start, so that nobody can choose addresses that share a set.
    hasher: RandomState,
    sets: Box<[CachePadded<[Bucket; limits::CLIENT_RATE_WAYS]>]>,
}

/// One client's bucket. Two workers may write it at once: where they take it for different clients,
/// or for a new one, a request may go uncounted for each of them.
#[derive(Debug, Default)]
struct Bucket {
    /// The hash of the client; 0 for nobody.
    client: AtomicU64,
    /// When it will be full again.
    full_at_ns: AtomicU64,
}

impl Rates {
    /// Full buckets for everybody.
    pub fn new(rate: Rate) -> Self {
        let request_ns = rate.period.as_nanos() as u64 / u64::from(rate.requests);
        let sets = (0..limits::CLIENT_RATE_SETS).map(|_| CachePadded::default());
        Self {
            request_ns,
            full_ns: request_ns * u64::from(rate.requests),
            hasher: RandomState::new(),
            sets: sets.collect(),
        }
    }

    /// Takes one request out of a client's bucket.
    ///
    /// # Errors
    /// It is empty: how long until there is one in it.
    pub fn take(&self, client: ClientKey, now: Duration) -> Result<(), Duration> {
        let bucket = self.bucket(self.hasher.hash_one(client).max(1));
        let now_ns = now.as_nanos() as u64;
        let took = |full_at_ns: u64| {
            let then_ns = full_at_ns.max(now_ns) + self.request_ns;
            (then_ns <= now_ns + self.full_ns).then_some(then_ns)
        };
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = bucket.full_at_ns.fetch_update(set, get, took);
        taken.map(drop).map_err(|full_at_ns| {
            let there_ns = full_at_ns + self.request_ns - self.full_ns;
            Duration::from_nanos(there_ns.saturating_sub(now_ns))
        })
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        let set = &self.sets[(hash >> 32) as usize % self.sets.len()];
        let is_its = |bucket: &&Bucket| bucket.client.load(Ordering::Relaxed) == hash;
        if let Some(bucket) = set.iter().find(is_its) {
            return bucket;
        }
        let fullest = set.iter();
        let fullest = fullest.min_by_key(|bucket| bucket.full_at_ns.load(Ordering::Relaxed));
        let bucket = fullest.expect("a set has buckets");
        bucket.client.store(hash, Ordering::Relaxed);
        bucket.full_at_ns.store(0, Ordering::Relaxed);
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const ONE: ClientKey = ClientKey::V4(1);
    const NOW: Duration = Duration::from_secs(1_000);

    fn rates(text: &str) -> Rates {
        Rates::new(text.parse().unwrap())
    }

    fn at_once(rates: &Rates, client: ClientKey, now: Duration) -> usize {
        (0..1_000)
            .take_while(|_| rates.take(client, now).is_ok())
            .count()
    }

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        let table = [("100", 100, 1), ("100/s", 100, 1), ("30/m", 30, 60)];
        for (text, requests, seconds) in table {
            let period = Duration::from_secs(seconds);
            assert_eq!(text.parse(), Ok(Rate { requests, period }), "{text}");
        }
        for text in ["", "0", "/s", "1/h", "1/", "-1/s", "+1", "1.5/s", "1000001"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }

    #[test]
    fn a_bucket_holds_a_period_and_fills_with_time() {
        for (text, burst, each_ms) in [("10/s", 10, 100), ("1", 1, 1_000), ("3/m", 3, 20_000)] {
            let rates = rates(text);
            let each = Duration::from_millis(each_ms);
            assert_eq!(at_once(&rates, ONE, NOW), burst, "{text}");
            assert_eq!(rates.take(ONE, NOW), Err(each), "{text}");
            let almost = NOW + each - Duration::from_millis(1);
            assert_eq!(rates.take(ONE, almost), Err(Duration::from_millis(1)));
            // What is refused costs nothing.
            assert_eq!(at_once(&rates, ONE, NOW + each), 1, "{text}");
            assert_eq!(at_once(&rates, ONE, NOW + 3 * each), 2.min(burst), "{text}");
            // It is full again, and not fuller.
            assert_eq!(at_once(&rates, ONE, NOW * 10), burst, "{text}");
        }
    }

    #[test]
    fn each_client_has_its_own() {
        let rates = rates("5");
        assert_eq!(at_once(&rates, ONE, NOW), 5);
        assert_eq!(at_once(&rates, ClientKey::V4(2), NOW), 5);
        assert_eq!(at_once(&rates, ClientKey::V6(1), NOW), 5);
        assert_eq!(at_once(&rates, ONE, NOW), 0);
    }

    #[test]
    fn a_clock_that_is_behind_gives_nothing_away() {
        let rates = rates("5");
        assert_eq!(at_once(&rates, ONE, NOW), 5);
        assert_eq!(at_once(&rates, ONE, NOW - Duration::from_millis(100)), 0);
    }

    #[test]
    fn however_many_clients_come_who_is_busy_keeps_his_bucket() {
        let rates = rates("5/m");
        assert_eq!(at_once(&rates, ONE, NOW), 5);
        let others = (limits::CLIENT_RATE_SETS * limits::CLIENT_RATE_WAYS * 2) as u32;
        for other in 2..others {
            // Each takes one of five: whose bucket is empty is nobody's first choice.
            assert_eq!(rates.take(ClientKey::V4(other), NOW), Ok(()));
        }
        assert_eq!(at_once(&rates, ONE, NOW), 0);
    }

    #[test]
    fn the_count_is_exact_over_threads() {
        let (rates, taken) = (rates("500"), AtomicUsize::new(0));
        rates.take(ONE, NOW).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| taken.fetch_add(at_once(&rates, ONE, NOW), Ordering::Relaxed));
            }
        });
        assert_eq!(taken.into_inner(), 499);
    }
}
