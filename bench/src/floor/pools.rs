//! The backends in turn, and the idle connections of each, last in, first out.

use std::net::SocketAddr;

/// All backends.
pub(super) struct Pools {
    backends: Vec<Backend>,
    turn: usize,
}

struct Backend {
    address: SocketAddr,
    idle: Vec<usize>,
}

impl Pools {
    /// No connection yet. There is at least one address.
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        assert!(!addresses.is_empty(), "no backend to relay to");
        let backend = |address: &SocketAddr| Backend {
            address: *address,
            idle: Vec::new(),
        };
        Self {
            backends: addresses.iter().map(backend).collect(),
            turn: 0,
        }
    }

    /// The backend whose turn it is: its index and, taken out of the pool, an idle connection.
    pub(super) fn pick(&mut self) -> (usize, Option<usize>) {
        let backend = self.turn;
        self.turn = if backend + 1 == self.backends.len() {
            0
        } else {
            backend + 1
        };
        (backend, self.backends[backend].idle.pop())
    }

    /// Where `backend` listens.
    pub(super) fn address(&self, backend: usize) -> SocketAddr {
        self.backends[backend].address
    }

    /// The connection `key` is idle from now on.
    pub(super) fn put_back(&mut self, backend: usize, key: usize) {
        self.backends[backend].idle.push(key);
    }

    /// The connection `key` is gone.
    pub(super) fn forget(&mut self, backend: usize, key: usize) {
        self.backends[backend].idle.retain(|idle| *idle != key);
    }
}

#[cfg(test)]
mod tests {
    use super::Pools;

    #[test]
    fn backends_take_turns_and_the_warmest_connection_goes_first() {
        let address = "127.0.0.1:1".parse().unwrap();
        let mut pools = Pools::new(&[address, address]);
        pools.put_back(0, 7);
        pools.put_back(0, 8);
        pools.put_back(1, 9);
        pools.forget(1, 9);
        assert_eq!(pools.pick(), (0, Some(8)));
        assert_eq!(pools.pick(), (1, None));
        assert_eq!(pools.pick(), (0, Some(7)));
    }
}
