//! Why and where an exchange ended otherwise than well, and what that means for the client.
//!
//! The one place where a failure becomes a status, and the words for the client and the log.

use std::fmt;

use super::head::BadHead;
use crate::health::Fault;
use crate::limits;
use crate::proxy_protocol::Refusal;
use crate::stats::Limit;

/// Why an exchange ended otherwise than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The peer is not among those from which a PROXY header is taken.
    UntrustedSender,
    /// The PROXY header was refused.
    BadProxyHeader(Refusal),
    /// The PROXY header did not become whole in time.
    ProxyHeaderTimeout,
    /// The client has as many connections as it may.
    TooManyConnections,
    /// The client has sent more requests than it may; another is taken in so many seconds.
    TooManyRequests(u32),
    /// The client's head was refused.
    BadRequest(BadHead),
    /// The client's body is not chunked as it should be.
    BadBody,
    /// The client's body is longer than is taken.
    BodyTooLong,
    /// The client's head did not become whole in time.
    HeaderTimeout,
    /// The client's body did not go on in time.
    BodyTimeout,
    /// The client's body comes too slowly.
    BodyTooSlow,
    /// The client reads its response too slowly.
    ClientTooSlow,
    /// The client does not read its response.
    ClientStalled,
    /// The client closed or reset its connection before its exchange was over.
    ClientGone,
    /// There is no backend, or none is left to try.
    NoBackend,
    /// fastlb has no descriptor left to connect to a backend with.
    Exhausted,
    /// The backend refused the connection, or cannot be reached.
    ConnectFailed,
    /// The backend did not take the connection in time.
    ConnectTimeout,
    /// The backend closed the connection before it began its response.
    BackendClosed,
    /// The backend reset the connection before it began its response.
    BackendReset,
    /// The backend closed or reset the connection in the middle of its response.
    BackendCut,
    /// The backend did not begin its response in time.
    ResponseTimeout,
    /// The backend began its response and did not go on in time.
    BackendStalled,
    /// The backend's head was refused.
    BadResponse(BadHead),
    /// The backend's body is not chunked as it should be.
    BadResponseBody,
    /// The backend answered with this status, 500 or above, and another one is asked.
    Repeated(u16),
    /// The backend sent more than `INTERIM_RESPONSES_MAX` interim responses.
    TooManyInterim,
    /// The time to drain was over, which is nobody's fault.
    Cut,
}

impl Cause {
    /// The status that the client is answered with, or `None` where it is not answered at all.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::BadRequest(bad) => Some(bad.status()),
            Self::BadBody => Some(400),
            Self::BodyTooLong => Some(413),
            Self::TooManyRequests(_) => Some(429),
            Self::HeaderTimeout | Self::BodyTimeout | Self::BodyTooSlow => Some(408),
            Self::ConnectFailed
            | Self::BackendClosed
            | Self::BackendReset
            | Self::BackendCut
            | Self::BadResponse(_)
            | Self::BadResponseBody
            | Self::Repeated(_)
            | Self::TooManyInterim => Some(502),
            Self::NoBackend | Self::Exhausted => Some(503),
            Self::ConnectTimeout | Self::ResponseTimeout | Self::BackendStalled => Some(504),
            Self::UntrustedSender
            | Self::BadProxyHeader(_)
            | Self::ProxyHeaderTimeout
            | Self::TooManyConnections
            | Self::ClientTooSlow
            | Self::ClientStalled
            | Self::ClientGone
            | Self::Cut => None,
        }
    }

    /// Seconds that the client is told to wait, where that helps (RFC 9110 section 10.2.3).
    pub fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::TooManyRequests(seconds) => Some(seconds.into()),
            _ if self.status() == Some(503) => Some(limits::RETRY_AFTER_S),
            _ => None,
        }
    }

    /// Whether a backend left the request unanswered, so that another one may be asked.
    pub(super) fn is_before_the_answer(self) -> bool {
        let unasked = Self::BadResponse(BadHead::Unasked);
        matches!(self, Self::BackendClosed | Self::BackendReset) || self == unasked
    }

    /// What the backend did wrong, or `None` where it is not to blame, as far as fastlb can tell.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Self::ConnectFailed | Self::ConnectTimeout => Some(Fault::Connect),
            Self::ResponseTimeout | Self::BackendStalled => Some(Fault::Timeout),
            Self::BackendClosed
            | Self::BackendReset
            | Self::BackendCut
            | Self::BadResponse(_)
            | Self::BadResponseBody
            | Self::TooManyInterim => Some(Fault::Broken),
            Self::Repeated(status) => Some(Fault::Status(status)),
            Self::UntrustedSender
            | Self::BadProxyHeader(_)
            | Self::ProxyHeaderTimeout
            | Self::TooManyConnections
            | Self::TooManyRequests(_)
            | Self::BadRequest(_)
            | Self::BadBody
            | Self::BodyTooLong
            | Self::HeaderTimeout
            | Self::BodyTimeout
            | Self::BodyTooSlow
            | Self::ClientTooSlow
            | Self::ClientStalled
            | Self::ClientGone
            | Self::NoBackend
            | Self::Exhausted
            | Self::Cut => None,
        }
    }

    /// The limit on clients that this is, if it is one.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::BadRequest(bad) => match bad.status() {
                413 => Some(Limit::Body),
                414 | 431 => Some(Limit::Head),
                _ => None,
            },
            Self::TooManyConnections => Some(Limit::Connections),
            Self::TooManyRequests(_) => Some(Limit::Rate),
            Self::BodyTooLong => Some(Limit::Body),
            Self::HeaderTimeout => Some(Limit::HeadTime),
            Self::BodyTimeout => Some(Limit::BodyTime),
            Self::BodyTooSlow => Some(Limit::BodyRate),
            Self::ClientStalled => Some(Limit::ReadTime),
            Self::ClientTooSlow => Some(Limit::ReadRate),
            _ => None,
        }
    }

    /// A short phrase for the client and the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UntrustedSender => "untrusted sender",
            Self::BadProxyHeader(_) => "bad PROXY header",
            Self::ProxyHeaderTimeout => "PROXY header timed out",
            Self::TooManyConnections => "too many connections of this client",
            Self::TooManyRequests(_) => "too many requests of this client",
            Self::BadRequest(bad) => bad.reason(),
            Self::BadBody => "bad request body",
            Self::BodyTooLong => "request body too long",
            Self::HeaderTimeout => "request head timed out",
            Self::BodyTimeout => "request body timed out",
            Self::BodyTooSlow => "request body too slow",
            Self::ClientTooSlow => "client reads too slowly",
            Self::ClientStalled => "client does not read",
            Self::ClientGone => "client gone",
            Self::NoBackend => "no backend available",
            Self::Exhausted => "no descriptor left to reach a backend with",
            Self::ConnectFailed => "backend cannot be reached",
            Self::ConnectTimeout => "connection to the backend timed out",
            Self::BackendClosed => "backend closed",
            Self::BackendReset => "backend reset",
            Self::BackendCut => "response cut short",
            Self::ResponseTimeout => "response timed out",
            Self::BackendStalled => "response stalled",
            Self::BadResponse(_) => "bad response",
            Self::BadResponseBody => "bad response body",
            Self::Repeated(_) => "another backend is asked",
            Self::TooManyInterim => "too many interim responses",
            Self::Cut => "cut",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())?;
        match self {
            // The client need not know what the operator must.
            Self::BadResponse(bad) => write!(f, " ({bad})"),
            Self::BadProxyHeader(refusal) => write!(f, " ({refusal})"),
            _ => Ok(()),
        }
    }
}

