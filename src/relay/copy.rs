//! One direction of an exchange: a body from one stream to another.
//!
//! How the body is delimited where it comes from and how it is delimited where it goes are two
//! values; every pair of them is the same loop. One send is under way at a time, and nothing is
//! read meanwhile. Bytes that need not be looked at, and come in bulk, are spliced; all others go
//! through memory.

use std::future::Future;
use std::io;
use std::pin::pin;

use super::inbox::Inbox;
use super::pace::{Pace, Patience, Traffic};
use super::splice::{Batch, splice};
use super::stream::{Fill, Stream};
use crate::http1::chunked::{Decoder, Encoder, Trailers};
use crate::http1::framing::Framing;
use crate::io::{ChunkSize, Expect, Io, Parcel};
use crate::limits;

/// A body on its way.
pub(crate) struct Half {
    source: Source,
    sink: Sink,
    consumed: u64,
    /// Payload that may still come in chunks; what has a length is judged by its head.
    chunked_left: u64,
    /// The bytes come, or are going to come, many at a time.
    bulk: bool,
    /// What comes behind the body is received beside the last send.
    looks_behind: bool,
}

/// What is still to come, by how it is delimited.
enum Source {
    /// So many bytes.
    Length(u64),
    Chunked(Decoder),
    /// Whatever comes before the end of the stream.
    Close,
    /// All payload has come; its end is not written yet.
    Ending(Option<Box<Trailers>>),
    Done,
}

/// How the body is delimited where it goes.
enum Sink {
    /// The bytes alone: their length is known, or the close ends them.
    Plain,
    Chunked(Encoder),
}

/// Why a body did not arrive whole, and through whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayEnd {
    /// The source ended, or was reset, in the middle.
    SourceLost,
    /// The source sent nothing, and nothing else moved, for too long.
    SourceStalled,
    /// The source is a client that sends too slowly.
    SourceSlow,
    /// The source's chunked framing is broken.
    SourceGarbled,
    /// The source sends more than it may.
    SourceTooLong,
    /// The sink takes no more, and what it said before can be received to its end.
    SinkLost,
    /// The sink's connection is lost, and this send may have been the one that was told so.
    SinkReset,
    /// The sink took nothing, and nothing else moved, for too long.
    SinkStalled,
    /// The sink is a client that reads too slowly.
    SinkSlow,
}

impl Half {
    pub(crate) fn new(source: Framing, sink: Framing) -> Self {
        let sink = match sink {
            Framing::Chunked => Sink::Chunked(Encoder::default()),
            Framing::None | Framing::Length(_) | Framing::Close => Sink::Plain,
        };
        let source = match source {
            Framing::None | Framing::Length(0) => Source::Done,
            Framing::Length(length) => Source::Length(length),
            Framing::Chunked => Source::Chunked(Decoder::default()),
            Framing::Close => Source::Close,
        };
        Self {
            bulk: matches!(source, Source::Length(_)),
            source,
            sink,
            consumed: 0,
            chunked_left: u64::MAX,
            looks_behind: false,
        }
    }

    /// The same, with no more payload than that where it comes in chunks.
    pub(crate) fn at_most(self, chunked_max: Option<u64>) -> Self {
        Self {
            chunked_left: chunked_max.unwrap_or(u64::MAX),
            ..self
        }
    }

    /// Has the trailer section of a chunked body go on to a sink that is chunked too.
    pub(crate) fn keep_trailers(&mut self) {
        if let Source::Chunked(decoder) = &mut self.source {
            decoder.keep_trailers();
        }
    }

    /// Has the source's next receive begin before the last send does, which a slow sink may have
    /// wait for long: at its end whatever came behind the body is known, for no further call.
    pub(crate) fn look_behind(&mut self) {
        self.looks_behind = true;
    }

    /// Everything that comes until the stream ends, as it is.
    pub(super) fn raw() -> Self {
        Self::new(Framing::Close, Framing::Close)
    }

    /// Whether all of the body was handed over, its end included.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    /// Whether nothing of the body is still to come.
    fn has_come(&self) -> bool {
        matches!(self.source, Source::Ending(_) | Source::Done)
    }

