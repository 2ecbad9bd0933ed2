//! Accepting connections, within the limit of how many may be open.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::io::{Io, is_out_of_descriptors};
use crate::limits;
use crate::stats::WorkerCounters;

/// How many connections of clients may be open in the whole process, and how many are.
pub struct ConnectionLimit {
    open: CachePadded<AtomicUsize>,
    max: usize,
    /// It was reached, and there has been little room since.
    full: AtomicBool,
}

impl ConnectionLimit {
    /// A limit of `max` connections.
    pub fn new(max: usize) -> Self {
        Self {
            open: CachePadded::default(),
            max,
            full: AtomicBool::new(false),
        }
    }

    fn is_reached(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.max
    }

    /// Says, once, that who comes now has to wait.
    fn say_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            let max = self.max;
            warn!("all {max} connections are taken: new ones wait until one of them ends");
        }
    }

    /// Says, once, that there is room again: a tenth, so that not every coming and going is told.
    fn say_room(&self) {
        let full = self.full.load(Ordering::Relaxed);
        if full
            && self.open.load(Ordering::Relaxed) < self.max - self.max / 10
            && self.full.swap(false, Ordering::Relaxed)
        {
            info!("there is room for new connections again");
        }
    }
}

/// The door of one worker: who is let in, and who has left.
pub(crate) struct Door {
    limit: Arc<ConnectionLimit>,
    counters: Arc<WorkerCounters>,
    closing: Cell<bool>,
    /// Ticks until an accept shows that accepting is well again; `None` where it is.
    failing_ticks: Cell<Option<u32>>,
    /// A connection of this worker ended, the tick came, or the door closes.
    changed: Notify,
}

/// How a connection came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Who connected; who came over a Unix socket has no address.
    pub(crate) peer: Option<SocketAddr>,
    /// Whether the listener demands a header of the PROXY protocol.
    pub(crate) proxied: bool,
}

/// A connection that was let in; it has left when this is dropped.
pub(crate) struct Guest(Rc<Door>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.limit.open.fetch_sub(1, Ordering::Relaxed);
        self.0.counters.active.lower();
        self.0.changed.notify_waiters();
    }
}

impl Door {
    pub(crate) fn new(limit: Arc<ConnectionLimit>, counters: Arc<WorkerCounters>) -> Rc<Self> {
        Rc::new(Self {
            limit,
            counters,
            closing: Cell::new(false),
            failing_ticks: Cell::new(None),
            changed: Notify::new(),
        })
    }

    /// Lets nobody in any more but who is in the queue already.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.changed.notify_waiters();
    }

    /// Once a tick: other workers' connections may have ended, descriptors may be free again.
    pub(crate) fn tick(&self) {
        self.limit.say_room();
        let failing_ticks = self.failing_ticks.get();
        let left = failing_ticks.map(|ticks| ticks.saturating_sub(1));
        self.failing_ticks.set(left);
        self.changed.notify_waiters();
    }

    /// Connections of this worker that are open.
    pub(crate) fn guests(&self) -> u64 {
        self.counters.active.read()
    }

    /// Waits until a connection ends, or the next tick.
    pub(crate) async fn change(&self) {
        self.changed.notified().await;
    }

    /// Accepts connections and hands each to `serve`, until the door closes; then those that are
    /// in the queue of the listener, so that closing it refuses nobody who was let in before.
    pub(crate) async fn accept<I: Io>(
        self: Rc<Self>,
        io: I,
        listener: I::Listener,
        serve: impl Fn(I::Socket, Option<SocketAddr>, Guest),
        shed: impl Fn() -> bool,
    ) {
        while !self.closing.get() {
            // At the limit no accept is under way: the kernel's queue holds who comes.
            if self.limit.is_reached() {
                self.limit.say_full();
                self.change().await;
                continue;
            }
            match io.accept(&listener).await {
                Ok((socket, peer)) => {
                    serve(socket, peer, self.let_in());
                    self.accept_burst(&io, &listener, &serve);
                }
                // The door closes, or the client has left already.
                Err(_) if self.closing.get() => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if is_out_of_descriptors(&error) {
                        shed();
                    }
                    self.say_failing(&error);
                    // Whatever it is, asking again at once would not change it.
                    self.change().await;
                }
            }
        }
        while let Ok(Some((socket, peer))) = io.accept_queued(&listener) {
            serve(socket, peer, self.let_in());
        }
    }

    /// Says, once for as long as it goes on, that who comes now has to wait.
    fn say_failing(&self, error: &io::Error) {
        let ticks = Some(limits::ACCEPT_FAILING_TICKS);
        if self.failing_ticks.replace(ticks).is_none() {
            warn!("cannot accept: {error}: new connections wait until that is over");
        }
    }

    /// Says that it is over, once somebody was accepted who shows it.
    fn say_well(&self) {
        if self.failing_ticks.get() == Some(0) {
            self.failing_ticks.set(None);
            info!("new connections are accepted again");
        }
    }

    /// Lets in those who came together with the first; one a turn of the loop would be too few
    /// when many come at once and the worker is busy.
    fn accept_burst<I: Io>(
        self: &Rc<Self>,
        io: &I,
        listener: &I::Listener,
        serve: &impl Fn(I::Socket, Option<SocketAddr>, Guest),
    ) {
        for _ in 1..limits::ACCEPTS_PER_TURN {
            if self.limit.is_reached() {
                return;
            }
            // An error is met again, and dealt with, by the next wait.
            let Ok(Some((socket, peer))) = io.accept_queued(listener) else {
                return;
            };
            serve(socket, peer, self.let_in());
        }
    }

    fn let_in(self: &Rc<Self>) -> Guest {
        self.limit.open.fetch_add(1, Ordering::Relaxed);
        self.counters.active.raise();
        self.counters.accepted.add(1);
        self.say_well();
        Guest(self.clone())
    }
}
