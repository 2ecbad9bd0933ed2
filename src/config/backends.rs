//! The list of backends as the user writes it: its grammar, without resolving a name.
//!
//! `HOST[:PORT]`, `http://HOST[:PORT]`, `[V6][:PORT]` or `unix:/PATH`, each with `@N` behind it
//! for a weight, separated by commas.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::balance::{Weight, WeightError};
use crate::io::{UnixPath, UnixPathError};
use crate::limits;

/// The port of a backend that names none (RFC 9110 section 4.2.1).
const HTTP_PORT: NonZeroU16 = NonZeroU16::new(80).expect("80 is not 0");

/// The Host of a request that brought none, where the backend has no name of its own.
const UNIX_AUTHORITY: &str = "localhost";

/// The backends of `--backends`, at least one. [`BackendList::resolve`] finds their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendList(pub(super) Vec<BackendName>);

/// One item of the list, its parts known to be well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendName {
    pub(super) place: Place,
    pub(super) weight: Weight,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `None` where the user wrote no port.
    Internet(Host, Option<NonZeroU16>),
    Unix(UnixPath),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Name(String),
}

impl BackendName {
    /// `host:port`, as a Host field has it.
    pub(super) fn authority(&self) -> String {
        let host = match &self.place {
            Place::Internet(host, _) => host,
            Place::Unix(_) => return UNIX_AUTHORITY.to_owned(),
        };
        format!("{host}:{}", self.port())
    }

