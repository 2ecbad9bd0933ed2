//! The set of backends, and the one place from which new snapshots of it go out.
//!
//! The set is what the configuration names. Workers hold the [`Published`] handle and read it
//! through `arc_swap::Cache`, which touches no reference count while nothing changes.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::balance::{Backend, BackendId, Snapshot};
use crate::config::BackendConfig;

/// The current snapshot, as whoever picks holds it.
pub type Published = Arc<ArcSwap<Snapshot>>;

/// All backends; the only writer of the snapshot.
#[derive(Debug)]
pub struct Fleet {
    published: Published,
}

impl Fleet {
    /// The fleet of a configuration, all of it up.
    ///
    /// # Panics
    ///
    /// Where there are more than [`limits::BACKENDS_MAX`](crate::limits::BACKENDS_MAX) backends,
    /// which a configuration refuses to hold.
    pub fn new(backends: &[BackendConfig]) -> Self {
        let backends = backends.iter().enumerate().map(member).collect();
        let first = Snapshot::new(backends, |_| true);
        Self {
            published: Arc::new(ArcSwap::from_pointee(first)),
        }
    }

    /// A handle that always leads to the newest snapshot.
    pub fn published(&self) -> Published {
        Arc::clone(&self.published)
    }

    /// Replaces the snapshot for everybody. A pick that has begun ends on the one it read.
    pub fn publish(&self, snapshot: Snapshot) {
        self.published.store(Arc::new(snapshot));
    }
}

fn member((index, config): (usize, &BackendConfig)) -> Backend {
    Backend {
        id: BackendId::new(index).expect("a configuration has at most BACKENDS_MAX backends"),
        address: config.address,
        authority: config.authority.as_str().into(),
        weight: config.weight,
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::Cache;

    use super::*;
    use crate::config::BackendList;

    fn fleet(list: &str) -> Fleet {
        Fleet::new(&list.parse::<BackendList>().unwrap().resolve().unwrap())
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
        let fleet = fleet("127.0.0.1:1,127.0.0.1:2");
        let mut worker = Cache::new(fleet.published());
        assert_eq!(worker.load().slots().len(), 2);
        let backends = worker.load().backends().to_vec();
        fleet.publish(Snapshot::new(backends, |id| id.index() == 1));
        assert_eq!(worker.load().slots().len(), 1);
    }
}
