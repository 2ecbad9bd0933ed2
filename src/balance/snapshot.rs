//! What a pick looks at: the backends at one moment, and the order in which their weights come up.
//!
//! A snapshot never changes. Whoever learns of a change builds the next one and publishes it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::health::Health;
use crate::io::Address;
use crate::limits;

/// A backend's place in the fleet. It stays the same from snapshot to snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(u16);

const _: () = assert!(limits::BACKENDS_MAX <= u16::MAX as usize + 1);

impl BackendId {
    /// The id of the backend at `index`, or `None` beyond [`limits::BACKENDS_MAX`].
    pub fn new(index: usize) -> Option<Self> {
        let id = u16::try_from(index).ok()?;
        (index < limits::BACKENDS_MAX).then_some(Self(id))
    }

    /// The index of its row in every table that has one row per backend.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A backend's share of the requests, 1 to [`limits::WEIGHT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

/// The number is no weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weight is a whole number from 1 to {}", limits::WEIGHT_MAX)]
pub struct WeightError;

impl Weight {
    /// A weight of `share`.
    ///
    /// # Errors
    ///
    /// Where `share` is 0 or more than [`limits::WEIGHT_MAX`].
    pub fn new(share: u16) -> Result<Self, WeightError> {
        if (1..=limits::WEIGHT_MAX).contains(&share) {
            Ok(Self(share))
        } else {
            Err(WeightError)
        }
    }

    /// The share as a number.
    pub fn share(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// One backend as the data path sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its place in the fleet.
    pub id: BackendId,
    /// Where it listens.
    pub address: Address,
    /// The Host of requests that brought none (RFC 9110 section 7.2).
    pub authority: Box<str>,
    /// Its share of the requests.
    pub weight: Weight,
}

/// All backends at one moment, and the turns of those that may be picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Shared by all snapshots of a fleet.
    backends: Arc<[Backend]>,
    health: Box<[Health]>,
    slots: Box<[BackendId]>,
}

impl Snapshot {
    /// A snapshot of `backends`, of which those that are up may be picked.
    ///
    /// # Panics
    ///
    /// Where the id of a backend is not its index, which would be a bug of the caller.
    pub fn new(backends: impl Into<Arc<[Backend]>>, health: impl Fn(BackendId) -> Health) -> Self {
        let backends = backends.into();
        let in_order = |(index, backend): (usize, &Backend)| backend.id.index() == index;
        assert!(
            backends.iter().enumerate().all(in_order),
            "a backend's id is its index"
        );
        let health: Box<[Health]> = backends.iter().map(|backend| health(backend.id)).collect();
        let is_up = |backend: &&Backend| health[backend.id.index()] == Health::Up;
        let slots = lay_out(backends.iter().filter(is_up));
        debug_assert!(slots.len() <= limits::SLOTS_MAX);
        Self {
            backends,
            health,
            slots: slots.into(),
        }
    }

    /// The backend that `id` names, whether it may be picked or not.
    pub fn backend(&self, id: BackendId) -> &Backend {
        &self.backends[id.index()]
    }

    /// All backends, in the order of their ids.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Whether the backend that `id` names is picked, and why not.
    pub fn health(&self, id: BackendId) -> Health {
        self.health[id.index()]
    }

    /// One period of turns: each backend that may be picked, as often as its weight says.
    pub fn slots(&self) -> &[BackendId] {
        &self.slots
    }

    /// How many backends there are, whether they may be picked or not.
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether there is no backend at all.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

/// Backends of the same weight. Among them smooth weighted round robin takes simple turns: the one
/// that was picked least often leads, and among equals the first.
struct Class {
    weight: i64,
    /// Who is next, with how often it was picked.
    turns: VecDeque<(BackendId, i64)>,
}

/// Lays out one period of smooth weighted round robin.
///
/// Each step picks the backend that lags furthest behind its share, which after `step` picks is
/// `weight * step - period * picked`. Only the leader of each class can be that one, so a period
/// costs slots times different weights, not slots times backends.
fn lay_out<'a>(backends: impl Iterator<Item = &'a Backend>) -> Vec<BackendId> {
    let mut classes = classes(backends);
    let period: i64 = classes
        .iter()
        .map(|class| class.weight * class.turns.len() as i64)
        .sum();
    (1..=period)
        .filter_map(|step| pick_furthest_behind(&mut classes, step, period))
        .collect()
}

/// The backends by weight, the weights divided by what they have in common.
fn classes<'a>(backends: impl Iterator<Item = &'a Backend>) -> Vec<Class> {
    let mut by_weight: BTreeMap<u16, VecDeque<(BackendId, i64)>> = BTreeMap::new();
    for backend in backends {
        by_weight
            .entry(backend.weight.share())
            .or_default()
            .push_back((backend.id, 0));
    }
    let divisor = by_weight
        .keys()
        .fold(0, |a, &b| greatest_common_divisor(a, b));
    let class = |(weight, turns)| Class {
        weight: i64::from(weight / divisor),
        turns,
    };
    by_weight.into_iter().map(class).collect()
}

