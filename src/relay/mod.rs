//! Moving bytes between two streams, one direction (`Half`) at a time.

mod copy;
mod flow;
mod inbox;
mod pace;
mod rate;
mod splice;
mod stream;

pub(crate) use copy::{Half, RelayEnd, is_told_of_loss, load, relay, see_through, send};
pub use flow::FlowOptions;
pub(crate) use flow::{Flow, FlowEnd};
pub(crate) use inbox::Inbox;
pub(crate) use pace::{ClientSide, FOR_EVER, Pace, Patience, Traffic, next_look};
pub use rate::MinRate;
pub(crate) use stream::{Fill, Stop, Stream};
