//! Headers by table, and by any addresses, cuts and bytes.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::v2::{SIGNATURE, crc32c};
use super::{Ends, Header, Origin, Refusal, Version, parse, v1, write};
use crate::limits::PROXY_HEADER_BYTES_MAX;

fn client(source: &str, destination: &str) -> Origin {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Origin::Client(Ends::new(source, destination))
}

/// A header of version 2 with these bytes behind its signature.
fn binary(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = (value.len() as u16).to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// `header` with its last four bytes, which are zero, made its checksum.
fn summed(mut header: Vec<u8>) -> Vec<u8> {
    let sum = !crc32c(!0, &header);
    let place = header.len() - 4;
    header[place..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Parses ever more of `bytes`, the next so many at a time, until there is a result.
fn parse_in_pieces(bytes: &[u8], mut lengths: impl Iterator<Item = usize>) -> Parsed {
    let mut known = 0;
    loop {
        let parsed = parse(&bytes[..known]);
        if parsed != Ok(None) || known == bytes.len() {
            return parsed;
        }
        known = bytes.len().min(known + lengths.next().unwrap_or(1));
    }
}

type Parsed = Result<Option<Header>, Refusal>;

/// Both at once and byte by byte, with and without a stream behind it.
fn check(bytes: &[u8], expected: Result<Origin, Refusal>) {
    let name = bytes.escape_ascii();
    let length = bytes.len();
    let expected = expected.map(|origin| Some(Header { length, origin }));
    assert_eq!(parse(bytes), expected, "{name}");
    assert_eq!(parse_in_pieces(bytes, [].into_iter()), expected, "{name}");
    let followed = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(parse(&followed), expected, "{name}");
    if expected.is_ok() {
        for known in 0..length {
            assert_eq!(parse(&bytes[..known]), Ok(None), "{known} bytes of {name}");
        }
    }
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0x04, 0x57, 0, 80];

#[test]
fn lines_of_version_1() {
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    assert_eq!(v1::LINE_BYTES_MAX, 107);
    let table = [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            client("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n",
            client("255.255.255.255:0", "0.0.0.0:65535"),
        ),
        (
            &format!("PROXY TCP6 {long} 2001:DB8::1 1 2\r\n"),
            client(&format!("[{long}]:1"), "[2001:db8::1]:2"),
        ),
        (
            "PROXY TCP6 ::ffff:c000:201 ::ffff:192.0.2.2 1 2\r\n",
            client("192.0.2.1:1", "192.0.2.2:2"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
            client("[::ffff:192.0.2.1]:1", "[::1]:2"),
        ),
        ("PROXY UNKNOWN\r\n", Origin::Unknown),
        ("PROXY UNKNOWN \0 \u{ff} what \r\n", Origin::Unknown),
        (&longest, Origin::Unknown),
    ];
    for (line, origin) in table {
        check(line.as_bytes(), Ok(origin));
    }
}

#[test]
fn every_refusal_of_version_1() {
    let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(endless.len(), 108);
    let table = [
        ("GET / HTTP/1.1\r\n", Refusal::Signature),
        ("PROXY\tTCP4", Refusal::Signature),
        ("proxy UNKNOWN\r\n", Refusal::Signature),
        (" PROXY UNKNOWN\r\n", Refusal::Signature),
        ("PROXY\r\n", Refusal::Signature),
        (&endless, Refusal::TooLong),
        ("PROXY UNKNOWN\n", Refusal::LineEnd),
        ("PROXY UNKNOWN\r\r\n", Refusal::LineEnd),
        ("PROXY UNKNOWN a\rb\r\n", Refusal::LineEnd),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", Refusal::LineEnd),
        ("PROXY \r\n", Refusal::Protocol),
        ("PROXY  UNKNOWN\r\n", Refusal::Protocol),
        ("PROXY UNKNOWNS\r\n", Refusal::Protocol),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Refusal::Protocol),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Refusal::Protocol),
        ("PROXY TCP4\r\n", Refusal::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Refusal::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Refusal::Fields),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Refusal::Fields),
        ("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Refusal::Fields),
        ("PROXY TCP4  1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3.4 0x1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 ::1 1.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Refusal::Address),
        ("PROXY TCP6 ::1 1::2::3 1 2\r\n", Refusal::Address),
        ("PROXY TCP6 ::1 [::1] 1 2\r\n", Refusal::Address),
        ("PROXY TCP6 ::1 fe80::1%1 1 2\r\n", Refusal::Address),
        ("PROXY TCP6 ::1 ::00001 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3.4 \u{ff}.2.3.4 1 2\r\n", Refusal::Address),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", Refusal::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Refusal::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 00 2\r\n", Refusal::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 +2\r\n", Refusal::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", Refusal::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -0\r\n", Refusal::Port),
    ];
    for (line, refusal) in table {
        check(line.as_bytes(), Err(refusal));
    }
}

#[test]
fn a_line_without_an_end_is_refused_once_it_cannot_end_in_time() {
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
    assert_eq!(parse(&endless[..105]), Ok(None));
    assert_eq!(parse(&endless[..106]), Err(Refusal::TooLong));
    let too_late = [&endless[..106], b"\r\n"].concat();
    assert_eq!(parse(&too_late), Err(Refusal::TooLong));
    let last_moment = [&endless[..105], b"\r\n"].concat();
    check(&last_moment, Ok(Origin::Unknown));
}

#[test]
fn headers_of_version_2() {
    let v6: Vec<u8> = [[0x20; 16], [0xfe; 16]].concat();
    let v6 = [&v6[..], &[0, 1, 0xff, 0xff]].concat();
    let of_v6 = client(
        "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
        "[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:65535",
    );
    let of_v4 = client("192.0.2.1:1111", "198.51.100.7:80");
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
    let IpAddr::V6(mapped) = mapped else {
        panic!("it is written as one")
    };
    let mapped = [&mapped.octets()[..], &mapped.octets(), &[0, 1, 0, 2]].concat();
    let of_mapped = client("192.0.2.1:1", "192.0.2.1:2");
    let with = |tlvs: &[u8]| [&V4[..], tlvs].concat();
    let room = PROXY_HEADER_BYTES_MAX - SIGNATURE.len() - 4 - V4.len() - 3;
    let sum_last = [tlv(0x04, b""), tlv(0x20, &[1; 40]), tlv(0x03, &[0; 4])].concat();
    let mut sum_first = binary(0x21, 0x11, &with(&tlv(0x03, &[0; 4])));
    let length = sum_first.len() as u16 - 16 + 3;
    sum_first[14..16].copy_from_slice(&length.to_be_bytes());
    sum_first.extend(tlv(0x04, b""));
    let sum = !crc32c(!0, &sum_first);
    sum_first[31..35].copy_from_slice(&sum.to_be_bytes());
    let table = [
        (binary(0x21, 0x11, &V4), of_v4),
        (binary(0x21, 0x21, &v6), of_v6),
        (binary(0x21, 0x21, &mapped), of_mapped),
        (binary(0x20, 0x00, b""), Origin::Local),
        // The family and everything behind it is ignored.
        (binary(0x20, 0x11, &V4), Origin::Local),
        (binary(0x20, 0xff, b"what"), Origin::Local),
        (binary(0x21, 0x00, b""), Origin::Unknown),
        (binary(0x21, 0x00, b"what"), Origin::Unknown),
        (binary(0x21, 0x01, b"what"), Origin::Unknown),
        (binary(0x21, 0x10, b""), Origin::Unknown),
        // What is not supported, but valid.
        (binary(0x21, 0x12, &V4), Origin::Unknown),
        (binary(0x21, 0x22, &v6), Origin::Unknown),
        (binary(0x21, 0x31, &[0; 216]), Origin::Unknown),
        (binary(0x21, 0x32, &[0; 216]), Origin::Unknown),
        (binary(0x21, 0x11, &with(&tlv(0x04, b""))), of_v4),
        (binary(0x21, 0x11, &with(&tlv(0xea, &[7; 300]))), of_v4),
        (binary(0x21, 0x11, &with(&tlv(0x05, &[7; 128]))), of_v4),
        (binary(0x21, 0x11, &with(&tlv(0x01, &vec![7; room]))), of_v4),
        (summed(binary(0x21, 0x11, &with(&sum_last))), of_v4),
        (sum_first, of_v4),
    ];
    for (header, origin) in table {
        check(&header, Ok(origin));
    }
}

#[test]
fn every_refusal_of_version_2() {
    let with = |tlvs: &[u8]| binary(0x21, 0x11, &[&V4[..], tlvs].concat());
    let twice = [tlv(0x03, &[0; 4]), tlv(0x03, &[0; 4])].concat();
    let too_long = vec![0; PROXY_HEADER_BYTES_MAX - 15];
    let mut changed = summed(with(&tlv(0x03, &[0; 4])));
    changed[20] ^= 1;
    let table = [
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Refusal::Signature),
        (b"\r\nGET / HTTP/1.1\r\n".to_vec(), Refusal::Signature),
        (b"\0".to_vec(), Refusal::Signature),
        (binary(0x11, 0x11, &V4), Refusal::Version),
        (binary(0x31, 0x11, &V4), Refusal::Version),
        (binary(0x22, 0x11, &V4), Refusal::Command),
        (binary(0x2f, 0x11, &V4), Refusal::Command),
        (binary(0x21, 0x41, &V4), Refusal::Family),
        (binary(0x21, 0x13, &V4), Refusal::Family),
        (binary(0x21, 0x03, b""), Refusal::Family),
        (binary(0x21, 0xf0, b""), Refusal::Family),
        (binary(0x21, 0x00, &too_long), Refusal::TooLong),
        (binary(0x20, 0x00, &too_long), Refusal::TooLong),
        (binary(0x21, 0x11, &V4[..11]), Refusal::TooShort),
        (binary(0x21, 0x12, b""), Refusal::TooShort),
        (binary(0x21, 0x21, &[0; 35]), Refusal::TooShort),
        (binary(0x21, 0x31, &[0; 215]), Refusal::TooShort),
        (with(&[4]), Refusal::Tlv),
        (with(&[4, 0]), Refusal::Tlv),
        (with(&[4, 0, 1]), Refusal::Tlv),
        (with(&[4, 0xff, 0xff, 1]), Refusal::Tlv),
        (with(&tlv(0x03, &[0; 3])), Refusal::Tlv),
        (with(&tlv(0x03, &[0; 5])), Refusal::Tlv),
        (with(&twice), Refusal::Tlv),
        (with(&tlv(0x05, &[0; 129])), Refusal::Tlv),
        (with(&tlv(0x03, b"nope")), Refusal::Checksum),
        (changed, Refusal::Checksum),
        (binary(0x21, 0x31, &[1; 217]), Refusal::Tlv),
    ];
    for (header, refusal) in table {
        check(&header, Err(refusal));
    }
}

#[test]
fn the_checksum_is_that_of_its_rfc() {
    // The check value of CRC-32C.
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
}

#[test]
fn headers_are_written_as_specified() {
    let table = [
        (
            client("192.0.2.1:1111", "198.51.100.7:80"),
            "PROXY TCP4 192.0.2.1 198.51.100.7 1111 80\r\n",
            binary(0x21, 0x11, &V4),
        ),
        (
            client("[::ffff:192.0.2.1]:1", "[2001:db8::1]:2"),
            "PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n",
            binary(
                0x21,
                0x21,
                b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\
                  \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\0\x02",
            ),
        ),
        (Origin::Unknown, "PROXY UNKNOWN\r\n", binary(0x21, 0, b"")),
        (Origin::Local, "PROXY UNKNOWN\r\n", binary(0x20, 0, b"")),
    ];
    for (origin, line, header) in table {
        assert_eq!(write(Version::V1, origin).escape_ascii().to_string(), {
            line.as_bytes().escape_ascii().to_string()
        });
        assert_eq!(write(Version::V2, origin)[..], header, "{line}");
    }
}

#[test]
fn both_ends_are_of_one_family() {
    let table = [
        (
            "192.0.2.1:1",
            "[::ffff:192.0.2.2]:2",
            "192.0.2.1:1",
            "192.0.2.2:2",
        ),
        ("192.0.2.1:1", "[::1]:2", "[::ffff:192.0.2.1]:1", "[::1]:2"),
        ("[::1]:1", "192.0.2.1:2", "[::1]:1", "[::ffff:192.0.2.1]:2"),
        ("[fe80::1%3]:1", "[::1]:2", "[fe80::1]:1", "[::1]:2"),
    ];
    for (source, destination, from, to) in table {
        let ends = Ends::new(source.parse().unwrap(), destination.parse().unwrap());
        let expected: (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!((ends.source(), ends.destination()), expected, "{source}");
        assert_eq!(Ends::new(ends.source(), ends.destination()), ends);
    }
}

fn any_origin() -> impl Strategy<Value = Origin> {
    let ends = (any::<(IpAddr, u16)>(), any::<(IpAddr, u16)>())
        .prop_map(|(from, to)| Origin::Client(Ends::new(from.into(), to.into())));
    prop_oneof![1 => Just(Origin::Local), 1 => Just(Origin::Unknown), 20 => ends]
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2)]
}

/// Bytes that get further than random ones: headers, of which some are then changed.
fn almost_headers() -> impl Strategy<Value = Vec<u8>> {
    let tlvs = prop::collection::vec((0_u8..8, prop::collection::vec(any::<u8>(), 0..9)), 0..4);
    let v2 = (0x1f_u8..0x23, 0_u8..0x34, any::<[u8; 12]>(), tlvs).prop_map(
        |(command, kind, addresses, tlvs)| {
            let tlvs = tlvs.into_iter().flat_map(|(kind, value)| tlv(kind, &value));
            let rest: Vec<u8> = addresses.into_iter().chain(tlvs).collect();
            binary(command, kind, &rest)
        },
    );
    let written =
        (any_version(), any_origin()).prop_map(|(version, origin)| write(version, origin).to_vec());
    let text = "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f:. ]{0,90}(\r|\n|\r\n)";
    let base = prop_oneof![v2, written, text.prop_map(String::into_bytes)];
    let change = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (base, change).prop_map(|(mut bytes, change)| {
        if let Some((place, byte)) = change {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(version in any_version(), origin in any_origin()) {
        let header = write(version, origin);
        let origin = match (version, origin) {
            // Version 1 cannot tell them apart.
            (Version::V1, Origin::Local) => Origin::Unknown,
            (_, origin) => origin,
        };
        check(&header, Ok(origin));
    }

    #[test]
    fn pieces_make_no_difference(
        bytes in almost_headers(),
        behind in prop::collection::vec(any::<u8>(), 0..200),
        lengths in prop::collection::vec(1_usize..40, 0..60),
    ) {
        let bytes = [bytes, behind].concat();
        prop_assert_eq!(parse_in_pieces(&bytes, lengths.into_iter()), parse(&bytes));
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
            prop_assert!(header.length <= PROXY_HEADER_BYTES_MAX);
        }
    }

    #[test]
    fn any_bytes_have_a_result(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(parse_in_pieces(&bytes, [].into_iter()), parse(&bytes));
        let binary = [SIGNATURE, &bytes].concat();
        prop_assert_eq!(parse_in_pieces(&binary, [].into_iter()), parse(&binary));
        let text = [v1::SIGNATURE, &bytes].concat();
        prop_assert_eq!(parse_in_pieces(&text, [].into_iter()), parse(&text));
    }
}
