//! One direction of an exchange: a body from one stream to another, through memory.
//!
//! How the body is delimited where it comes from and how it is delimited where it goes are two
//! values; every pair of them is the same loop. One send is under way at a time, and nothing is
//! read meanwhile.

use std::future::Future;
use std::io;
use std::time::Duration;

use super::inbox::Inbox;
use super::stream::{Fill, Stop, Stream};
use crate::http1::chunked::{Decoder, Encoder};
use crate::http1::framing::Framing;
use crate::io::{ChunkSize, Deadline, Expired, Io, Parcel};

/// A body on its way.
pub(crate) struct Half {
    source: Source,
    sink: Sink,
    consumed: u64,
}

/// What is still to come, by how it is delimited.
enum Source {
    /// So many bytes.
    Length(u64),
    Chunked(Decoder),
    /// Whatever comes before the end of the stream.
    Close,
    /// All payload has come; its end is not written yet.
    Ending,
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
    /// The source sent nothing for too long.
    SourceStalled,
    /// The source's chunked framing is broken.
    SourceGarbled,
    SinkLost,
    /// The sink took nothing for too long.
    SinkStalled,
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
            source,
            sink,
            consumed: 0,
        }
    }

    /// Whether all of the body was handed over, its end included.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.source, Source::Done)
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
                self.ends(decoded.done);
                (decoded.payload, decoded.consumed)
            }
            Source::Close => (inbox.bytes().len(), inbox.bytes().len()),
            Source::Ending | Source::Done => (0, 0),
        };
        self.consumed += consumed as u64;
        if payload > 0 {
            if let Sink::Chunked(encoder) = &mut self.sink {
                encoder.lead(payload, &mut parcel.lead);
            }
            inbox.hand_over(payload, consumed, parcel);
        } else {
            inbox.consume(consumed);
        }
        self.finish(parcel);
        Ok(())
    }

    fn ends(&mut self, done: bool) {
        if done {
            self.source = Source::Ending;
        }
    }

    /// Writes the end, unless payload is in its way that comes before it.
    fn finish(&mut self, parcel: &mut Parcel) {
        if matches!(self.source, Source::Ending) && !parcel.has_body() {
            if let Sink::Chunked(encoder) = &mut self.sink {
                encoder.finish(&mut parcel.lead);
            }
            self.source = Source::Done;
        }
    }

    /// The source's stream has ended, which is the end of the body for one kind of framing only.
    fn close(&mut self) -> Result<(), RelayEnd> {
        match self.source {
            Source::Close => {
                self.source = Source::Ending;
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
    deadline: &Deadline,
    idle: Option<Duration>,
) -> Result<(), RelayEnd> {
    loop {
        if !parcel.is_empty() {
            send(&from.io, to, parcel, deadline, idle)
                .await
                .map_err(sink_end)?;
        }
        if half.is_done() {
            return Ok(());
        }
        half.load(&mut from.inbox, parcel)?;
        if parcel.is_empty() && !half.is_done() {
            deadline.set(idle);
            match from
                .fill(ChunkSize::Large, deadline)
                .await
                .map_err(source_end)?
            {
                Fill::Bytes => {}
                Fill::End => half.close()?,
            }
        }
    }
}

/// Sends all of `parcel` and leaves it empty, unless the peer takes nothing for as long as `idle`.
pub(crate) async fn send<I: Io>(
    io: &I,
    to: &I::Socket,
    parcel: &mut Parcel,
    deadline: &Deadline,
    idle: Option<Duration>,
) -> Result<(), Stop> {
    let sending = io.send(to, std::mem::take(parcel));
    let (sent, returned) = see_through(io, to, sending, deadline, idle).await?;
    *parcel = returned;
    parcel.clear();
    sent.map_err(|_| Stop::Lost)
}

/// Waits for the end of a send, for as long as the peer takes any of it: a slow reader is not one
/// that reads nothing.
pub(crate) async fn see_through<I: Io>(
    io: &I,
    to: &I::Socket,
    mut sending: impl Future<Output = (io::Result<()>, Parcel)> + Unpin,
    deadline: &Deadline,
    idle: Option<Duration>,
) -> Result<(io::Result<()>, Parcel), Expired> {
    // Two looks at what the peer has acknowledged, half the time apart; almost no send is still
    // under way at the first.
    let look = idle.map(|idle| idle / 2);
    let mut seen = None;
    loop {
        deadline.set(look);
        if let Ok(sent) = deadline.guard(&mut sending).await {
            return Ok(sent);
        }
        let acknowledged = io.acknowledged(to);
        if seen == Some(acknowledged) {
            return Err(Expired);
        }
        seen = Some(acknowledged);
    }
}

fn source_end(stop: Stop) -> RelayEnd {
    match stop {
        Stop::Expired => RelayEnd::SourceStalled,
        Stop::Lost => RelayEnd::SourceLost,
    }
}

fn sink_end(stop: Stop) -> RelayEnd {
    match stop {
        Stop::Expired => RelayEnd::SinkStalled,
        Stop::Lost => RelayEnd::SinkLost,
    }
}
