//! How many connections each client has open, over all workers.
//!
//! Looked at when a connection comes and when it ends, and never in between. A client without a
//! connection has no entry, so there are never more entries than connections.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use super::ClientKey;
use crate::limits;

/// The connections of all clients.
#[derive(Debug)]
pub struct Connections {
    max: u32,
    /// Keyed by chance at the start, so that nobody can choose addresses that share a shard.
    hasher: RandomState,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
}

type Shard = HashMap<ClientKey, u32>;

/// A connection that counts for its client until this is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    client: ClientKey,
}

impl Connections {
    /// No connection yet, and at most `max` for each client.
    pub fn new(max: u32) -> Self {
        let shards = (0..limits::CLIENT_SHARDS).map(|_| CachePadded::default());
        Self {
            max,
            hasher: RandomState::new(),
            shards: shards.collect(),
        }
    }

    /// Counts one more connection of a client; `None` where it has as many as it may.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = address.into();
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_insert(0);
        if *open >= self.max {
            return None;
        }
        *open += 1;
        let connections = self.clone();
        Some(Place {
            connections,
            client,
        })
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(client) as usize;
        let shard = &self.shards[hash % self.shards.len()];
        // A count is whole at any moment, whoever panicked.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shard = self.connections.shard(self.client);
        let Entry::Occupied(mut open) = shard.entry(self.client) else {
            debug_assert!(false, "who is inside is counted");
            return;
        };
        *open.get_mut() -= 1;
        if *open.get() == 0 {
            open.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(connections: &Connections) -> usize {
        let shards = connections.shards.iter();
        shards.map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn each_client_has_as_many_as_it_may() {
        let connections = Arc::new(Connections::new(2));
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let first = connections.enter(one);
        let second = connections.enter(one);
        assert!(first.is_some() && second.is_some());
        assert!(connections.enter(one).is_none());
        assert!(connections.enter(other).is_some(), "it is another client");
        drop(first);
        let third = connections.enter(one);
        assert!(third.is_some(), "one has left");
        assert!(connections.enter(one).is_none());
        drop((second, third));
    }

    #[test]
    fn who_has_left_leaves_no_entry() {
        let connections = Arc::new(Connections::new(1));
        let address = |index: u32| IpAddr::from(index.to_be_bytes());
        let inside: Vec<_> = (0..1_000)
            .map(|index| connections.enter(address(index)).unwrap())
            .collect();
        assert!(connections.enter(address(7)).is_none());
        assert_eq!(entries(&connections), 1_000);
        drop(inside);
        assert_eq!(entries(&connections), 0);
    }

    #[test]
    fn the_count_is_exact_over_threads() {
        const MAX: u32 = 5;
        let connections = Arc::new(Connections::new(MAX));
        let address = "2001:db8::1".parse().unwrap();
        let inside = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let place = connections.enter(address);
                        inside.lock().unwrap().extend(place);
                    }
                });
            }
        });
        assert_eq!(inside.lock().unwrap().len(), MAX as usize);
        inside.lock().unwrap().clear();
        assert_eq!(entries(&connections), 0);
    }
}
