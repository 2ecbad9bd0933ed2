//! Who is alive: what is learnt from checks and from traffic, and what follows from it.
//!
//! `state` is the judge, a pure state machine over events and time. `active` asks the backends
//! themselves. Passive checks have no file here: what traffic tells is noted on the path, in
//! `upstream/report.rs`, and comes from the workers as values.

pub mod active;
pub mod state;

use std::fmt;

use crate::balance::BackendId;

pub use state::{Change, CheckRules, EjectRules, FleetHealth};

/// Whether a backend is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It is picked.
    #[default]
    Up,
    /// Its checks fail.
    Down,
    /// Its checks may pass, but its answers were too bad for the time being.
    Ejected,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
        })
    }
}

/// What was learnt of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which one.
    pub backend: BackendId,
    /// What it is.
    pub news: News,
}

/// What may be learnt of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A check passed.
    CheckPassed,
    /// A check found nothing out, because this machine lacked what it takes.
    Unknown,
    /// A check failed, with what it found.
    CheckFailed(CheckFailure),
    /// A request failed by the backend's fault.
    Fault(Fault),
    /// The first request that a worker saw go well after one that failed.
    Recovered,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// The connection could not be made, with what the kernel said.
    Connect(String),
    /// There was no answer in time.
    Timeout,
    /// The connection ended, or what came over it was no response.
    Broken,
    /// The response had a status that is not wanted.
    Status(u16),
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Broken => f.write_str("no readable answer"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

/// How a request failed by its backend's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection was refused, or could not be made in time.
    Connect,
    /// The response did not come, or did not go on, in time.
    Timeout,
    /// The connection ended too early, or what came over it was unreadable.
    Broken,
    /// The response had this status, which is 500 or above.
    Status(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("cannot be connected to"),
            Self::Timeout => f.write_str("did not answer in time"),
            Self::Broken => f.write_str("broke off or was unreadable"),
            Self::Status(status) => write!(f, "answered {status}"),
        }
    }
}