    /// Bytes that were taken from the source, framing included.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Moves what is there of the body to `parcel`, as much as one send carries.
    pub(crate) fn load(&mut self, inbox: &mut Inbox, parcel: &mut Parcel) -> Result<(), RelayEnd> {
        let (payload, consumed) = match &mut self.source {
            Source::Length(left) => {
                let here = inbox.bytes().len();
                let payload = usize::try_from(*left).map_or(here, |left| left.min(here));
                *left -= payload as u64;
                let done = *left == 0;
                self.ends(done);
                (payload, payload)
            }
            Source::Chunked(decoder) => {
                let decoded = decoder.decode(inbox.bytes_mut());
                let decoded = decoded.map_err(|_| RelayEnd::SourceGarbled)?;
                let left = self.chunked_left.checked_sub(decoded.payload as u64);
                self.chunked_left = left.ok_or(RelayEnd::SourceTooLong)?;
                if decoded.done {
                    self.source = Source::Ending(decoder.take_trailers());
                }
                (decoded.payload, decoded.consumed)
            }
            Source::Close => (inbox.bytes().len(), inbox.bytes().len()),
            Source::Ending(_) | Source::Done => (0, 0),
        };
        self.consumed += consumed as u64;
        if payload > 0 {
            if let Sink::Chunked(encoder) = &mut self.sink {
                encoder.lead(payload, &mut parcel.lead);
            }
            inbox.hand_over(payload, consumed, parcel);
        } else {
            inbox.consume(consumed);
            // What is left is no part of this body, and its turn may be a long wait away.
            inbox.settle();
        }
        self.finish(parcel);
        Ok(())
    }

    /// How many bytes may go on without being looked at, where that is worth it.
    fn spliceable(&self) -> Option<u64> {
        match (&self.sink, &self.source) {
            (Sink::Plain, Source::Length(left)) if *left >= limits::SPLICE_BYTES_MIN => Some(*left),
            (Sink::Plain, Source::Close) => Some(u64::MAX),
            _ => None,
        }
        .filter(|_| self.bulk)
    }

    /// So many bytes went past memory.
    fn spliced(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        self.bulk = bytes >= limits::SPLICE_BATCH_BYTES_MIN;
        if let Source::Length(left) = &mut self.source {
            *left -= bytes as u64;
            let done = *left == 0;
            self.ends(done);
        }
    }

    /// So many bytes came to memory.
    fn received(&mut self, bytes: usize, pace: Pace<'_>) -> Result<(), RelayEnd> {
        pace.came(bytes)?;
        // A full chunk: there is more where that came from.
        self.bulk = bytes >= limits::LARGE_CHUNK_BYTES;
        Ok(())
    }

    fn ends(&mut self, done: bool) {
        if done {
            self.source = Source::Ending(None);
        }
    }

    /// Writes the end, unless payload is in its way that comes before it.
    fn finish(&mut self, parcel: &mut Parcel) {
        if let Source::Ending(trailers) = &self.source
            && !parcel.has_body()
        {
            if let Sink::Chunked(encoder) = &mut self.sink {
                encoder.finish_with(trailers.as_deref(), &mut parcel.lead);
            }
            self.source = Source::Done;
        }
    }

    /// The source's stream has ended, which is the end of the body for one kind of framing only,
    /// and not where it only looks like an end.
    fn close(&mut self, traffic: &Traffic) -> Result<(), RelayEnd> {
        match self.source {
            Source::Close if !traffic.backend_lost.get() => {
                self.source = Source::Ending(None);
                Ok(())
            }
            _ => Err(RelayEnd::SourceLost),
        }
    }
}

/// Relays `half` to its end. What is in `parcel` already, a head with the first of the body for
/// one, goes first.
pub(crate) async fn relay<I: Io>(
    half: &mut Half,
    from: &mut Stream<I>,
    to: &I::Socket,
    parcel: &mut Parcel,
    pace: Pace<'_>,
) -> Result<(), RelayEnd> {
    let io = from.io.clone();
    loop {
        if !parcel.is_empty() {
            let bytes = parcel.len();
            if half.looks_behind && half.has_come() {
                from.arm(ChunkSize::Large, Expect::Later);
            }
            // Pinned here, because it would be in the future twice where it is handed over.
            let sending = pin!(send(&io, to, parcel, pace));
            from.beside(sending).await?;
            pace.went(bytes);
        }
        if half.is_done() {
            return Ok(());
        }
        load(half, from, parcel, pace)?;
        if parcel.is_empty() && !half.is_done() {
            if matches!(pace.traffic.patience, Patience::Watched) {
                // Who may be idle for hours keeps no memory meanwhile.
                *parcel = Parcel::default();
            }
            advance(half, from, to, pace).await?;
        }
    }
}

/// Moves to `parcel` what has come of the body, received or not, as much as one send carries.
pub(crate) fn load<I: Io>(
    half: &mut Half,
    from: &mut Stream<I>,
    parcel: &mut Parcel,
    pace: Pace<'_>,
) -> Result<(), RelayEnd> {
    half.load(&mut from.inbox, parcel)?;
    if half.is_done() || parcel.has_body() || half.spliceable().is_some() {
        return Ok(());
    }
    let bytes = from.take_queued();
    if bytes == 0 {
        return Ok(());
    }
    // It was not waited for.
    pace.begins();
    half.received(bytes, pace)?;
    half.load(&mut from.inbox, parcel)
}

