//! fastlb: a load balancer for TCP and HTTP/1.x on Linux.
//!
//! The path of a request, in the order a byte travels:
//! listener, session, head, balance, upstream, exchange, relay, account.
//! `docs/architecture.md` has it in one picture.
#![deny(unsafe_code)]

pub mod balance;
pub mod cli;
pub mod clients;
pub mod config;
pub mod demo;
pub mod fleet;
pub mod health;
pub mod http1;
#[allow(unsafe_code)]
pub mod io;
pub mod limits;
pub mod listener;
pub mod proxy_protocol;
pub mod relay;
pub mod server;
mod signals;
pub mod stats;
mod tcp;
pub mod upstream;
pub mod worker;
