//! One batch of bulk from socket to socket, through a pipe and not through memory.
//!
//! The pipe is on loan from the moment that bytes are there until the last of them is sent, so a
//! flow that waits for bytes holds none, and the pipe is empty whenever it is filled.

use std::io::ErrorKind;

use super::copy::{Pace, RelayEnd, see_through};
use super::stream::Stream;
use crate::io::{Expired, Io, Pipe};
use crate::limits;

/// What a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// Bytes came, and the sink has taken them.
    Moved,
    /// The source has ended.
    End,
    /// There is no pipe to be had, or what comes next does not go through one: the bytes are to
    /// be copied.
    Copy,
}

/// Waits until something has come and moves it, at most `most` bytes. The stream must be at rest.
/// `took` is told what is taken from the source before the sink has it: those bytes cannot be had
/// again, whatever becomes of them.
pub(super) async fn splice<I: Io>(
    took: impl FnOnce(usize),
    from: &mut Stream<I>,
    to: &I::Socket,
    most: u64,
    pace: Pace<'_>,
) -> Result<Batch, RelayEnd> {
    let turn = limits::RELAY_TURN_BYTES_MAX;
    let most = usize::try_from(most).map_or(turn, |most| most.min(turn));
    pace.deadline.set(pace.idle);
    while let Err(stop) = from.readable(pace.deadline).await {
        pace.goes_on(stop)?;
    }
    let Some(mut pipe) = from.io.pipe() else {
        return Ok(Batch::Copy);
    };
    match from.io.splice_in(&from.socket, &mut pipe, most) {
        Ok(Some(0)) => Ok(Batch::End),
        Ok(Some(moved)) => {
            took(moved);
            pace.came(moved);
            empty(&from.io, pipe, to, pace).await?;
            Ok(Batch::Moved)
        }
        // Ready, and yet nothing there for a pipe: urgent data is in the way, which only a receive
        // steps over.
        Ok(None) => Ok(Batch::Copy),
        // The call is forbidden here, which is no fault of the source. Not so any other error:
        // the kernel tells of a reset once, and a receive would find a clean end.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Batch::Copy),
        Err(_) => Err(RelayEnd::SourceLost),
    }
}

/// Sends all that is in the pipe, unless the peer takes nothing for too long.
async fn empty<I: Io>(
    io: &I,
    mut pipe: Pipe,
    to: &I::Socket,
    pace: Pace<'_>,
) -> Result<(), RelayEnd> {
    while pipe.held() > 0 {
        match io.splice_out(&mut pipe, to) {
            Ok(Some(moved)) => pace.went(moved),
            Ok(None) => {
                let room = io.writable(to);
                let room = see_through(io, to, room, pace).await;
                let room = room.map_err(|Expired| RelayEnd::SinkStalled)?;
                room.map_err(|_| RelayEnd::SinkLost)?;
            }
            // Whatever the error says: one splice sends several times, and where the first of them
            // went well the kernel keeps to itself what the last was told.
            Err(_) => return Err(RelayEnd::SinkReset),
        }
    }
    Ok(())
}