fn pick_furthest_behind(classes: &mut [Class], step: i64, period: i64) -> Option<BackendId> {
    let lag = |class: &Class| {
        let &(id, picked) = class.turns.front()?;
        // Among equals the first of the fleet wins, whatever its weight.
        Some((class.weight * step - period * picked, std::cmp::Reverse(id)))
    };
    let class = classes.iter_mut().max_by_key(|class| lag(class))?;
    let (id, picked) = class.turns.pop_front()?;
    class.turns.push_back((id, picked + 1));
    Some(id)
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    /// A fleet of these weights.
    pub(crate) fn fleet(weights: &[u16]) -> Vec<Backend> {
        let backend = |(index, &weight): (usize, &u16)| Backend {
            id: BackendId::new(index).unwrap(),
            address: SocketAddr::from(([127, 0, 0, 1], 1024 + index as u16)).into(),
            authority: format!("backend-{index}:80").into(),
            weight: Weight::new(weight).unwrap(),
        };
        weights.iter().enumerate().map(backend).collect()
    }

    fn letters(snapshot: &Snapshot) -> String {
        snapshot
            .slots()
            .iter()
            .map(|id| char::from(b'a' + id.index() as u8))
            .collect()
    }

    fn all_up(weights: &[u16]) -> Snapshot {
        Snapshot::new(fleet(weights), |_| Health::Up)
    }

    /// Smooth weighted round robin as its definition reads: everybody gains its weight, the
    /// richest is picked and pays the sum of all weights.
    fn by_definition(weights: &[u16]) -> Vec<usize> {
        let sum: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut current = vec![0; weights.len()];
        let mut step = || {
            for (current, &weight) in current.iter_mut().zip(weights) {
                *current += i64::from(weight);
            }
            let richest = (0..weights.len())
                .rev()
                .max_by_key(|&index| current[index])
                .unwrap();
            current[richest] -= sum;
            richest
        };
        (0..sum).map(|_| step()).collect()
    }

    #[test]
    fn a_heavy_backend_is_spread_over_the_period() {
        assert_eq!(letters(&all_up(&[5, 1, 1])), "aabacaa");
        assert_eq!(letters(&all_up(&[1, 1, 1])), "abc");
        assert_eq!(letters(&all_up(&[1, 2])), "bab");
    }

    #[test]
    fn common_factors_make_no_longer_period() {
        assert_eq!(letters(&all_up(&[256, 256])), "ab");
        assert_eq!(letters(&all_up(&[10, 20])), letters(&all_up(&[1, 2])));
    }

    #[test]
    fn a_backend_that_is_down_has_no_slot_and_keeps_its_row() {
        let first = BackendId::new(0).unwrap();
        let health = |id| {
            if id == first {
                Health::Down
            } else {
                Health::Up
            }
        };
        let snapshot = Snapshot::new(fleet(&[3, 2, 4]), health);
        assert_eq!(letters(&snapshot), "cbc");
        assert_eq!(snapshot.len(), 3);
        assert_eq!(snapshot.health(first), Health::Down);
        assert_eq!(snapshot.backend(first).weight.share(), 3);
    }

    #[test]
    fn nothing_up_is_no_slot() {
        let nobody = Snapshot::new(fleet(&[1, 2]), |_| Health::Down);
        assert!(nobody.slots().is_empty());
        assert!(all_up(&[]).slots().is_empty());
        assert!(all_up(&[]).is_empty());
    }

    #[test]
    fn the_largest_fleet_is_laid_out_within_the_limit() {
        let alternating = |index: usize| if index.is_multiple_of(2) { 256 } else { 255 };
        let weights: Vec<u16> = (0..limits::BACKENDS_MAX).map(alternating).collect();
        let slots = all_up(&weights).slots().len();
        assert_eq!(slots, limits::BACKENDS_MAX / 2 * (256 + 255));
        assert!(slots <= limits::SLOTS_MAX);
    }

    #[test]
    fn weights_have_bounds() {
        assert_eq!(Weight::new(0), Err(WeightError));
        assert_eq!(Weight::new(limits::WEIGHT_MAX + 1), Err(WeightError));
        assert_eq!(Weight::new(limits::WEIGHT_MAX).unwrap().share(), 256);
        assert_eq!(Weight::default().share(), 1);
    }

    #[test]
    fn ids_have_bounds() {
        assert!(BackendId::new(limits::BACKENDS_MAX - 1).is_some());
        assert!(BackendId::new(limits::BACKENDS_MAX).is_none());
    }

    proptest! {
        #[test]
        fn the_layout_is_what_the_definition_gives(
            weights in prop::collection::vec(1_u16..=12, 1..20)
        ) {
            let divisor = weights.iter().fold(0, |a, &b| greatest_common_divisor(a, b));
            let reduced: Vec<u16> = weights.iter().map(|weight| weight / divisor).collect();
            let slots: Vec<usize> =
                all_up(&weights).slots().iter().map(|id| id.index()).collect();
            prop_assert_eq!(slots, by_definition(&reduced));
        }
    }
}
