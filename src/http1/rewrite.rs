//! The head that goes on to the other side, serialised from the parsed value.
//!
//! No byte of the received head passes by itself: the framing fields are written from the plan,
//! fields of one connection stay on it (RFC 9110 section 7.6.1), and what remains goes on in its
//! order.

use std::net::IpAddr;

use httparse::Header;

use super::field::{
    Name, is_disguised, is_end_to_end, list, push, push_decimal, push_length, push_persistence,
};
use super::framing::{Delivery, Framing, Method, RequestPlan, ResponsePlan, Target, protocols};
use super::head::{RequestHead, ResponseHead};
pub use added::{Added, BadPseudonym, Pseudonym};
use forwarded::{forwarded, forwarded_for, is_forwarded};

mod added;
mod forwarded;
#[cfg(test)]
mod tests;

/// What becomes of a request's fields whose names have an underscore, and are none that a gateway
/// writes itself. Programs behind gateways of the CGI kind read it as a hyphen, and so one field as
/// another that was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They are dropped.
    #[default]
    Drop,
    /// They go on.
    Keep,
}

/// What a request is forwarded with, beside what the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The client's address, where it has one.
    pub peer: Option<IpAddr>,
    /// Whether the client is believed what it says of those before it.
    pub trusted: bool,
    /// The backend's authority: the Host of a request that has none.
    pub authority: &'a str,
    /// What becomes of names with an underscore.
    pub underscores: Underscores,
    /// Whether `Forwarded` (RFC 7239) is written too.
    pub forwarded: bool,
    /// What fastlb adds to every message.
    pub added: Added<'a>,
}

