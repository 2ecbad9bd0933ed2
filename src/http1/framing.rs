//! What a head means for its connection: how the body is delimited, whether the connection lives.
//!
//! Decided once, from one parsed value (RFC 9112 section 6.3). What could be understood in two
//! ways is refused, so nobody behind us can understand it differently. No bytes are written here;
//! that is `rewrite`.

use self::seen::Seen;
pub(super) use self::target::Target;
pub use self::upgrade::answer;
pub(super) use self::upgrade::protocols;
use super::field::{Name, is_token, list};
use super::head::{BadHead, RequestHead, ResponseHead, Version};

mod seen;
mod target;
#[cfg(test)]
mod tests;
mod upgrade;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112 section 7.1).
    Chunked,
    /// All bytes until the connection closes; responses only.
    Close,
}

impl Framing {
    /// Whether not one byte of a body can follow the head.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// The methods of RFC 9110 section 9.3 and RFC 5789.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as the RFC names it")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Connect,
    /// Any other token.
    Other,
}

impl From<&str> for Method {
    /// Methods are case sensitive (RFC 9110 section 9.1).
    fn from(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

impl Method {
    /// Whether a request asks for no change, so that another backend may serve it too and nobody
    /// can tell (RFC 9110 section 9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Whether `Max-Forwards` is for every recipient on the way (RFC 9110 section 7.6.2).
    fn counts_hops(self) -> bool {
        matches!(self, Self::Options | Self::Trace)
    }

    /// Whether the same backend may be sent a request again that perhaps was served (RFC 9110
    /// section 9.2.2). A second DELETE does no harm, but its answer may be another one.
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Options | Self::Trace | Self::Put | Self::Delete => true,
            Self::Post | Self::Patch | Self::Connect | Self::Other => false,
        }
    }
}

/// What a request means for the connection that it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPlan {
    /// The method.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// How the request's body is delimited; never [`Framing::Close`].
    pub framing: Framing,
    /// Whether the client wants its connection kept.
    pub keep_alive: bool,
    /// Whether the client may be waiting for a 100 before it sends its body.
    pub expects_continue: bool,
    /// Whether `Connection` may name fields that are not to go on (RFC 9110 section 7.6.1).
    pub names_fields: bool,
    /// Whether the client asks for another protocol behind the response (RFC 9110 section 7.8); it
    /// sends no body then.
    pub upgrade: bool,
    /// Whether the client takes a trailer section (RFC 9110 section 10.1.4).
    pub takes_trailers: bool,
    /// Whether its credentials may be taken for those of all that comes over the same connection
    /// (RFC 4559 section 6).
    pub authenticates: bool,
    /// What `Max-Forwards` says to the next recipient of a TRACE or OPTIONS (RFC 9110 section
    /// 7.6.2).
    pub max_forwards: Option<u32>,
}

/// Decides what a request means.
///
/// # Errors
/// The head is whole, yet must not be forwarded: see [`BadHead`].
pub fn request(head: &RequestHead<'_, '_>) -> Result<RequestPlan, BadHead> {
    let method = Method::from(head.method);
    if method == Method::Connect {
        return Err(BadHead::Connect);
    }
    let mut seen = Seen::default();
    let (mut host, mut upgrade, mut expects, mut trailers) = (None, false, false, false);
    let (mut hops, mut authenticates) = (None, false);
    for field in head.fields {
        match Name::of(field.name) {
            Name::Host => {
                target::check_host(field.value)?;
                if host.replace(field.value).is_some() {
                    return Err(BadHead::RepeatedHost);
                }
            }
            Name::Upgrade => upgrade |= protocols(field.value).next().is_some(),
            // An expectation in HTTP/1.0 is ignored (RFC 9110 section 10.1.1).
            Name::Expect if head.version == Version::Http10 => {}
            Name::Expect => expects |= has_expectation(field.value)?,
            Name::Authorization => authenticates |= is_of_connection(field.value),
            Name::Te => trailers |= list(field.value).any(is_trailers),
            Name::MaxForwards if method.counts_hops() => {
                if hops.replace(max_forwards(field.value)?).is_some() {
                    return Err(BadHead::BadMaxForwards);
                }
            }
            name => seen.note(name, field.value)?,
        }
    }
    let http11 = head.version == Version::Http11;
    if http11 && host.is_none() {
        return Err(BadHead::MissingHost);
    }
    target::check(head.target, method, host)?;
    // A bare Upgrade, or one in HTTP/1.0, asks for nothing (RFC 9110 section 7.8).
    let upgrade = http11 && upgrade && seen.upgrade;
    let framing = seen.framing(head.version)?.unwrap_or(Framing::None);
    // A body and what follows the switch could be taken for each other.
    if upgrade && !framing.is_empty() {
        return Err(BadHead::Upgrade);
    }
    if method == Method::Trace && !framing.is_empty() {
        return Err(BadHead::TraceBody);
    }
    Ok(RequestPlan {
        method,
        version: head.version,
        framing,
        keep_alive: seen.keeps_alive(head.version),
        expects_continue: http11 && expects && !framing.is_empty(),
        names_fields: seen.names_fields,
        upgrade,
        takes_trailers: http11 && trailers && seen.te,
        authenticates,
        max_forwards: hops.map(|hops| one_less(hops, method)).transpose()?,
    })
}

