//! The proxy under test, from its first log line to its last.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Engine, Origin, Process, pause, wait_for};

/// How long the log may keep silent before the program has to listen.
const START: Duration = Duration::from_secs(10);

/// What comes before the address in the line that says where it listens.
const LISTENING: &str = "listening on ";

/// A fastlb that listens.
pub(crate) struct Proxy {
    process: Process,
    pub(crate) address: SocketAddr,
    descriptors_at_start: usize,
}

/// How a proxy ended, as its last line tells it.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) last_line: String,
    /// All of its lines.
    pub(crate) log: Vec<String>,
    /// Connections that were still busy when the drain ended, and were cut.
    pub(crate) cut: usize,
    /// Chunks that nobody gave back.
    pub(crate) chunks_held: usize,
    /// Operations that never completed.
    pub(crate) operations: usize,
}

impl Proxy {
    /// Starts one on a free port with these further arguments. It runs one worker, so that what it
    /// does is in order, unless they say otherwise.
    #[track_caller]
    pub(crate) fn start(engine: Engine, arguments: &[&str]) -> Self {
        Self::start_by(engine, arguments, Process::fastlb)
    }

    /// As [`Proxy::start`], with no more than so many descriptors.
    #[track_caller]
    pub(crate) fn start_within(engine: Engine, descriptors: usize, arguments: &[&str]) -> Self {
        let within = |arguments: &[&str]| Process::fastlb_within(descriptors, arguments);
        Self::start_by(engine, arguments, within)
    }

    /// As [`Proxy::start`], with a standard error whose reader leaves once it listens. How it ends
    /// can only be told by its exit code.
    #[track_caller]
    pub(crate) fn start_unheard(engine: Engine, arguments: &[&str]) -> Self {
        let unheard = |arguments: &[&str]| Process::fastlb_heard_until(LISTENING, arguments);
        Self::start_by(engine, arguments, unheard)
    }

    #[track_caller]
    fn start_by(
        engine: Engine,
        arguments: &[&str],
        start: impl FnOnce(&[&str]) -> Process,
    ) -> Self {
        let fixed = [
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--io",
            engine.flag(),
        ];
        let cores: &[&str] = if arguments.contains(&"--cores") {
            &[]
        } else {
            &["--cores", "1"]
        };
        // A check is a connection that origins would count.
        let health: &[&str] = if arguments.contains(&"--health") {
            &[]
        } else {
            &["--health", "off"]
        };
        let mut process = start(&[&fixed[..], cores, health, arguments].concat());
        let line = process.wait_line(LISTENING);
        let address = address_in(&line);
        let descriptors_at_start = settled_descriptors(&process);
        Self {
            process,
            address,
            descriptors_at_start,
        }
    }

    /// Starts one before a single origin.
    #[track_caller]
    pub(crate) fn before(engine: Engine, origin: &Origin) -> Self {
        Self::before_with(engine, origin, &[])
    }

    /// Starts one before a single origin, with options.
    #[track_caller]
    pub(crate) fn before_with(engine: Engine, origin: &Origin, options: &[&str]) -> Self {
        let backend = origin.backend();
        Self::start(engine, &[&["--backends", &backend], options].concat())
    }

    /// The ordinary end of a test, once its clients and origins are gone: the descriptors are back
    /// at the level after start-up, and the drain leaves nothing.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.process.wait_descriptors(self.descriptors_at_start);
        let exit = self.drain();
        exit.expect_clean();
        assert_eq!(exit.cut, 0, "{exit:?}");
    }

    /// Asks it to drain and waits for its end.
    #[track_caller]
    pub(crate) fn drain(self) -> Exit {
        self.signal("TERM");
        self.wait_exit()
    }

    pub(crate) fn cpu_ticks(&self) -> u64 {
        self.process.cpu_ticks()
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        self.process.resident_bytes()
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub(crate) fn limit_descriptors(&self, descriptors: usize) {
        self.process.limit_descriptors(descriptors);
    }

    #[track_caller]
    pub(crate) fn wait_exit(self) -> Exit {
        let ended = self.process.wait_exit();
        let last_line = ended.log.last().cloned().unwrap_or_default();
        let number = |before: &str| {
            let found = number_before(&last_line, before);
            found.unwrap_or_else(|| panic!("no number of {before:?} in {last_line:?}"))
        };
        Exit {
            code: ended.code,
            cut: number(" cut"),
            chunks_held: number(" chunks held"),
            operations: number(" operations in flight"),
            last_line,
            log: ended.log,
        }
    }

    /// Waits for its end where the last line does not matter; returns the exit code.
    #[track_caller]
    pub(crate) fn wait_code(self) -> i32 {
        self.process.wait_exit().code
    }

    /// Where its first `count` listeners listen.
    #[track_caller]
    pub(crate) fn addresses(&self, count: usize) -> Vec<SocketAddr> {
        let all = || {
            let log = self.process.log();
            let lines = log.iter().filter(|line| line.contains(LISTENING));
            let mut addresses: Vec<_> = lines.map(|line| address_in(line)).collect();
            addresses.sort();
            addresses.dedup();
            addresses
        };
        wait_for(START, "all listeners to be named", || {
            Some(all()).filter(|addresses| addresses.len() == count)
        })
    }

    /// Descriptors open beyond those at start-up.
    pub(crate) fn extra_descriptors(&self) -> usize {
        self.process
            .descriptors()
            .saturating_sub(self.descriptors_at_start)
    }

    /// Waits until that many descriptors are open beyond those at start-up.
    #[track_caller]
    pub(crate) fn wait_extra_descriptors(&self, extra: usize) {
        self.process
            .wait_descriptors(self.descriptors_at_start + extra);
    }

    /// The lines of its log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.log()
    }
}

impl Exit {
    /// Demands that it left well and left nothing behind.
    #[track_caller]
    pub(crate) fn expect_clean(&self) {
        let left = (self.code, self.chunks_held, self.operations);
        assert_eq!(
            left,
            (0, 0, 0),
            "code, chunks, operations: {}",
            self.last_line
        );
    }
}

/// The address after the words of a line that says where it listens.
#[track_caller]
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let after = line.split(LISTENING).nth(1).unwrap_or_default();
    let word = after.split([' ', ',']).next().unwrap_or_default();
    word.parse()
        .unwrap_or_else(|_| panic!("no address in {line:?}"))
}

/// The number that stands right before `words`.
fn number_before(line: &str, words: &str) -> Option<usize> {
    let before = &line[..line.find(words)?];
    before.rsplit(' ').next()?.parse().ok()
}

/// The count of open descriptors once it has been the same for a while: the line that says where it
/// listens may come before the last worker has opened all of its own.
fn settled_descriptors(process: &Process) -> usize {
    let mut last = 0;
    let mut looks = 0;
    wait_for(START, "the descriptors to settle", || {
        let count = process.descriptors();
        looks = if count == last { looks + 1 } else { 0 };
        last = count;
        pause(Duration::from_millis(5));
        (looks >= 6).then_some(count)
    })
}
