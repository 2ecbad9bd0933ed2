//! A listening socket in a `mio` poll: bind, register, accept all that wait.
//!
//! It knows nothing of what the connections are for.

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

/// The token of the listener; slab keys stay far below it.
pub(crate) const LISTENER: Token = Token(usize::MAX);

/// Readiness of connections is asked for once, both ways: edges make a second `epoll_ctl` needless.
pub(crate) const BOTH_WAYS: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// One bound socket.
pub(crate) struct Acceptor {
    listener: TcpListener,
}

impl Acceptor {
    /// Binds `listen`, of which the port may be 0, and registers it as [`LISTENER`].
    pub(crate) fn bind(listen: SocketAddr, registry: &Registry) -> io::Result<Self> {
        let mut listener = TcpListener::bind(listen)?;
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { listener })
    }

    /// The address that is really bound.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next waiting connection; `None` when none waits or none can be taken now.
    pub(crate) fn accept(&self) -> Option<TcpStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // It fails only on a socket that is already gone, which the first read shows.
                    let _ = stream.set_nodelay(true);
                    return Some(stream);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    eprintln!("accept: {error}");
                    return None;
                }
            }
        }
    }
}

/// Whether the next try may succeed at once: a signal, or a client that left the queue.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}
