//! Accepting, connecting, sending and sleeping on the ring.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use io_uring::{opcode, types};
use socket2::SockAddr;

use super::Ring;
use super::op::{Completion, Data, Ending, Op};
use crate::io::{Address, Parcel, moved, sys};

/// An operation and what is made of its completion. Boxing it would cost an allocation a send.
struct Then<D: Data, F> {
    op: Op<D>,
    end: F,
}

impl<D: Data, F: Fn(D, Completion) -> T + Unpin, T> Future for Then<D, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let (data, completion) = ready!(Pin::new(&mut self.op).poll(cx));
        Poll::Ready((self.end)(data, completion))
    }
}

pub(super) fn accept(
    ring: &Rc<Ring>,
    listener: &Rc<OwnedFd>,
) -> impl Future<Output = io::Result<(Rc<OwnedFd>, Option<SocketAddr>)>> + Unpin {
    let mut peer = Box::new(PeerAddress::default());
    let entry = opcode::Accept::new(
        types::Fd(listener.as_raw_fd()),
        (&raw mut peer.storage).cast(),
        &raw mut peer.length,
    )
    .flags(sys::ACCEPT_FLAGS)
    .build();
    let data = AcceptData {
        listener: listener.clone(),
        peer,
    };
    // SAFETY: the address that the kernel writes to is on the heap and owned by the data.
    let op = unsafe { Op::submit(&ring.orphans, data, entry) };
    Then {
        op,
        end: |data: AcceptData, completion| data.accepted(completion),
    }
}

struct AcceptData {
    listener: Rc<OwnedFd>,
    peer: Box<PeerAddress>,
}

struct PeerAddress {
    storage: socket2::SockAddrStorage,
    length: libc::socklen_t,
}

impl Default for PeerAddress {
    fn default() -> Self {
        let storage = socket2::SockAddrStorage::zeroed();
        let length = storage.size_of();
        Self { storage, length }
    }
}

impl AcceptData {
    fn accepted(self, completion: Completion) -> io::Result<(Rc<OwnedFd>, Option<SocketAddr>)> {
        let descriptor = completion.result()?;
        // SAFETY: the kernel has just opened it for us.
        let socket = unsafe { sys::own(descriptor as i32) };
        // SAFETY: the kernel wrote an address of this length.
        let peer = unsafe { SockAddr::new(self.peer.storage, self.peer.length) };
        Ok((Rc::new(socket), peer.as_socket()))
    }
}

impl Data for AcceptData {
    fn ending(&self) -> Ending {
        Ending::Cancel(self.listener.as_raw_fd())
    }

    fn take_back(self, completion: Completion) {
        drop(self.accepted(completion));
    }
}

pub(super) fn connect(
    ring: &Rc<Ring>,
    address: &Address,
) -> impl Future<Output = io::Result<Rc<OwnedFd>>> + Unpin {
    let started = sys::stream_socket(address).and_then(|socket| {
        if address.internet().is_none() {
            // Connected at once or not at all. The ring would wait on a thread of the kernel for a
            // place in a queue that is full.
            sys::connect_begin(&socket, address)?;
            return Ok(Connect::Ended(Some(Ok(Rc::new(socket)))));
        }
        let data = ConnectData {
            socket: Rc::new(socket),
            address: Box::new(address.to_kernel()),
        };
        let entry = opcode::Connect::new(
            types::Fd(data.socket.as_raw_fd()),
            data.address.as_ptr().cast(),
            data.address.len(),
        )
        .build();
        // SAFETY: the address that the kernel reads is on the heap and owned by the data.
        let op = unsafe { Op::submit(&ring.orphans, data, entry) };
        Ok(Connect::UnderWay(op))
    });
    started.unwrap_or_else(|error| Connect::Ended(Some(Err(error))))
}

enum Connect {
    UnderWay(Op<ConnectData>),
    /// There was no socket to be had, or nothing to wait for.
    Ended(Option<io::Result<Rc<OwnedFd>>>),
}

impl Future for Connect {
    type Output = io::Result<Rc<OwnedFd>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::UnderWay(op) => {
                let (data, completion) = ready!(Pin::new(op).poll(cx));
                Poll::Ready(completion.result().map(|_| data.socket))
            }
            Self::Ended(result) => Poll::Ready(result.take().expect("polled once")),
        }
    }
}

struct ConnectData {
    socket: Rc<OwnedFd>,
    address: Box<SockAddr>,
}

impl Data for ConnectData {
    fn ending(&self) -> Ending {
        Ending::Cancel(self.socket.as_raw_fd())
    }

    fn take_back(self, _completion: Completion) {}
}

pub(super) fn send(
    ring: &Rc<Ring>,
    socket: &Rc<OwnedFd>,
    parcel: Parcel,
) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin {
    let sent = match ring.takes_sends_at_once() {
        true => moved(sys::send(socket, &parcel.lead, parcel.body())),
        false => Ok(None),
    };
    match sent.map(Option::unwrap_or_default) {
        Ok(sent) if sent < parcel.len() => Send::UnderWay(send_rest(ring, socket, parcel, sent)),
        Ok(_) => Send::Ended(Some((Ok(()), parcel))),
        Err(error) => Send::Ended(Some((Err(error), parcel))),
    }
}