/// Writes the request's head for the backend, as HTTP/1.1 on a connection to be kept. `plan` is
/// that of the same head.
pub fn request(
    head: &RequestHead<'_, '_>,
    plan: &RequestPlan,
    forward: &Forward<'_>,
    out: &mut Vec<u8>,
) {
    let target = Target::of(head.target).unwrap_or(Target::Origin(head.target));
    let asked = match target {
        // The authority in the target overrules the field (RFC 9112 section 3.2.2).
        Target::Absolute { authority, .. } => Some(authority.as_bytes()),
        Target::Origin(_) | Target::Asterisk => host(head.fields),
    };
    request_line(head.method, target, plan.method, out);
    push(out, "Host", asked.unwrap_or(forward.authority.as_bytes()));
    let told = request_fields(head, plan, forward, out);
    if let Some(hops) = plan.max_forwards {
        out.extend_from_slice(b"Max-Forwards: ");
        push_decimal(out, u64::from(hops));
        out.extend_from_slice(b"\r\n");
    }
    if plan.expects_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    framing(plan.framing, out);
    if plan.upgrade {
        upgrade(head.fields, out);
    } else if plan.takes_trailers {
        out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n");
    }
    if let Some(peer) = forward.peer {
        forwarded_for(head.fields, forward.trusted, peer, out);
    }
    if !told.proto {
        out.extend_from_slice(b"X-Forwarded-Proto: http\r\n");
    }
    if let Some(asked) = asked.filter(|asked| !told.host && !asked.is_empty()) {
        push(out, "X-Forwarded-Host", asked);
    }
    if forward.forwarded {
        forwarded(forward.peer, asked.unwrap_or_default(), out);
    }
    forward.added.push(head.version, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of the final response for the client that sent `request`. It came at `date`.
pub fn response(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    delivery: Delivery,
    request: &RequestPlan,
    added: Added<'_>,
    out: &mut Vec<u8>,
) {
    status_line(head, out);
    response_fields(head, plan, delivery.trailers, added, out);
    match (delivery.framing, plan.length_field) {
        (Framing::None, Some(length)) => push_length(out, length),
        _ => framing(delivery.framing, out),
    }
    push_persistence(out, request.version, delivery.keep_alive);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an interim (1xx) response, for a 1.1 client: a 1.0 client must not be sent
/// one (RFC 9110 section 15.2).
pub fn interim(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    added: Added<'_>,
    out: &mut Vec<u8>,
) {
    status_line(head, out);
    response_fields(head, plan, false, added, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of the response that switches protocols.
pub fn switching(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    added: Added<'_>,
    out: &mut Vec<u8>,
) {
    status_line(head, out);
    response_fields(head, plan, false, added, out);
    upgrade(head.fields, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the two fields of an upgrade (RFC 9110 section 7.8), with the protocols of `fields`.
fn upgrade(fields: &[Header<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
    let named = fields
        .iter()
        .filter(|field| Name::of(field.name) == Name::Upgrade);
    for (place, to) in named.flat_map(|field| protocols(field.value)).enumerate() {
        if place > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(to);
    }
    out.extend_from_slice(b"\r\n");
}

fn request_line(name: &str, target: Target<'_>, method: Method, out: &mut Vec<u8>) {
    let (lead, rest) = match target {
        Target::Origin(path) => (" ", path),
        Target::Asterisk => (" *", ""),
        // RFC 9112 section 3.2.4.
        Target::Absolute { rest: "", .. } if method == Method::Options => (" *", ""),
        Target::Absolute { rest, .. } if rest.starts_with('/') => (" ", rest),
        Target::Absolute { rest, .. } => (" /", rest),
    };
    for part in [name, lead, rest, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn status_line(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    // The blank stays where there is no reason phrase (RFC 9112 section 4).
    let mut line = *b"HTTP/1.1 000 ";
    for (digit, place) in line[9..12].iter_mut().zip([100, 10, 1]) {
        *digit += (head.status / place % 10) as u8;
    }
    out.extend_from_slice(&line);
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => push_length(out, length),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// What a trusted peer already told the backend.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    proto: bool,
    host: bool,
}

/// Copies the fields that go on to the backend; those that are written from the plan do not.
fn request_fields(
    head: &RequestHead<'_, '_>,
    plan: &RequestPlan,
    forward: &Forward<'_>,
    out: &mut Vec<u8>,
) -> Told {
    let named = Named::of(head.fields, plan.names_fields);
    let trusted = forward.trusted;
    let drops_underscores = head.has_underscore && forward.underscores == Underscores::Drop;
    let mut told = Told::default();
    for field in head.fields {
        match Name::of(field.name) {
            _ if drops_underscores && field.name.contains('_') => continue,
            Name::Other if named.has(field.name) => continue,
            Name::Other if is_disguised(field.name) => continue,
            Name::Other | Name::Authorization => {}
            Name::MaxForwards if plan.max_forwards.is_none() => {}
            Name::ForwardedProto if trusted => told.proto = true,
            Name::ForwardedHost if trusted => told.host = true,
            Name::ForwardedOther if trusted => {}
            // Ours is written behind it, and must not end up inside of what was left open.
            Name::Forwarded if trusted && (!forward.forwarded || is_forwarded(field.value)) => {}
            Name::RequestId if forward.added.request_id.is_empty() => {}
            _ => continue,
        }
        push(out, field.name, field.value);
    }
    told
}

/// Writes the fields that go on to the client, and those that are added. Names that only requests
/// give a meaning pass.
fn response_fields(
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    trailers: bool,
    added: Added<'_>,
    out: &mut Vec<u8>,
) {
    let named = Named::of(head.fields, plan.names_fields);
    let mut missing = added.date;
    for field in head.fields {
        match Name::of(field.name) {
            Name::ContentLength
            | Name::TransferEncoding
            | Name::Connection
            | Name::Upgrade
            | Name::Te
            | Name::HopByHop => {}
            Name::Trailer if !trailers => {}
            Name::RequestId if !added.request_id.is_empty() => {}
            _ if named.has(field.name) => {}
            _ => {
                push(out, field.name, field.value);
                missing = missing.filter(|_| !field.name.eq_ignore_ascii_case("date"));
            }
        }
    }
    if let Some(date) = missing {
        date.push(out);
    }
    added.push(head.version, out);
}

fn host<'b>(fields: &[Header<'b>]) -> Option<&'b [u8]> {
    let host = fields
        .iter()
        .find(|field| Name::of(field.name) == Name::Host)?;
    Some(host.value)
}

/// The fields that `Connection` names as its own (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug)]
struct Named<'s, 'b> {
    /// All fields of the head, or none where `Connection` names no field.
    fields: &'s [Header<'b>],
}

impl<'s, 'b> Named<'s, 'b> {
    fn of(fields: &'s [Header<'b>], names_fields: bool) -> Self {
        Self {
            fields: if names_fields { fields } else { &[] },
        }
    }

    fn has(self, name: &str) -> bool {
        let is = |option: &[u8]| option.eq_ignore_ascii_case(name.as_bytes());
        // A client could otherwise strip a request of what the backend decides by.
        !self.fields.is_empty() && self.options().any(is) && !is_end_to_end(name)
    }

    fn options(self) -> impl Iterator<Item = &'b [u8]> {
        let connection = self
            .fields
            .iter()
            .filter(|field| Name::of(field.name) == Name::Connection);
        connection.flat_map(|field| list(field.value))
    }
}
