//! What a run is to do, without a value that could not be meant.

use std::net::SocketAddr;
use std::time::Duration;

use super::expect::Expect;
use crate::origin::pattern_byte;

/// Most bytes that are written at once when requests are pipelined.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to; connections are dealt to them in turn. At least one.
    pub targets: Vec<Target>,
    /// Connections that are open at once, of all threads. At least one for each thread.
    pub connections: usize,
    /// Threads that drive, each with its share of the connections and of the rate.
    pub threads: usize,
    /// When to send.
    pub pace: Pace,
    /// How long connections live.
    pub reuse: Reuse,
    /// What is sent.
    pub request: Request,
    /// What should come back.
    pub expect: Expect,
    /// Time before the measurement, under the same load.
    pub warm_up: Duration,
    /// Time of the measurement.
    pub duration: Duration,
    /// Longest time without a byte on a connection that owes one, and longest wait at the end for
    /// what is still under way.
    pub timeout: Duration,
    /// The process whose CPU time during the measurement is told, by its number.
    pub watch: Option<i32>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The `Host` field.
    pub host: String,
    /// The path and query.
    pub path: String,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Each connection sends as soon as it is answered.
    Closed,
    /// So many a second, whatever the target does; latency counts from the intended moment.
    Open {
        /// Requests a second, of all connections; not 0.
        rate: u64,
    },
}

/// How long connections live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// As long as both sides keep them, with at most `depth` requests under way on each.
    Kept {
        /// Requests that may be under way; not 0.
        depth: usize,
    },
    /// For one request, whose latency includes the connect.
    PerRequest,
}

impl Reuse {
    /// Requests that may be under way on one connection.
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Kept { depth } => depth,
            Self::PerRequest => 1,
        }
    }
}

/// What every request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, a token.
    pub method: String,
    /// Further fields, each `Name: value` without a line end.
    pub fields: Vec<String>,
    /// Bytes of the body; it is the pattern of [`pattern_byte`].
    pub body_bytes: usize,
}

impl Request {
    /// The body.
    pub(super) fn body(&self) -> impl Iterator<Item = u8> {
        (0..self.body_bytes as u64).map(pattern_byte)
    }
}

/// The bytes of a target's requests, as many in a row as are worth writing at once.
pub(super) struct Wire {
    bytes: Vec<u8>,
    length: usize,
}

impl Wire {
    pub(super) fn new(target: &Target, request: &Request, reuse: Reuse) -> Self {
        let Target { host, path, .. } = target;
        let mut one = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", request.method);
        for field in &request.fields {
            one.push_str(field);
            one.push_str("\r\n");
        }
        if request.body_bytes > 0 || ["POST", "PUT", "PATCH"].contains(&&*request.method) {
            one.push_str(&format!("Content-Length: {}\r\n", request.body_bytes));
        }
        if reuse == Reuse::PerRequest {
            one.push_str("Connection: close\r\n");
        }
        one.push_str("\r\n");
        let mut one = one.into_bytes();
        one.extend(request.body());
        let copies = (BATCH_BYTES_MAX / one.len()).clamp(1, reuse.depth());
        Self {
            length: one.len(),
            bytes: one.repeat(copies),
        }
    }

    /// Bytes of one request.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// What to write next of `requests` requests, the first without its first `offset` bytes.
    pub(super) fn rest(&self, requests: usize, offset: usize) -> &[u8] {
        let end = self.bytes.len().min(requests.saturating_mul(self.length));
        &self.bytes[offset..end]
    }
}

#[cfg(test)]
mod tests {
    use super::{Request, Reuse, Target, Wire};

    fn wire(body_bytes: usize, reuse: Reuse) -> Wire {
        let target = Target {
            address: "127.0.0.1:80".parse().unwrap(),
            host: "a:80".to_owned(),
            path: "/p?q".to_owned(),
        };
        let request = Request {
            method: "POST".to_owned(),
            fields: vec!["X-A: b".to_owned()],
            body_bytes,
        };
        Wire::new(&target, &request, reuse)
    }

    #[test]
    fn requests_stand_in_a_row() {
        let once = "POST /p?q HTTP/1.1\r\nHost: a:80\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc";
        let wire = wire(3, Reuse::Kept { depth: 4 });
        assert_eq!(wire.length(), once.len());
        assert_eq!(wire.rest(1, 0), once.as_bytes());
        assert_eq!(
            wire.rest(9, 0),
            once.repeat(4).as_bytes(),
            "no more than fit"
        );
        assert_eq!(wire.rest(2, 5), &once.repeat(2).as_bytes()[5..]);
    }

    #[test]
    fn a_long_body_is_held_once_and_a_lone_request_says_that_it_is() {
        let long = wire(1 << 20, Reuse::Kept { depth: 4 });
        assert_eq!(long.rest(4, 0).len(), long.length());
        let lone = wire(0, Reuse::PerRequest);
        let text = String::from_utf8_lossy(lone.rest(1, 0));
        assert!(text.ends_with("Content-Length: 0\r\nConnection: close\r\n\r\n"));
    }
}
