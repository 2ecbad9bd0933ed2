//! One request with its response: the path of it, from the first byte to the account.

use std::cell::{Cell, RefCell};
use std::mem;

use tracing::debug;

use self::directions::{both, kept_head, sent_or_answered, unattended};
use super::end::{Cause, End, Phase};
use super::gateway::Gateway;
use super::head::BadHead;
use super::reply;
use super::request::{self, Refused, Request};
use super::response::{Answered, Progress, Reception, Upload};
use super::session::{Client, Scratch};
use crate::balance::BackendId;
use crate::io::{Io, Stopwatch};
use crate::limits;
use crate::relay::{self, Half, Pace, RelayEnd, Stream, Traffic};
use crate::tcp;
use crate::upstream::{Reuse, Tried, Upstream};

mod directions;

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It serves the next request.
    Keep,
    /// It is closed; the client has nothing under way.
    Close,
    /// It is closed once the client has stopped sending.
    Linger,
    /// It is reset: the client cannot tell otherwise that the response is cut, or reads nothing.
    Abort,
}

/// Serves the next request of a connection.
pub(super) async fn exchange<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    scratch: &mut Scratch,
) -> After {
    let request = match request::receive(gateway, client, scratch).await {
        Ok(request) => request,
        Err(refused) => return refuse(gateway, client, scratch, refused).await,
    };
    let mut exchange = Exchange {
        gateway,
        client,
        scratch,
        request,
        upload: Half::new(request.plan.framing, request.plan.framing)
            .at_most(gateway.options.clients.limits.body_bytes_max),
        progress: Progress::new(gateway.patience(), gateway.options.min_rate),
    };
    match exchange.forward().await {
        Ok(answered) => exchange.after(answered),
        Err(cause) => exchange.fail(cause).await,
    }
}

/// A request that is on its way to a backend, and its response.
struct Exchange<'a, I: Io> {
    gateway: &'a Gateway<I>,
    client: &'a mut Client<I>,
    scratch: &'a mut Scratch,
    request: Request,
    upload: Half,
    progress: Progress,
}

