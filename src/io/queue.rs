//! Who waits for something that comes back one at a time: first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Those who wait, in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
    /// Tickets of those who have gone, for the next ones: waiting allocates nothing.
    spare: RefCell<Vec<Rc<Ticket>>>,
}

/// A place in a queue.
pub(super) struct Turn {
    queue: Rc<Queue>,
    ticket: Rc<Ticket>,
}

#[derive(Default)]
struct Ticket {
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Queue {
    /// A place at its end.
    pub(super) fn wait(self: &Rc<Self>) -> Turn {
        let ticket = self.spare.borrow_mut().pop().unwrap_or_default();
        self.waiting.borrow_mut().push_back(ticket.clone());
        Turn {
            queue: self.clone(),
            ticket,
        }
    }

    /// Lets the first in; `false` where nobody waits.
    pub(super) fn grant_one(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(ticket) = waiting.pop_front() {
            // The only holder is this queue: whoever waited has gone.
            if Rc::strong_count(&ticket) == 1 {
                self.spare(ticket);
                continue;
            }
            ticket.granted.set(true);
            if let Some(waker) = ticket.waker.take() {
                waker.wake();
            }
            return true;
        }
        false
    }

    fn spare(&self, ticket: Rc<Ticket>) {
        ticket.granted.set(false);
        ticket.waker.take();
        self.spare.borrow_mut().push(ticket);
    }

    /// Whether nobody waits, nor has waited and gone.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

impl Turn {
    /// Ready once this place in the queue is let in.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.ticket.granted.take() {
            return Poll::Ready(());
        }
        *self.ticket.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Granted and never used: the next in the queue has it.
        if self.ticket.granted.take() {
            self.queue.grant_one();
        }
        // Otherwise the queue still has it.
        if Rc::strong_count(&self.ticket) == 1 {
            self.queue.spare(self.ticket.clone());
        }
    }
}
