//! What a backend is told of where a request comes from.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use httparse::Header;

use crate::http1::field::{Name, is_text, is_token};

/// Writes `X-Forwarded-For`: the client, behind those that it tells of where it is `trusted`.
pub(super) fn forwarded_for(fields: &[Header<'_>], trusted: bool, peer: IpAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    for field in fields.iter().filter(|_| trusted) {
        if Name::of(field.name) == Name::ForwardedFor && !field.value.is_empty() {
            out.extend_from_slice(field.value);
            out.extend_from_slice(b", ");
        }
    }
    push_address(out, peer.to_canonical());
    out.extend_from_slice(b"\r\n");
}

/// Writes `Forwarded` (RFC 7239) with what is known of this hop: its client, the host that it asked
/// for, the protocol.
pub(super) fn forwarded(peer: Option<IpAddr>, host: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Forwarded: for=");
    match peer.map(|peer| peer.to_canonical()) {
        Some(peer @ IpAddr::V4(_)) => push_address(out, peer),
        Some(peer @ IpAddr::V6(_)) => {
            out.extend_from_slice(b"\"[");
            push_address(out, peer);
            out.extend_from_slice(b"]\"");
        }
        // RFC 7239 section 6.2.
        None => out.extend_from_slice(b"unknown"),
    }
    if !host.is_empty() {
        // What was taken for a host has nothing that would have to be escaped.
        debug_assert!(!host.contains(&b'"') && !host.contains(&b'\\'));
        let quote: &[u8] = match host.iter().all(|&byte| is_token(byte)) {
            true => b"",
            false => b"\"",
        };
        for part in [b";host=", quote, host, quote] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b";proto=http\r\n");
}

/// Whether a value is what RFC 7239 section 4 says, so that what is written behind it stands for
/// itself.
pub(super) fn is_forwarded(mut value: &[u8]) -> bool {
    loop {
        value = value.trim_ascii_start();
        if let Some(behind) = pair(value) {
            value = behind;
        }
        value = match value {
            [] => return true,
            [b';', rest @ ..] => rest,
            _ => match value.trim_ascii_start() {
                [] => return true,
                [b',', rest @ ..] => rest,
                _ => return false,
            },
        };
    }
}

/// What stands behind the pair of a name and a value at the front, if there is one.
fn pair(bytes: &[u8]) -> Option<&[u8]> {
    match token(bytes)? {
        [b'=', b'"', rest @ ..] => quoted(rest),
        [b'=', rest @ ..] => token(rest),
        _ => None,
    }
}

/// What stands behind the token at the front.
fn token(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| !is_token(byte));
    let end = end.unwrap_or(bytes.len());
    (end > 0).then(|| &bytes[end..])
}

/// What stands behind the closing quote (RFC 9110 section 5.6.4).
fn quoted(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        bytes = match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_text(*byte) => rest,
            _ => return None,
        };
    }
}

/// Writes an address; one of IPv4 is not mapped.
fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_v4(out, address),
        IpAddr::V6(address) => write!(out, "{address}").expect("writing to a Vec does not fail"),
    }
}

/// Writes what `Display` writes, at a tenth of its cost.
fn push_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    let mut text = ArrayVec::<u8, { "255.255.255.255".len() }>::new();
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(peer: Option<&str>, host: &str) -> String {
        let mut out = Vec::new();
        let peer = peer.map(|peer| peer.parse().unwrap());
        forwarded(peer, host.as_bytes(), &mut out);
        assert!(is_forwarded(&out["Forwarded: ".len()..out.len() - 2]));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_hop_is_written_as_rfc_7239_has_it() {
        let table = [
            (Some("192.0.2.10"), "a.test", "for=192.0.2.10;host=a.test"),
            (Some("192.0.2.10"), "a:80", "for=192.0.2.10;host=\"a:80\""),
            (Some("2001:db8::1"), "", "for=\"[2001:db8::1]\""),
            (Some("::ffff:192.0.2.10"), "", "for=192.0.2.10"),
            (None, "[::1]:8080", "for=unknown;host=\"[::1]:8080\""),
            (None, "a_b~c!$&'*+", "for=unknown;host=a_b~c!$&'*+"),
            (None, "a;b=(c)", "for=unknown;host=\"a;b=(c)\""),
        ];
        for (peer, host, pairs) in table {
            let expected = format!("Forwarded: {pairs};proto=http\r\n");
            assert_eq!(written(peer, host), expected);
        }
    }

    #[test]
    fn what_is_kept_stands_for_itself() {
        let good = [
            "",
            "for=192.0.2.43",
            "for=192.0.2.43, for=198.51.100.17",
            "For=\"[2001:db8:cafe::17]:4711\";proto=https; by=_b",
            "for=\"_a\\\"b\\\\\" ,,\thost=\"a, b;c\";",
            ";;for=unknown",
        ];
        for value in good {
            assert!(is_forwarded(value.as_bytes()), "{value}");
        }
        let bad = [
            "for",
            "for=",
            "=a",
            "for=\"a",
            "for=\"a\\\"",
            "for=\"a\"b",
            "for=[::1]",
            "for=2001:db8::1",
            "for = a",
            "for=a b=c",
            "for=a;\"b\"",
            "192.0.2.43",
            "for=\u{e4}",
        ];
        for value in bad {
            assert!(!is_forwarded(value.as_bytes()), "{value}");
        }
    }
}
