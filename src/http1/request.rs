//! A request on its way upstream: received, understood, written anew for its backend.

use super::end::{Cause, End, Phase};
use super::framing::{self, Framing, RequestPlan};
use super::gateway::Gateway;
use super::head::{RequestHead, Scan, Span, field_store};
use super::rewrite::{self, Forward};
use super::session::{Client, Scratch};
use crate::balance::BackendId;
use crate::io::{ChunkSize, Io};
use crate::relay::{Fill, RelayEnd, Stop};
use crate::upstream::Tried;

/// A request whose head is understood.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) plan: RequestPlan,
    /// The backend that was picked for it first.
    pub(super) backend: BackendId,
}

/// A request that gets no further, and what is known of it.
pub(super) struct Refused {
    pub(super) end: End,
    pub(super) plan: Option<RequestPlan>,
}

/// Waits for a whole head and writes it, as the backend shall see it, to `scratch`.
pub(super) async fn receive<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    scratch: &mut Scratch,
) -> Result<Request, Refused> {
    let span = head(gateway, client).await.map_err(refused)?;
    client.requests = client.requests.saturating_add(1);
    let request = translate(gateway, client, span, scratch);
    // Also where it is refused: the connection may go on with the next request.
    client.stream.inbox.consume(span.end);
    request
}

async fn head<I: Io>(gateway: &Gateway<I>, client: &mut Client<I>) -> Result<Span, Cause> {
    let mut scan = Scan::request();
    let mut waits = false;
    loop {
        if let Some(span) = scan
            .end(client.stream.inbox.bytes())
            .map_err(Cause::BadRequest)?
        {
            return Ok(span);
        }
        if !std::mem::replace(&mut waits, true) {
            client.deadline.set(gateway.options.header_timeout);
        }
        match client.stream.fill(ChunkSize::Small, &client.deadline).await {
            Ok(Fill::Bytes) => {}
            Ok(Fill::End) | Err(Stop::Lost) => return Err(Cause::ClientGone),
            Err(Stop::Expired) if gateway.wheel.is_cut() => return Err(Cause::Cut),
            Err(Stop::Expired) => return Err(Cause::HeaderTimeout),
        }
    }
}

fn translate<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    span: Span,
    scratch: &mut Scratch,
) -> Result<Request, Refused> {
    let bad = |bad| refused(Cause::BadRequest(bad));
    let mut store = field_store();
    let is_worn_out = client.is_worn_out(gateway);
    let is_last = client.stream.inbox.bytes().len() == span.end;
    let bytes = span.of(client.stream.inbox.bytes_mut());
    let head = RequestHead::parse(bytes, &mut store).map_err(bad)?;
    let mut plan = framing::request(&head).map_err(bad)?;
    // What is there already was sent before a switch of protocols: it is the next request, and the
    // offer is passed over (RFC 9110 section 7.8).
    plan.upgrade &= is_last;
    plan.keep_alive &= !is_worn_out;
    gateway.counters.requests.add(1);
    let peer = client.peer.address();
    let trusted = gateway.trusts(peer);
    let request_id = &mut scratch.request_id;
    gateway.names.name(head.fields, trusted, request_id);
    if !trusted {
        let charged = gateway.charge(peer);
        charged.map_err(|cause| turned_away(cause, Phase::Head, plan))?;
    }
    let clients = &gateway.options.clients;
    if let (Framing::Length(length), Some(max)) = (plan.framing, clients.limits.body_bytes_max)
        && length > max
    {
        return Err(turned_away(Cause::BodyTooLong, Phase::Head, plan));
    }
    let now_ms = gateway.wheel.now_ms();
    let picked = gateway
        .backends
        .pick(&Tried::default(), now_ms, |fleet, backend| {
            // A request without a Host keeps this authority even where another backend serves it in
            // the end: backends of one fleet stand for the same site.
            let authority = &fleet.backend(backend).authority;
            let forward = Forward {
                peer,
                trusted,
                authority,
                underscores: gateway.options.underscores,
                forwarded: gateway.options.forwarded,
                added: gateway.added(request_id),
            };
            rewrite::request(&head, &plan, &forward, &mut scratch.request.lead);
            Request { plan, backend }
        });
    picked.ok_or_else(|| turned_away(Cause::NoBackend, Phase::Connect, plan))
}

/// A request that was understood and goes to nobody.
fn turned_away(cause: Cause, phase: Phase, plan: RequestPlan) -> Refused {
    // Nobody will read the body, and what follows it could not be told from it.
    let keep_alive = plan.keep_alive && plan.framing.is_empty();
    Refused {
        end: End { cause, phase },
        plan: Some(RequestPlan { keep_alive, ..plan }),
    }
}

fn refused(cause: Cause) -> Refused {
    Refused {
        end: End {
            cause,
            phase: Phase::Head,
        },
        plan: None,
    }
}

/// Why the body of a request did not arrive.
pub(super) fn cut(end: RelayEnd) -> Cause {
    match end {
        RelayEnd::SourceLost => Cause::ClientGone,
        RelayEnd::SourceStalled => Cause::BodyTimeout,
        RelayEnd::SourceSlow => Cause::BodyTooSlow,
        RelayEnd::SourceGarbled => Cause::BadBody,
        RelayEnd::SourceTooLong => Cause::BodyTooLong,
        RelayEnd::SinkLost | RelayEnd::SinkReset => Cause::BackendClosed,
        RelayEnd::SinkStalled | RelayEnd::SinkSlow => Cause::ResponseTimeout,
    }
}
