//! One request with its response: the path of it, from the first byte to the account.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use tracing::debug;

use super::end::{Cause, End, Phase};
use super::framing::{Method, RequestPlan};
use super::gateway::Gateway;
use super::head::Version;
use super::reply;
use super::request::{self, Refused, Request};
use super::response::{Answered, Progress, Reception};
use super::session::{Client, Scratch};
use crate::io::{Io, Parcel, Stopwatch};
use crate::relay::{self, Half, RelayEnd, Stop};
use crate::upstream::{Reuse, Tried, Upstream};

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
    let request = match request::receive(gateway, client, &mut scratch.request).await {
        Ok(request) => request,
        Err(refused) => return refuse(gateway, client, scratch, refused).await,
    };
    let progress = Progress {
        uploading: Cell::new(true),
        phase: Cell::new(Phase::Connect),
        cuts_cleanly: Cell::new(true),
    };
    match forward(gateway, client, scratch, request, &progress).await {
        Ok(_) if progress.uploading.get() => After::Linger,
        Ok(answered) if answered.keep_alive => After::Keep,
        Ok(_) if client.stream.inbox.is_empty() => After::Close,
        Ok(_) => After::Linger,
        Err(Cause::ClientStalled) => After::Abort,
        Err(_) if !progress.cuts_cleanly.get() => After::Abort,
        Err(cause) => {
            // With a body under way the connection has no next request to find.
            let keep_alive = request.plan.keep_alive && !progress.uploading.get();
            let plan = Some(RequestPlan {
                keep_alive,
                ..request.plan
            });
            let end = End {
                cause,
                phase: progress.phase.get(),
            };
            refuse(gateway, client, scratch, Refused { end, plan }).await
        }
    }
}

/// Sends the request to a backend and brings back the response. A pooled connection that turns out
/// to be dead is replaced, where the request can safely be sent again.
async fn forward<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    scratch: &mut Scratch,
    request: Request,
    progress: &Progress,
) -> Result<Answered, Cause> {
    let clock = Stopwatch::start();
    let mut upload = Half::new(request.plan.framing, request.plan.framing);
    let loaded = upload.load(&mut client.stream.inbox, &mut scratch.request);
    loaded.map_err(|_| Cause::BadBody)?;
    progress.uploading.set(!upload.is_done());
    client.stream.inbox.settle();

    let (mut backend, mut reuse, mut tried) = (request.backend, Reuse::Allowed, Tried::default());
    loop {
        progress.phase.set(Phase::Connect);
        let whole = upload.is_done() && !scratch.request.has_body();
        let now_ms = gateway.wheel.now_ms();
        let connection =
            gateway
                .backends
                .connection(backend, reuse, &mut tried, &client.deadline, now_ms);
        let mut upstream = connection.await?;
        backend = upstream.backend;
        let counters = &gateway.counters.backends[backend.index()];
        counters.requests.add(1);

        let result = converse(
            gateway,
            client,
            &mut upstream,
            scratch,
            request,
            &mut upload,
            progress,
        )
        .await;
        match result {
            Err(Cause::BackendClosed | Cause::BackendReset)
                if upstream.reused && whole && request.plan.method.is_idempotent() =>
            {
                counters.replaced.add(1);
                reuse = Reuse::Refused;
            }
            Ok(answered) => {
                counters.latency_us.add(clock.elapsed_us());
                account(gateway, upstream, answered, progress);
                return Ok(answered);
            }
            Err(cause) => {
                counters.failures.add(u64::from(cause.is_backends_fault()));
                return Err(cause);
            }
        }
    }
}

/// One attempt: the request over one connection, and its response.
async fn converse<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    upstream: &mut Upstream<I>,
    scratch: &mut Scratch,
    request: Request,
    upload: &mut Half,
    progress: &Progress,
) -> Result<Answered, Cause> {
    let Client {
        stream, deadline, ..
    } = client;
    let Scratch {
        request: outgoing,
        response: parcel,
    } = scratch;
    let uplink = upstream.stream.socket.clone();
    let client_socket = stream.socket.clone();
    let sending = gateway.io.send(&uplink, std::mem::take(outgoing));
    let reception = Reception {
        gateway,
        upstream: &mut upstream.stream,
        client: &client_socket,
        deadline,
        parcel,
        plan: request.plan,
        progress,
    };
    if I::SENDS_UNATTENDED && upload.is_done() {
        progress.phase.set(Phase::Wait);
        return unattended(sending, outgoing, reception).await;
    }
    progress.phase.set(Phase::Send);
    deadline.set(gateway.options.body_idle_timeout);
    let sending = deadline.guard(sending);
    let (sent, returned) = sending.await.map_err(|_| Cause::ResponseTimeout)?;
    // The head stays where it is until the response begins: it may have to be sent again.
    *outgoing = returned;
    progress.phase.set(Phase::Wait);
    // A backend that answered early may have closed the other direction; the answer counts.
    if upload.is_done() || sent.is_err() {
        return reception.run().await;
    }
    outgoing.clear();
    let options = &gateway.options;
    let upload = async {
        let idle = options.body_idle_timeout;
        relay::relay(upload, stream, &uplink, outgoing, deadline, idle).await?;
        // The backend's time to answer begins when it has the whole request.
        deadline.set(options.response_timeout);
        Ok(())
    };
    both(upload, reception.run(), progress).await
}

