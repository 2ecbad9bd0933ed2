//! One end of a connection as the path sees it: what has come, and the wait for what comes next.
//! Downstream and upstream are the same thing here.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::{io, mem};

use super::inbox::Inbox;
use crate::io::{Chunk, ChunkSize, Deadline, Expect, Expired, Io};

/// A connected socket with the bytes it brought.
pub(crate) struct Stream<I: Io> {
    pub(crate) io: I,
    pub(crate) socket: I::Socket,
    /// What was received and not yet consumed.
    pub(crate) inbox: Inbox,
    /// What is under way. It outlives whoever waits for it.
    armed: Option<Armed<I>>,
    /// What was taken from the socket last may not have been all that had come.
    pub(super) leaves_more: bool,
}

/// The one wait for bytes of a stream.
enum Armed<I: Io> {
    Recv(I::Recv),
    Readable(I::Readable),
    /// A receive that came to the end, or to an error, while nobody waited for it. The kernel
    /// tells of a reset once, so the next who waits hears of it from here.
    Ended(io::Result<()>),
}

/// What a wait for bytes brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// More bytes in the inbox.
    Bytes,
    /// The peer has closed its side.
    End,
}

/// Why a wait on a stream brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its deadline passed.
    Expired,
    /// The connection was reset, or is unusable for another reason.
    Lost,
}

impl From<Expired> for Stop {
    fn from(Expired: Expired) -> Self {
        Self::Expired
    }
}

impl<I: Io> Stream<I> {
    pub(crate) fn new(io: I, socket: I::Socket) -> Self {
        Self {
            io,
            socket,
            inbox: Inbox::default(),
            armed: None,
            leaves_more: false,
        }
    }

    /// Begins to receive, where that has not begun.
    pub(crate) fn arm(&mut self, size: ChunkSize, expect: Expect) {
        if self.armed.is_none() {
            self.armed = Some(Armed::Recv(self.io.recv(&self.socket, size, expect)));
        }
    }

    /// Waits for more bytes, until the deadline.
    pub(crate) async fn fill(
        &mut self,
        size: ChunkSize,
        deadline: &Deadline,
    ) -> Result<Fill, Stop> {
        self.inbox.settle();
        if matches!(self.armed, Some(Armed::Readable(_))) {
            self.readable(deadline).await?;
        }
        self.arm(size, Expect::Now);
        let received = deadline.guard(poll_fn(|cx| self.poll_armed(cx))).await?;
        match received {
            Some(Ok(Some(chunk))) => {
                self.inbox.push(chunk);
                Ok(Fill::Bytes)
            }
            Some(Ok(None)) => Ok(Fill::End),
            Some(Err(_)) | None => Err(Stop::Lost),
        }
    }

    /// Takes what has come together with what was received last, where its chunk had no room for
    /// it, and tells how many bytes that is. Does not wait.
    pub(super) fn take_queued(&mut self) -> usize {
        if !self.leaves_more || self.armed.is_some() || !self.inbox.is_empty() {
            return 0;
        }
        match self.io.recv_queued(&self.socket) {
            Ok(Some(chunk)) => {
                let bytes = chunk.len();
                self.leaves_more = chunk.is_full();
                self.inbox.push(chunk);
                return bytes;
            }
            Ok(None) => {}
            Err(lost) => self.armed = Some(Armed::Ended(Err(lost))),
        }
        0
    }

    /// Whether no receive is under way and nothing received is left, so that the next bytes are
    /// those in the socket.
    pub(super) fn is_at_rest(&self) -> bool {
        self.inbox.is_empty() && matches!(self.armed, None | Some(Armed::Readable(_)))
    }

    /// Whether nothing has come that was not consumed, be it the end. A receive that is under way
    /// finds that by itself, and only behind a full chunk may it have had no time to, so the socket
    /// is seldom asked.
    pub(crate) fn is_drained(&self) -> bool {
        let finds = matches!(self.armed, Some(Armed::Recv(_))) && !self.leaves_more;
        self.inbox.is_empty() && (finds || !self.io.is_readable(&self.socket))
    }

    /// Waits until the socket has something to read, without reading it, until the deadline.
    pub(super) async fn readable(&mut self, deadline: &Deadline) -> Result<(), Stop> {
        debug_assert!(self.is_at_rest(), "a receive would take what is waited for");
        if self.armed.is_none() {
            self.armed = Some(Armed::Readable(self.io.readable(&self.socket)));
        }
        let ready = poll_fn(|cx| match &mut self.armed {
            Some(Armed::Readable(ready)) => {
                let ready = ready!(Pin::new(ready).poll(cx));
                self.armed = None;
                Poll::Ready(ready)
            }
            _ => Poll::Ready(Ok(())),
        });
        deadline.guard(ready).await?.map_err(|_| Stop::Lost)
    }

