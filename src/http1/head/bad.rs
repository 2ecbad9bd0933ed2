//! Every way in which a head is refused, and the search for which one it was.
//!
//! The search is off the hot path: it runs once httparse has said no, to name the fault.

use std::fmt;

/// Why a head was refused. What was not understood is never forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadHead {
    /// A line feed without its carriage return.
    BareLf,
    /// A carriage return without its line feed.
    BareCr,
    /// The first line alone is longer than a head may be.
    LineTooLong,
    /// The head is longer than `HEAD_BYTES_MAX`.
    TooLong,
    /// The head has more fields than `FIELDS_MAX`.
    TooManyFields,
    /// The `Connection` fields are longer than `CONNECTION_BYTES_MAX`.
    ConnectionTooLong,
    /// The first line is no request line (RFC 9112 section 3).
    BadRequestLine,
    /// The first line is no status line (RFC 9112 section 4).
    BadStatusLine,
    /// The target is in no form that the method may have (RFC 9112 section 3.2).
    BadTarget,
    /// A major version of HTTP other than 1.
    UnsupportedVersion,
    /// A field that goes on in the next line (RFC 9112 section 5.2).
    ObsFold,
    /// Blanks between a field's name and its colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A field whose name is no token, or whose value has control characters.
    BadField,
    /// HTTP/1.1 without `Host`.
    MissingHost,
    /// More than one `Host`.
    RepeatedHost,
    /// A `Host`, or the authority in the target, that names no host.
    BadHost,
    /// A `Host` that is not the authority in the target.
    OtherHost,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.1).
    LengthAndTransferEncoding,
    /// More than one `Content-Length`, equal ones included.
    RepeatedLength,
    /// A `Content-Length` that is no number.
    BadLength,
    /// A `Content-Length` beyond 64 bits.
    LengthTooLarge,
    /// A `Transfer-Encoding` other than exactly one `chunked`.
    BadTransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, where its meaning differs from peer to peer.
    TransferEncodingIn10,
    /// An `Expect` other than `100-continue`.
    BadExpectation,
    /// A `Max-Forwards` that is no number, or more than one.
    BadMaxForwards,
    /// An OPTIONS that is to be forwarded no further, so that it is answered here.
    LastOptions,
    /// A TRACE that is to be forwarded no further, and that is not served here.
    LastTrace,
    /// A TRACE with a body.
    TraceBody,
    /// The client asks for another protocol, and has a body before it.
    Upgrade,
    /// Bytes of the client that came before the switch of protocols that they are meant for.
    EarlyBytes,
    /// The method `CONNECT`.
    Connect,
    /// The backend answers 101 to a request that asked for no other protocol, or does not say for
    /// which.
    SwitchingProtocols,
    /// Bytes came from the backend before it was sent any of the request.
    Unasked,
}

impl BadHead {
    /// A short phrase for the client and the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BareLf => "bare line feed",
            Self::BareCr => "bare carriage return",
            Self::LineTooLong => "first line too long",
            Self::TooLong => "head too long",
            Self::TooManyFields => "too many fields",
            Self::ConnectionTooLong => "connection field too long",
            Self::BadRequestLine => "bad request line",
            Self::BadStatusLine => "bad status line",
            Self::BadTarget => "bad request target",
            Self::UnsupportedVersion => "unsupported http version",
            Self::ObsFold => "folded field line",
            Self::SpaceBeforeColon => "blank before the colon of a field",
            Self::BadField => "bad field",
            Self::MissingHost => "missing host",
            Self::RepeatedHost => "repeated host",
            Self::BadHost => "bad host",
            Self::OtherHost => "host other than that of the target",
            Self::LengthAndTransferEncoding => "both content-length and transfer-encoding",
            Self::RepeatedLength => "repeated content-length",
            Self::BadLength => "bad content-length",
            Self::LengthTooLarge => "content-length too large",
            Self::BadTransferEncoding => "transfer-encoding other than chunked",
            Self::TransferEncodingIn10 => "transfer-encoding in http/1.0",
            Self::BadExpectation => "unknown expectation",
            Self::BadMaxForwards => "bad max-forwards",
            Self::LastOptions => "options end here",
            Self::LastTrace => "trace ends here",
            Self::TraceBody => "trace with a body",
            Self::Upgrade => "upgrade not supported",
            Self::EarlyBytes => "bytes before the switch of protocols",
            Self::Connect => "connect not allowed",
            Self::SwitchingProtocols => "unasked switch of protocols",
            Self::Unasked => "bytes before the request",
        }
    }

    /// The status that a client is answered with whose request is bad in this way.
    pub fn status(self) -> u16 {
        match self {
            Self::LastOptions => 200,
            Self::Connect | Self::LastTrace => 405,
            Self::LengthTooLarge => 413,
            Self::LineTooLong => 414,
            Self::BadExpectation => 417,
            Self::TooLong | Self::TooManyFields | Self::ConnectionTooLong => 431,
            Self::Upgrade => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Names the fault of a request head that httparse refused with `error`.
#[cold]
pub(super) fn request(bytes: &[u8], error: httparse::Error) -> BadHead {
    let mut words = first_line(bytes).split(|&byte| byte == b' ');
    let words = (words.next(), words.next(), words.next(), words.next());
    match (error, words) {
        _ if has_bare_cr(bytes) => BadHead::BareCr,
        (httparse::Error::Token, (_, Some(target), Some(_), None)) if !is_visible(target) => {
            BadHead::BadTarget
        }
        (httparse::Error::Version | httparse::Error::Token | httparse::Error::NewLine, _) => {
            BadHead::BadRequestLine
        }
        _ => field(bytes, error),
    }
}

/// Names the fault of a response head that httparse refused with `error`.
#[cold]
pub(super) fn response(bytes: &[u8], error: httparse::Error) -> BadHead {
    match error {
        _ if has_bare_cr(bytes) => BadHead::BareCr,
        httparse::Error::Version | httparse::Error::Status => BadHead::BadStatusLine,
        _ => field(bytes, error),
    }
}

fn field(bytes: &[u8], error: httparse::Error) -> BadHead {
    match error {
        httparse::Error::TooManyHeaders => BadHead::TooManyFields,
        httparse::Error::HeaderName if bytes.split(|&byte| byte == b'\n').any(has_blank_name) => {
            BadHead::SpaceBeforeColon
        }
        _ => BadHead::BadField,
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(bytes.len());
    bytes[..end].trim_ascii_end()
}

fn has_bare_cr(bytes: &[u8]) -> bool {
    let ends_bare = bytes.last() == Some(&b'\r');
    ends_bare
        || bytes
            .windows(2)
            .any(|pair| pair[0] == b'\r' && pair[1] != b'\n')
}

/// Whether a target consists of the bytes that a target may have.
fn is_visible(target: &[u8]) -> bool {
    target.iter().all(u8::is_ascii_graphic)
}

/// Whether the name in this line is followed by blanks and then its colon.
fn has_blank_name(line: &[u8]) -> bool {
    let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
    let token = name.trim_ascii_end();
    let whole = token.len() < name.len() && name.len() < line.len();
    whole && !token.contains(&b' ')
}
