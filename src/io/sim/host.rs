//! Addresses: who listens there, and what becomes of those who connect.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::wire::End;
use super::world::World;

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    Accepted,
    Refused,
    /// It finds no room in the queue.
    Full,
    /// It is never answered.
    Silent,
    /// It fails after a while, as where a router says so.
    Unreachable,
}

/// One address that is listened on.
pub(crate) struct Host {
    world: Weak<World>,
    queue: RefCell<VecDeque<(Rc<End>, SocketAddr)>>,
    waiter: Cell<Option<Waker>>,
    cancelled: Cell<bool>,
    pub(crate) dial: Cell<Dial>,
}

impl Host {
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<(Rc<End>, SocketAddr)>> {
        if self.cancelled.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        let world = self.world.upgrade().expect("a host lives in its world");
        if !self.queue.borrow().is_empty() && world.happens(world.network.shortages_per_mille) {
            world.count("accept failed");
            let error = world.any(&[libc::EMFILE, libc::ECONNABORTED]);
            return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
        }
        match self.accept_queued() {
            Some(accepted) => Poll::Ready(Ok(accepted)),
            None => {
                self.waiter.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    pub(crate) fn accept_queued(&self) -> Option<(Rc<End>, SocketAddr)> {
        self.queue.borrow_mut().pop_front()
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.set(true);
        self.wake();
    }

    /// Waits for the next connection, as an actor of the run does.
    pub(crate) async fn next(&self) -> Option<Rc<End>> {
        poll_fn(|cx| {
            if let Some((end, _)) = self.accept_queued() {
                return Poll::Ready(Some(end));
            }
            if self.cancelled.get() {
                return Poll::Ready(None);
            }
            self.waiter.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn wake(&self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl World {
    /// Listens on `address`.
    pub(crate) fn bind(self: &Rc<Self>, address: SocketAddr) -> Rc<Host> {
        let host = Rc::new(Host {
            world: Rc::downgrade(self),
            queue: RefCell::default(),
            waiter: Cell::default(),
            cancelled: Cell::new(false),
            dial: Cell::new(Dial::Accepted),
        });
        self.hosts.borrow_mut().insert(address, host.clone());
        host
    }

    /// Nobody listens there any more; who was not accepted yet is reset.
    pub(crate) fn unbind(&self, address: SocketAddr) {
        let host = self.hosts.borrow_mut().remove(&address);
        if let Some(host) = host {
            host.cancel();
            let queued = std::mem::take(&mut *host.queue.borrow_mut());
            queued.iter().for_each(|(end, _)| end.reset_on_close());
            drop(queued);
        }
    }

    /// Connects as the worker does: with whatever may go wrong.
    pub(crate) async fn connect(self: Rc<Self>, address: SocketAddr) -> io::Result<Rc<End>> {
        if self.happens(self.network.shortages_per_mille) {
            self.count("connect short of descriptors");
            let error = self.any(&[libc::EMFILE, libc::ENFILE]);
            return Err(io::Error::from_raw_os_error(error));
        }
        let dial = self
            .hosts
            .borrow()
            .get(&address)
            .map_or(Dial::Refused, |host| host.dial.get());
        match dial {
            Dial::Accepted => {}
            Dial::Refused => {
                self.count("connect refused");
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Dial::Full => {
                self.count("connect finds a full queue");
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            Dial::Silent => {
                self.count("connect not answered");
                return pending().await;
            }
            Dial::Unreachable => {
                self.count("connect unreachable");
                let pause_ms = self.between(1, 200);
                self.executor.sleep(pause_ms).await;
                let error = self.any(&[libc::EHOSTUNREACH, libc::EADDRNOTAVAIL]);
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        let end = self.clone().visit(address).await;
        if let Ok(end) = &end {
            end.watch_sends();
        }
        end
    }

    /// Connects as an actor of the run does.
    pub(crate) async fn visit(self: Rc<Self>, address: SocketAddr) -> io::Result<Rc<End>> {
        if self.network.delays_per_mille > 0 {
            let pause_ms = self.between(0, self.network.delay_ms_max);
            self.executor.sleep(pause_ms).await;
        }
        let host = self.hosts.borrow().get(&address).cloned();
        let host = host.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = End::pair(&self);
        let from = SocketAddr::from(([10, 0, 0, 9], 1024));
        host.queue.borrow_mut().push_back((theirs, from));
        host.wake();
        Ok(ours)
    }
}
