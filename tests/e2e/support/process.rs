//! A process under test: its words are kept, and it never outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::{env, fs};

use super::{PATIENCE, eventually, wait_for};

/// The binary under test.
const FASTLB: &str = env!("CARGO_BIN_EXE_fastlb");

/// A running fastlb.
pub(crate) struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// What is left of a process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code, or -1 where a signal ended it.
    pub(crate) code: i32,
    /// All lines of both outputs.
    pub(crate) log: Vec<String>,
}

impl Process {
    /// Starts `fastlb` with these arguments and an environment that cannot change what they mean.
    pub(crate) fn fastlb(arguments: &[&str]) -> Self {
        Self::start(Command::new(FASTLB), arguments, None)
    }

    /// As [`Process::fastlb`], but nobody reads its standard error any further than the first line
    /// with `part`.
    pub(crate) fn fastlb_heard_until(part: &'static str, arguments: &[&str]) -> Self {
        Self::start(Command::new(FASTLB), arguments, Some(part))
    }

    /// As [`Process::fastlb`], with no more than so many descriptors.
    pub(crate) fn fastlb_within(descriptors: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}"));
        command.arg(FASTLB);
        Self::start(command, arguments, None)
    }

    /// As [`Process::fastlb`], with no more than so many bytes of locked memory, and without the
    /// capability to lock more.
    pub(crate) fn fastlb_with_locked(bytes: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={bytes}:{bytes}"));
        if may_lock_memory() {
            command.args([
                "setpriv",
                "--bounding-set=-ipc_lock",
                "--inh-caps=-ipc_lock",
            ]);
        }
        command.arg(FASTLB);
        Self::start(command, arguments, None)
    }

    fn start(mut command: Command, arguments: &[&str], until: Option<&'static str>) -> Self {
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("FASTLB_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .envs([("NO_COLOR", "1")])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let said = Arc::default();
        let stdout = child
            .stdout
            .take()
            .map(|pipe| keep_words(pipe, Arc::clone(&said), None));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| keep_words(pipe, Arc::clone(&said), until));
        let readers = stdout.into_iter().chain(stderr).collect();
        Self {
            child,
            said,
            readers,
        }
    }

    /// The first line that contains `part`; waits for it, but not for a process that has ended.
    #[track_caller]
    pub(crate) fn wait_line(&mut self, part: &str) -> String {
        let found = wait_for(PATIENCE, part, || {
            let ended = self.exit_code().is_some();
            let found = self.log().into_iter().find(|line| line.contains(part));
            (found.is_some() || ended).then_some(found)
        });
        found.unwrap_or_else(|| panic!("ended without {part:?}: {:#?}", self.log()))
    }

    /// Whether a line with `part` was there already.
    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.log().iter().any(|line| line.contains(part))
    }

    /// Everything that was said so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.said
            .lock()
            .expect("no holder of the lock panics")
            .clone()
    }

    /// The exit code if it has ended; its last words are in the log then.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("the child is ours")?;
        for reader in self.readers.drain(..) {
            reader.join().expect("reading lines does not panic");
        }
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait_exit(mut self) -> Ended {
        let code = wait_for(PATIENCE, "the process to end", || self.exit_code());
        Ended {
            code,
            log: self.log(),
        }
    }

    /// Sends the signal with this name (`TERM`, `INT`).
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "kill -s {name} {pid}"
        );
    }

    /// Allows it no more than so many descriptors from now on.
    pub(crate) fn limit_descriptors(&self, descriptors: usize) {
        let pid = self.child.id();
        let limited = Command::new("prlimit")
            .args([format!("--pid={pid}"), format!("--nofile={descriptors}:")])
            .status();
        assert!(
            limited.is_ok_and(|status| status.success()),
            "prlimit {pid}"
        );
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// Hundredths of a second that it has used, in user and kernel.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the process runs");
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum()
    }

    /// Bytes of its memory that are there.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        kib.expect("Linux says it in KiB") * 1024
    }

    /// Waits until it has `count` descriptors open.
    #[track_caller]
    pub(crate) fn wait_descriptors(&self, count: usize) {
        let what = format!("{count} open descriptors, not {}", self.descriptors());
        eventually(&what, || self.descriptors() == count);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Only a test that failed, or one that wants no answer, leaves a process running.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of the process: {:#?}", self.log());
        }
    }
}

/// Keeps all lines that come, or those up to the first with the words `until`.
fn keep_words(
    pipe: impl Read + Send + 'static,
    said: Arc<Mutex<Vec<String>>>,
    until: Option<&'static str>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let keep = |line| {
            let mut said = said.lock().expect("no holder of the lock panics");
            said.push(line);
        };
        let mut lines = BufReader::new(pipe).lines().map_while(Result::ok);
        let last = lines.find_map(|line| {
            if until.is_some_and(|words| line.contains(words)) {
                return Some(line);
            }
            keep(line);
            None
        });
        // Before the line can be seen: who has waited for it knows that nobody reads on.
        drop(lines);
        last.into_iter().for_each(keep);
    })
}

/// Whether limits of locked memory mean nothing to this process: it has `CAP_IPC_LOCK`.
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.expect("Linux says what a process may") & 1 << CAP_IPC_LOCK != 0
}
