//! The header of the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastlb::proxy_protocol::{Ends, Header, Origin, Version, parse, write};

use super::pieces::places;

/// A header means the same in any pieces and whatever follows it; what is written is read again.
pub fn proxy_header(input: &[u8]) {
    let Some((&cuts, bytes)) = input.split_first() else {
        return;
    };
    let whole = parse(bytes);
    let mut in_pieces = places(cuts, bytes.len()).map(|known| parse(&bytes[..known]));
    let decided = in_pieces.find(|parsed| *parsed != Ok(None));
    assert_eq!(decided.unwrap_or(Ok(None)), whole);
    if let Ok(Some(header)) = whole {
        assert_eq!(parse(&bytes[..header.length]), whole);
        check_written(header.origin);
    }
    if let Some(ends) = ends(bytes) {
        check_written(Origin::Client(ends));
    }
}

fn check_written(origin: Origin) {
    for version in [Version::V1, Version::V2] {
        let written = write(version, origin);
        let origin = match (version, origin) {
            // Version 1 cannot tell them apart.
            (Version::V1, Origin::Local) => Origin::Unknown,
            (_, origin) => origin,
        };
        let length = written.len();
        assert_eq!(parse(&written), Ok(Some(Header { length, origin })));
    }
}

/// Any two ends, where the bytes suffice for them.
fn ends(bytes: &[u8]) -> Option<Ends> {
    let (family, bytes) = bytes.split_first()?;
    let (from, bytes) = bytes.split_first_chunk::<16>()?;
    let (to, bytes) = bytes.split_first_chunk::<16>()?;
    let ports = bytes.first_chunk::<4>()?;
    let address = |octets: &[u8; 16], is_v4: bool| match octets {
        [a, b, c, d, ..] if is_v4 => IpAddr::from(Ipv4Addr::new(*a, *b, *c, *d)),
        octets => IpAddr::from(Ipv6Addr::from(*octets)),
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let source = SocketAddr::new(address(from, family & 1 == 0), port(0));
    let destination = SocketAddr::new(address(to, family & 2 == 0), port(2));
    Some(Ends::new(source, destination))
}
