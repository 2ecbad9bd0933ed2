//! Moving bytes between two streams, one direction (`Half`) at a time.

mod copy;
mod flow;
mod inbox;
mod splice;
mod stream;

pub(crate) use copy::{
    FOR_EVER, Half, Pace, Patience, RelayEnd, Traffic, is_told_of_loss, next_look, relay,
    see_through, send,
};
pub use flow::FlowOptions;
pub(crate) use flow::{Flow, FlowEnd};
pub(crate) use inbox::Inbox;
pub(crate) use stream::{Fill, Stop, Stream};
