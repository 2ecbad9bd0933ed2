//! A response on its way downstream: received, understood, written anew for its client.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use super::end::{Cause, Phase};
use super::framing::{self, Delivery, Framing, RequestPlan, ResponsePlan};
use super::gateway::Gateway;
use super::head::{ResponseHead, Scan, Span, Version, field_store};
use super::rewrite::{self, Added};
use crate::io::{ChunkSize, Deadline, Io, Parcel};
use crate::limits;
use crate::relay::{
    self, FOR_EVER, Fill, Half, MinRate, Pace, Patience, RelayEnd, Stop, Stream, Traffic,
};

/// How far the two directions of an exchange are; each tells the other.
pub(super) struct Progress {
    pub(super) upload: Cell<Upload>,
    /// When the backend's time to answer began: with the end of the upload, whole or not.
    pub(super) sent_ms: Cell<u64>,
    /// The backend has not been sent one byte of the request.
    pub(super) unsent: Cell<bool>,
    pub(super) traffic: Traffic,
    pub(super) phase: Cell<Phase>,
    /// The client can tell by itself whether what it was sent is whole. Where only the close of the
    /// connection ends it, a clean one after half of it would be a lie; and behind half an interim
    /// response nothing can be said any more.
    pub(super) cuts_cleanly: Cell<bool>,
}

/// How far a request is on its way to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    UnderWay,
    /// The backend takes no more of it.
    Cut,
    Whole,
}

impl Progress {
    /// Nothing has happened yet; the client must not be slower than that.
    pub(super) fn new(patience: Patience, least: Option<MinRate>) -> Self {
        Self {
            upload: Cell::new(Upload::UnderWay),
            sent_ms: Cell::new(0),
            unsent: Cell::new(false),
            traffic: Traffic::new(patience, least),
            phase: Cell::new(Phase::Connect),
            cuts_cleanly: Cell::new(true),
        }
    }

    /// A backend is about to be sent the request, the `whole` of it at once or not. What was noted
    /// of another is over.
    pub(super) fn begin(&self, whole: bool) {
        self.upload.set(match whole {
            true => Upload::Whole,
            false => Upload::UnderWay,
        });
        self.note_sent(&Ok(()));
    }

    /// Whether the backend was given all of the request.
    pub(super) fn is_whole(&self) -> bool {
        self.upload.get() == Upload::Whole
    }

    /// The first of the request was sent, so or so.
    pub(super) fn note_sent(&self, sent: &io::Result<()>) {
        let error = sent.as_ref().err();
        let unsent = error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        self.unsent.set(unsent);
        self.traffic
            .set_backend_lost(error.is_some_and(relay::is_told_of_loss));
    }
}

/// A response that reached the client whole.
#[derive(Clone, Copy)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// The client's connection goes on.
    pub(super) keep_alive: bool,
    /// The backend keeps its connection, and has sent nothing behind the response.
    pub(super) reusable: bool,
    /// It began before the backend had the whole request.
    pub(super) early: bool,
}

impl Answered {
    /// Whether what follows on both connections is no HTTP any more.
    pub(super) fn switches(&self) -> bool {
        self.status == 101
    }

    /// Whether a backend that answered before it had the whole request goes on reading it. One
    /// that refused does not, and what one that closes would read is lost anyway.
    pub(super) fn wants_rest(&self) -> bool {
        self.status < 400 && self.reusable
    }

    /// Whether the backend's connection can serve another request. A backend that answered what it
    /// had not read may never read it, and take the rest for its next request.
    pub(super) fn leaves_it_in_step(&self) -> bool {
        self.reusable && !self.early
    }
}

/// The downstream direction of one exchange.
pub(super) struct Reception<'a, I: Io> {
    pub(super) gateway: &'a Gateway<I>,
    pub(super) upstream: &'a mut Stream<I>,
    pub(super) client: &'a I::Socket,
    pub(super) deadline: &'a Deadline,
    pub(super) parcel: &'a mut Parcel,
    pub(super) plan: RequestPlan,
    /// The request's head as it was sent, where it asked for another protocol.
    pub(super) sent: &'a [u8],
    pub(super) added: Added<'a>,
    pub(super) progress: &'a Progress,
    /// Asks whether another backend takes the request over after a 5xx; `None` where it may not.
    pub(super) elsewhere: Option<&'a dyn Fn() -> bool>,
}

impl<'a, I: Io> Reception<'a, I> {
    /// Brings the response to the client.
    pub(super) async fn run(mut self) -> Result<Answered, Cause> {
        let (plan, delivery) = self.final_head().await?;
        let early = !self.progress.is_whole();
        if plan.switches() {
            // Its head waits in the parcel: it goes first through the tunnel.
            return Ok(Answered {
                status: plan.status,
                keep_alive: false,
                reusable: false,
                early: false,
            });
        }
        if plan.status >= 500 && self.elsewhere.is_some_and(|elsewhere| elsewhere()) {
            self.parcel.clear();
            return Err(Cause::Repeated(plan.status));
        }
        let mut half = Half::new(plan.framing, delivery.framing);
        if delivery.trailers {
            half.keep_trailers();
        }
        if plan.keep_alive && !early {
            half.look_behind();
        }
        // What is wrong with the body so far is found before the client has seen any of it.
        let pace = self.pace();
        relay::load(&mut half, self.upstream, self.parcel, pace).map_err(cut)?;
        self.progress.phase.set(Phase::Body);
        self.progress
            .cuts_cleanly
            .set(delivery.framing != Framing::Close);
        let traffic = &self.progress.traffic;
        let Self {
            upstream,
            client,
            parcel,
            ..
        } = self;
        traffic.set_answering(true);
        relay::relay(&mut half, upstream, client, parcel, pace)
            .await
            .map_err(cut)?;
        traffic.set_answering(false);
        Ok(Answered {
            status: plan.status,
            keep_alive: delivery.keep_alive,
            reusable: plan.keep_alive && upstream.is_drained(),
            early,
        })
    }

