//! System calls that neither engine does through its own machinery, as safe functions.
//!
//! Each translates errno where it happens; none waits.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::Address;
use crate::limits;

/// Every socket is non-blocking: the epoll engine needs it, the ring does not mind.
pub(super) const ACCEPT_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A listening socket of one worker; `SO_REUSEPORT` lets every worker have its own for an address.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and listen(2).
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    // Accepted sockets inherit its options, which saves a call on each.
    let socket = tcp_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Whether nobody listens on `address` yet. Our own sockets share a port, and would share it with
/// those of another fastlb without a word.
///
/// # Errors
/// Those of socket(2) and bind(2).
pub fn check_port_free(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = tcp_socket(address)?;
    // Connections of a predecessor that are still closing do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Whether an operation failed because the process or the system has no descriptor left, which is
/// no fault of the peer. That no local port or address leads to one peer (`EADDRNOTAVAIL`) is not
/// meant: another may well be reached.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// The address that a socket is bound to.
///
/// # Errors
/// Those of getsockname(2), and a socket that is not of the internet.
pub fn local_address(socket: &impl AsRawFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(&borrow(socket)).local_addr()?;
    address
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet address"))
}

/// A socket to connect to `address` with.
pub(super) fn stream_socket(address: &Address) -> io::Result<OwnedFd> {
    let socket = match address {
        Address::Internet(address) => tcp_socket(*address)?,
        Address::Unix(_) => unix_socket()?,
    };
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // So that `0.0.0.0` and `[::]` can be listened on side by side, whatever the system's
        // default.
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// A stream socket of this machine alone.
pub(super) fn unix_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

/// Accepts a connection that is already in the queue; `None` where there is none.
pub(super) fn accept_queued(
    listener: &impl AsRawFd,
) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    // SAFETY: accept4 writes an address and its length to the storage that it is given.
    let accepted = unsafe {
        SockAddr::try_init(|storage, length| {
            match libc::accept4(listener.as_raw_fd(), storage.cast(), length, ACCEPT_FLAGS) {
                -1 => Err(io::Error::last_os_error()),
                descriptor => Ok(own(descriptor)),
            }
        })
    };
    match accepted {
        Ok((socket, address)) => Ok(Some((socket, address.as_socket()))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // The client left between its connecting and now; there may be another behind it.
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => accept_queued(listener),
        Err(error) => Err(error),
    }
}

/// Begins to connect; `false` while the connection is under way.
pub(super) fn connect_begin(socket: &impl AsRawFd, address: &Address) -> io::Result<bool> {
    match SockRef::from(&borrow(socket)).connect(&address.to_kernel()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How the connecting that was under way ended.
pub(super) fn connect_end(socket: &impl AsRawFd) -> io::Result<()> {
    SockRef::from(&borrow(socket))
        .take_error()?
        .map_or(Ok(()), Err)
}

/// Receives what is there into `bytes`; 0 is the end of the stream.
pub(super) fn recv(socket: &impl AsRawFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: initialised bytes are valid as uninitialised ones, and recv only writes to them.
    let bytes = unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) };
    SockRef::from(&borrow(socket)).recv(bytes)
}

/// Sends what the socket takes of the two pieces; a lost connection is an error, not a signal.
pub(super) fn send(socket: &impl AsRawFd, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let socket = borrow(socket);
    let socket = SockRef::from(&socket);
    match (first, second) {
        (only, []) | ([], only) => socket.send_with_flags(only, libc::MSG_NOSIGNAL),
        _ => socket.send_vectored_with_flags(
            &[io::IoSlice::new(first), io::IoSlice::new(second)],
            libc::MSG_NOSIGNAL,
        ),
    }
}

/// A number that moves as the peer takes what was sent: the bytes that it has acknowledged, or on a
/// Unix socket those that it has left in its queue. 0 where the kernel does not say.
pub(super) fn acknowledged(socket: &impl AsRawFd) -> u64 {
    // As far as the field that is wanted (linux/tcp.h), which Linux 4.1 brought.
    #[repr(C)]
    struct Info {
        before: [u32; 30],
        bytes_acked: u64,
    }
    let mut info = Info {
        before: [0; 30],
        bytes_acked: 0,
    };
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a value of that size, for which any
    // bytes will do.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    match check(result) {
        Ok(()) if length as usize == size_of::<Info>() => info.bytes_acked,
        _ => left_in_queue(socket),
    }
}

/// Whether a connection was reset, or is broken in another way, whoever was told of it.
pub(super) fn is_lost(socket: &impl AsRawFd) -> bool {
    // Of these the kernel tells unasked. A FIN alone is neither.
    const LOST: libc::c_short = libc::POLLERR | libc::POLLHUP;
    look(socket, 0) & LOST != 0
}

/// Whether there are bytes to receive (ioctl(2), tcp(7)); the end of the stream is none.
pub(super) fn has_unread(socket: &impl AsRawFd) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: the kernel writes one int to where the pointer leads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    result == 0 && unread > 0
}

/// Whether a receive would bring something, the end of the stream or an error included.
pub(super) fn is_readable(socket: &impl AsRawFd) -> bool {
    look(socket, libc::POLLIN) != 0
}

