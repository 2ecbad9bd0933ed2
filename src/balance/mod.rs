//! Picking a backend: the trait that every algorithm implements, and the snapshot it picks from.
//!
//! A new algorithm is one file here that implements [`Balancer`], named as the field names it, one
//! line in [`Algorithm`] and one in [`Algorithm::build`].

mod round_robin;
mod snapshot;

use std::sync::Arc;

pub use round_robin::RoundRobin;
pub use snapshot::{Backend, BackendId, Snapshot, Weight, WeightError};

/// Picks a backend for each request. One value serves all workers, so it must be cheap to share.
pub trait Balancer: Send + Sync + 'static {
    /// The backend that the request should go to, or `None` where none is left that `ask.tried`
    /// does not name.
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId>;

    /// Tells how a request ended for which `id` was picked; each pick has one end.
    fn done(&self, _id: BackendId, _outcome: &Outcome) {}
}

/// What is known of a request when its backend is picked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Hash of the key that hashing algorithms pick by.
    pub key_hash: u64,
    /// What the request will use of the backend's capacities.
    pub demand: Demand,
    /// Backends that this request already failed on.
    pub tried: &'a [BackendId],
    /// Milliseconds on the worker's coarse clock.
    pub now: u64,
}

/// What a request will use of a backend's capacities, in units of the user's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Share of compute.
    pub compute: u32,
    /// Share of storage.
    pub storage: u32,
}

/// How a request ended, as far as an algorithm may learn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered with a whole response.
    Answered {
        /// Microseconds from the pick to the end of the response.
        took_us: u64,
    },
    /// There was no whole response, whoever is to blame.
    Failed,
}

/// The algorithms that exist, by their standard names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Each backend in turn, as often as its weight says.
    #[default]
    RoundRobin,
}

impl Algorithm {
    /// A balancer of this algorithm.
    pub fn build(self) -> Arc<dyn Balancer> {
        match self {
            Self::RoundRobin => Arc::new(RoundRobin::default()),
        }
    }
}
