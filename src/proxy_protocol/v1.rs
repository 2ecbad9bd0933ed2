//! Version 1: a line of text (section 2.1 of the specification).

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Ends, Header, Origin, Refusal, Written};

/// What every line begins with.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// The longest line, its CRLF included.
pub(super) const LINE_BYTES_MAX: usize = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
     ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
    .len();

/// Reads the line that `bytes` begin with, which begin as the signature does.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    // The CR has to leave room for its LF.
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX - 1)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', searched) else {
        let is_full = searched.len() == LINE_BYTES_MAX - 1;
        return if is_full {
            Err(Refusal::TooLong)
        } else {
            Ok(None)
        };
    };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) => return Ok(None),
        _ => return Err(Refusal::LineEnd),
    }
    let line = bytes[..end].strip_prefix(SIGNATURE);
    Ok(Some(Header {
        length: end + "\r\n".len(),
        origin: origin(line.ok_or(Refusal::Signature)?)?,
    }))
}

fn origin(line: &[u8]) -> Result<Origin, Refusal> {
    let mut fields = line.split(|&byte| byte == b' ');
    let protocol = fields.next();
    if protocol == Some(b"UNKNOWN") {
        // Whatever else the line has is to be ignored.
        return Ok(Origin::Unknown);
    }
    let address = match protocol {
        Some(b"TCP4") => |text: &str| text.parse::<Ipv4Addr>().map(IpAddr::from),
        // The mixed form of mapped addresses is taken too: inet_ntop(3) writes them so.
        Some(b"TCP6") => |text: &str| text.parse::<Ipv6Addr>().map(IpAddr::from),
        _ => return Err(Refusal::Protocol),
    };
    let address = |field: &[u8]| {
        let text = str::from_utf8(field).map_err(|_| Refusal::Address)?;
        address(text).map_err(|_| Refusal::Address)
    };
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) = (
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
    ) else {
        return Err(Refusal::Fields);
    };
    let (from, to) = (address(from)?, address(to)?);
    let (from_port, to_port) = (port(from_port)?, port(to_port)?);
    let ends = Ends::new((from, from_port).into(), (to, to_port).into());
    Ok(Origin::Client(ends))
}

fn port(field: &[u8]) -> Result<u16, Refusal> {
    let is_number = field.iter().all(u8::is_ascii_digit);
    let is_canonical = is_number && (field.len() == 1 || field.first() != Some(&b'0'));
    let text = str::from_utf8(field).ok().filter(|_| is_canonical);
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::Port)
}

pub(super) fn write(origin: Origin) -> Written {
    const FITS: &str = "no line is longer than the longest";
    let mut line = Written::new();
    let Origin::Client(ends) = origin else {
        line.write_all(b"PROXY UNKNOWN\r\n").expect(FITS);
        return line;
    };
    let (source, destination) = (ends.source(), ends.destination());
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    write!(line, "PROXY {protocol} ").expect(FITS);
    for address in [source.ip(), destination.ip()] {
        push_address(address, &mut line);
        line.push(b' ');
    }
    write!(line, "{} {}\r\n", source.port(), destination.port()).expect(FITS);
    line
}

fn push_address(address: IpAddr, line: &mut Written) {
    let mapped = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped().map(|_| address.segments()),
    };
    let written = match mapped {
        // Hexadecimal alone, where `Display` would write the mixed form.
        Some([.., high, low]) => write!(line, "::ffff:{high:x}:{low:x}"),
        None => write!(line, "{address}"),
    };
    written.expect("no line is longer than the longest");
}