impl<I: Io> Exchange<'_, I> {
    /// Sends the request to a backend and brings back the response. Where the request can safely
    /// be sent again, a pooled connection that turns out to be dead is replaced, and another
    /// backend asked after one that failed.
    async fn forward(&mut self) -> Result<Answered, Cause> {
        let (backends, mut clock) = (&self.gateway.backends, Stopwatch::start());
        backends.earn_retries();
        self.load()?;
        let kept = self.upload.consumed();
        let (mut backend, mut reuse) = (self.request.backend, Reuse::Allowed);
        let mut tried = RefCell::new(Tried::default());
        loop {
            let connecting = self.connect(backend, reuse, tried.get_mut(), &mut clock);
            let mut upstream = connecting.await?;
            backend = upstream.backend;
            let counters = &self.gateway.counters.backends[backend.index()];
            counters.requests.add(1);

            let (next, wheel) = (Cell::new(None), &self.gateway.wheel);
            let elsewhere = || {
                let mut tried = tried.borrow_mut();
                next.set(backends.elsewhere(backend, &mut tried, wheel.now_ms()));
                next.get().is_some()
            };
            let after_5xx = self
                .repeats_5xx()
                .then_some(&elsewhere as &dyn Fn() -> bool);
            let cause = match self.attempt(&mut upstream, after_5xx).await {
                Ok(answered) if answered.switches() && self.is_early() => {
                    Cause::BadRequest(BadHead::EarlyBytes)
                }
                Ok(answered) => {
                    if answered.switches() {
                        self.tunnel(upstream, clock.elapsed_us()).await;
                    } else {
                        self.account(upstream, &answered, clock);
                    }
                    return Ok(answered);
                }
                // Whatever waited has ended, and blames whom it waited for.
                Err(_) if wheel.is_cut() => Cause::Cut,
                Err(cause) => cause,
            };
            if cause.is_before_the_answer() && self.is_kept(kept) {
                let at_once = clock.elapsed_ms() < limits::STALE_MS_MAX;
                let unseen = self.progress.unsent.get() || at_once && self.is_idempotent();
                if upstream.reused && unseen {
                    counters.replaced.add(1);
                    reuse = Reuse::Refused;
                    continue;
                }
                if backends.retry_on().reset && self.is_safe() {
                    elsewhere();
                }
            }
            backends.failed(backend, cause.fault());
            let next = next.get().ok_or(cause)?;
            if !self.is_kept(kept) {
                // The backend answered before it had taken the request, which is lost with it.
                backends.failed(next, None);
                return Err(cause);
            }
            // The next one is not charged with the time that this one took.
            (backend, reuse, clock) = (next, Reuse::Allowed, Stopwatch::start());
            self.gateway.counters.retries.add(1);
        }
    }

    /// A connection to `backend`, or to another where that one cannot be reached. The time until
    /// then is charged to whom it was spent on: not to another, nor to a connection that was kept.
    async fn connect(
        &mut self,
        backend: BackendId,
        reuse: Reuse,
        tried: &mut Tried,
        clock: &mut Stopwatch,
    ) -> Result<Box<Upstream<I>>, Cause> {
        self.progress.phase.set(Phase::Connect);
        let Client {
            stream,
            deadline,
            preface,
            ..
        } = &mut *self.client;
        let Gateway {
            backends, wheel, ..
        } = self.gateway;
        let (preface, begun_ms) = (preface.as_ref(), wheel.now_ms());
        let connection = backends.connection(backend, reuse, preface, tried, deadline, begun_ms);
        let upstream = stream.beside(connection).await?;
        let kept_waiting = upstream.reused && wheel.now_ms() > begun_ms;
        if upstream.backend != backend || kept_waiting {
            *clock = Stopwatch::start();
        }
        Ok(upstream)
    }

    /// Whether the client has sent something behind its request, which is no part of a tunnel that
    /// it did not know of (RFC 9110 section 7.8).
    fn is_early(&self) -> bool {
        let Stream {
            io, socket, inbox, ..
        } = &self.client.stream;
        !inbox.is_empty() || io.has_unread(socket)
    }

    /// Takes what came of the body together with the head.
    fn load(&mut self) -> Result<(), Cause> {
        let inbox = &mut self.client.stream.inbox;
        if let Err(end) = self.upload.load(inbox, &mut self.scratch.request) {
            self.gateway.backends.failed(self.request.backend, None);
            return Err(request::cut(end));
        }
        self.progress.begin(self.upload.is_done());
        inbox.settle();
        Ok(())
    }

    /// Whether no byte of the request is gone, so that it can be sent again.
    fn is_kept(&self, kept: u64) -> bool {
        self.upload.consumed() == kept && !self.scratch.request.is_empty()
    }

    /// Whether a backend that sees the request twice takes no harm.
    fn is_idempotent(&self) -> bool {
        self.request.plan.method.is_idempotent()
    }

    /// Whether another backend may serve it as well, whatever the first has made of it.
    fn is_safe(&self) -> bool {
        self.request.plan.method.is_safe()
    }

    fn repeats_5xx(&self) -> bool {
        let asked_for = self.gateway.backends.retry_on().status_5xx;
        asked_for && self.is_safe() && self.upload.is_done()
    }

    /// One attempt: the request over one connection, and its response.
    async fn attempt(
        &mut self,
        upstream: &mut Upstream<I>,
        elsewhere: Option<&dyn Fn() -> bool>,
    ) -> Result<Answered, Cause> {
        upstream.expect_silence()?;
        let Self {
            gateway,
            client,
            scratch,
            request,
            upload,
            progress,
        } = self;
        let (stream, deadline) = (&mut client.stream, &client.deadline);
        let (uplink, downlink) = (upstream.stream.socket.clone(), stream.socket.clone());
        progress.begin(upload.is_done());
        let mut sending = gateway.io.send(&uplink, mem::take(&mut scratch.request));
        let mut reception = Reception {
            gateway,
            upstream: &mut upstream.stream,
            client: &downlink,
            deadline,
            parcel: &mut scratch.response,
            plan: request.plan,
            sent: &[],
            added: gateway.added(&scratch.request_id),
            progress,
            elsewhere,
        };
        // A send that is dropped would take the tunnel's own operations with it.
        if I::SENDS_UNATTENDED && upload.is_done() && !request.plan.upgrade {
            progress.phase.set(Phase::Wait);
            return unattended(sending, &mut scratch.request, reception).await;
        }
        progress.phase.set(Phase::Send);
        let sent = sent_or_answered(&mut reception, stream, &uplink, &mut sending).await;
        progress.phase.set(Phase::Wait);
        let answers_early = sent.is_none();
        if let Some(sent) = sent {
            let (sent, returned) = sent.map_err(|_| Cause::ResponseTimeout)?;
            progress.note_sent(&sent);
            scratch.request = kept_head(returned);
            // A backend that answered early may have closed the other direction; the answer counts.
            if sent.is_err() && !upload.is_done() {
                progress.upload.set(Upload::Cut);
            }
            if progress.upload.get() != Upload::UnderWay {
                reception.sent = &scratch.request.lead;
                return reception.run().await;
            }
        } else {
            // The request is not to be had back, so this answer is the last word.
            progress.upload.set(Upload::UnderWay);
            reception.elsewhere = None;
        }
        // Each direction has a deadline of its own, and looks at both before it gives up.
        let (beside, pace) = (gateway.wheel.deadline(), reception.pace());
        // The head that went is the last that moved: the time for the body begins here.
        pace.moved();
        let upload = async {
            let pace = Pace {
                deadline: &beside,
                client: relay::ClientSide::Source,
                ..pace
            };
            if answers_early {
                let sent = relay::see_through(&gateway.io, &uplink, sending, pace);
                let (sent, _) = stream.beside(sent).await?;
                progress.note_sent(&sent);
                sent.map_err(|_| RelayEnd::SinkLost)?;
            }
            relay::relay(upload, stream, &uplink, &mut scratch.body, pace).await
        };
        both(upload, reception).await
    }

    /// Joins both connections once the backend has switched protocols.
    async fn tunnel(&mut self, mut upstream: Box<Upstream<I>>, took_us: u64) {
        let Client {
            stream, deadline, ..
        } = &mut *self.client;
        let greeting = mem::take(&mut self.scratch.response);
        let (gateway, upstream) = (self.gateway, &mut *upstream);
        // Boxed, because every exchange has room for what is in its future.
        let joined = Box::pin(tcp::join(
            gateway, stream, upstream, greeting, deadline, took_us,
        ));
        let end = joined.await;
        if !end.is_clean() {
            let client = self.client.peer.address();
            debug!(?client, end = end.reason(), "a tunnel ended early");
        }
    }

    fn account(&self, upstream: Box<Upstream<I>>, answered: &Answered, clock: Stopwatch) {
        let gateway = self.gateway;
        let (backend, took_us) = (upstream.backend, clock.elapsed_us());
        let backends = &gateway.backends;
        backends.answered(backend, answered.status, took_us);
        let counters = &gateway.counters.backends[backend.index()];
        counters.answered.add(1);
        counters.latency_us.add(took_us);
        gateway.counters.count_response(answered.status);
        let serves_others = answered.leaves_it_in_step() && !self.request.plan.authenticates;
        if serves_others && self.progress.is_whole() && !gateway.is_draining() {
            backends.pool.put_back(upstream, gateway.wheel.now_ms());
        }
    }

    fn after(&self, answered: Answered) -> After {
        if answered.switches() {
            After::Close
        } else if answered.keep_alive && self.progress.is_whole() {
            After::Keep
        } else {
            After::Linger
        }
    }

    async fn fail(self, cause: Cause) -> After {
        let phase = self.progress.phase.get();
        let end = End { cause, phase };
        let reads = !matches!(cause, Cause::ClientStalled | Cause::ClientTooSlow);
        if !reads || !self.progress.cuts_cleanly.get() {
            note(self.gateway, self.client, end);
            return After::Abort;
        }
        // With a body under way the connection has no next request to find.
        // The client takes the connection for a tunnel where it spoke too early.
        let is_early = cause == Cause::BadRequest(BadHead::EarlyBytes);
        let is_whole = self.progress.is_whole();
        let refused = Refused::planned(end, &self.request.plan, is_whole && !is_early);
        refuse(self.gateway, self.client, self.scratch, refused).await
    }
}

