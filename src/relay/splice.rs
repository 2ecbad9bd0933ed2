//! One batch of bulk from socket to socket, through a pipe and not through memory.
//!
//! The pipe is on loan from the moment that bytes are there until the last of them is sent, so a
//! flow that waits for bytes holds none, and the pipe is empty whenever it is filled.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::time::Duration;

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
    pace.begins();
    while let Err(stop) = from.readable(pace.deadline).await {
        pace.goes_on(stop, || from.io.is_lost(to))?;
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
        let mut moved = io.splice_out(&mut pipe, to);
        if let Ok(None) = moved {
            let moving = pin!(move_later(io, to, || io.splice_out(&mut pipe, to)));
            let later = see_through(io, to, moving, pace).await;
            moved = later.map_err(|Expired| RelayEnd::SinkStalled)?.map(Some);
        }
        match moved {
            Ok(moved) => pace.went(moved.unwrap_or(0)),
            // Whatever the error says: one splice sends several times, and where the first of them
            // went well the kernel keeps to itself what the last was told.
            Err(_) => return Err(RelayEnd::SinkReset),
        }
    }
    Ok(())
}

/// Waits for room until `attempt` has moved something.
async fn move_later<I: Io>(
    io: &I,
    to: &I::Socket,
    mut attempt: impl FnMut() -> io::Result<Option<usize>>,
) -> io::Result<usize> {
    loop {
        io.writable(to).await?;
        if let Some(moved) = attempt()? {
            return Ok(moved);
        }
        // Room, and yet no room: the socket has some, and the kernel no memory to fill it with
        // (tcp_mem). Asked again at once, both would say the same for as long as that lasts.
        io.sleep(Duration::from_millis(limits::TICK_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::io::BufferOptions;
    use crate::io::sim::{Network, Sim, World};

    #[test]
    fn room_that_is_none_is_not_asked_for_all_the_time() {
        const FOR_MS: u64 = 1_000;
        let world = World::new(0, Network::default(), BufferOptions::default());
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let (host, io) = (world.bind(address), Sim::<true>(world.clone()));
        let (mut attempts, executor) = (0, &world.executor);
        let moving = async {
            let visitor = world.clone().visit(address).await.unwrap();
            let to = host.next().await.unwrap();
            let moved = move_later(&io, &to, || {
                attempts += 1;
                assert!(attempts <= 1 + FOR_MS / limits::TICK_MS, "it spins");
                Ok((executor.now_ms() >= FOR_MS).then_some(7))
            });
            let moved = moved.await.unwrap();
            drop(visitor);
            moved
        };
        assert_eq!(executor.block_on(moving).unwrap(), 7);
    }
}
