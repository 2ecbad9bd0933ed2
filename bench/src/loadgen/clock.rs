//! The driver's time: nanoseconds since it began, CPU time, and a timer for readiness to wait on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{
    ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags,
};
use nix::time::{ClockId, clock_gettime};

/// Counts from its making.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the load generator's only clock")]
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the making.
    pub(super) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// CPU time of the calling thread so far.
pub(super) fn thread_cpu() -> Duration {
    cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread that runs has its clock")
}

/// What a CPU clock shows.
pub(super) fn cpu_time(clock: ClockId) -> io::Result<Duration> {
    Ok(Duration::from(clock_gettime(clock)?))
}

/// Wakes the poll at a moment. Finer than the milliseconds that the poll itself can wait.
pub(super) struct Timer {
    descriptor: TimerFd,
    /// The moment that it is set to.
    set_to: u64,
}

impl Timer {
    /// A timer that makes `token` ready when its moment comes.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let descriptor = TimerFd::new(TimerClock::CLOCK_MONOTONIC, flags)?;
        let mut source = SourceFd(&descriptor.as_fd().as_raw_fd());
        registry.register(&mut source, token, Interest::READABLE)?;
        Ok(Self {
            descriptor,
            set_to: 0,
        })
    }

    /// Sets it to `moment`, which is not before `now`. Nobody has to read it: each setting is
    /// a new edge when it expires.
    pub(super) fn set(&mut self, now: u64, moment: u64) -> io::Result<()> {
        if self.set_to == moment {
            return Ok(());
        }
        let wait = moment.saturating_sub(now).max(1);
        let wait = TimeSpec::from_duration(Duration::from_nanos(wait));
        self.descriptor
            .set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
        self.set_to = moment;
        Ok(())
    }
}
