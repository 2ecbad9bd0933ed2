//! The driver's time: nanoseconds since it began, CPU time, and a timer for readiness to wait on.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

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
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Wakes the poll at a moment. Finer than the milliseconds that the poll itself can wait.
pub(super) struct Timer {
    descriptor: OwnedFd,
    /// The moment that it is set to.
    set_to: u64,
}

impl Timer {
    /// A timer that makes `token` ready when its moment comes.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let mut source = SourceFd(&descriptor.as_raw_fd());
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
        let value = Timespec {
            tv_sec: (wait / 1_000_000_000) as i64,
            tv_nsec: (wait % 1_000_000_000) as i64,
        };
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: interval,
            it_value: value,
        };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &setting)?;
        self.set_to = moment;
        Ok(())
    }
}