/// Whether credentials are of a scheme that authenticates a connection and not a request.
fn is_of_connection(credentials: &[u8]) -> bool {
    // A backend may take more than the one space of RFC 9110 section 11.4 for its end.
    let scheme = credentials.split(|&byte| !is_token(byte)).next();
    scheme.is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case(b"Negotiate") || scheme.eq_ignore_ascii_case(b"NTLM")
    })
}

/// What a response means for the connection that it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePlan {
    /// The status, 100 to 999.
    pub status: u16,
    /// The backend's version.
    pub version: Version,
    /// How the response's body is delimited.
    pub framing: Framing,
    /// Whether the backend keeps its connection, and can be believed to be in step.
    pub keep_alive: bool,
    /// The length that the head names. Where there is no body (HEAD, 304), that is the length of
    /// the body that a GET would have had, and it goes on to the client.
    pub length_field: Option<u64>,
    /// Whether `Connection` may name fields that are not to go on (RFC 9110 section 7.6.1).
    pub names_fields: bool,
}

impl ResponsePlan {
    /// Whether another response to the same request follows (RFC 9110 section 15.2).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && !self.switches()
    }

    /// Whether this is the last of HTTP on the connection (RFC 9110 section 15.2.2).
    pub fn switches(&self) -> bool {
        self.status == 101
    }
}

/// Decides what a response means that answers a request of this method, which asked for no other
/// protocol.
///
/// # Errors
/// The head is whole, yet must not be forwarded: see [`BadHead`].
pub fn response(head: &ResponseHead<'_, '_>, method: Method) -> Result<ResponsePlan, BadHead> {
    if head.status == 101 {
        return Err(BadHead::SwitchingProtocols);
    }
    let mut seen = Seen::default();
    for field in head.fields {
        seen.note(Name::of(field.name), field.value)?;
    }
    let named = seen.framing(head.version)?;
    // A coding is forbidden here, and a length too (RFC 9112 section 6.1, RFC 9110 section 8.6).
    // Who announces a body may send one, which would be the answer to the next request.
    let never_has_one = matches!(head.status, 100..200 | 204);
    let in_step = !never_has_one || named.is_none_or(Framing::is_empty);
    let framing = match head.status {
        _ if never_has_one || method == Method::Head => Framing::None,
        304 => Framing::None,
        _ => named.unwrap_or(Framing::Close),
    };
    Ok(ResponsePlan {
        status: head.status,
        version: head.version,
        framing,
        keep_alive: in_step && framing != Framing::Close && seen.keeps_alive(head.version),
        length_field: seen.length.filter(|_| !never_has_one),
        names_fields: seen.names_fields,
    })
}

/// How a response goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How the body is delimited for the client.
    pub framing: Framing,
    /// Whether the client's connection lives on behind this response.
    pub keep_alive: bool,
    /// Whether the trailer section goes on too.
    pub trailers: bool,
}

/// Decides how a response goes to the client; `closing` says that we want to part with him.
pub fn deliver(plan: &ResponsePlan, request: &RequestPlan, closing: bool) -> Delivery {
    let framing = match (plan.framing, request.version) {
        // Chunks tell a 1.1 client where the body ends, and whether it was cut short.
        (Framing::Chunked | Framing::Close, Version::Http11) => Framing::Chunked,
        (Framing::Chunked | Framing::Close, Version::Http10) => Framing::Close,
        (framing, _) => framing,
    };
    let keep_alive = request.keep_alive && !closing && framing != Framing::Close;
    // Which of them belong to the backend's connection is not known any more behind the body.
    let kept = plan.framing == Framing::Chunked && !plan.names_fields;
    Delivery {
        framing,
        keep_alive,
        trailers: kept && framing == Framing::Chunked && request.takes_trailers,
    }
}

/// Whether an `Expect` field names an expectation, of which there is one.
fn has_expectation(value: &[u8]) -> Result<bool, BadHead> {
    let mut has = false;
    for member in list(value) {
        if !member.eq_ignore_ascii_case(b"100-continue") {
            return Err(BadHead::BadExpectation);
        }
        has = true;
    }
    Ok(has)
}

fn is_trailers(member: &[u8]) -> bool {
    member.eq_ignore_ascii_case(b"trailers")
}

/// How often a request may still be forwarded. More than anybody counts is as much as can be
/// counted.
fn max_forwards(value: &[u8]) -> Result<u32, BadHead> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BadHead::BadMaxForwards);
    }
    let digit = |sum: u32, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    };
    Ok(value.iter().fold(0, digit))
}

/// What is left for the next recipient; the last one answers.
fn one_less(hops: u32, method: Method) -> Result<u32, BadHead> {
    hops.checked_sub(1).ok_or(match method {
        Method::Trace => BadHead::LastTrace,
        _ => BadHead::LastOptions,
    })
}
