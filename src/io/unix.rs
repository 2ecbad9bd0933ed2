//! Listening on a Unix socket: whose the file at its path is, and what becomes of it.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::address::{Address, UnixPath};
use super::sys;
use crate::limits;

/// The file of a Unix socket that this process listens on; removed when this is dropped, unless
/// the path leads to another file by then.
#[derive(Debug)]
pub struct SocketFile {
    path: UnixPath,
    /// Refers to the file itself. While it is open no other file can get the same number.
    file: File,
}

/// Listens on `path`, whose file gets `mode`, or what the umask leaves. A socket that nobody
/// listens on any more is replaced.
///
/// # Errors
/// `AddrInUse` where somebody listens, `AlreadyExists` where the file is no socket, and those of
/// socket(2), bind(2), chmod(2) and listen(2).
pub fn listen_unix(path: &UnixPath, mode: Option<u32>) -> io::Result<(OwnedFd, SocketFile)> {
    remove_stale(path)?;
    let socket = sys::unix_socket()?;
    socket.bind(&Address::from(path.clone()).to_kernel())?;
    let file = SocketFile::at(path)?;
    if let Some(mode) = mode {
        // Before it listens, so that nobody connects whom the mode keeps out.
        fs::set_permissions(path.as_path(), Permissions::from_mode(mode))?;
    }
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok((socket.into(), file))
}

impl SocketFile {
    fn at(path: &UnixPath) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
        Ok(Self {
            file: options.open(path.as_path())?,
            path: path.clone(),
        })
    }

    /// Whether `path` leads to this file, by whatever name.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| self.is(&there))
    }

    fn is(&self, there: &Metadata) -> bool {
        let number = |file: &Metadata| (file.dev(), file.ino());
        let ours = self.file.metadata();
        ours.is_ok_and(|ours| number(&ours) == number(there))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.as_path();
        if fs::symlink_metadata(path).is_ok_and(|there| self.is(&there)) {
            // Where that fails the next start replaces it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes way for a new socket, but for nobody else's loss.
fn remove_stale(path: &UnixPath) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match fs::symlink_metadata(path.as_path()) {
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => {
            let message = "the file there is no socket, and is left alone";
            return Err(io::Error::new(ErrorKind::AlreadyExists, message));
        }
        Err(error) => return gone(Err(error)),
    }
    let asking = sys::unix_socket()?;
    let Err(refused) = asking.connect(&Address::from(path.clone()).to_kernel()) else {
        return Err(ErrorKind::AddrInUse.into());
    };
    match refused.raw_os_error() {
        Some(libc::ECONNREFUSED) => gone(fs::remove_file(path.as_path())),
        // A queue that is full, or a socket of another type, is somebody's as well.
        Some(libc::EAGAIN | libc::EPROTOTYPE) => Err(ErrorKind::AddrInUse.into()),
        _ => gone(Err(refused)),
    }
}
