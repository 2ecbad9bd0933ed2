//! What fastlb is measured with: a cheap origin, the bare relay that is its floor, and a client
//! that holds idle connections. Nothing here is part of the balancer, and it uses none of this.
#![forbid(unsafe_code)]

pub mod floor;
pub mod hold;
pub mod origin;

mod acceptor;
mod head;
