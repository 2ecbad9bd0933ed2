//! The target of a request: its forms, and which of them a gateway may be asked with.

use super::Method;
use crate::http1::head::BadHead;

/// A request target by its form (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http1) enum Target<'a> {
    /// A path with its query.
    Origin(&'a str),
    /// A whole URI; `rest` is what follows the authority and may lack its slash.
    Absolute { authority: &'a str, rest: &'a str },
    /// The server as a whole; for OPTIONS only.
    Asterisk,
}

impl<'a> Target<'a> {
    /// The form of this target, or `None` for one that no gateway is asked with.
    pub(in crate::http1) fn of(target: &'a str) -> Option<Self> {
        match target.as_bytes() {
            [b'/', ..] => Some(Self::Origin(target)),
            b"*" => Some(Self::Asterisk),
            _ => {
                let (scheme, uri) = target.split_once("://")?;
                let known = ["http", "https"];
                if !known.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
                    return None;
                }
                let (authority, rest) = uri.split_at(uri.find(['/', '?']).unwrap_or(uri.len()));
                Some(Self::Absolute { authority, rest })
            }
        }
    }
}

/// Refuses a target that a request of this method cannot have.
pub(super) fn check(target: &str, method: Method) -> Result<(), BadHead> {
    match Target::of(target) {
        Some(Target::Origin(_)) => Ok(()),
        Some(Target::Asterisk) if method == Method::Options => Ok(()),
        Some(Target::Absolute { authority: "", .. }) => Err(BadHead::BadHost),
        Some(Target::Absolute { authority, .. }) => check_host(authority.as_bytes()),
        _ => Err(BadHead::BadTarget),
    }
}

/// Refuses what two readers could take for two different hosts. An empty value is one that a
/// client may send (RFC 9112 section 3.2).
pub(super) fn check_host(value: &[u8]) -> Result<(), BadHead> {
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b".:-_~%[]!$&'()*+;=".contains(byte);
    if value.iter().all(is_host) {
        Ok(())
    } else {
        Err(BadHead::BadHost)
    }
}
