//! The sockets that all workers accept on, made before the first of them starts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::Error;
use crate::config::{BackendConfig, FileMode, Listen, ListenAt};
use crate::io::{self as engine, Address, SocketFile, UnixPath};
use crate::limits;

/// What is listened on.
pub(super) struct Listeners {
    /// For each worker, a socket for each address, with whether it demands a header of the PROXY
    /// protocol.
    pub(super) sockets: Vec<Vec<(OwnedFd, bool)>>,
    /// The addresses, with the ports that were free where 0 was asked for.
    pub(super) addresses: Vec<Address>,
    /// What has to be kept until the end.
    pub(super) files: Vec<SocketFile>,
}

impl Listeners {
    /// Listens on all that is `asked` for, for so many workers.
    pub(super) fn open(asked: &[Listen], workers: usize) -> Result<Self, Error> {
        let mut listeners = Self {
            sockets: (0..workers).map(|_| Vec::new()).collect(),
            addresses: Vec::new(),
            files: Vec::new(),
        };
        // All of them before the first socket of our own, which would be in the way of the others.
        for listen in asked {
            if let ListenAt::Internet(address) = listen.at {
                check_listen(address)?;
            }
        }
        for listen in asked {
            let proxied = listen.proxied;
            let opened = match &listen.at {
                ListenAt::Internet(address) => listeners.open_port(*address, proxied),
                ListenAt::Unix { path, mode } => {
                    patiently(|| listeners.open_file(path, *mode, proxied))
                }
            };
            opened.map_err(|error| failed(listen.address(), error))?;
        }
        Ok(listeners)
    }

    fn open_port(&mut self, asked: SocketAddr, proxied: bool) -> io::Result<()> {
        let mut address = asked;
        for sockets in &mut self.sockets {
            let socket = engine::listen(address)?;
            // The first one chooses where any port will do; the others share it.
            address = engine::local_address(&socket)?;
            sockets.push((socket, proxied));
        }
        self.addresses.push(address.into());
        Ok(())
    }

    /// A file leads to one socket only; all workers accept from its queue.
    fn open_file(
        &mut self,
        path: &UnixPath,
        mode: Option<FileMode>,
        proxied: bool,
    ) -> io::Result<()> {
        let (socket, file) = engine::listen_unix(path, mode.map(FileMode::bits))?;
        self.files.push(file);
        for sockets in &mut self.sockets {
            sockets.push((socket.try_clone()?, proxied));
        }
        self.addresses.push(path.clone().into());
        Ok(())
    }

    /// Refuses a backend that is the balancer itself: one request would go round until all
    /// connections are taken.
    pub(super) fn refuse_loops(&self, backends: &[BackendConfig]) -> Result<(), Error> {
        let leads_here = |backend: &&Address| match backend {
            Address::Internet(backend) => self.has_port_of(*backend),
            Address::Unix(path) => self.files.iter().any(|file| file.is_at(path.as_path())),
        };
        let mut backends = backends.iter().map(|backend| &backend.address);
        backends
            .find(leads_here)
            .cloned()
            .map_or(Ok(()), |backend| Err(Error::Loop { backend }))
    }

    fn has_port_of(&self, backend: SocketAddr) -> bool {
        let leads_here = |listens: SocketAddr| {
            let everywhere = listens.ip().is_unspecified() && backend.ip().is_loopback();
            listens.port() == backend.port() && (listens.ip() == backend.ip() || everywhere)
        };
        self.addresses
            .iter()
            .filter_map(Address::internet)
            .any(leads_here)
    }
}

/// Whether `address` can be listened on, before anything else is started.
///
/// # Errors
/// [`Error::Listen`], with what helps.
pub fn check_listen(address: SocketAddr) -> Result<(), Error> {
    let checked = patiently(|| engine::check_port_free(address));
    checked.map_err(|error| failed(address.into(), error))
}

/// Tries again for a while where an address is in use: see [`limits::LISTEN_PATIENCE_MS`].
#[expect(
    clippy::disallowed_methods,
    reason = "nothing runs yet that would have to wait"
)]
fn patiently(mut listen: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    const TRIES: u64 = 20;
    for _ in 1..TRIES {
        match listen() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
        thread::sleep(Duration::from_millis(limits::LISTEN_PATIENCE_MS / TRIES));
    }
    listen()
}

fn failed(address: Address, error: io::Error) -> Error {
    Error::Listen { address, error }
}

/// What the user can do; empty where that is not known.
pub(super) fn listen_cure(address: &Address, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (Address::Internet(_), io::ErrorKind::AddrInUse) => {
            "; another program has it: stop that, or choose another port"
        }
        (Address::Internet(_), io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one, or \
             `setcap cap_net_bind_service=+ep` the binary"
        }
        (_, io::ErrorKind::AddrNotAvailable) => "; no interface of this machine has that address",
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            "; another program listens there: stop that, or choose another path"
        }
        (Address::Unix(_), io::ErrorKind::AlreadyExists) => "; choose another path",
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            "; the directory has to be one that fastlb may write to, and a socket that is there \
             already one that it may connect to"
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => "; make its directory first",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_address_that_is_in_use_is_waited_for_a_while() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        assert!(matches!(
            check_listen(address),
            Err(Error::Listen { error, .. }) if error.kind() == io::ErrorKind::AddrInUse
        ));
        // It goes while somebody waits for it.
        let (tried, trying) = mpsc::channel();
        let mut holder = Some(holder);
        let releasing = thread::spawn(move || trying.recv().map(|()| drop(holder.take())));
        let checked = patiently(|| {
            let checked = engine::check_port_free(address);
            let _ = tried.send(());
            checked
        });
        assert!(checked.is_ok(), "{checked:?}");
        releasing.join().unwrap().unwrap();
    }
}
