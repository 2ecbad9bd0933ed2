//! The floor: a bare HTTP/1.1 relay, the least that a proxy in user space can cost.
//!
//! It parses both heads, picks backends round robin and keeps their connections. It rewrites
//! nothing, keeps no deadlines, counts nothing, retries nothing, and knows no other framing than
//! `Content-Length`: something to measure against, not something to use. A request costs it two
//! reads, two writes and its share of an `epoll_wait`.

mod end;
mod pools;
mod relay;

pub use relay::{Options, Relay};
