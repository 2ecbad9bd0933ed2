//! What fastlb is measured with: a cheap origin, the bare relay that is its floor, a client that
//! holds idle connections, and older designs of its pick. Nothing here is part of the balancer.
#![forbid(unsafe_code)]

pub use ended::ended;

pub mod floor;
pub mod hold;
pub mod loadgen;
pub mod origin;
pub mod pick;

mod acceptor;
mod body;
mod ended;
mod head;
mod source;
