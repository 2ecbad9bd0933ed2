//! Pipes that bulk goes through on its way from one socket to another, without coming to memory.
//!
//! A worker lends them out and closes those that it has not needed for a while. Where the kernel
//! gives only small ones, or none, there are none to be had, and bytes are copied instead.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use super::sys;
use crate::limits;

/// A pipe on loan. It goes home when it is dropped empty, and is closed when it is dropped with
/// bytes in it, which were somebody's.
///
/// Invariant: the pipe holds exactly `held` bytes, because nobody else has its ends.
pub struct Pipe {
    /// `None` only while it is being dropped.
    ends: Option<Ends>,
    held: usize,
    home: Rc<Pipes>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
    bytes: usize,
}

impl Pipe {
    /// Bytes that are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves what has come to `socket` into the empty pipe, at most `most` bytes; 0 is the end of
    /// the stream, `WouldBlock` means that nothing has come, `Unsupported` that the call is refused
    /// here, or cannot have what has come, and nothing was moved.
    pub(super) fn fill(&mut self, socket: &impl AsRawFd, most: usize) -> io::Result<usize> {
        // A pipe is full by slots and not by bytes: only of an empty one is it known that it is
        // not the pipe that takes nothing.
        debug_assert_eq!(self.held, 0, "a pipe is emptied before it is filled again");
        let ends = self.ends.as_ref().expect("present until the drop");
        let splice = || sys::splice(socket, &ends.write, most.min(ends.bytes));
        let is_nothing = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let mut moved = splice();
        if moved.as_ref().is_err_and(is_nothing) && sys::is_readable(socket) {
            // It has come since then, or urgent data is in the way, which only a receive steps
            // over. The kernel says the same of that and of nothing.
            moved = splice();
            if moved.as_ref().is_err_and(is_nothing) {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        self.held = moved.map_err(|error| self.home.note_refusal(error))?;
        Ok(self.held)
    }

    /// Moves what `socket` takes out of the pipe.
    pub(super) fn empty(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        let ends = self.ends.as_ref().expect("present until the drop");
        let moved = sys::splice(&ends.read, socket, self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.held == 0 => self.home.idle.borrow_mut().push(ends),
            _ => self.home.made.set(self.home.made.get() - 1),
        }
    }
}

/// The pipes of one worker.
#[derive(Default)]
pub(super) struct Pipes {
    idle: RefCell<Vec<Ends>>,
    /// Pipes that there are, lent or idle.
    made: Cell<usize>,
    /// The kernel gave none, or a small one: it is asked again after the next tick.
    refused: Cell<bool>,
    /// The kernel does not splice sockets here: it is never asked again.
    useless: Cell<bool>,
    /// Fewest idle pipes since the last look, so many were not needed.
    idle_min: Cell<usize>,
    ticks: Cell<u32>,
}

impl Pipes {
    /// A pipe, unless all are on loan, or the kernel gives none that is worth it.
    pub(super) fn lend(self: &Rc<Self>) -> Option<Pipe> {
        if self.useless.get() {
            return None;
        }
        let kept = self.idle.borrow_mut().pop();
        let ends = kept.or_else(|| self.make())?;
        let idle = self.idle.borrow().len();
        self.idle_min.set(self.idle_min.get().min(idle));
        Some(Pipe {
            ends: Some(ends),
            held: 0,
            home: self.clone(),
        })
    }

    /// Closes the pipes that nobody has needed for a while.
    pub(super) fn tick(&self) {
        self.refused.set(false);
        let ticks = self.ticks.get() + 1;
        self.ticks.set(ticks % limits::PIPE_IDLE_TICKS);
        if ticks < limits::PIPE_IDLE_TICKS {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let needed = idle.len() - self.idle_min.get().min(idle.len());
        self.made.set(self.made.get() - (idle.len() - needed));
        idle.truncate(needed);
        self.idle_min.set(idle.len());
    }

    fn make(&self) -> Option<Ends> {
        if self.refused.get() || self.made.get() >= limits::PIPES_MAX {
            return None;
        }
        let made = sys::pipe(limits::PIPE_BYTES).ok();
        let ends = made.map(|(read, write, bytes)| Ends { read, write, bytes });
        let ends = ends.filter(|ends| ends.bytes >= limits::PIPE_BYTES_MIN);
        self.refused.set(ends.is_none());
        self.made.set(self.made.get() + usize::from(ends.is_some()));
        ends
    }

    /// A sandbox may forbid the call, and some sockets do not know it.
    fn note_refusal(&self, error: io::Error) -> io::Error {
        if !sys::is_splice_refusal(&error) {
            return error;
        }
        self.useless.set(true);
        io::ErrorKind::Unsupported.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(pipes: &Pipes) -> usize {
        pipes.idle.borrow().len()
    }

    #[test]
    fn pipes_are_lent_to_the_limit_and_come_home() {
        let pipes = Rc::<Pipes>::default();
        let lent: Vec<Pipe> = std::iter::from_fn(|| pipes.lend()).collect();
        assert!(!lent.is_empty() && lent.len() <= limits::PIPES_MAX);
        let count = lent.len();
        drop(lent);
        assert_eq!((idle(&pipes), pipes.made.get()), (count, count));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_does_not_come_home() {
        let pipes = Rc::<Pipes>::default();
        let mut pipe = pipes.lend().unwrap();
        pipe.held = 1;
        drop(pipe);
        assert_eq!((idle(&pipes), pipes.made.get()), (0, 0));
    }

    #[test]
    fn what_is_not_needed_is_closed_and_what_is_stays() {
        let pipes = Rc::<Pipes>::default();
        drop([pipes.lend().unwrap(), pipes.lend().unwrap()]);
        let rounds = || {
            for _ in 0..limits::PIPE_IDLE_TICKS {
                drop(pipes.lend());
                pipes.tick();
            }
        };
        rounds();
        rounds();
        assert_eq!((idle(&pipes), pipes.made.get()), (1, 1));
        (0..2 * limits::PIPE_IDLE_TICKS).for_each(|_| pipes.tick());
        assert_eq!((idle(&pipes), pipes.made.get()), (0, 0));
    }

    #[test]
    fn where_splice_is_refused_no_pipe_is_lent_any_more() {
        let pipes = Rc::<Pipes>::default();
        let pipe = pipes.lend().unwrap();
        let kind = |errno| {
            pipes
                .note_refusal(io::Error::from_raw_os_error(errno))
                .kind()
        };
        assert_eq!(kind(libc::ECONNRESET), io::ErrorKind::ConnectionReset);
        assert!(pipes.lend().is_some());
        assert_eq!(kind(libc::EPERM), io::ErrorKind::Unsupported);
        drop(pipe);
        assert!(pipes.lend().is_none());
    }
}
