//! The set of backends, and the one place from which new snapshots of it go out.
//!
//! The set is what the configuration names; its health follows from events. Workers hold the
//! [`Published`] handle and read it through `arc_swap::Cache`, which touches no reference count
//! while nothing changes.

mod control;
mod schedule;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::{info, warn};

pub use control::{Checks, Control};

use crate::balance::{Backend, BackendId, Snapshot};
use crate::config::BackendConfig;
use crate::health::{Change, Event, FleetHealth, Health};
use crate::io::Address;

/// The current snapshot, as whoever picks holds it.
pub type Published = Arc<ArcSwap<Snapshot>>;

/// All backends; the only writer of the snapshot.
#[derive(Debug)]
pub struct Fleet {
    backends: Arc<[Backend]>,
    health: FleetHealth,
    published: Published,
    /// What has changed since the last snapshot.
    changes: Vec<Change>,
}

impl Fleet {
    /// The fleet of a configuration, judged by `health`, which is of the same size.
    ///
    /// # Panics
    ///
    /// Where there are more than [`limits::BACKENDS_MAX`](crate::limits::BACKENDS_MAX) backends,
    /// which a configuration refuses to hold.
    pub fn new(backends: &[BackendConfig], health: FleetHealth) -> Self {
        let backends: Arc<[Backend]> = backends.iter().enumerate().map(member).collect();
        let first = Snapshot::new(backends.clone(), |id| health.health(id));
        Self {
            backends,
            health,
            published: Arc::new(ArcSwap::from_pointee(first)),
            changes: Vec::new(),
        }
    }

    /// A handle that always leads to the newest snapshot.
    pub fn published(&self) -> Published {
        Arc::clone(&self.published)
    }

    /// Takes in what was learnt at `now_ms`.
    pub fn take(&mut self, event: Event, now_ms: u64) {
        self.changes.extend(self.health.take(event, now_ms));
    }

    /// Readmits whose ejection is over at `now_ms`.
    pub fn advance(&mut self, now_ms: u64) {
        self.changes.extend(self.health.advance(now_ms));
    }

    /// When [`Fleet::advance`] has something to do; `None` where it never will.
    pub fn due_ms(&self) -> Option<u64> {
        self.health.due_ms()
    }

    /// Publishes a snapshot of what has changed, for everybody at once. A pick that has begun ends
    /// on the one it read; what the log says of a change is in force by then.
    pub fn publish(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let snapshot = Snapshot::new(self.backends.clone(), |id| self.health.health(id));
        let all_down = snapshot.slots().is_empty();
        self.published.store(Arc::new(snapshot));
        for change in self.changes.drain(..) {
            let address = &self.backends[change.backend.index()].address;
            say(address, &change);
        }
        if all_down {
            warn!("no backend is up: nothing is served until one is");
        }
    }
}

fn say(address: &Address, change: &Change) {
    let Change { health, reason, .. } = change;
    match health {
        Health::Up => info!("backend {address} is up: {reason}"),
        Health::Down | Health::Ejected => warn!("backend {address} is {health}: {reason}"),
    }
}

fn member((index, config): (usize, &BackendConfig)) -> Backend {
    Backend {
        id: BackendId::new(index).expect("a configuration has at most BACKENDS_MAX backends"),
        address: config.address.clone(),
        authority: config.authority.as_str().into(),
        weight: config.weight,
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::Cache;

    use super::*;
    use crate::config::BackendList;
    use crate::health::{CheckFailure, CheckRules, EjectRules, News};

    /// A fleet of that list, by the default rules.
    pub(super) fn fleet(list: &str) -> Fleet {
        let backends = list.parse::<BackendList>().unwrap().resolve().unwrap();
        let (check, eject) = (CheckRules::default(), EjectRules::default());
        let health = FleetHealth::new(backends.len(), check, eject);
        Fleet::new(&backends, health)
    }

    #[test]
    fn the_first_snapshot_is_the_configuration() {
        let snapshot = fleet("127.0.0.1:1@2,127.0.0.1:2").published().load_full();
        let turns: Vec<usize> = snapshot.slots().iter().map(|id| id.index()).collect();
        assert_eq!(turns, [0, 1, 0]);
        let authorities: Vec<&str> = snapshot.backends().iter().map(|b| &*b.authority).collect();
        assert_eq!(authorities, ["127.0.0.1:1", "127.0.0.1:2"]);
    }

    #[test]
    fn who_holds_a_handle_sees_what_is_published() {
        let mut fleet = fleet("127.0.0.1:1,127.0.0.1:2");
        let mut worker = Cache::new(fleet.published());
        assert_eq!(worker.load().slots().len(), 2);
        let first = BackendId::new(0).unwrap();
        let failed = Event {
            backend: first,
            news: News::CheckFailed(CheckFailure::Timeout),
        };
        fleet.take(failed, 0);
        assert_eq!(worker.load().slots().len(), 2, "not before it is published");
        fleet.publish();
        assert_eq!(worker.load().slots().len(), 1);
        assert_eq!(worker.load().health(first), Health::Down);
    }
}
