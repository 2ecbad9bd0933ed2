//! Version 2: binary (section 2.2 of the specification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ends, Header, Origin, Refusal, Written};
use crate::limits;

/// What every header begins with.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED_BYTES: usize = 16;

const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;

const UNSPEC: u8 = 0x00;
const INET: u8 = 0x10;
const INET6: u8 = 0x20;
const UNIX: u8 = 0x30;
const STREAM: u8 = 0x1;
const DGRAM: u8 = 0x2;

const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;
/// Longest value of the latter.
const UNIQUE_ID_BYTES_MAX: usize = 128;

/// Reads the header that `bytes` begin with, which begin as the signature does.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    let at = SIGNATURE.len();
    let Some(&command) = bytes.get(at) else {
        return Ok(None);
    };
    if command & 0xf0 != VERSION {
        return Err(Refusal::Version);
    }
    let is_local = match command & 0x0f {
        LOCAL => true,
        PROXY => false,
        _ => return Err(Refusal::Command),
    };
    let Some(&kind) = bytes.get(at + 1) else {
        return Ok(None);
    };
    // The sender has no addresses to tell of itself: whatever stands there is to be discarded.
    let kind = if is_local { UNSPEC } else { kind };
    let addresses_bytes = addresses_bytes(kind)?;
    let Some(&[high, low]) = bytes.get(at + 2..FIXED_BYTES) else {
        return Ok(None);
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED_BYTES + rest;
    if length > limits::PROXY_HEADER_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    if rest < addresses_bytes.unwrap_or(0) {
        return Err(Refusal::TooShort);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    if let Some(addresses_bytes) = addresses_bytes {
        check_tlvs(header, FIXED_BYTES + addresses_bytes)?;
    }
    let addresses = &header[FIXED_BYTES..];
    let origin = match kind {
        _ if is_local => Origin::Local,
        _ if kind == INET | STREAM => ends(addresses, Ipv4Addr::from_octets),
        _ if kind == INET6 | STREAM => ends(addresses, Ipv6Addr::from_octets),
        // As the specification wants what is not supported to be treated.
        _ => Origin::Unknown,
    };
    Ok(Some(Header { length, origin }))
}

/// The bytes that the addresses of a family and transport take; `None` where neither they nor what
/// is behind them is known.
fn addresses_bytes(kind: u8) -> Result<Option<usize>, Refusal> {
    let (family, transport) = (kind & 0xf0, kind & 0x0f);
    let bytes = match family {
        UNSPEC => None,
        INET => Some(2 * 4 + 2 * 2),
        INET6 => Some(2 * 16 + 2 * 2),
        UNIX => Some(2 * 108),
        _ => return Err(Refusal::Family),
    };
    match transport {
        // Whether ports follow the addresses depends on the transport.
        0 => Ok(None),
        STREAM | DGRAM => Ok(bytes),
        _ => Err(Refusal::Family),
    }
}

/// The addresses and ports that `bytes` begin with.
fn ends<const N: usize, A: Into<IpAddr>>(bytes: &[u8], address: fn([u8; N]) -> A) -> Origin {
    let octets = |at: usize| {
        let octets = bytes[at..].first_chunk::<N>();
        *octets.expect("the length was found to be enough")
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let source = SocketAddr::new(address(octets(0)).into(), port(2 * N));
    let destination = SocketAddr::new(address(octets(N)).into(), port(2 * N + 2));
    Origin::Client(Ends::new(source, destination))
}

/// Demands that what is behind the addresses is a row of TLVs, and that a checksum among them is
/// right. Nothing else of them is used.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Refusal> {
    let mut checksum_at = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk() else {
            return Err(Refusal::Tlv);
        };
        let (value_at, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        at = value_at + length;
        let fits = match kind {
            TLV_CRC32C => length == 4 && checksum_at.replace(value_at).is_none(),
            TLV_UNIQUE_ID => length <= UNIQUE_ID_BYTES_MAX,
            _ => true,
        };
        if !fits || at > header.len() {
            return Err(Refusal::Tlv);
        }
    }
    match checksum_at {
        Some(place) if !has_checksum(header, place) => Err(Refusal::Checksum),
        _ => Ok(()),
    }
}

/// Whether the four bytes at `place` are the checksum of all, they themselves counting as zero.
fn has_checksum(header: &[u8], place: usize) -> bool {
    let (before, rest) = header.split_at(place);
    let (stored, behind) = rest.split_at(4);
    let sum = [before, &[0; 4], behind].into_iter().fold(!0, crc32c);
    stored == (!sum).to_be_bytes()
}

/// One step of the checksum of RFC 4960 appendix B.
pub(super) fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, &byte| {
        CRC32C[usize::from(sum as u8 ^ byte)] ^ (sum >> 8)
    })
}

const CRC32C: [u32; 256] = {
    /// The polynomial of Castagnoli, its bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

pub(super) fn write(origin: Origin) -> Written {
    let mut header = Written::new();
    let mut push = |bytes: &[u8]| {
        let pushed = header.try_extend_from_slice(bytes);
        pushed.expect("two addresses fit into what a line of version 1 takes");
    };
    push(SIGNATURE);
    let ends = match origin {
        Origin::Client(ends) => ends,
        Origin::Local => {
            push(&[VERSION | LOCAL, UNSPEC, 0, 0]);
            return header;
        }
        Origin::Unknown => {
            push(&[VERSION | PROXY, UNSPEC, 0, 0]);
            return header;
        }
    };
    let (source, destination) = (ends.source(), ends.destination());
    let (family, length) = match source {
        SocketAddr::V4(_) => (INET, 12),
        SocketAddr::V6(_) => (INET6, 36),
    };
    push(&[VERSION | PROXY, family | STREAM, 0, length]);
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => push(&address.octets()),
            IpAddr::V6(address) => push(&address.octets()),
        }
    }
    push(&source.port().to_be_bytes());
    push(&destination.port().to_be_bytes());
    header
}
