//! How the descriptors of the process are shared out between connections and checks.

use crate::limits;

/// What the descriptors are enough for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Connections of clients; each needs one more to a backend.
    pub(super) connections_max: usize,
    /// Checks of backends that may be under way at once.
    pub(super) checks_max: usize,
}

impl Descriptors {
    /// Of a process that may have `limit` of them; `None` where none are left for connections.
    pub(super) fn share(limit: usize, workers: usize, checked: usize) -> Option<Self> {
        let per_worker = workers * limits::DESCRIPTORS_RESERVED_PER_WORKER;
        let free = limit.saturating_sub(limits::DESCRIPTORS_RESERVED + per_worker);
        // What these checks take is in the reserve, what more of them take is not.
        let in_reserve = limits::HEALTH_CHECKS_MIN;
        let wanted = checked.clamp(in_reserve, limits::HEALTH_CHECKS_MAX) - in_reserve;
        let more = wanted.min(free * limits::HEALTH_CHECKS_PART_MAX_PERCENT / 100);
        let connections_max = (free - more) / 2;
        (connections_max > 0).then_some(Self {
            connections_max,
            checks_max: in_reserve + more,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_may_be_checked_at_once_where_there_is_room() {
        // The limit, workers, backends; connections and checks.
        let table = [
            (216, 1, 1, Some((20, 64))),
            (177, 1, 1, None),
            (178, 1, 1_000, Some((1, 64))),
            (1_024, 1, 1_000, Some((382, 148))),
            (65_536, 1, 1_000, Some((32_212, 1_000))),
            (65_536, 1, 16_384, Some((32_200, 1_024))),
            (1_000_000, 64, 0, Some((498_400, 64))),
        ];
        for (limit, workers, checked, expected) in table {
            let shared = Descriptors::share(limit, workers, checked);
            let shared = shared.map(|shared| (shared.connections_max, shared.checks_max));
            assert_eq!(shared, expected, "{limit}, {workers}, {checked}");
        }
    }
}
