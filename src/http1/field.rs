//! Header fields: the names that mean something to a gateway, list values, and how one is written.
//!
//! Not a store of fields. A head keeps its fields as httparse found them, in their order.

use arrayvec::ArrayVec;

pub(super) use self::end_to_end::is_end_to_end;
use super::head::Version;

mod end_to_end;

/// A field name that a gateway acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    MaxForwards,
    Te,
    Trailer,
    Authorization,
    /// `Keep-Alive` and others that only ever concern one connection, or a proxy that the client
    /// knows of, which a gateway is not.
    HopByHop,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// `X-Real-IP` and the rest of `X-Forwarded-*`.
    ForwardedOther,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Request-Id`.
    RequestId,
    Other,
}

impl Name {
    /// Which name this is, whatever its case. Its length alone rules out almost all candidates.
    pub(super) fn of(name: &str) -> Self {
        match name.len() {
            2 if is(name, b"te") => Self::Te,
            4 if is(name, b"host") => Self::Host,
            // No standard has it, and a CGI program takes it for the proxy that it is to use.
            5 if is(name, b"proxy") => Self::HopByHop,
            6 if is(name, b"expect") => Self::Expect,
            7 if is(name, b"upgrade") => Self::Upgrade,
            7 if is(name, b"trailer") => Self::Trailer,
            9 if is(name, b"forwarded") => Self::Forwarded,
            9 if is(name, b"x-real-ip") => Self::ForwardedOther,
            10 if is(name, b"connection") => Self::Connection,
            10 if is(name, b"keep-alive") => Self::HopByHop,
            11 if is(name, b"x-forwarded") => Self::ForwardedOther,
            12 if is(name, b"max-forwards") => Self::MaxForwards,
            12 if is(name, b"x-request-id") => Self::RequestId,
            13 if is(name, b"authorization") => Self::Authorization,
            14 if is(name, b"content-length") => Self::ContentLength,
            14 if is(name, b"http2-settings") => Self::HopByHop,
            16 if is(name, b"proxy-connection") => Self::HopByHop,
            17 if is(name, b"transfer-encoding") => Self::TransferEncoding,
            18 if is(name, b"proxy-authenticate") => Self::HopByHop,
            19 if is(name, b"proxy-authorization") => Self::HopByHop,
            25 if is(name, b"proxy-authentication-info") => Self::HopByHop,
            12.. => Self::forwarded(name),
            _ => Self::Other,
        }
    }

    fn forwarded(name: &str) -> Self {
        match name.split_at_checked("x-forwarded-".len()) {
            Some((prefix, rest)) if is(prefix, b"x-forwarded-") => match rest {
                _ if is(rest, b"for") => Self::ForwardedFor,
                _ if is(rest, b"proto") => Self::ForwardedProto,
                _ if is(rest, b"host") => Self::ForwardedHost,
                _ => Self::ForwardedOther,
            },
            _ => Self::Other,
        }
    }
}

/// Whether a name is one that a gateway acts upon, but for other characters where that has hyphens.
/// Programs behind gateways of the CGI kind read it as that one: it was not checked as that one.
pub(super) fn is_disguised(name: &str) -> bool {
    // All such names are shorter, or known by how they begin.
    const PREFIX_BYTES: usize = 32;
    let plain = |byte: u8| byte == b'-' || byte.is_ascii_alphanumeric();
    // The initials of those that have hyphens rule out almost all candidates.
    if !name.starts_with(|initial| "CHKMPTXchkmptx".contains(initial)) || name.bytes().all(plain) {
        return false;
    }
    let hyphen = |byte: u8| if plain(byte) { byte } else { b'-' };
    let prefix = name.bytes().take(PREFIX_BYTES).map(hyphen);
    let read: ArrayVec<u8, PREFIX_BYTES> = prefix.collect();
    str::from_utf8(&read).is_ok_and(|read| Name::of(read) != Name::Other)
}

/// Compares a token with one of small letters and hyphens, whatever the token's case. One bit tells
/// a letter's cases apart; the control character that it turns into a hyphen is in no token.
fn is<const N: usize>(token: &str, known: &[u8; N]) -> bool {
    let Ok(token) = <&[u8; N]>::try_from(token.as_bytes()) else {
        return false;
    };
    let pairs = token.iter().zip(known);
    // Without an early end, so that it is done in words of the machine.
    pairs.fold(0, |differ, (byte, known)| differ | ((byte | 0x20) ^ known)) == 0
}

/// The members of a list value (RFC 9110 section 5.6.1), without blanks; empty ones are skipped.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// Whether the byte may stand in a name or a method (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the byte may stand in a value: anything but control characters, of which a tab is none
/// here (RFC 9110 section 5.5).
pub(super) fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// Writes one field line.
pub(super) fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the `Content-Length` field.
pub(super) fn push_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes the `Connection` field where the version alone does not already say as much (RFC 9112
/// section 9.3).
pub(super) fn push_persistence(out: &mut Vec<u8>, version: Version, keep_alive: bool) {
    match (version, keep_alive) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

/// Writes a number in decimal; `write!` costs several times as much.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    // The largest number has 20 digits.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::{Name, is_disguised, is_end_to_end, list, push_decimal};

    #[test]
    fn names_are_known_whatever_their_case() {
        let table = [
            ("HOST", Name::Host),
            ("content-length", Name::ContentLength),
            ("Transfer-Encoding", Name::TransferEncoding),
            ("cOnNeCtIoN", Name::Connection),
            ("Upgrade", Name::Upgrade),
            ("Expect", Name::Expect),
            ("TE", Name::Te),
            ("Trailer", Name::Trailer),
            ("Max-Forwards", Name::MaxForwards),
            ("HTTP2-Settings", Name::HopByHop),
            ("Proxy", Name::HopByHop),
            ("Proxy-Authentication-Info", Name::HopByHop),
            ("Keep-Alive", Name::HopByHop),
            ("Proxy-Connection", Name::HopByHop),
            ("Proxy-Authenticate", Name::HopByHop),
            ("Proxy-Authorization", Name::HopByHop),
            ("X-Forwarded-For", Name::ForwardedFor),
            ("x-forwarded-proto", Name::ForwardedProto),
            ("X-FORWARDED-HOST", Name::ForwardedHost),
            ("X-Forwarded-Port", Name::ForwardedOther),
            ("Forwarded", Name::Forwarded),
            ("X-Request-ID", Name::RequestId),
            ("X-Forwarded", Name::ForwardedOther),
            ("X-Forwarded-", Name::ForwardedOther),
            ("X-Forwardedness", Name::Other),
            ("X-Real-IP", Name::ForwardedOther),
            ("Trailers", Name::Other),
            ("Content-Type", Name::Other),
            ("", Name::Other),
        ];
        for (name, known) in table {
            assert_eq!(Name::of(name), known, "{name}");
            assert!(!is_disguised(name), "{name}");
            for other in ["_", ".", "!"] {
                let disguise = name.replace('-', other);
                let reads_as_ours = disguise != name && known != Name::Other;
                assert_eq!(is_disguised(&disguise), reads_as_ours, "{disguise}");
            }
        }
        for name in [
            "Content-Type",
            "X.Y",
            "Content.Type",
            "cache!control",
            "_",
            "Hos.t",
        ] {
            assert!(!is_disguised(name), "{name}");
        }
        assert!(is_disguised(
            "x.forwarded_that-is-longer-than-any-other-name"
        ));
    }

    #[test]
    fn fields_for_all_recipients_are_known_by_name_or_family() {
        let for_all = [
            "AUTHORIZATION",
            "via",
            "Clear-Site-Data",
            "Cross-Origin-Opener-Policy",
            "access-control-allow-origin",
            "Content-Disposition",
            "X-Accel-Redirect",
            "Sec-Fetch-Site",
        ];
        assert!(for_all.into_iter().all(is_end_to_end));
        let others = ["X-Mine", "Contents", "Si", "", "Server-Timing"];
        assert!(!others.into_iter().any(is_end_to_end));
    }

    #[test]
    fn lists_skip_what_is_empty() {
        let members: Vec<_> = list(b" a ,,b\t, ,c d").collect();
        assert_eq!(members, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(list(b"").count(), 0);
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 65_535, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
