//! The head of a message: where it ends, and what stands in it (RFC 9112 sections 2 to 5).
//!
//! [`Scan`] finds the end and checks every line end and the version; httparse is then called once
//! on the whole head. It is not the judge: what it takes too easily is refused here. What the
//! fields mean is the business of `framing`.

use std::mem::MaybeUninit;

use httparse::Header;
use memchr::memchr;

pub use self::bad::BadHead;
use super::field::is_token;
use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX};

mod bad;
#[cfg(test)]
mod tests;

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 (RFC 1945).
    Http10,
    /// HTTP/1.1 (RFC 9112).
    Http11,
}

/// Finds the end of a head in bytes that arrive piece by piece.
///
/// It remembers its place, so that a head that trickles in costs linear time. A new head needs a
/// new value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    side: Side,
    /// Where the head begins: 0, or 2 behind the empty line that may precede a request.
    start: usize,
    /// Where the line begins that is being looked at.
    line: usize,
    /// Where the search for a line end goes on; `start <= line <= at`.
    at: usize,
    /// See [`Span`].
    later_minor: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Side {
    #[default]
    Request,
    Response,
}

/// Where a whole head lies: from the first byte of its first line to behind its empty line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the first byte.
    pub start: usize,
    /// Index behind the last byte; the body begins here.
    pub end: usize,
    /// Index of the minor digit of a version behind 1.1, which [`Span::of`] makes 1.1.
    later_minor: Option<usize>,
}

impl Span {
    /// The head, in the bytes that it was found in. A version 1.x behind 1.1 is written as 1.1:
    /// what it adds may be passed over (RFC 9110 section 2.5), and httparse knows no such version.
    pub fn of(self, bytes: &mut [u8]) -> &[u8] {
        if let Some(minor) = self.later_minor {
            bytes[minor] = b'1';
        }
        &bytes[self.start..self.end]
    }
}

impl Scan {
    /// A scan for a request, which one empty line may precede (RFC 9112 section 2.2).
    pub fn request() -> Self {
        Self::default()
    }

    /// A scan for a response.
    pub fn response() -> Self {
        let side = Side::Response;
        Self {
            side,
            ..Self::default()
        }
    }

    /// Looks for the end of the head in `bytes`, which are those of the last call and perhaps more.
    /// `Ok(None)` means that the head is incomplete so far.
    ///
    /// # Errors
    /// The head can only become bad: a line end that is not CRLF, a folded line, a first byte that
    /// begins no head, a first line without a version that is spoken, or more than
    /// [`HEAD_BYTES_MAX`].
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<Span>, BadHead> {
        let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        if self.line == self.start && !self.begins(bytes)? {
            return Ok(None);
        }
        while let Some(found) = memchr(b'\n', &bytes[self.at..]) {
            self.at += found + 1;
            let Some(line) = bytes[self.line..self.at].strip_suffix(b"\r\n") else {
                return Err(BadHead::BareLf);
            };
            match line.first() {
                None => {
                    return Ok(Some(Span {
                        start: self.start,
                        end: self.at,
                        later_minor: self.later_minor,
                    }));
                }
                Some(b' ' | b'\t') => return Err(BadHead::ObsFold),
                Some(_) if self.line == self.start => {
                    self.later_minor = self.judge_version(line)?;
                    self.line = self.at;
                }
                Some(_) => self.line = self.at,
            }
        }
        self.at = bytes.len();
        match bytes.len() {
            HEAD_BYTES_MAX if self.line == self.start => Err(BadHead::LineTooLong),
            HEAD_BYTES_MAX => Err(BadHead::TooLong),
            _ => Ok(None),
        }
    }

    /// Whether the first line has begun. What can be no head, such as a TLS greeting, is refused
    /// at its first byte: the peer waits for an answer and will not send a line end.
    fn begins(&mut self, bytes: &[u8]) -> Result<bool, BadHead> {
        match self.side {
            Side::Request => {
                if self.at == 0 && bytes.starts_with(b"\r\n") {
                    *self = Self {
                        start: 2,
                        line: 2,
                        at: 2,
                        ..*self
                    };
                }
                match bytes[self.start..] {
                    [] => Ok(false),
                    [b'\r'] if self.start == 0 => Ok(false),
                    [b'\n', ..] => Err(BadHead::BareLf),
                    [first, ..] if !is_token(first) => Err(BadHead::BadRequestLine),
                    _ => Ok(true),
                }
            }
            Side::Response => {
                let known = bytes.len().min(b"HTTP/".len());
                if bytes[..known] != b"HTTP/"[..known] {
                    return Err(BadHead::BadStatusLine);
                }
                Ok(known > 0)
            }
        }
    }

