//! A request on its way upstream: received, understood, written anew for its backend.

use super::end::{Cause, End, Phase};
use super::framing::{self, Framing, Method, RequestPlan};
use super::gateway::Gateway;
use super::head::{RequestHead, Scan, Span, Version, field_store};
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

/// A request that gets no further, and how its client is told.
pub(super) struct Refused {
    pub(super) end: End,
    pub(super) version: Version,
    /// Whether the next request of the connection can be found.
    pub(super) keep_alive: bool,
    /// Whether the answer has no body, as that to a HEAD (RFC 9110 section 9.3.2).
    pub(super) head_only: bool,
}

impl Refused {
    /// Of a request that was understood.
    pub(super) fn planned(end: End, plan: &RequestPlan, keep_alive: bool) -> Self {
        Self {
            end,
            version: plan.version,
            keep_alive: plan.keep_alive && keep_alive,
            head_only: plan.method == Method::Head,
        }
    }

    /// Of what was not understood, or did not come to its end.
    fn garbled(cause: Cause, bytes: &[u8]) -> Self {
        let phase = Phase::Head;
        // What else is wrong with it, a client that asked for a head reads nothing else.
        let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let line = &bytes[bytes.iter().take_while(blank).count()..];
        Self {
            end: End { cause, phase },
            // Where the connection ends, either version is told so in the same way.
            version: Version::Http11,
            keep_alive: false,
            head_only: line.starts_with(b"HEAD "),
        }
    }
}

/// Waits for a whole head and writes it, as the backend shall see it, to `scratch`.
pub(super) async fn receive<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Client<I>,
    scratch: &mut Scratch,
) -> Result<Request, Refused> {
    let span = head(gateway, client).await;
    let span = span.map_err(|cause| Refused::garbled(cause, client.stream.inbox.bytes()))?;
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
    let mut store = field_store();
    let is_worn_out = client.is_worn_out(gateway);
    let is_last = client.stream.inbox.bytes().len() == span.end;
    let bytes = span.of(client.stream.inbox.bytes_mut());
    let bad = |bad| Refused::garbled(Cause::BadRequest(bad), bytes);
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
    Refused::planned(End { cause, phase }, &plan, plan.framing.is_empty())
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
