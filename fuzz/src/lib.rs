//! What the fuzzers do with their bytes: one function each, which panics where a promise is broken.
//!
//! `tests/corpus.rs` calls the same functions with the kept corpus, on the stable toolchain. The
//! target `session` is not here but beside the simulation that it runs in.

mod bodies;
mod fields;
mod heads;
mod pieces;
mod proxy;
mod streams;
mod strict;

pub use bodies::chunked;
pub use heads::{request_head, response_head};
pub use proxy::proxy_header;
pub use streams::{request_stream, response_stream};