enum Send<F> {
    UnderWay(F),
    /// The kernel took all of it at once, or said why not.
    Ended(Option<(io::Result<()>, Parcel)>),
}

impl<F: Future<Output = (io::Result<()>, Parcel)> + Unpin> Future for Send<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::UnderWay(op) => Pin::new(op).poll(cx),
            Self::Ended(ended) => Poll::Ready(ended.take().expect("polled once")),
        }
    }
}

/// Sends what follows the first `sent` bytes.
fn send_rest(
    ring: &Rc<Ring>,
    socket: &Rc<OwnedFd>,
    parcel: Parcel,
    sent: usize,
) -> impl Future<Output = (io::Result<()>, Parcel)> + Unpin {
    // MSG_WAITALL has the kernel go on after a partial send: one completion for all of it.
    const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    let descriptor = types::Fd(socket.as_raw_fd());
    let mut data = SendData {
        socket: socket.clone(),
        parcel,
        sent,
        ring: ring.clone(),
        gather: None,
    };
    let entry = match data.parcel.behind(sent) {
        (only, []) | ([], only) => opcode::Send::new(descriptor, only.as_ptr(), only.len() as u32)
            .flags(FLAGS)
            .build(),
        (lead, body) => {
            let mut gather = ring.gathers.borrow_mut().pop().unwrap_or_default();
            let message = gather.point_to(lead, body);
            data.gather = Some(gather);
            opcode::SendMsg::new(descriptor, message)
                .flags(FLAGS as u32)
                .build()
        }
    };
    // SAFETY: the bytes are in a vector and a chunk, the message header in a box, all owned by the
    // data, which nobody touches before the completion.
    let op = unsafe { Op::submit(&ring.orphans, data, entry) };
    Then {
        op,
        end: |data: SendData, completion| data.sent(completion),
    }
}

struct SendData {
    socket: Rc<OwnedFd>,
    parcel: Parcel,
    /// Bytes that were sent before this operation.
    sent: usize,
    ring: Rc<Ring>,
    gather: Option<Box<Gather>>,
}

impl SendData {
    fn sent(self, completion: Completion) -> (io::Result<()>, Parcel) {
        if let Some(gather) = self.gather {
            self.ring.gathers.borrow_mut().push(gather);
        }
        let sent = match completion.result() {
            Ok(sent) if self.sent + sent as usize == self.parcel.len() => Ok(()),
            // Less than all in spite of MSG_WAITALL: the connection ended in the middle. Whether
            // this send was told of a reset the kernel does not say behind a count; it may have.
            Ok(_) => Err(io::ErrorKind::ConnectionReset.into()),
            // The first of it has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.sent > 0 => {
                Err(io::ErrorKind::WriteZero.into())
            }
            Err(error) => Err(error),
        };
        (sent, self.parcel)
    }
}

impl Data for SendData {
    fn ending(&self) -> Ending {
        Ending::Reset(self.socket.as_raw_fd())
    }

    fn take_back(self, completion: Completion) {
        drop(self.sent(completion));
    }
}

/// The header of a vectored send. It points to bytes that the same operation owns.
pub(super) struct Gather {
    message: libc::msghdr,
    pieces: [libc::iovec; 2],
}

impl Default for Gather {
    fn default() -> Self {
        const NOTHING: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            // SAFETY: a message header of zeroes is an empty one.
            message: unsafe { std::mem::zeroed() },
            pieces: [NOTHING; 2],
        }
    }
}

impl Gather {
    fn point_to(self: &mut Box<Self>, first: &[u8], second: &[u8]) -> *const libc::msghdr {
        for (piece, bytes) in self.pieces.iter_mut().zip([first, second]) {
            piece.iov_base = bytes.as_ptr().cast_mut().cast();
            piece.iov_len = bytes.len();
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len();
        &raw const self.message
    }
}

/// Lasts until the ring was entered, and what completed by then is known.
pub(super) fn pause(ring: &Rc<Ring>) -> impl Future<Output = ()> + Unpin + use<> {
    // SAFETY: it points to nothing.
    let op = unsafe { Op::submit(&ring.orphans, Nothing, opcode::Nop::new().build()) };
    Then {
        op,
        end: |_: Nothing, _| (),
    }
}

struct Nothing;

impl Data for Nothing {
    fn ending(&self) -> Ending {
        Ending::Itself
    }

    fn take_back(self, _completion: Completion) {}
}

pub(super) fn sleep(ring: &Rc<Ring>, duration: Duration) -> impl Future<Output = ()> + Unpin {
    let data = SleepData {
        time: Box::new(duration.into()),
    };
    let entry = opcode::Timeout::new(&raw const *data.time).build();
    // SAFETY: the time that the kernel reads is on the heap and owned by the data.
    let op = unsafe { Op::submit(&ring.orphans, data, entry) };
    Then {
        op,
        end: |_: SleepData, _| (),
    }
}

struct SleepData {
    time: Box<types::Timespec>,
}

impl Data for SleepData {
    fn ending(&self) -> Ending {
        Ending::Itself
    }

    fn take_back(self, _completion: Completion) {}
}
