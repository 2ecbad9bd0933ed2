//! A plan that tests begin from.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Checksum, Expect, Pace, Plan, Request, Reuse, Target};

/// One connection that asks a discard address for nothing special.
pub(super) fn plan() -> Plan {
    Plan {
        targets: vec![Target {
            address: SocketAddr::from(([127, 0, 0, 1], 9)),
            host: "a".to_owned(),
            path: "/".to_owned(),
        }],
        connections: 1,
        threads: 1,
        pace: Pace::Closed,
        reuse: Reuse::Kept { depth: 1 },
        request: Request {
            method: "GET".to_owned(),
            fields: Vec::new(),
            body_bytes: 0,
        },
        expect: Expect {
            status: None,
            length: None,
            checksum: Checksum::Any,
        },
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        watch: None,
    }
}