/// Which of `events`, and of those that the kernel tells of unasked, have come.
fn look(socket: &impl AsRawFd, events: libc::c_short) -> libc::c_short {
    let mut look = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the kernel writes to one entry, which outlives the call.
    let found = unsafe { libc::poll(&raw mut look, 1, 0) };
    if found > 0 { look.revents } else { 0 }
}

/// Bytes that lie in the queue of the peer of a Unix socket. The kernel frees them by whole pieces
/// of up to some 40 KiB, so a peer that reads less than one is not seen to read.
fn left_in_queue(socket: &impl AsRawFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes a number that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(result).map_or(0, |()| bytes.unsigned_abs().into())
}

/// Sends FIN and keeps receiving. A connection that is already lost has nothing to close.
pub(super) fn half_close(socket: &impl AsRawFd) {
    let _ = SockRef::from(&borrow(socket)).shutdown(std::net::Shutdown::Write);
}

/// Ends every receive that is under way on the socket, and sends nothing; the peer of a Unix socket
/// cannot write any more. It brings the end of the stream, so the socket is of no more use but to
/// be closed.
pub(super) fn end_receives(socket: &impl AsRawFd) {
    // Where the connection is lost they have ended already.
    let _ = SockRef::from(&borrow(socket)).shutdown(std::net::Shutdown::Read);
}

/// Resets the connection at once (connect(2): `AF_UNSPEC` dissolves it). What is under way on the
/// socket ends with an error; a connect would begin anew.
///
/// # Errors
/// Where its kind of socket cannot be reset.
pub(super) fn reset(socket: &impl AsRawFd) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the kernel reads an address of this length, which is in its place for the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) })
}

/// Makes the close of this socket a reset that frees what it has not sent.
pub(super) fn reset_on_close(socket: &impl AsRawFd) {
    let _ = SockRef::from(&borrow(socket)).set_linger(Some(Duration::ZERO));
}

/// Whether [`reset_on_close`] was asked for.
pub(super) fn resets_on_close(socket: &impl AsRawFd) -> bool {
    let linger = SockRef::from(&borrow(socket)).linger();
    linger.is_ok_and(|linger| linger == Some(Duration::ZERO))
}

/// A pipe that never waits, its ends for reading and writing, and the bytes that it has room for:
/// `wanted` where the user may have as much (pipe(7)).
pub(super) fn pipe(wanted: usize) -> io::Result<(OwnedFd, OwnedFd, usize)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors to an array of two.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: the kernel has just opened both for us.
    let [read, write] = ends.map(|end| unsafe { own(end) });
    // SAFETY: the calls take no pointers. What the first cannot have, the second tells.
    let bytes = unsafe {
        libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, wanted as libc::c_int);
        libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ)
    };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    Ok((read, write, bytes))
}

/// Moves at most `most` bytes between a socket and a pipe, inside the kernel.
pub(super) fn splice(from: &impl AsRawFd, to: &impl AsRawFd, most: usize) -> io::Result<usize> {
    const FLAGS: u32 = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let none = std::ptr::null_mut();
    loop {
        // SAFETY: without offsets the call takes no pointers. A lost connection would also raise
        // SIGPIPE, which the standard library has the process ignore.
        let moved =
            unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, most, FLAGS) };
        match usize::try_from(moved).map_err(|_| io::Error::last_os_error()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            moved => return moved,
        }
    }
}

/// Whether the kernel, or what guards it, does not splice these descriptors at all.
pub(super) fn is_splice_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)
    )
}

/// Raises the limit of open descriptors to the hard limit and returns it.
///
/// # Errors
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes to a limit that outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads a limit that outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Has the kernel back this process with small pages only. The allocator asks for huge ones, and
/// then a few bytes for each of some thousand connections become megabytes that nobody uses.
pub fn use_small_pages() {
    // SAFETY: the call takes no pointers. A kernel without huge pages refuses, which is as good.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Pins the calling thread to one processor.
///
/// # Errors
/// Those of sched_setaffinity(2), EINVAL where the processor is not there.
pub fn pin_to_processor(processor: usize) -> io::Result<()> {
    if processor >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an empty set is all zeroes.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the processor is within the set, by the check above.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the kernel reads a set of the size that is given, for this thread (0).
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Zeroed memory of which only the pages that are touched exist; it is never given back, because
/// the kernel may write to it for as long as a ring lives.
pub(super) fn map_pages(bytes: usize) -> io::Result<NonNull<u8>> {
    const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, PROTECTION, FLAGS, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Small messages touch the beginning of a chunk; a huge page would make all of it exist. The
    // mapping is as good where the kernel knows no huge pages.
    // SAFETY: the range is the mapping just made.
    let _ = unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Adopts a descriptor that the kernel made for us.
///
/// # Safety
/// `descriptor` is open and nobody else will close it.
pub(super) unsafe fn own(descriptor: i32) -> OwnedFd {
    debug_assert!(
        descriptor >= 0,
        "a completion without an error carries a descriptor"
    );
    // SAFETY: passed on to the caller.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn borrow(socket: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the value that owns it is borrowed.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