    /// Does `work`. The receive that a wait before left under way may complete meanwhile: what it
    /// brings is kept, be it the end, and its chunk is not.
    pub(crate) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.keep_armed(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    /// As [`Stream::beside`], until bytes are there: `None` where they came before the end of
    /// `work`.
    pub(crate) async fn beside_until_bytes<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if self.inbox.is_empty() {
                self.arm(ChunkSize::Large, Expect::Later);
                self.keep_armed(cx);
            }
            match self.inbox.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(None),
            }
        })
        .await
    }

    fn keep_armed(&mut self, cx: &mut Context<'_>) {
        match self.poll_armed(cx) {
            Poll::Ready(Some(Ok(Some(chunk)))) => {
                self.inbox.push(chunk);
                self.inbox.settle();
            }
            Poll::Ready(Some(ended)) => self.armed = Some(Armed::Ended(ended.map(drop))),
            Poll::Ready(None) | Poll::Pending => {}
        }
    }

    /// Polls the receive that is under way; ready with `None` where there is none.
    pub(crate) fn poll_armed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Option<Chunk>>>> {
        let received = match &mut self.armed {
            Some(Armed::Recv(armed)) => ready!(Pin::new(armed).poll(cx)),
            Some(Armed::Ended(ended)) => mem::replace(ended, Ok(())).map(|()| None),
            Some(Armed::Readable(_)) | None => return Poll::Ready(None),
        };
        self.armed = None;
        if let Ok(Some(chunk)) = &received {
            self.leaves_more = chunk.is_full();
        }
        Poll::Ready(Some(received))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;

    use super::*;
    use crate::io::sim::{End, Network, Sim, World};
    use crate::io::{BufferOptions, Wheel};
    use crate::limits;

    /// A visitor, and the stream that it comes in by.
    async fn visited<const ATTENDED: bool>(world: &Rc<World>) -> (Rc<End>, Stream<Sim<ATTENDED>>) {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let host = world.bind(address);
        let visitor = world.clone().visit(address).await.unwrap();
        let socket = host.next().await.unwrap();
        (visitor, Stream::new(Sim(world.clone()), socket))
    }

    /// What a wait finds whose peer closed, or reset, while something else was done.
    fn found_behind(resets: bool) -> Result<Fill, Stop> {
        let world = World::new(0, Network::default(), BufferOptions::default());
        let waiting = async {
            let (visitor, mut stream) = visited::<true>(&world).await;
            stream.arm(ChunkSize::Small, Expect::Later);
            let leaves = async {
                if resets {
                    visitor.reset_on_close();
                }
                drop(visitor);
                world.executor.sleep(10).await;
            };
            stream.beside(leaves).await;
            // Beside something else it is kept as well.
            stream.beside(world.executor.sleep(10)).await;
            let deadline = Wheel::default().deadline();
            stream.fill(ChunkSize::Small, &deadline).await
        };
        world.executor.block_on(waiting).unwrap()
    }

    #[test]
    fn an_end_that_came_beside_something_else_is_found_behind_it() {
        assert_eq!(found_behind(false), Ok(Fill::End));
        assert_eq!(found_behind(true), Err(Stop::Lost));
    }

    #[test]
    fn what_a_full_chunk_leaves_is_taken_without_a_wait() {
        const MORE_BYTES: usize = 100;
        let world = World::new(0, Network::default(), BufferOptions::default());
        let receiving = async {
            // Like the ring, which receives into small chunks.
            let (visitor, mut stream) = visited::<false>(&world).await;
            let deadline = Wheel::default().deadline();
            assert_eq!(stream.take_queued(), 0, "nothing was received");
            let speaker = visitor.clone();
            let speaking = async {
                let sent = vec![b'x'; limits::SMALL_CHUNK_BYTES + MORE_BYTES];
                speaker.write(&sent).await.unwrap();
            };
            let (filled, ()) = tokio::join!(stream.fill(ChunkSize::Large, &deadline), speaking);
            assert_eq!(filled, Ok(Fill::Bytes));
            assert_eq!(
                stream.take_queued(),
                0,
                "what was received first goes first"
            );
            stream.inbox.consume(limits::SMALL_CHUNK_BYTES);
            (stream.take_queued(), stream.take_queued())
        };
        let taken = world.executor.block_on(receiving).unwrap();
        assert_eq!(taken, (MORE_BYTES, 0));
    }

    #[test]
    fn what_a_full_chunk_leaves_in_the_socket_is_found() {
        let world = World::new(0, Network::default(), BufferOptions::default());
        let receiving = async {
            let (visitor, mut stream) = visited::<true>(&world).await;
            let sent = vec![0; limits::SMALL_CHUNK_BYTES + 1];
            let speaker = visitor.clone();
            world.executor.spawn(async move {
                let _ = speaker.write(&sent).await;
            });
            world.executor.sleep(10).await;
            let deadline = Wheel::default().deadline();
            let mut drained = Vec::new();
            for _ in 0..2 {
                let _ = stream.fill(ChunkSize::Small, &deadline).await;
                stream.inbox.consume(stream.inbox.bytes().len());
                drained.push(stream.is_drained());
            }
            drained
        };
        let drained = world.executor.block_on(receiving).unwrap();
        assert_eq!(drained, [false, true]);
    }
}
