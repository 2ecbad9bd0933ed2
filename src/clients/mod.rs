//! What clients may do: the limits of each, none of which is about a backend.
//!
//! What is counted for each client is counted over all workers, because the kernel spreads the
//! connections of one client over them. Nothing here is touched where its limit is off.

mod connections;
mod rates;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use connections::{Connections, Place};
pub use rates::{Rate, RateError, Rates};

use crate::io::Stopwatch;
use crate::limits;

/// How much clients may do; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes of the body of one request.
    pub body_bytes_max: Option<u64>,
    /// Connections that one client may have open.
    pub connections_max: Option<u32>,
    /// Requests that one client may send.
    pub request_rate: Option<Rate>,
    /// Bytes in each second that a client must send of a request's body, or take of a response's,
    /// while it is waited for.
    pub body_rate_min: Option<u64>,
    /// Requests behind which a connection is closed.
    pub keep_alive_requests: Option<u32>,
    /// Age at which it is closed behind the next response.
    pub keep_alive_age: Option<Duration>,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: None,
            connections_max: None,
            request_rate: None,
            body_rate_min: Some(limits::BODY_RATE_MIN),
            keep_alive_requests: None,
            keep_alive_age: None,
        }
    }
}

/// The limits, with what all workers count together.
#[derive(Clone, Debug)]
pub struct Clients {
    /// How much each may do.
    pub limits: ClientLimits,
    /// Their connections, where a limit asks for it.
    pub connections: Option<Arc<Connections>>,
    /// How fast they ask, where a limit asks for it.
    pub rates: Option<Arc<Rates>>,
    /// One for all workers.
    clock: Stopwatch,
}

impl Clients {
    /// Nobody has done anything yet.
    pub fn new(limits: ClientLimits) -> Self {
        let connections = limits.connections_max.map(Connections::new);
        Self {
            limits,
            connections: connections.map(Arc::new),
            rates: limits.request_rate.map(Rates::new).map(Arc::new),
            clock: Stopwatch::start(),
        }
    }

    /// Time since all this began, to the microsecond.
    pub fn age(&self) -> Duration {
        Duration::from_micros(self.clock.elapsed_us())
    }
}

/// Who counts as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// An address of IPv4.
    V4(u32),
    /// The first 64 bits of one of IPv6: a site has at least as many addresses behind them (RFC
    /// 6177), and whoever has them can have a new one for each connection.
    V6(u64),
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::ClientKey;

    fn key(address: &str) -> ClientKey {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_64_bits() {
        let same = [
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
        ];
        for (first, second) in same {
            assert_eq!(key(first), key(second), "{first} {second}");
        }
        let different = [
            ("192.0.2.1", "192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:2::1"),
            ("0.0.0.0", "::1"),
        ];
        for (first, second) in different {
            assert_ne!(key(first), key(second), "{first} {second}");
        }
    }
}