/// How far an exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The PROXY header was being received, which comes before the first exchange.
    Proxy,
    /// The connection was being let in.
    Accept,
    /// The request's head was being received.
    Head,
    /// A backend was being picked and connected to.
    Connect,
    /// The request was being sent.
    Send,
    /// The request was sent and the response awaited.
    Wait,
    /// The response had begun to go to the client.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "PROXY header",
            Self::Accept => "accept",
            Self::Head => "head",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Wait => "wait",
            Self::Body => "body",
        })
    }
}

/// Why and where an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// Where.
    pub phase: Phase,
}

impl End {
    /// The status that the client is answered with, or `None` where it cannot be: a
    /// response has begun.
    pub fn status(self) -> Option<u16> {
        match self.phase {
            Phase::Body => None,
            Phase::Proxy
            | Phase::Accept
            | Phase::Head
            | Phase::Connect
            | Phase::Send
            | Phase::Wait => self.cause.status(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.cause, self.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::{BadHead, Cause, End, Phase, Refusal};

    #[test]
    fn an_end_reads_as_cause_and_phase() {
        let table = [
            (
                Cause::BadProxyHeader(Refusal::Tlv),
                Phase::Proxy,
                "bad PROXY header (bad TLV), PROXY header",
                None,
            ),
            (
                Cause::BackendClosed,
                Phase::Wait,
                "backend closed, wait",
                Some(502),
            ),
            (
                Cause::BackendClosed,
                Phase::Body,
                "backend closed, body",
                None,
            ),
            (
                Cause::HeaderTimeout,
                Phase::Head,
                "request head timed out, head",
                Some(408),
            ),
            (
                Cause::NoBackend,
                Phase::Connect,
                "no backend available, connect",
                Some(503),
            ),
            (
                Cause::BodyTooLong,
                Phase::Send,
                "request body too long, send",
                Some(413),
            ),
            (Cause::Cut, Phase::Wait, "cut, wait", None),
            (
                Cause::BadRequest(BadHead::TooLong),
                Phase::Head,
                "head too long, head",
                Some(431),
            ),
            (
                Cause::BadResponse(BadHead::BareLf),
                Phase::Wait,
                "bad response (bare line feed), wait",
                Some(502),
            ),
        ];
        for (cause, phase, text, status) in table {
            let end = End { cause, phase };
            assert_eq!(end.to_string(), text);
            assert_eq!(end.status(), status, "{text}");
        }
    }
}