    /// That of this direction, and of whatever else the exchange waits for alone.
    pub(super) fn pace(&self) -> Pace<'a> {
        Pace {
            deadline: self.deadline,
            client: relay::ClientSide::Sink,
            traffic: &self.progress.traffic,
        }
    }

    /// Relays interim responses and stops behind the head of the final one, which is in the
    /// parcel by then.
    async fn final_head(&mut self) -> Result<(ResponsePlan, Delivery), Cause> {
        let mut in_step = true;
        for interim in 0..=limits::INTERIM_RESPONSES_MAX {
            let span = self.head(interim > 0).await?;
            let (mut plan, delivery) = self.translate(span)?;
            self.upstream.inbox.consume(span.end);
            in_step &= plan.keep_alive;
            if !plan.is_interim() {
                plan.keep_alive = in_step;
                return Ok((plan, delivery));
            }
            if interim == limits::INTERIM_RESPONSES_MAX {
                break;
            }
            if !self.parcel.is_empty() {
                // What came behind it waits for the client.
                self.upstream.inbox.settle();
                let (io, pace) = (&self.gateway.io, self.pace());
                // Before it goes: what the client sends then may be here before its end is.
                pace.tells();
                let cuts_cleanly = &self.progress.cuts_cleanly;
                cuts_cleanly.set(false);
                let sent = relay::send(io, self.client, self.parcel, pace);
                sent.await.map_err(cut)?;
                cuts_cleanly.set(true);
            }
        }
        Err(Cause::TooManyInterim)
    }

    /// Waits for a head. A backend that has `begun` to answer is not asked again elsewhere.
    async fn head(&mut self, begun: bool) -> Result<Span, Cause> {
        let mut scan = Scan::response();
        let start_ms = self.deadline.now_ms();
        self.deadline.set(Some(self.look()));
        loop {
            let bytes = self.upstream.inbox.bytes();
            if let Some(span) = scan.end(bytes).map_err(Cause::BadResponse)? {
                return Ok(span);
            }
            let begun = begun || !bytes.is_empty();
            match self.upstream.fill(ChunkSize::Large, self.deadline).await {
                Ok(Fill::Bytes) => {}
                Ok(Fill::End) | Err(Stop::Lost) if begun => return Err(Cause::BackendCut),
                Ok(Fill::End) => return Err(Cause::BackendClosed),
                Err(Stop::Lost) => return Err(Cause::BackendReset),
                Err(Stop::Expired) => self.look_again(start_ms)?,
            }
        }
    }

    /// Time to the next look whether the client is still there.
    pub(super) fn look(&self) -> Duration {
        relay::next_look(self.gateway.options.response_timeout)
    }

    /// Goes on with a wait for a head that began at `start_ms`.
    fn look_again(&self, start_ms: u64) -> Result<(), Cause> {
        if self.gateway.io.is_lost(self.client) {
            return Err(Cause::ClientGone);
        }
        // For as long as there is an upload it has to make progress, and not the backend.
        let waits = self.progress.upload.get() != Upload::UnderWay;
        let timeout = self.gateway.options.response_timeout.filter(|_| waits);
        let since_ms = start_ms.max(self.progress.sent_ms.get());
        let left = self.deadline.left(since_ms, timeout.unwrap_or(FOR_EVER));
        let left = left.ok_or(Cause::ResponseTimeout)?;
        self.deadline.set(Some(relay::next_look(Some(left))));
        Ok(())
    }

    fn translate(&mut self, span: Span) -> Result<(ResponsePlan, Delivery), Cause> {
        let mut store = field_store();
        let bytes = span.of(self.upstream.inbox.bytes_mut());
        let head = ResponseHead::parse(bytes, &mut store).map_err(Cause::BadResponse)?;
        let plan = framing::answer(&head, &self.plan, self.sent).map_err(Cause::BadResponse)?;
        // A refusal that did not wait for the body will not read the rest of it, and what is left
        // of the body cannot be told from the next request.
        let unread = !self.progress.is_whole() && (plan.status >= 400 || !plan.keep_alive);
        let closing = unread || self.gateway.is_draining();
        let delivery = framing::deliver(&plan, &self.plan, closing);
        let (added, out) = (self.added, &mut self.parcel.lead);
        if plan.switches() {
            rewrite::switching(&head, &plan, added, out);
        } else if !plan.is_interim() {
            rewrite::response(&head, &plan, delivery, &self.plan, added, out);
        } else if self.plan.version == Version::Http11 {
            rewrite::interim(&head, &plan, added, out);
        }
        Ok((plan, delivery))
    }
}

/// Why the body of a response did not arrive.
fn cut(end: RelayEnd) -> Cause {
    match end {
        RelayEnd::SourceLost => Cause::BackendCut,
        RelayEnd::SourceStalled | RelayEnd::SourceSlow => Cause::BackendStalled,
        RelayEnd::SourceGarbled | RelayEnd::SourceTooLong => Cause::BadResponseBody,
        RelayEnd::SinkLost | RelayEnd::SinkReset => Cause::ClientGone,
        RelayEnd::SinkStalled => Cause::ClientStalled,
        RelayEnd::SinkSlow => Cause::ClientTooSlow,
    }
}
