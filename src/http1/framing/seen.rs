//! What the fields of a head say about its body and its connection.

use std::mem;

use super::Framing;
use crate::http1::field::{Name, list};
use crate::http1::head::{BadHead, Version};
use crate::limits::CONNECTION_BYTES_MAX;

/// What the fields say that requests and responses share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    pub(super) upgrade: bool,
    pub(super) te: bool,
    /// `Connection` has options that may be names of fields.
    pub(super) names_fields: bool,
    connection_bytes: usize,
}

impl Seen {
    /// Takes in one field; those of no concern here are passed over.
    pub(super) fn note(&mut self, name: Name, value: &[u8]) -> Result<(), BadHead> {
        match name {
            Name::ContentLength => self.note_length(value),
            Name::TransferEncoding => self.note_coding(value),
            Name::Connection => self.note_options(value),
            _ => Ok(()),
        }
    }

    /// How the fields delimit a body, or `None` where they do not.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, BadHead> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(BadHead::LengthAndTransferEncoding),
            (true, None) if version == Version::Http10 => Err(BadHead::TransferEncodingIn10),
            (true, None) => Ok(Some(Framing::Chunked)),
            (false, length) => Ok(length.map(Framing::Length)),
        }
    }

    /// Whether the sender keeps its connection (RFC 9112 section 9.3).
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    fn note_length(&mut self, value: &[u8]) -> Result<(), BadHead> {
        match self.length.replace(parse_length(value)?) {
            None => Ok(()),
            Some(_) => Err(BadHead::RepeatedLength),
        }
    }

    fn note_coding(&mut self, value: &[u8]) -> Result<(), BadHead> {
        let again = mem::replace(&mut self.chunked, true);
        if again || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(BadHead::BadTransferEncoding);
        }
        Ok(())
    }

    fn note_options(&mut self, value: &[u8]) -> Result<(), BadHead> {
        self.connection_bytes += value.len();
        if self.connection_bytes > CONNECTION_BYTES_MAX {
            return Err(BadHead::ConnectionTooLong);
        }
        for option in list(value) {
            match option {
                _ if option.eq_ignore_ascii_case(b"close") => self.close = true,
                _ if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ if option.eq_ignore_ascii_case(b"te") => self.te = true,
                _ => self.names_fields = true,
            }
        }
        Ok(())
    }
}

/// A length is digits and nothing else; not even the list of equal lengths that RFC 9110 section
/// 8.6 lets a recipient repair.
fn parse_length(value: &[u8]) -> Result<u64, BadHead> {
    if value.contains(&b',') {
        return Err(BadHead::RepeatedLength);
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BadHead::BadLength);
    }
    value
        .iter()
        .try_fold(0_u64, |length, digit| {
            length.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .ok_or(BadHead::LengthTooLarge)
}