/// Answers in the backend's place.
async fn refuse<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    scratch: &mut Scratch,
    refused: Refused,
) -> After {
    let Refused {
        end,
        version,
        keep_alive,
        head_only,
    } = refused;
    // What was not understood, or comes behind it, may wait long for a client that does not read.
    client.stream.inbox.settle();
    note(gateway, client, end);
    if gateway.wheel.is_cut() {
        return After::Abort;
    }
    let Some(status) = end.status() else {
        return match end.cause {
            // What it does not read may wait in the kernel for as long as the client likes.
            Cause::BodyTimeout | Cause::BodyTooSlow => After::Abort,
            Cause::ClientGone => After::Close,
            // The responses before this one may not have reached the client yet.
            _ => After::Linger,
        };
    };
    let keep_alive = keep_alive && !gateway.is_draining();
    let parcel = &mut scratch.response;
    parcel.clear();
    let (request_id, date) = (&scratch.request_id, gateway.date());
    let out = &mut parcel.lead;
    reply::write(
        end.cause, version, keep_alive, head_only, request_id, date, out,
    );
    gateway.counters.own_replies.add(1);
    gateway.counters.count_response(status);
    let Client {
        stream, deadline, ..
    } = client;
    let traffic = Traffic::new(gateway.patience(), gateway.options.min_rate);
    let socket = stream.socket.clone();
    let pace = Pace {
        deadline,
        client: relay::ClientSide::Sink,
        traffic: &traffic,
    };
    let sending = relay::send(&gateway.io, &socket, parcel, pace);
    match stream.beside(sending).await {
        Ok(()) if keep_alive => After::Keep,
        Ok(()) => After::Linger,
        Err(RelayEnd::SinkStalled) => After::Abort,
        Err(_) => After::Close,
    }
}

/// Writes down an exchange that ended otherwise than well.
fn note<I: Io>(gateway: &Gateway<I>, client: &Client<I>, end: End) {
    let address = client.peer.address().map(tracing::field::display);
    debug!(client = address, %end, "an exchange ended early");
    if let Some(limit) = end.cause.limit() {
        gateway.counters.count_limited(limit);
    }
}