    /// Judges the version of the first line, which decides what everything behind it means. Who
    /// speaks HTTP/0.9 is refused here, because his request has no further line. Returns the place
    /// of a minor version behind 1.1.
    fn judge_version(&self, line: &[u8]) -> Result<Option<usize>, BadHead> {
        let version = match self.side {
            Side::Request => line.last_chunk(),
            Side::Response => line.first_chunk(),
        };
        match version {
            Some(b"HTTP/1.1" | b"HTTP/1.0") => Ok(None),
            version => self.judge_other_version(line, version),
        }
    }

    #[cold]
    fn judge_other_version(
        &self,
        line: &[u8],
        version: Option<&[u8; 8]>,
    ) -> Result<Option<usize>, BadHead> {
        let (at, bad) = match self.side {
            Side::Request => (line.len().wrapping_sub(1), BadHead::BadRequestLine),
            Side::Response => ("HTTP/1.".len(), BadHead::BadStatusLine),
        };
        match version {
            _ if line.contains(&b'\r') => Err(BadHead::BareCr),
            Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                match major {
                    b'1' => Ok(Some(self.line + at)),
                    _ => Err(BadHead::UnsupportedVersion),
                }
            }
            _ => Err(bad),
        }
    }
}

/// Room for the fields of one head, not initialised: it costs nothing to make.
pub type FieldStore<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

/// Room for the fields of one head.
pub const fn field_store<'b>() -> FieldStore<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// The head of a request, as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'s, 'b> {
    /// The method, a token.
    pub method: &'b str,
    /// The request target: visible ASCII without a fragment.
    pub target: &'b str,
    /// The version.
    pub version: Version,
    /// The fields in their order; values without blanks around them.
    pub fields: &'s [Header<'b>],
    /// Whether there is an underscore anywhere, without which no name has to be searched for one.
    pub(super) has_underscore: bool,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Parses the bytes of a [`Span`] that [`Scan`] found.
    ///
    /// # Errors
    /// See [`BadHead`]; an incomplete head is an error here.
    pub fn parse(bytes: &'b [u8], store: &'s mut FieldStore<'b>) -> Result<Self, BadHead> {
        let mut parsed = httparse::Request::new(&mut []);
        let end = parsed
            .parse_with_uninit_headers(bytes, store)
            .map_err(|error| bad::request(bytes, error))?;
        let httparse::Request {
            method: Some(method),
            path: Some(target),
            version,
            ..
        } = parsed
        else {
            return Err(BadHead::BadRequestLine);
        };
        if end != httparse::Status::Complete(bytes.len()) {
            return Err(BadHead::BadField);
        }
        // httparse takes UTF-8, and a fragment never belongs to a target (RFC 9112 section 3.2).
        if !target
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
        {
            return Err(BadHead::BadTarget);
        }
        let version = Version::of(version);
        Ok(Self {
            method,
            target,
            version,
            fields: parsed.headers,
            has_underscore: memchr(b'_', bytes).is_some(),
        })
    }
}

/// The head of a response, as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'s, 'b> {
    /// The version.
    pub version: Version,
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase; empty where it is missing or has bytes beyond ASCII.
    pub reason: &'b str,
    /// The fields in their order; values without blanks around them.
    pub fields: &'s [Header<'b>],
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// Parses the bytes of a [`Span`] that [`Scan`] found.
    ///
    /// # Errors
    /// See [`BadHead`]; an incomplete head is an error here.
    pub fn parse(bytes: &'b [u8], store: &'s mut FieldStore<'b>) -> Result<Self, BadHead> {
        let mut parsed = httparse::Response::new(&mut []);
        let end = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, bytes, store)
            .map_err(|error| bad::response(bytes, error))?;
        let httparse::Response {
            code: Some(status @ 100..),
            version,
            reason,
            ..
        } = parsed
        else {
            return Err(BadHead::BadStatusLine);
        };
        if end != httparse::Status::Complete(bytes.len()) {
            return Err(BadHead::BadField);
        }
        let version = Version::of(version);
        let reason = reason.unwrap_or_default();
        Ok(Self {
            version,
            status,
            reason,
            fields: parsed.headers,
        })
    }
}

impl Version {
    /// The version that httparse found; it knows the minor versions 0 and 1 only.
    fn of(minor: Option<u8>) -> Self {
        match minor {
            Some(0) => Self::Http10,
            _ => Self::Http11,
        }
    }
}