/// Waits for the response to a request whose last bytes are being sent. That they are sent is
/// nothing to be woken for: the response will say so.
async fn unattended<I: Io>(
    mut sending: impl Future<Output = (io::Result<()>, Parcel)> + Unpin,
    outgoing: &mut Parcel,
    reception: Reception<'_, I>,
) -> Result<Answered, Cause> {
    let deadline = reception.deadline;
    let mut answered = reception.run().await;
    match &mut answered {
        Ok(answered) => {
            let sent = poll_fn(|cx| Poll::Ready(Pin::new(&mut sending).poll(cx))).await;
            // Answered early: whether the backend reads the rest is its business alone.
            answered.reusable &= matches!(&sent, Poll::Ready((Ok(()), _)));
            if let Poll::Ready((_, returned)) = sent {
                *outgoing = returned;
            }
        }
        Err(_) => {
            // The request may have to be sent again.
            if let Ok((_, returned)) = deadline.guard(sending).await {
                *outgoing = returned;
            }
        }
    }
    answered
}

/// Runs both directions until the response is complete, whatever is left of the request then.
async fn both(
    upload: impl Future<Output = Result<(), RelayEnd>>,
    response: impl Future<Output = Result<Answered, Cause>>,
    progress: &Progress,
) -> Result<Answered, Cause> {
    let (mut upload, mut response) = (pin!(upload), pin!(response));
    let mut sending = true;
    poll_fn(|cx| {
        if sending && let Poll::Ready(end) = upload.as_mut().poll(cx) {
            sending = false;
            progress.uploading.set(end.is_err());
            match end {
                // The backend takes no more: its answer may say why.
                Ok(()) | Err(RelayEnd::SinkLost) => {}
                Err(RelayEnd::SinkStalled) => return Poll::Ready(Err(Cause::ResponseTimeout)),
                Err(RelayEnd::SourceLost) => return Poll::Ready(Err(Cause::ClientGone)),
                Err(RelayEnd::SourceStalled) => return Poll::Ready(Err(Cause::BodyTimeout)),
                Err(RelayEnd::SourceGarbled) => return Poll::Ready(Err(Cause::BadBody)),
            }
        }
        response.as_mut().poll(cx)
    })
    .await
}

fn account<I: Io>(
    gateway: &Gateway<I>,
    upstream: Box<Upstream<I>>,
    answered: Answered,
    progress: &Progress,
) {
    let counters = &gateway.counters.backends[upstream.backend.index()];
    counters.failures.add(u64::from(answered.status >= 500));
    gateway.counters.count_response(answered.status);
    if answered.reusable && !progress.uploading.get() && !gateway.is_draining() {
        gateway
            .backends
            .pool
            .put_back(upstream, gateway.wheel.now_ms());
    }
}

/// Answers in the backend's place.
async fn refuse<I: Io>(
    gateway: &Gateway<I>,
    client: &Client<I>,
    scratch: &mut Scratch,
    refused: Refused,
) -> After {
    let Refused { end, plan } = refused;
    debug!(client = %client.peer, %end, "an exchange ended early");
    if gateway.wheel.is_cut() {
        return After::Abort;
    }
    let Some(status) = end.status() else {
        return After::Close;
    };
    let version = plan.map_or(Version::Http11, |plan| plan.version);
    let keep_alive = plan.is_some_and(|plan| plan.keep_alive) && !gateway.is_draining();
    let head_only = plan.is_some_and(|plan| plan.method == Method::Head);
    let parcel = &mut scratch.response;
    parcel.clear();
    reply::write(end.cause, version, keep_alive, head_only, &mut parcel.lead);
    gateway.counters.own_replies.add(1);
    gateway.counters.count_response(status);
    client.deadline.set(gateway.options.body_idle_timeout);
    match relay::send(&gateway.io, &client.stream.socket, parcel, &client.deadline).await {
        Ok(()) if keep_alive => After::Keep,
        Ok(()) => After::Linger,
        Err(Stop::Lost) => After::Close,
        Err(Stop::Expired) => After::Abort,
    }
}