/// Waits for what comes next: to the inbox, or past it.
async fn advance<I: Io>(
    half: &mut Half,
    from: &mut Stream<I>,
    to: &I::Socket,
    pace: Pace<'_>,
) -> Result<(), RelayEnd> {
    if let Some(most) = half.spliceable().filter(|_| from.is_at_rest()) {
        match splice(|bytes| half.spliced(bytes), from, to, most, pace).await? {
            Batch::Moved => {}
            Batch::End => half.close(pace.traffic)?,
            Batch::Copy => half.bulk = false,
        }
        return Ok(());
    }
    pace.begins();
    let filled = loop {
        match from.fill(ChunkSize::Large, pace.deadline).await {
            Ok(filled) => break filled,
            Err(stop) => pace.goes_on(stop, || from.io.is_lost(to))?,
        }
    };
    match filled {
        Fill::Bytes => half.received(from.inbox.bytes().len(), pace),
        Fill::End => half.close(pace.traffic),
    }
}

/// Sends all of `parcel` and leaves it empty, unless the peer takes nothing for too long.
pub(crate) async fn send<I: Io>(
    io: &I,
    to: &I::Socket,
    parcel: &mut Parcel,
    pace: Pace<'_>,
) -> Result<(), RelayEnd> {
    let sending = io.send(to, std::mem::take(parcel));
    let sent = see_through(io, to, sending, pace).await;
    let (sent, returned) = sent?;
    *parcel = returned;
    parcel.clear();
    sent.map_err(|error| match is_told_of_loss(&error) {
        true => RelayEnd::SinkReset,
        false => RelayEnd::SinkLost,
    })
}

/// Whether a send that failed so may have been told what a receive is not told any more: that the
/// connection was lost, and did not end. It was not where the peer or the other direction knew
/// before that there is nothing to send to.
pub(crate) fn is_told_of_loss(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero
    )
}

/// Waits for the end of a send, or for room for one, for as long as the peer takes anything, and a
/// client enough: a slow reader is not one that reads nothing.
pub(crate) async fn see_through<I: Io, T>(
    io: &I,
    to: &I::Socket,
    mut sending: impl Future<Output = T> + Unpin,
    pace: Pace<'_>,
) -> Result<T, RelayEnd> {
    // Almost no send is still under way at the first look, so what was acknowledged before it is
    // not known, and the peer is taken to have moved.
    let look = pace.sink_look();
    let mut seen: Option<(u64, u64)> = None;
    loop {
        pace.deadline.set(look);
        if let Ok(sent) = pace.deadline.guard(&mut sending).await {
            return Ok(sent);
        }
        let (acknowledged, now_ms) = (io.acknowledged(to), pace.deadline.now_ms());
        match seen {
            Some((before, _)) if before == acknowledged => {
                if pace.left().is_none() {
                    return Err(RelayEnd::SinkStalled);
                }
                continue;
            }
            Some((before, at_ms)) => {
                pace.took(acknowledged.wrapping_sub(before), now_ms - at_ms)?
            }
            None => {}
        }
        seen = Some((acknowledged, now_ms));
        pace.moved();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::io::sim::{Network, Sim, World};
    use crate::io::{BufferOptions, Wheel};

    /// Loads what a peer sent at once as a body of that framing, and returns the chunks that are
    /// held behind it, with what is left.
    fn held_behind(framing: Framing, sent: &'static [u8]) -> (usize, Vec<u8>) {
        let world = World::new(0, Network::default(), BufferOptions::default());
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let host = world.bind(address);
        let io = Sim::<true>(world.clone());
        let loading = async {
            let visitor = world.clone().visit(address).await.unwrap();
            let mut stream = Stream::new(io.clone(), host.next().await.unwrap());
            visitor.write(sent).await.unwrap();
            let deadline = Wheel::default().deadline();
            while stream.inbox.bytes().len() < sent.len() {
                let filled = stream.fill(ChunkSize::Large, &deadline).await;
                assert_eq!(filled, Ok(Fill::Bytes));
            }
            let (mut half, mut parcel) = (Half::new(framing, framing), Parcel::default());
            half.load(&mut stream.inbox, &mut parcel).unwrap();
            let left = stream.inbox.bytes().to_vec();
            (io.usage().chunks_held, left)
        };
        world.executor.block_on(loading).unwrap()
    }

    #[test]
    fn what_comes_behind_a_body_waits_for_its_turn_without_a_chunk() {
        let next = b"GET / HTTP/1.1\r\n".to_vec();
        for (framing, sent) in [
            (Framing::None, &b"GET / HTTP/1.1\r\n"[..]),
            (Framing::Length(2), b"okGET / HTTP/1.1\r\n"),
            (Framing::Chunked, b"0\r\n\r\nGET / HTTP/1.1\r\n"),
            (Framing::Chunked, b"2\r\nok\r\n0\r\n\r\nGET / HTTP/1.1\r\n"),
        ] {
            assert_eq!(held_behind(framing, sent), (0, next.clone()), "{framing:?}");
        }
    }
}
