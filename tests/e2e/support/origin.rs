//! The origin: a scriptable HTTP server, a thread per connection, able to do everything wrong.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{Broken, Gate, Head, Message, Wire, eventually, pause};

/// What happens on one connection. The connection closes when it returns.
type Script = dyn Fn(&mut Conversation<'_>) + Send + Sync;

/// A response with a body by Content-Length. `fields` are whole lines without their ends.
pub(crate) fn answer(status: &str, fields: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for field in fields {
        head += field;
        head += "\r\n";
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// The plainest good response.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", &[], body)
}

/// An address that refuses connections for as long as the returned socket lives: it is bound, so
/// nobody else can listen there, but does not listen itself.
pub(crate) fn refusing_address() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors left");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any_port.into()).expect("there are ports left");
    let address = socket.local_addr().expect("the socket is bound");
    (socket, address.as_socket().expect("the socket is IPv4"))
}

/// An address that a server can listen on, and that nobody else is given for as long as the
/// returned socket lives: it is bound, and shares its address with whoever asks for it.
pub(crate) fn reserved_address() -> (Socket, SocketAddr) {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    reserve(any_port).expect("there are ports left")
}

/// As [`reserved_address`], for all addresses of the machine, IPv4 and IPv6. `None` where it has
/// no IPv6.
pub(crate) fn reserved_port() -> Option<(Socket, u16)> {
    // The unspecified address may be bound where there is no other.
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok()?;
    let any_port = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let (socket, address) = reserve(any_port).ok()?;
    Some((socket, address.port()))
}

fn reserve(any_port: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(any_port), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if any_port.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&any_port.into())?;
    let address = socket.local_addr()?.as_socket();
    Ok((socket, address.expect("it was bound to an address")))
}

/// An address where connecting never ends: its listener accepts nothing and its queue is full, so
/// the kernel drops every further SYN. It stays so as long as the returned sockets live.
pub(crate) fn full_listener() -> (Vec<Socket>, SocketAddr) {
    let (listener, address) = refusing_address();
    listener.listen(0).expect("the socket is bound");
    let mut held = vec![listener];
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
        if socket
            .connect_timeout(&address.into(), Duration::from_millis(100))
            .is_err()
        {
            return (held, address);
        }
        assert!(held.len() < 16, "the queue of {address} does not fill");
        held.push(socket);
    }
}

/// A server on a free port of the loopback. Dropped, it closes everything it has.
pub(crate) struct Origin {
    /// Of no use where it listens on a Unix socket.
    pub(crate) address: SocketAddr,
    door: SockAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    /// Second handles of all open connections, by their numbers.
    open: Mutex<HashMap<usize, TcpStream>>,
    /// What all conversations have read, in the order of its end.
    requests: Mutex<Vec<Message>>,
    /// Scripts that panicked.
    panics: AtomicUsize,
    gate: Gate,
}

impl Origin {
    /// Runs `script` on every connection.
    pub(crate) fn start(script: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static) -> Self {
        Self::listening(listen().into(), script)
    }

    /// As [`Origin::start`], with so small a receive buffer on every connection: what a script
    /// does not read soon fills it.
    pub(crate) fn start_with_buffer(
        bytes: usize,
        script: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = listen();
        SockRef::from(&listener)
            .set_recv_buffer_size(bytes)
            .expect("the socket is open");
        Self::listening(listener.into(), script)
    }

    /// As [`Origin::start`], on a Unix socket at `path`.
    pub(crate) fn start_unix(
        path: &str,
        script: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).expect("the folder is there");
        Self::listening(OwnedFd::from(listener).into(), script)
    }

    fn listening(
        listener: Socket,
        script: impl Fn(&mut Conversation<'_>) + Send + Sync + 'static,
    ) -> Self {
        let door = listener.local_addr().expect("the socket is bound");
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let shared = Arc::new(Shared {
            script: Box::new(script),
            stopping: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            open: Mutex::default(),
            requests: Mutex::default(),
            panics: AtomicUsize::new(0),
            gate: Gate::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &shared)
        });
        Self {
            address: door.as_socket().unwrap_or(nowhere),
            door,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Answers every request with what `reply` makes of it, and keeps connections open.
    pub(crate) fn answering(reply: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |conversation| {
            while let Some(request) = conversation.request() {
                conversation.send(reply(&request));
            }
        })
    }

    /// Answers every request with 200, its name in `X-Backend` and the request's target as body.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::answering(move |request| {
            let backend = format!("X-Backend: {name}");
            answer("200 OK", &[&backend], request.head.target().as_bytes())
        })
    }

    /// Demands of every request that its body ends too early.
    pub(crate) fn of_cut_bodies() -> Self {
        Self::start(|conversation| {
            let head = conversation.head().expect("the request begins");
            assert_eq!(conversation.body(&head, |_| ()), Err(Broken::Cut));
        })
    }

    /// What `--backends` wants to hear.
    pub(crate) fn backend(&self) -> String {
        match self.door.as_pathname() {
            Some(path) => format!("unix:{}", path.display()),
            None => self.address.to_string(),
        }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open().len()
    }

    /// All requests that were read so far, byte for byte.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.shared.requests().clone()
    }

    /// The only request that was read so far.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Message {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests that the origin has seen");
        requests.remove(0)
    }

    /// Closes all connections, as a server does with idle ones, and waits until it is done.
    #[track_caller]
    pub(crate) fn close_all(&self) {
        for stream in self.shared.open().values() {
            // The peer may have been faster; then there is nothing left to shut.
            let _ = stream.shutdown(Shutdown::Both);
        }
        eventually("the origin's connections to end", || self.open() == 0);
    }

    /// Lets every conversation through that waits in `pass_gate`, now and from now on.
    pub(crate) fn open_gate(&self) {
        self.shared.gate.open();
    }

    /// Writes `bytes` on every open connection, asked or not.
    pub(crate) fn say_unasked(&self, bytes: &[u8]) {
        for mut stream in self.shared.open().values() {
            stream.write_all(bytes).expect("the connection is idle");
        }
    }
}

