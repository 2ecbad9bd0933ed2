//! HTTP/1.x as a gateway speaks it (RFC 9110, RFC 9112).
//!
//! `head`, `framing`, `chunked`, `rewrite` and `reply` are pure rules: bytes and values in, values
//! out. `session` and `exchange` are the connections and requests that these rules govern.

pub mod chunked;
pub mod end;
mod field;
pub mod framing;
pub mod head;
pub mod reply;
pub mod rewrite;

