//! Waiting for a socket to be ready: one-shot polls. They always go through the ring, so whoever
//! waits for one lets the loop go round.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use io_uring::{opcode, types};

use super::Ring;
use super::op::{Completion, Data, Ending, Op};

/// A wait for something to read.
pub struct Readable(Ready);

impl Future for Readable {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

pub(super) fn readable(ring: &Rc<Ring>, socket: &Rc<OwnedFd>) -> Readable {
    Readable(submit(ring, socket, libc::POLLIN))
}

pub(super) fn writable(
    ring: &Rc<Ring>,
    socket: &Rc<OwnedFd>,
) -> impl Future<Output = io::Result<()>> + Unpin {
    submit(ring, socket, libc::POLLOUT)
}

struct Ready(Op<PollData>);

impl Future for Ready {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, completion) = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(completion.result().map(|_events| ()))
    }
}

struct PollData {
    socket: Rc<OwnedFd>,
    events: libc::c_short,
}

impl Data for PollData {
    fn ending(&self) -> Ending {
        match self.events {
            libc::POLLIN => Ending::Shutdown(self.socket.as_raw_fd()),
            _ => Ending::Reset(self.socket.as_raw_fd()),
        }
    }

    fn take_back(self, _completion: Completion) {}
}

fn submit(ring: &Rc<Ring>, socket: &Rc<OwnedFd>, events: libc::c_short) -> Ready {
    let descriptor = types::Fd(socket.as_raw_fd());
    let entry = opcode::PollAdd::new(descriptor, events as u32).build();
    let data = PollData {
        socket: socket.clone(),
        events,
    };
    // SAFETY: the entry points to nothing.
    Ready(unsafe { Op::submit(&ring.orphans, data, entry) })
}
