//! The PROXY protocol, versions 1 and 2: what a proxy says at the head of a connection of whom the
//! connection is for.
//!
//! Judged by HAProxy's specification (proxy-protocol.txt of 2020-03-05): what it does not allow is
//! refused, and whether a header comes is never guessed. Bytes and values alone; waiting for the
//! bytes is in `receive.rs`.

pub(crate) mod receive;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use arrayvec::ArrayVec;
use ipnet::IpNet;

/// How sessions use the protocol, the same for every worker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Peers from which a header is taken, where the listener demands one. Who comes over a Unix
    /// socket is among them: the mode of its file decides who may.
    pub trusted: Vec<IpNet>,
    /// For a whole header, from the moment that the connection is accepted.
    pub timeout: Duration,
    /// What backends are told of each connection, if anything.
    pub send: Option<Version>,
}

impl Options {
    fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        let contains = |peer: SocketAddr| {
            let peer = peer.ip().to_canonical();
            self.trusted.iter().any(|network| network.contains(&peer))
        };
        peer.is_none_or(contains)
    }
}

/// The header of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows them is the beginning of the stream.
    pub length: usize,
    /// What it says.
    pub origin: Origin,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The sender itself, which relays nothing: it is a check, say.
    Local,
    /// Somebody who has no addresses of TCP, or whose addresses the sender does not know.
    Unknown,
    /// A client with its connection to the sender.
    Client(Ends),
}

/// The two ends of a connection, both of one family: IPv4 wherever both are, be they written as
/// mapped addresses or not (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Ends {
    /// A connection from `source` to `destination`.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
        let (from, to) = match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (from, to),
            _ => (mapped(from).into(), mapped(to).into()),
        };
        Self {
            source: (from, source.port()).into(),
            destination: (to, destination.port()).into(),
        }
    }

    /// The client.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// What it connected to.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The first bytes are those of neither version.
    Signature,
    /// It is longer than its version allows, or than is taken.
    TooLong,
    /// A line of version 1 with a CR or an LF that is not part of its CRLF.
    LineEnd,
    /// Version 1 with a protocol that is none of its three.
    Protocol,
    /// Version 1 with other fields than two addresses and two ports, with one blank between them.
    Fields,
    /// Version 1 with an address that is none of its family.
    Address,
    /// Version 1 with a port that is no number up to 65535, or has a zero before it.
    Port,
    /// The signature of version 2 before another version.
    Version,
    /// Version 2 with a command that does not exist.
    Command,
    /// Version 2 with an address family or a transport that does not exist.
    Family,
    /// Version 2 with less room than the addresses of its family take.
    TooShort,
    /// Version 2 with a TLV that does not fit, or whose value has a length that its type forbids.
    Tlv,
    /// Version 2 with a checksum that is wrong.
    Checksum,
}

impl Refusal {
    /// A short phrase for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Signature => "no PROXY protocol header",
            Self::TooLong => "too long",
            Self::LineEnd => "bad end of line",
            Self::Protocol => "unknown protocol",
            Self::Fields => "bad fields",
            Self::Address => "bad address",
            Self::Port => "bad port",
            Self::Version => "unknown version",
            Self::Command => "unknown command",
            Self::Family => "unknown family",
            Self::TooShort => "no room for its addresses",
            Self::Tlv => "bad TLV",
            Self::Checksum => "bad checksum",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Reads the header that `bytes` begin with; `None` where it is not whole yet. Whatever pieces the
/// same bytes come in, the result is the same.
///
/// # Errors
/// Where they cannot become a header any more, as soon as that can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    let begins = |signature: &[u8]| {
        let known = bytes.len().min(signature.len());
        bytes[..known] == signature[..known]
    };
    match bytes.first() {
        None => Ok(None),
        Some(_) if begins(v1::SIGNATURE) => v1::parse(bytes),
        Some(_) if begins(v2::SIGNATURE) => v2::parse(bytes),
        Some(_) => Err(Refusal::Signature),
    }
}

/// The version that a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err("there are v1 and v2".to_owned()),
        }
    }
}

/// A header as it is sent.
pub type Written = ArrayVec<u8, { v1::LINE_BYTES_MAX }>;

/// Writes the header that says this of a connection.
pub fn write(version: Version, origin: Origin) -> Written {
    match version {
        Version::V1 => v1::write(origin),
        Version::V2 => v2::write(origin),
    }
}
