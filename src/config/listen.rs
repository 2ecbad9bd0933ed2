//! The addresses to listen on as the user writes them.
//!
//! `IP:PORT` or `unix:/PATH`, separated by commas; behind each `,proxy` where a header of the PROXY
//! protocol is demanded, and behind the latter `,mode=660` for its file.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::io::{Address, UnixPath, UnixPathError};

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub at: ListenAt,
    /// Whether each connection has to begin with a header of the PROXY protocol.
    pub proxied: bool,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// An IP address and a port; port 0 takes a free one.
    Internet(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Where its file will be.
        path: UnixPath,
        /// Who may connect; by default what the umask leaves.
        mode: Option<FileMode>,
    },
}

/// The permissions of a file, 0 to 0o777.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    /// The permissions as a number.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Listen {
    /// The address without what belongs to the file.
    pub fn address(&self) -> Address {
        match &self.at {
            ListenAt::Internet(address) => (*address).into(),
            ListenAt::Unix { path, .. } => path.clone().into(),
        }
    }

    /// Whether both can be listened on at once.
    pub fn excludes(&self, other: &Self) -> bool {
        let any_port = matches!(self.at, ListenAt::Internet(address) if address.port() == 0);
        !any_port && self.address() == other.address()
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self {
            at: ListenAt::Internet(address),
            proxied: false,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

/// One value of `--listen`, at least one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenList(pub Vec<Listen>);

/// A value is no list of addresses to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenFault {
    /// It is neither of the two forms.
    #[error("an address to listen on is IP:PORT, as in 127.0.0.1:8080 or [::]:8080, or unix:/PATH")]
    Form,
    /// `unix:` without a path that a socket can have.
    #[error(transparent)]
    Unix(#[from] UnixPathError),
    /// What follows `mode=` is no mode.
    #[error("the mode of a socket's file is octal, 0 to 777, as in unix:/run/fastlb.sock,mode=660")]
    Mode,
    /// There is no file that it could be the mode of.
    #[error("mode= stands once, behind the unix:/PATH that it is for")]
    ModeOfWhat,
    /// There is no address that it could be for.
    #[error("proxy stands once, behind the address that it is for, as in 10.0.0.1:80,proxy")]
    ProxyOfWhat,
}

impl FromStr for ListenList {
    type Err = ListenFault;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let mut all = Vec::new();
        for item in list.split(',').map(str::trim) {
            let last: Option<&mut Listen> = all.last_mut();
            if item == "proxy" {
                match last {
                    Some(listen) if !listen.proxied => listen.proxied = true,
                    _ => return Err(ListenFault::ProxyOfWhat),
                }
            } else if let Some(digits) = item.strip_prefix("mode=") {
                match last.map(|listen| &mut listen.at) {
                    Some(ListenAt::Unix {
                        mode: mode @ None, ..
                    }) => *mode = Some(parse_mode(digits)?),
                    _ => return Err(ListenFault::ModeOfWhat),
                }
            } else {
                let at = parse_address(item)?;
                let proxied = false;
                all.push(Listen { at, proxied });
            }
        }
        Ok(Self(all))
    }
}

fn parse_address(item: &str) -> Result<ListenAt, ListenFault> {
    match item.strip_prefix("unix:") {
        Some(path) => Ok(ListenAt::Unix {
            path: UnixPath::new(path)?,
            mode: None,
        }),
        None => item
            .parse()
            .map(ListenAt::Internet)
            .map_err(|_| ListenFault::Form),
    }
}

fn parse_mode(digits: &str) -> Result<FileMode, ListenFault> {
    let octal = digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(digits, 8).ok();
    let mode = mode.filter(|&mode| octal && mode <= 0o777);
    mode.map(FileMode).ok_or(ListenFault::Mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    /// An address and its mode.
    type Entry = (&'static str, Option<u32>);

    fn parse(list: &str) -> Result<Vec<(String, Option<u32>)>, ListenFault> {
        let ListenList(all) = list.parse()?;
        let mode = |listen: &Listen| match listen.at {
            ListenAt::Unix { mode, .. } => mode.map(FileMode::bits),
            ListenAt::Internet(_) => None,
        };
        Ok(all.iter().map(|l| (l.to_string(), mode(l))).collect())
    }

    #[test]
    fn a_header_is_demanded_of_those_that_say_so() {
        let proxied = |list: &str| {
            let ListenList(all) = list.parse().unwrap();
            all.iter().map(|listen| listen.proxied).collect::<Vec<_>>()
        };
        let table: [(&str, &[bool]); 5] = [
            ("127.0.0.1:80", &[false]),
            ("127.0.0.1:80,proxy", &[true]),
            ("127.0.0.1:80, proxy ,[::1]:80", &[true, false]),
            ("unix:/a,mode=600,proxy", &[true]),
            ("unix:/a,unix:/b,proxy,mode=600", &[false, true]),
        ];
        for (list, expected) in table {
            assert_eq!(proxied(list), expected, "{list}");
        }
    }

    #[test]
    fn every_form_that_exists() {
        let table: [(&str, &[Entry]); 7] = [
            ("127.0.0.1:80", &[("127.0.0.1:80", None)]),
            ("[::]:0", &[("[::]:0", None)]),
            ("unix:/run/a", &[("unix:/run/a", None)]),
            ("unix:/run/a,mode=660", &[("unix:/run/a", Some(0o660))]),
            ("unix:/run/a b,mode=0600", &[("unix:/run/a b", Some(0o600))]),
            (
                "unix:/a,unix:/b,mode=0",
                &[("unix:/a", None), ("unix:/b", Some(0))],
            ),
            (
                "unix:/a,mode=777, 1.2.3.4:5",
                &[("unix:/a", Some(0o777)), ("1.2.3.4:5", None)],
            ),
        ];
        for (list, expected) in table {
            let expected = expected.iter().map(|&(name, mode)| (name.to_owned(), mode));
            assert_eq!(parse(list), Ok(expected.collect()), "{list}");
        }
    }

    #[test]
    fn every_fault_is_told_apart() {
        let too_long = format!("unix:/{}", "a".repeat(limits::UNIX_PATH_BYTES_MAX));
        let table = [
            ("", ListenFault::Form),
            ("localhost:80", ListenFault::Form),
            ("127.0.0.1", ListenFault::Form),
            ("/run/a", ListenFault::Form),
            ("unix:/a,", ListenFault::Form),
            ("unix:", ListenFault::Unix(UnixPathError::Relative)),
            ("unix:a", ListenFault::Unix(UnixPathError::Relative)),
            (&too_long, ListenFault::Unix(UnixPathError::TooLong(108))),
            ("unix:/a,mode=", ListenFault::Mode),
            ("unix:/a,mode=8", ListenFault::Mode),
            ("unix:/a,mode=+7", ListenFault::Mode),
            ("unix:/a,mode=1000", ListenFault::Mode),
            ("unix:/a,mode=rw", ListenFault::Mode),
            ("mode=660", ListenFault::ModeOfWhat),
            ("127.0.0.1:80,mode=660", ListenFault::ModeOfWhat),
            ("unix:/a,mode=6,mode=6", ListenFault::ModeOfWhat),
            ("proxy", ListenFault::ProxyOfWhat),
            ("127.0.0.1:80,proxy,proxy", ListenFault::ProxyOfWhat),
            ("127.0.0.1:80,proxy=v1", ListenFault::Form),
        ];
        for (list, expected) in table {
            assert_eq!(parse(list), Err(expected), "{list}");
        }
    }
}
