//! Where a socket is: an address of the internet, or a file.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use socket2::SockAddr;

use crate::limits;

/// Where something listens. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Internet(SocketAddr),
    /// The file of a Unix socket.
    Unix(UnixPath),
}

impl Address {
    /// The IP address and port; `None` for a Unix socket.
    pub fn internet(&self) -> Option<SocketAddr> {
        match self {
            Self::Internet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The form that system calls take.
    pub(super) fn to_kernel(&self) -> SockAddr {
        match self {
            Self::Internet(address) => (*address).into(),
            Self::Unix(path) => path.to_kernel(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Internet(address)
    }
}

impl From<UnixPath> for Address {
    fn from(path: UnixPath) -> Self {
        Self::Unix(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internet(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

/// The path of a Unix socket: absolute, and short enough for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixPath(Arc<Path>);

/// The text is no path of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnixPathError {
    /// It does not begin at the root.
    #[error("the path of a Unix socket is absolute, as in unix:/run/web.sock")]
    Relative,
    /// It does not fit in a `sockaddr_un` (unix(7)).
    #[error(
        "the path of a Unix socket has at most {max} bytes, and this one has {0}",
        max = limits::UNIX_PATH_BYTES_MAX
    )]
    TooLong(usize),
    /// It has a byte that ends it for the kernel.
    #[error("a path has no NUL")]
    Nul,
}

impl UnixPath {
    /// The path that `text` is.
    ///
    /// # Errors
    /// Where it cannot be the path of a socket.
    pub fn new(text: &str) -> Result<Self, UnixPathError> {
        if !text.starts_with('/') {
            Err(UnixPathError::Relative)
        } else if text.contains('\0') {
            Err(UnixPathError::Nul)
        } else if text.len() > limits::UNIX_PATH_BYTES_MAX {
            Err(UnixPathError::TooLong(text.len()))
        } else {
            Ok(Self(Path::new(text).into()))
        }
    }

    /// The file's path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    fn to_kernel(&self) -> SockAddr {
        SockAddr::unix(&self.0).expect("the length was checked when the path was made")
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_fits() {
        let fits = format!("/{}", "a".repeat(limits::UNIX_PATH_BYTES_MAX - 1));
        let too_long = format!("{fits}a");
        let table = [
            ("/run/web.sock", Ok(())),
            (&fits, Ok(())),
            (&too_long, Err(UnixPathError::TooLong(108))),
            ("run/web.sock", Err(UnixPathError::Relative)),
            ("", Err(UnixPathError::Relative)),
            ("/run/\0web", Err(UnixPathError::Nul)),
        ];
        for (text, expected) in table {
            assert_eq!(UnixPath::new(text).map(drop), expected, "{text}");
        }
        let kernel = Address::from(UnixPath::new(&fits).unwrap()).to_kernel();
        assert_eq!(kernel.as_pathname(), Some(Path::new(&fits)));
    }

    #[test]
    fn addresses_are_written_as_they_are_read() {
        let path = UnixPath::new("/run/web.sock").unwrap();
        assert_eq!(Address::from(path).to_string(), "unix:/run/web.sock");
        let internet = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(Address::from(internet).to_string(), "127.0.0.1:80");
        assert_eq!(Address::from(internet).internet(), Some(internet));
    }
}