    /// The port, which a Unix socket does not have.
    pub(super) fn port(&self) -> NonZeroU16 {
        match self.place {
            Place::Internet(_, Some(port)) => port,
            Place::Internet(_, None) | Place::Unix(_) => HTTP_PORT,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// An item of the list is no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backend {position} (`{item}`): {fault}")]
pub struct BackendListError {
    /// Which item, counted from 1.
    pub position: usize,
    /// The item as the user wrote it.
    pub item: String,
    /// What is wrong with it, and what to write instead.
    pub fault: BackendFault,
}

/// What is wrong with an item of the list, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendFault {
    /// Two commas in a row, or one at an end.
    #[error("nothing stands between the commas; write HOST:PORT or take a comma away")]
    Empty,
    /// `unix:` without a path that a socket can have.
    #[error(transparent)]
    Unix(#[from] UnixPathError),
    /// `https://host`.
    #[error("TLS to backends is not supported; write http://HOST:PORT")]
    Tls,
    /// Another scheme.
    #[error("the only scheme is http://; write HOST:PORT or http://HOST:PORT")]
    Scheme,
    /// Something after the authority.
    #[error("a backend has no path; end it after the port")]
    Path,
    /// The host is missing, or has a character that no name has.
    #[error(
        "the host is a name of letters, digits, `-`, `_` and `.`, an IPv4 address, or an IPv6 \
         address in brackets"
    )]
    Host,
    /// A number where an address should be; the resolver would take it for one.
    #[error("the host is a number but no IPv4 address; write one in full, as in 127.0.0.1:8080")]
    Number,
    /// An IPv6 address that could be mistaken for a host with a port.
    #[error("an IPv6 address is written in brackets, as in [::1]:8080")]
    Brackets,
    /// The port is not 1 to 65535.
    #[error("the port is a number from 1 to 65535")]
    Port,
    /// TCP has no port of its own.
    #[error("with --mode tcp a backend names its port; write HOST:PORT")]
    NoPort,
    /// What follows `@` is no weight.
    #[error("after `@` stands the weight: {0}")]
    Weight(#[from] WeightError),
}

impl FromStr for BackendList {
    type Err = BackendListError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let parse_item = |(index, item): (usize, &str)| {
            let located = |fault| BackendListError {
                position: index + 1,
                item: item.trim().to_owned(),
                fault,
            };
            parse_backend(item.trim()).map_err(located)
        };
        list.split(',')
            .enumerate()
            .map(parse_item)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl BackendList {
    /// Demands that every item names its port: only HTTP has one by itself.
    ///
    /// # Errors
    ///
    /// The first item without one.
    pub fn check_ports_named(&self) -> Result<(), BackendListError> {
        let portless = |(index, name): (usize, &BackendName)| match &name.place {
            Place::Internet(host, None) => Some((index, host.to_string())),
            Place::Internet(_, Some(_)) | Place::Unix(_) => None,
        };
        let found = self.0.iter().enumerate().find_map(portless);
        found.map_or(Ok(()), |(index, item)| {
            Err(BackendListError {
                position: index + 1,
                item,
                fault: BackendFault::NoPort,
            })
        })
    }
}

fn parse_backend(item: &str) -> Result<BackendName, BackendFault> {
    let (target, weight) = match item.rsplit_once('@') {
        Some((target, share)) => (target, parse_weight(share)?),
        None => (item, Weight::default()),
    };
    let place = match target.strip_prefix("unix:") {
        Some(path) => Place::Unix(UnixPath::new(path)?),
        None => {
            let (host, port) = split_port(strip_scheme(target)?)?;
            Place::Internet(parse_host(host)?, port.map(parse_port).transpose()?)
        }
    };
    Ok(BackendName { place, weight })
}

fn parse_weight(share: &str) -> Result<Weight, WeightError> {
    parse_digits(share).ok_or(WeightError).and_then(Weight::new)
}

fn strip_scheme(target: &str) -> Result<&str, BackendFault> {
    if target.is_empty() {
        return Err(BackendFault::Empty);
    }
    let authority = match target.split_once("://") {
        None => target,
        Some((scheme, authority)) if scheme.eq_ignore_ascii_case("http") => authority,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(BackendFault::Tls),
        Some(_) => return Err(BackendFault::Scheme),
    };
    if authority.contains(['/', '?', '#']) {
        Err(BackendFault::Path)
    } else {
        Ok(authority)
    }
}

/// Splits `host:port`. The brackets of an IPv6 address stay with the host.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), BackendFault> {
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (_, rest) = authority.split_at(host_end);
    match rest.split_once(':') {
        Some((_, port)) if host_end == 0 && port.contains(':') => Err(BackendFault::Brackets),
        Some((name, port)) => Ok((&authority[..host_end + name.len()], Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(port: &str) -> Result<NonZeroU16, BackendFault> {
    parse_digits(port)
        .and_then(NonZeroU16::new)
        .ok_or(BackendFault::Port)
}

/// A number of digits alone; the standard parser would take a sign as well.
fn parse_digits(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn parse_host(host: &str) -> Result<Host, BackendFault> {
    if let Some(inside) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inside.parse().map(Host::V6).map_err(|_| BackendFault::Host);
    }
    if let Ok(address) = host.parse() {
        return Ok(Host::V4(address));
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if host.is_empty() || host.len() > limits::HOST_BYTES_MAX || !host.bytes().all(is_name_byte) {
        return Err(BackendFault::Host);
    }
    // Resolvers take `8080` and `10.1` for addresses, which nobody means who writes them here.
    let last_label = host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let is_number = last_label.starts_with("0x") || last_label.bytes().all(|b| b.is_ascii_digit());
    if is_number {
        Err(BackendFault::Number)
    } else {
        Ok(Host::Name(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn authorities(list: &str) -> Vec<String> {
        let BackendList(names) = list.parse().unwrap();
        names.iter().map(BackendName::authority).collect()
    }

    fn fault(list: &str) -> BackendFault {
        list.parse::<BackendList>().unwrap_err().fault
    }

    #[test]
    fn every_form_that_exists() {
        let table = [
            ("10.0.0.1", "10.0.0.1:80"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("web-1.example", "web-1.example:80"),
            ("web_1:65535", "web_1:65535"),
            ("http://web:8080", "web:8080"),
            ("HTTP://web", "web:80"),
            ("[::1]", "[::1]:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
            (" web:1 ", "web:1"),
            ("unix:/run/web.sock", "localhost"),
            ("unix:///run/web.sock@7", "localhost"),
        ];
        for (item, authority) in table {
            assert_eq!(authorities(item), [authority], "{item}");
        }
        assert_eq!(authorities("a:1,b:2, c"), ["a:1", "b:2", "c:80"]);
    }

    #[test]
    fn a_weight_follows_an_at_sign() {
        let list = "a@1,b:8080@256,http://[::1]:1@7,c,unix:/a@b@2";
        let BackendList(names) = list.parse().unwrap();
        let shares: Vec<u16> = names.iter().map(|name| name.weight.share()).collect();
        assert_eq!(shares, [1, 256, 7, 1, 2]);
    }

    #[test]
    fn every_fault_is_told_apart() {
        let too_long = format!("unix:/{}", "a".repeat(limits::UNIX_PATH_BYTES_MAX));
        let table = [
            ("", BackendFault::Empty),
            ("a,,b", BackendFault::Empty),
            ("a,", BackendFault::Empty),
            ("@3", BackendFault::Empty),
            ("unix:", BackendFault::Unix(UnixPathError::Relative)),
            ("unix:web.sock", BackendFault::Unix(UnixPathError::Relative)),
            (&too_long, BackendFault::Unix(UnixPathError::TooLong(108))),
            ("unix:/a@b", BackendFault::Weight(WeightError)),
            ("https://web", BackendFault::Tls),
            ("tcp://web", BackendFault::Scheme),
            ("http://web/", BackendFault::Path),
            ("web:80/hello", BackendFault::Path),
            (":80", BackendFault::Host),
            ("http://", BackendFault::Host),
            ("we b", BackendFault::Host),
            ("[::1", BackendFault::Brackets),
            ("[web]:80", BackendFault::Host),
            ("[::1]x:80", BackendFault::Host),
            ("8080", BackendFault::Number),
            ("10.0.0.256:80", BackendFault::Number),
            ("10.1", BackendFault::Number),
            ("0x7f000001", BackendFault::Number),
            ("::1", BackendFault::Brackets),
            ("::1:8080", BackendFault::Brackets),
            ("web:", BackendFault::Port),
            ("web:0", BackendFault::Port),
            ("web:65536", BackendFault::Port),
            ("web:+80", BackendFault::Port),
            ("[::1]:http", BackendFault::Port),
            ("web@", BackendFault::Weight(WeightError)),
            ("web@0", BackendFault::Weight(WeightError)),
            ("web@257", BackendFault::Weight(WeightError)),
            ("web@1.5", BackendFault::Weight(WeightError)),
        ];
        for (list, expected) in table {
            assert_eq!(fault(list), expected, "{list}");
        }
    }

    #[test]
    fn a_port_that_has_to_be_named_is_missed() {
        let check = |list: &str| list.parse::<BackendList>().unwrap().check_ports_named();
        assert_eq!(check("a:1,[::1]:2,http://b:80"), Ok(()));
        let error = check("a:1,[::1]@2").unwrap_err();
        assert_eq!((error.position, &*error.item), (2, "[::1]"));
        assert_eq!(error.fault, BackendFault::NoPort);
    }

    #[test]
    fn an_error_says_which_item_and_what_to_do() {
        let error = "a:1,b:x".parse::<BackendList>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "backend 2 (`b:x`): the port is a number from 1 to 65535"
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(list in "[a-z0-9:@,/\\[\\].]{0,40}|.{0,20}") {
            let _ = list.parse::<BackendList>();
        }
    }
}
