//! What a process and the cores used between two moments, read by who knows the moments.
//!
//! The process by its CPU clock (clock_getcpuclockid(3)): nanoseconds of all its threads, those
//! that have ended among them. The cores by what /proc/stat says of their idle time, which the
//! kernel takes from its clock and rounds to ticks; the busy columns beside it are sampled.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::clock::{Clock, cpu_time};

/// The columns of a core in /proc/stat behind its name (proc_stat(5)).
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const STEAL: usize = 7;

/// The clocks as they stood at one moment.
pub(super) struct Watch {
    clock: ClockId,
    pid: i32,
    cpu: Duration,
    /// Nanoseconds of the driver's clock.
    moment: u64,
    cores: Vec<Core>,
}

/// What was used between two moments.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Watched {
    pub(super) wall: Duration,
    /// CPU time of all threads of the process.
    pub(super) cpu: Duration,
    pub(super) cores: Vec<Core>,
}

/// Time in which a core ran nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Core {
    pub(super) number: usize,
    pub(super) idle_s: f64,
    /// What another guest of the same machine had of it.
    pub(super) stolen_s: f64,
}

impl Watch {
    /// Reads the clocks of the process and of the cores.
    pub(super) fn begin(pid: i32, clock: Clock) -> io::Result<Self> {
        let process = clock_getcpuclockid(Pid::from_raw(pid)).map_err(|_| gone(pid))?;
        Ok(Self {
            clock: process,
            pid,
            cpu: cpu_time(process).map_err(|_| gone(pid))?,
            moment: clock.now(),
            cores: cores()?,
        })
    }

    /// Reads them again.
    pub(super) fn end(&self, clock: Clock) -> io::Result<Watched> {
        let cpu = cpu_time(self.clock).map_err(|_| gone(self.pid))?;
        let moment = clock.now();
        let since = |(begin, end): (&Core, Core)| Core {
            number: end.number,
            idle_s: end.idle_s - begin.idle_s,
            stolen_s: end.stolen_s - begin.stolen_s,
        };
        Ok(Watched {
            wall: Duration::from_nanos(moment - self.moment),
            cpu: cpu.saturating_sub(self.cpu),
            cores: self.cores.iter().zip(cores()?).map(since).collect(),
        })
    }
}

/// A clock cannot be read where its process is no more (clock_gettime(2): ESRCH, EINVAL).
fn gone(pid: i32) -> io::Error {
    io::Error::other(format!("the process {pid} of --watch is not there"))
}

fn cores() -> io::Result<Vec<Core>> {
    let ticks_per_s = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok(parse(&fs::read_to_string("/proc/stat")?, ticks_per_s))
}

fn parse(stat: &str, ticks_per_s: f64) -> Vec<Core> {
    let core = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let number = words.next()?.strip_prefix("cpu")?.parse().ok()?;
        let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        Some(Core {
            number,
            idle_s: (ticks.get(IDLE)? + ticks.get(IOWAIT)?) as f64 / ticks_per_s,
            stolen_s: *ticks.get(STEAL)? as f64 / ticks_per_s,
        })
    };
    stat.lines().filter_map(core).collect()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{Core, Watch, parse};
    use crate::loadgen::clock::{Clock, thread_cpu};

    #[test]
    fn a_core_is_idle_also_while_it_waits_for_a_disk() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 50 6 7 25 0 0\nintr 1 2\n";
        let core = Core {
            number: 0,
            idle_s: 4.5,
            stolen_s: 0.25,
        };
        assert_eq!(parse(stat, 100.0), [core]);
    }

    #[test]
    fn the_time_of_threads_that_have_ended_is_counted() {
        let clock = Clock::new();
        let watch = Watch::begin(std::process::id() as i32, clock).unwrap();
        let burn = || {
            let began = thread_cpu();
            while thread_cpu() - began < std::time::Duration::from_millis(20) {}
        };
        thread::spawn(burn).join().unwrap();
        let watched = watch.end(clock).unwrap();
        assert!(watched.cpu.as_millis() >= 20, "{watched:?}");
        assert!(watched.wall.as_millis() >= 20, "{watched:?}");
        assert!(!watched.cores.is_empty());
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // One more than the kernel ever gives (proc(5), pid_max).
        assert!(Watch::begin(1 << 22, Clock::new()).is_err());
    }
}
