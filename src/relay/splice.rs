//! One batch of bulk from socket to socket, through a pipe and not through memory.
//!
//! The pipe is on loan from the moment that bytes are there until the last of them is sent, so a
//! flow that waits for bytes holds none, and the pipe is empty whenever it is filled.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::time::Duration;

use super::copy::{RelayEnd, see_through};
use super::pace::Pace;
use super::stream::Stream;
use crate::io::{Io, Pipe};
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
    let (moved, pipe) = loop {
        while let Err(stop) = from.readable(pace.deadline).await {
            pace.goes_on(stop, || from.io.is_lost(to))?;
        }
        from.io.bulk_turn().await;
        let Some(mut pipe) = from.io.pipe() else {
            return Ok(Batch::Copy);
        };
        match from.io.splice_in(&from.socket, &mut pipe, most) {
            Ok(Some(0)) => return Ok(Batch::End),
            Ok(Some(moved)) => break (moved, pipe),
            // That it was ready was news of bytes that the batch before has taken.
            Ok(None) => {}
            // The call is forbidden here, or urgent data is in the way, which is no fault of the
            // source. Not so any other error: the kernel tells of a reset once, and a receive would
            // find a clean end.
            Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Batch::Copy),
            Err(_) => return Err(RelayEnd::SourceLost),
        }
    };
    from.leaves_more = true;
    took(moved);
    pace.came(moved)?;
    empty(&from.io, pipe, to, pace).await?;
    Ok(Batch::Moved)
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
            moved = later?.map(Some);
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
    use crate::io::sim::{Network, Sim, World};
    use crate::io::{
        self as engine, BufferOptions, ChunkSize, Epoll, Expect, Parcel, Uring, Wheel,
    };
    use crate::relay::{ClientSide, Patience, Traffic};

    async fn pair<I: Io>(io: &I) -> (I::Socket, I::Socket) {
        let socket = engine::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = engine::local_address(&socket).unwrap().into();
        let listener = io.listener(socket).unwrap();
        let (ours, theirs) = tokio::join!(io.connect(&address), io.accept(&listener));
        (ours.unwrap(), theirs.unwrap().0)
    }

    /// Sends a message, has it spliced, and receives it, time and again; the next wait begins
    /// before the next message comes.
    fn stays_spliced<I: Io>() {
        const MESSAGE: [u8; limits::SPLICE_BATCH_BYTES_MIN] = [b'x'; _];
        let exchange = async |io: I| {
            let ((client, from), (to, backend)) = (pair(&io).await, pair(&io).await);
            let (mut from, traffic) = (
                Stream::new(io.clone(), from),
                Traffic::new(Patience::Watched, None),
            );
            let pace = Pace {
                deadline: &Wheel::default().deadline(),
                client: ClientSide::Neither,
                traffic: &traffic,
            };
            for round in 0..20 {
                let mut taken = 0;
                let splicing = async {
                    while taken < MESSAGE.len() {
                        let batch = splice(|bytes| taken += bytes, &mut from, &to, u64::MAX, pace);
                        assert_eq!(batch.await, Ok(Batch::Moved), "round {round}");
                    }
                };
                let talking = async {
                    // What was ready before is looked at by then.
                    io.sleep(Duration::from_millis(5)).await;
                    let mut parcel = Parcel::default();
                    parcel.lead.extend_from_slice(&MESSAGE);
                    io.send(&client, parcel).await.0.unwrap();
                    let mut heard = 0;
                    while heard < MESSAGE.len() {
                        let chunk = io.recv(&backend, ChunkSize::Large, Expect::Now).await;
                        heard += chunk.unwrap().unwrap().bytes().len();
                    }
                };
                tokio::join!(splicing, talking);
            }
        };
        I::run(BufferOptions::default(), exchange).unwrap();
    }

    #[test]
    fn a_flow_that_keeps_up_with_its_source_stays_spliced() {
        stays_spliced::<Epoll>();
        if engine::probe().is_ok() {
            stays_spliced::<Uring>();
        }
    }

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
