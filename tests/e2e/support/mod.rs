//! The harness: processes, a scriptable origin and a client that sees every byte.
//!
//! It blocks and uses threads, so that no test depends on the machinery that it tests. Its parser
//! is its own and strict: what fastlb says must be well formed, not merely understood.

mod client;
mod clock;
mod engine;
mod folder;
mod gate;
mod message;
mod origin;
mod pattern;
mod preface;
mod process;
mod proxy;
mod raw;
mod wire;

pub(crate) use client::{Client, get};
pub(crate) use clock::{PATIENCE, eventually, now, pause, wait_for};
pub(crate) use engine::{Engine, run_on};
pub(crate) use folder::Folder;
use gate::Gate;
pub(crate) use message::{Framing, Head, Message};
pub(crate) use origin::{
    Conversation, Origin, answer, full_listener, ok, refusing_address, reserved_address,
    reserved_port,
};
pub(crate) use pattern::{Checker, Pattern};
pub(crate) use preface::{preface, v2};
pub(crate) use process::{Ended, Process};
pub(crate) use proxy::{Proxy, address_in};
pub(crate) use raw::{expect_reset, read_to_end, reset};
pub(crate) use wire::{Broken, Wire};
