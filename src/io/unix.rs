//! Listening on a Unix socket: whose the file at its path is, and what becomes of it.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
/// `AddrInUse` where somebody listens or is about to, `AlreadyExists` where the file is no socket,
/// and those of open(2), socket(2), bind(2), chmod(2) and listen(2).
pub fn listen_unix(path: &UnixPath, mode: Option<u32>) -> io::Result<(OwnedFd, SocketFile)> {
    let _lock = Lock::of(path)?;
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
        let ours = self.file.metadata();
        ours.is_ok_and(|ours| number(&ours) == number(there))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.as_path();
        // Where it cannot be removed, or somebody is just replacing it, the next start does that.
        if let Ok(_lock) = Lock::of(&self.path)
            && fs::symlink_metadata(path).is_ok_and(|there| self.is(&there))
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whoever finds a socket stale and puts his own in its place holds this meanwhile, a lock on a
/// file `PATH.lock` that goes with it.
///
/// Of two that start at once the second would otherwise remove the socket that the first has just
/// made, and both believe that they listen there. A new name that is renamed to `path` does not
/// help: the second replaces the first as well. Nor can the socket itself be locked, because it
/// cannot be opened; and its directory belongs to others, who lock it for their own reasons.
struct Lock {
    file: PathBuf,
    /// The lock is on what is open here. A file of that name that was removed is not it.
    _locked: File,
}

impl Lock {
    /// Does not wait: who holds it is about to listen on `path`.
    fn of(path: &UnixPath) -> io::Result<Self> {
        let mut name = path.as_path().as_os_str().to_owned();
        name.push(".lock");
        let file = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        options.custom_flags(libc::O_NOFOLLOW);
        for _ in 0..limits::UNIX_LOCK_TRIES_MAX {
            let locked = options.open(&file)?;
            match locked.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let (there, ours) = (fs::symlink_metadata(&file), locked.metadata()?);
            // Otherwise its holder has removed it since it was opened.
            if there.is_ok_and(|there| number(&there) == number(&ours)) {
                return Ok(Self {
                    file,
                    _locked: locked,
                });
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where it cannot be removed it is as good for the next one. The lock goes after its name.
        let _ = fs::remove_file(&self.file);
    }
}

/// What a file is known by, whatever its name.
fn number(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Starts that race for one stale socket, and how often.
    const STARTS: usize = 4;
    const ROUNDS: usize = 300;

    #[test]
    fn of_those_that_start_at_once_one_listens_and_nothing_else_stays() {
        let folder = std::env::temp_dir().join(format!("fastlb-unix-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = UnixPath::new(folder.join("s").to_str().unwrap()).unwrap();
        for round in 0..ROUNDS {
            drop(UnixListener::bind(path.as_path()).unwrap());
            let barrier = Barrier::new(STARTS);
            let start = || {
                barrier.wait();
                listen_unix(&path, Some(0o600))
            };
            let started: Vec<_> = thread::scope(|scope| {
                let starts = [(); STARTS].map(|()| scope.spawn(start));
                starts.map(|start| start.join().unwrap()).into()
            });
            let listening = || started.iter().flatten();
            assert_eq!(listening().count(), 1, "round {round}: {started:?}");
            assert!(listening().all(|(_, file)| file.is_at(path.as_path())));
            let refused = started.iter().filter_map(|start| start.as_ref().err());
            let in_use = |error: &io::Error| error.kind() == ErrorKind::AddrInUse;
            assert!(refused.into_iter().all(in_use), "{started:?}");
            assert_eq!(
                fs::read_dir(&folder).unwrap().count(),
                1,
                "the socket alone"
            );
            drop(started);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        fs::remove_dir(folder).unwrap();
    }
}
