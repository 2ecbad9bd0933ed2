//! The signals that ask the program to stop: INT, which a terminal sends on Ctrl-C, and TERM.
//!
//! Once a value exists, neither signal ends the process by itself, not even after the value is
//! dropped: whoever makes one has to listen until the end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals as one stream. A signal that comes while nobody waits is remembered.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts to listen. Needs the tokio runtime that will wait for them.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of them.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
