//! HTTP/1.x as a gateway speaks it (RFC 9110, RFC 9112).
//!
//! `head`, `framing`, `chunked`, `rewrite`, `reply` and `date` are pure rules: bytes and values in,
//! values out. `session` and `exchange` are the connections and requests that these rules govern.

pub mod chunked;
pub mod date;
pub mod end;
mod exchange;
mod field;
pub mod framing;
mod gateway;
pub mod head;
pub mod reply;
mod request;
pub mod request_id;
mod response;
pub mod rewrite;
mod session;
#[cfg(any(test, fuzzing))]
#[cfg_attr(
    not(test),
    expect(dead_code, unused_imports, reason = "the tests alone use some of it")
)]
pub mod simulation;

pub(crate) use gateway::Gateway;
pub use gateway::Options;
pub(crate) use session::Sessions;