/// An assertion of a script fails on a thread of its own; here it reaches the test.
impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The connection wakes the acceptor, which then sees that it should stop.
        let waking = Socket::new(self.door.domain(), Type::STREAM, None);
        let _ = waking.and_then(|socket| socket.connect(&self.door));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.shared.gate.open();
        for stream in self.shared.open().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if !thread::panicking() {
            let panics = self.shared.panics.load(Ordering::SeqCst);
            assert_eq!(
                panics, 0,
                "scripts of the origin that panicked; see their words above"
            );
        }
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<usize, TcpStream>> {
        self.open.lock().expect("no holder of the lock panics")
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Message>> {
        self.requests.lock().expect("no holder of the lock panics")
    }
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are ports left")
}

fn accept_all(listener: &Socket, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let (stream, _) = accepted.expect("there are descriptors left");
        let stream = TcpStream::from(stream);
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let second = stream.try_clone().expect("there are descriptors left");
        shared.open().insert(number, second);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let close = CloseOnDrop {
                number,
                shared: &shared,
            };
            let wire = Wire::new(stream);
            (shared.script)(&mut Conversation {
                number,
                wire,
                shared: &shared,
            });
            drop(close);
        });
    }
}

/// Drops the second handle when a conversation ends, also by a panic: only then does the close
/// reach the peer.
struct CloseOnDrop<'a> {
    number: usize,
    shared: &'a Shared,
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.panics.fetch_add(1, Ordering::SeqCst);
        }
        self.shared.open().remove(&self.number);
    }
}

/// One connection, as the script of the origin sees it.
pub(crate) struct Conversation<'a> {
    /// Which connection of this origin it is, from 0.
    pub(crate) number: usize,
    wire: Wire,
    shared: &'a Shared,
}

impl Conversation<'_> {
    /// Reads and records the next request; `None` once the proxy has closed. A request that is cut
    /// or is not HTTP also ends the conversation, but it is not recorded.
    pub(crate) fn request(&mut self) -> Option<Message> {
        match self.wire.request() {
            Ok(request) => {
                self.shared.requests().push(request.clone());
                Some(request)
            }
            Err(Broken::Malformed(what)) => panic!("the proxy does not speak HTTP: {what}"),
            Err(_) => None,
        }
    }

    /// Reads the next head and leaves the body unread and unrecorded.
    pub(crate) fn head(&mut self) -> Option<Head> {
        match self.wire.head() {
            Ok(head) => Some(head),
            Err(Broken::Malformed(what)) => panic!("the proxy does not speak HTTP: {what}"),
            Err(_) => None,
        }
    }

    /// Reads the body that `head` announces.
    pub(crate) fn body(&mut self, head: &Head, sink: impl FnMut(&[u8])) -> Result<(), Broken> {
        let framing = head.request_framing().map_err(Broken::Malformed)?;
        self.wire.body(framing, sink).map(drop)
    }

    /// Writes all of `bytes`. That the proxy may have gone is seldom the point of a test.
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes);
    }

    /// Writes all of `bytes`; false where the proxy has gone.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.try_send(bytes.as_ref()).is_ok()
    }

    /// Writes `bytes` one at a time.
    pub(crate) fn trickle(&self, bytes: &[u8], every: Duration) {
        for byte in bytes {
            if !self.try_send([*byte]) {
                return;
            }
            pause(every);
        }
    }

    /// Makes the end of the conversation a reset.
    pub(crate) fn reset_on_close(&self) {
        self.wire.reset_on_close();
    }

    /// Returns once the test has opened the gate of this origin.
    pub(crate) fn pass_gate(&self) {
        self.shared.gate.pass();
    }

    /// Returns once the proxy has closed, whatever it says until then.
    pub(crate) fn wait_until_closed(&mut self) {
        self.wire.drain_until_closed();
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
