//! A fast HTTP/1.1 backend: the instrument that proxies are measured with.
//!
//! One thread, one read and one write per request, nothing allocated on the way. Not a web
//! server: it has a handful of routes (see `route.rs`) and trusts whoever talks to it.

mod delays;
mod output;
mod replies;
mod route;
mod server;
mod session;

pub use output::pattern_byte;
pub use server::{Options, Server};
