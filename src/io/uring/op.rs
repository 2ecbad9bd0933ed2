//! One operation of the ring, wrapped so that dropping it loses nothing.
//!
//! tokio-uring forgets what the completion of a dropped operation carries, and drops its data
//! while the driver is borrowed. So an operation that is dropped in flight moves, whole, to the
//! worker's [`Orphans`]; their keeper cancels it while its descriptor is still open, waits for its
//! completion and gives back what it carries. No drop submits anything.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode, squeue, types};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::io::sys;

/// What an operation owns while the kernel works on it. Whatever the kernel was given a pointer to
/// is on the heap, because the value itself moves.
pub(super) trait Data: Unpin + 'static {
    /// What ends the operation once nobody waits for it any more.
    fn ending(&self) -> Ending;

    /// Takes back what the completion of a dropped operation carries.
    fn take_back(self, completion: Completion);
}

/// How an operation is ended that was dropped.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// It soon ends by itself.
    Itself,
    /// By a cancel of all that is under way on the descriptor. The kernel looks for that among all
    /// operations of the ring, so it is too dear for what thousands of clients have under way.
    Cancel(RawFd),
    /// By shutting the socket for receiving, which sends nothing.
    Shutdown(RawFd),
    /// By a reset at once, where the close of the socket is to be one; otherwise by a cancel, for
    /// what was sent before shall arrive.
    Reset(RawFd),
}

/// What the kernel said of an operation.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    result: i32,
    flags: u32,
}

impl Completion {
    /// The result, or the error that the kernel named.
    pub(super) fn result(self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }

    /// The provided buffer that the completion carries.
    pub(super) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether the receive found no provided buffer.
    pub(super) fn lacks_buffer(self) -> bool {
        self.result == -libc::ENOBUFS
    }
}

/// An operation under way: resolves to its data and completion.
pub(super) struct Op<D: Data> {
    /// `None` once it has completed, or was handed to the orphans.
    flight: Option<InFlightOneshot<D, Done<D>>>,
    ending: Ending,
    orphans: Rc<Orphans>,
}

impl<D: Data> Op<D> {
    /// Submits `entry`.
    ///
    /// # Safety
    /// What `entry` points to stays in its place and is not touched for as long as `data` lives.
    pub(super) unsafe fn submit(orphans: &Rc<Orphans>, data: D, entry: squeue::Entry) -> Self {
        let ending = data.ending();
        let flight = UnsubmittedOneshot::new(data, Done(PhantomData), entry).submit();
        orphans.under_way.set(orphans.under_way() + 1);
        Self {
            flight: Some(flight),
            ending,
            orphans: orphans.clone(),
        }
    }
}

impl<D: Data> Future for Op<D> {
    type Output = (D, Completion);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let flight = self
            .flight
            .as_mut()
            .expect("an operation is not polled after its end");
        let output = std::task::ready!(Pin::new(flight).poll(cx));
        self.flight = None;
        self.orphans.under_way.set(self.orphans.under_way() - 1);
        Poll::Ready(output)
    }
}

impl<D: Data> Drop for Op<D> {
    fn drop(&mut self) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        let orphans = self.orphans.clone();
        let end = async move {
            let (data, completion) = flight.await;
            data.take_back(completion);
            orphans.under_way.set(orphans.under_way() - 1);
        };
        self.orphans.adopt(Orphan {
            ending: self.ending,
            end: Box::pin(end),
        });
    }
}

/// The operations of one ring: how many are under way, and those among them that were dropped.
#[derive(Default)]
pub(super) struct Orphans {
    under_way: Cell<usize>,
    fresh: RefCell<Vec<Orphan>>,
    keeper: RefCell<Option<Waker>>,
}

/// An operation that nobody waits for any more.
struct Orphan {
    ending: Ending,
    end: Pin<Box<dyn Future<Output = ()>>>,
}

impl Orphans {
    /// Operations under way, dropped ones included.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    /// Sees every operation that is dropped to its end; does not return.
    pub(super) async fn keep(self: Rc<Self>) {
        loop {
            let orphan = std::future::poll_fn(|cx| self.poll_fresh(cx)).await;
            tokio::task::spawn_local(orphan.see_off());
        }
    }

    fn poll_fresh(&self, cx: &Context<'_>) -> Poll<Orphan> {
        if let Some(orphan) = self.fresh.borrow_mut().pop() {
            return Poll::Ready(orphan);
        }
        *self.keeper.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn adopt(&self, orphan: Orphan) {
        self.fresh.borrow_mut().push(orphan);
        if let Some(waker) = self.keeper.take() {
            waker.wake();
        }
    }
}

impl Orphan {
    async fn see_off(mut self) {
        // It may have completed meanwhile: then nothing is cancelled, and other operations on the
        // same socket are left alone.
        let ended = std::future::poll_fn(|cx| Poll::Ready(self.end.as_mut().poll(cx))).await;
        if ended.is_pending() {
            match self.ending {
                Ending::Itself => {}
                Ending::Cancel(descriptor) => cancel(descriptor),
                Ending::Shutdown(descriptor) => sys::end_receives(&descriptor),
                Ending::Reset(descriptor) => {
                    // A Unix socket has no such thing.
                    if !sys::resets_on_close(&descriptor) || sys::reset(&descriptor).is_err() {
                        cancel(descriptor);
                    }
                }
            }
            self.end.await;
        }
    }
}

/// Cancels whatever is under way on a descriptor, which must be open.
pub(super) fn cancel(descriptor: RawFd) {
    let all = types::CancelBuilder::fd(types::Fd(descriptor)).all();
    submit_unwatched(opcode::AsyncCancel2::new(all).build());
}

/// Submits an operation that owns nothing and whose end nobody needs to know.
pub(super) fn submit_unwatched(entry: squeue::Entry) {
    // The driver forgets a dropped flight once it has completed; there is nothing to lose in it.
    drop(UnsubmittedOneshot::new((), Done(PhantomData), entry).submit());
}

/// Hands data and completion out as they are.
pub(super) struct Done<D>(PhantomData<D>);

impl<D> OneshotOutputTransform for Done<D> {
    type Output = (D, Completion);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, cqe: cqueue::Entry) -> Self::Output {
        (
            data,
            Completion {
                result: cqe.result(),
                flags: cqe.flags(),
            },
        )
    }
}
