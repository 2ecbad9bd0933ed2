//! The target of a request: its forms, and which of them a gateway may be asked with; and the
//! authority that it or `Host` names.

use std::net::Ipv6Addr;

use super::Method;
use crate::http1::head::BadHead;

#[cfg(test)]
mod tests;

/// A request target by its form (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http1) enum Target<'a> {
    /// A path with its query.
    Origin(&'a str),
    /// A whole URI; `rest` is what follows the authority and may lack its slash. `port` is that of
    /// an authority which names none.
    Absolute {
        authority: &'a str,
        port: u16,
        rest: &'a str,
    },
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
                let known = [("http", 80), ("https", 443)];
                let is = |known: &&(&str, u16)| scheme.eq_ignore_ascii_case(known.0);
                let (_, port) = *known.iter().find(is)?;
                let (authority, rest) = uri.split_at(uri.find(['/', '?']).unwrap_or(uri.len()));
                Some(Self::Absolute {
                    authority,
                    port,
                    rest,
                })
            }
        }
    }
}

/// Refuses a target that a request of this method cannot have, or whose authority is not the one
/// that `host` names, where that field is there.
pub(super) fn check(target: &str, method: Method, host: Option<&[u8]>) -> Result<(), BadHead> {
    match Target::of(target) {
        Some(Target::Origin(_)) => Ok(()),
        Some(Target::Asterisk) if method == Method::Options => Ok(()),
        Some(Target::Absolute {
            authority, port, ..
        }) => {
            let named = Authority::of(authority.as_bytes()).ok_or(BadHead::BadHost)?;
            match host.map(|host| Authority::of(host).is_some_and(|host| named.is(host, port))) {
                // RFC 9112 section 3.2.2 would have the field replaced; one of the two is a lie.
                Some(false) => Err(BadHead::OtherHost),
                Some(true) | None => Ok(()),
            }
        }
        _ => Err(BadHead::BadTarget),
    }
}

/// Refuses a `Host` that names none. An empty one is what a client sends where there is no
/// authority to name (RFC 9112 section 3.2).
pub(super) fn check_host(value: &[u8]) -> Result<(), BadHead> {
    if value.is_empty() || Authority::of(value).is_some() {
        Ok(())
    } else {
        Err(BadHead::BadHost)
    }
}

/// A host and its port, where it names one.
#[derive(Clone, Copy)]
struct Authority<'a> {
    host: &'a [u8],
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes a value apart, `None` where two readers could take it for two different hosts: RFC
    /// 3986 section 3.2 without a user and without a comma.
    fn of(value: &'a [u8]) -> Option<Self> {
        let end = match value {
            [b'[', rest @ ..] => bracketed_bytes(rest)? + 1,
            _ => name_bytes(value),
        };
        let (host, rest) = value.split_at(end);
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// Whether these are the same (RFC 9110 section 4.2.3); one without a port has `default`.
    fn is(self, other: Self, default: u16) -> bool {
        self.port.unwrap_or(default) == other.port.unwrap_or(default)
            && self.host.eq_ignore_ascii_case(other.host)
    }
}

/// How many bytes of a name or an IPv4 address stand at the front.
fn name_bytes(value: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match value[at..] {
            [byte, ..] if IN_NAME[usize::from(byte)] => at += 1,
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 3,
            _ => return at,
        }
    }
}

/// Whether a byte may stand in the name of a host by itself: unreserved and sub-delims of RFC 3986
/// section 2, but no comma, which would make a list of it.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// How many bytes an IPv6 address and its closing bracket are.
fn bracketed_bytes(value: &[u8]) -> Option<usize> {
    let end = value.iter().position(|&byte| byte == b']')?;
    let address = str::from_utf8(&value[..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

fn port(digits: &[u8]) -> Option<u16> {
    const DIGITS_MAX: usize = "65535".len();
    if digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}
