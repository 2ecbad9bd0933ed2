//! Four ways to take turns over the backends that are up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::{ArcSwap, Cache};
use fastlb::balance::{Ask, Backend, BackendId, Balancer, RoundRobin, Snapshot, Weight};
use fastlb::health::Health;

use super::Design;

/// One lock over everything: whoever picks looks for the next that is up while all others wait.
pub struct GlobalLock(Mutex<Turns>);

struct Turns {
    up: Vec<bool>,
    next: usize,
}

impl GlobalLock {
    /// Over backends that are `up`, or not.
    pub fn new(up: &[bool]) -> Self {
        let up = up.to_vec();
        Self(Mutex::new(Turns { up, next: 0 }))
    }
}

impl Design for GlobalLock {
    fn hand(&self) -> impl FnMut() -> usize {
        || {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let picked = turns.next;
                turns.next = (picked + 1) % turns.up.len();
                if turns.up[picked] {
                    return picked;
                }
            }
        }
    }
}

/// An atomic cursor over all backends, from where the next that is up is looked for.
pub struct Cursor {
    up: Vec<AtomicBool>,
    next: AtomicUsize,
}

impl Cursor {
    /// Over backends that are `up`, or not.
    pub fn new(up: &[bool]) -> Self {
        Self {
            up: up.iter().copied().map(AtomicBool::new).collect(),
            next: AtomicUsize::new(0),
        }
    }
}

impl Design for Cursor {
    fn hand(&self) -> impl FnMut() -> usize {
        || {
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            (first..)
                .map(|turn| turn % self.up.len())
                .find(|&index| self.up[index].load(Ordering::Relaxed))
                .expect("one is up")
        }
    }
}

/// Two lists behind a lock for readers and writers, and a cursor over the list of those that are
/// up.
pub struct TwoLists {
    lists: RwLock<Lists>,
    next: AtomicUsize,
}

struct Lists {
    up: Vec<usize>,
    /// Nobody picks from it; checks would move backends between the two.
    _down: Vec<usize>,
}

impl TwoLists {
    /// Over backends that are `up`, or not.
    pub fn new(up: &[bool]) -> Self {
        let (up, down) = (0..up.len()).partition(|&index| up[index]);
        Self {
            lists: RwLock::new(Lists { up, _down: down }),
            next: AtomicUsize::new(0),
        }
    }
}

impl Design for TwoLists {
    fn hand(&self) -> impl FnMut() -> usize {
        || {
            let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            lists.up[turn % lists.up.len()]
        }
    }
}

/// Ours, as a worker holds it: a snapshot that is swapped whole, and a padded cursor over the turns
/// in it.
pub struct Ours {
    snapshot: Arc<ArcSwap<Snapshot>>,
    balancer: RoundRobin,
}

impl Ours {
    /// Over backends that are `up`, or not.
    pub fn new(up: &[bool]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let backend = |index| Backend {
            id: BackendId::new(index).expect("no more than a fleet may have"),
            address: address.into(),
            authority: address.to_string().into(),
            weight: Weight::default(),
        };
        let backends: Vec<Backend> = (0..up.len()).map(backend).collect();
        let health = |id: BackendId| match up[id.index()] {
            true => Health::Up,
            false => Health::Down,
        };
        Self {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::new(backends, health))),
            balancer: RoundRobin::default(),
        }
    }
}

impl Design for Ours {
    fn hand(&self) -> impl FnMut() -> usize {
        let mut snapshot = Cache::new(Arc::clone(&self.snapshot));
        // As the workers have it: an algorithm is chosen at run time.
        let balancer: &dyn Balancer = &self.balancer;
        move || {
            let picked = balancer.pick(snapshot.load(), &Ask::default());
            picked.expect("one is up").index()
        }
    }
}
