//! Moving bytes between two streams, one direction (`Half`) at a time.

mod copy;
mod inbox;
mod stream;

pub(crate) use copy::{Half, RelayEnd, relay, see_through, send};
pub(crate) use inbox::Inbox;
pub(crate) use stream::{Fill, Stop, Stream};
