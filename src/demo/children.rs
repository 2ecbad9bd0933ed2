//! The demo workers as processes: started, watched and ended, and none of them left behind.
//!
//! Each holds the read end of a pipe as its standard input, its lifeline. Nothing is ever written;
//! the kernel closes the write end with this process, however it dies, and the worker leaves. The
//! other way round, the end of a worker's standard output tells that it is gone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout, timeout_at};

use super::arguments::Percent;
use crate::limits;

/// Time that a worker has to say where it listens.
const START_TIMEOUT: Duration = Duration::from_millis(limits::DEMO_START_TIMEOUT_MS);
/// Time that the workers have to leave after their lifelines ended.
const STOP_TIMEOUT: Duration = Duration::from_millis(limits::DEMO_STOP_TIMEOUT_MS);

/// Why a demo worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// There is no process.
    #[error("cannot start {name}: {cause}")]
    Spawn {
        /// The worker.
        name: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The process ended before it listened; its own message is on standard error.
    #[error("{name} ended before it listened")]
    Ended {
        /// The worker.
        name: String,
    },
    /// The process runs, but did not say where it listens.
    #[error("{name} did not say where it listens within {} s", START_TIMEOUT.as_secs())]
    Silent {
        /// The worker.
        name: String,
    },
}

/// Time until a worker that died is started again.
const RESTART: Duration = Duration::from_millis(limits::DEMO_RESTART_MS);

/// All workers of a demo, in the order of their names.
pub(super) struct Children(Vec<Child>);

/// One worker.
pub(super) struct Child {
    /// What it calls itself, in its answers too.
    pub(super) name: String,
    /// Where it listens.
    pub(super) address: SocketAddr,
    temper: Temper,
    process: process::Child,
    output: BufReader<pipe::Receiver>,
    starts: u32,
    died: Option<Instant>,
}

/// How a worker is to behave.
#[derive(Clone, Copy)]
struct Temper {
    avg_delay: Duration,
    failure: Percent,
}

impl Children {
    /// Starts `count` workers on free ports of the loopback and waits until all of them listen.
    ///
    /// # Errors
    /// Where one does not come up; then those that did are ended again.
    pub(super) async fn start(
        count: u16,
        avg_delay: Duration,
        failure: Percent,
    ) -> Result<Self, ChildError> {
        let temper = Temper { avg_delay, failure };
        let mut children = Self(Vec::with_capacity(usize::from(count)));
        for number in 1..=count {
            match Child::start(format!("worker-{number}"), temper).await {
                Ok(child) => children.0.push(child),
                Err(error) => {
                    children.stop().await;
                    return Err(error);
                }
            }
        }
        Ok(children)
    }

    /// Each worker in turn.
    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Child> {
        self.0.iter_mut()
    }

    /// Each worker's name and address.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Child> {
        self.0.iter()
    }

    /// Starts those again that died some time ago, where they were.
    pub(super) fn revive(&mut self, now: Instant) {
        for child in &mut self.0 {
            child.revive(now);
        }
    }

    /// Ends every worker: lets go of the lifelines, waits, kills what is left, and reaps all.
    pub(super) async fn stop(mut self) {
        for child in &mut self.0 {
            child.process.stdin = None;
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for child in &mut self.0 {
            child.end(deadline).await;
        }
    }
}

impl Child {
    /// What became of its process, in a few words.
    pub(super) fn state(&mut self) -> String {
        match (self.ended(), self.starts) {
            (Some(end), _) => end,
            (None, 1) => "running".to_owned(),
            (None, starts) => format!("running (start {starts})"),
        }
    }

    /// How it ended; `None` while it runs.
    fn ended(&mut self) -> Option<String> {
        // The wait for one's own child, which nobody else reaps, cannot fail.
        let status = self.process.try_wait().ok().flatten()?;
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited ({code})"),
            (None, Some(signal)) => format!("killed ({signal})"),
            (None, None) => "exited".to_owned(),
        })
    }

    async fn start(name: String, temper: Temper) -> Result<Self, ChildError> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (mut process, output) = match spawn(&name, anywhere, temper) {
            Ok(spawned) => spawned,
            Err(cause) => return Err(ChildError::Spawn { name, cause }),
        };
        let mut output = BufReader::new(output);
        let listening = timeout(START_TIMEOUT, listening_on(&mut output)).await;
        if let Ok(Some(address)) = listening {
            return Ok(Self {
                name,
                address,
                temper,
                process,
                output,
                starts: 1,
                died: None,
            });
        }
        reap(&mut process);
        Err(match listening {
            Ok(_) => ChildError::Ended { name },
            Err(_) => ChildError::Silent { name },
        })
    }

    fn revive(&mut self, now: Instant) {
        let Some(end) = self.ended() else {
            return;
        };
        let died = *self.died.get_or_insert(now);
        if now - died < RESTART {
            return;
        }
        self.died = None;
        match spawn(&self.name, self.address, self.temper) {
            Ok((process, output)) => {
                tracing::info!("{} {end} and is started again", self.name);
                self.process = process;
                self.output = BufReader::new(output);
                self.starts += 1;
            }
            Err(cause) => tracing::warn!("cannot start {} again: {cause}", self.name),
        }
    }

    async fn end(&mut self, deadline: Instant) {
        if timeout_at(deadline, end_of(&mut self.output))
            .await
            .is_err()
        {
            tracing::warn!("{} does not leave and is killed", self.name);
        }
        reap(&mut self.process);
    }
}

/// A worker's process and its standard output.
fn spawn(
    name: &str,
    listen: SocketAddr,
    temper: Temper,
) -> io::Result<(process::Child, pipe::Receiver)> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["worker", "--lifeline", "--id", name])
        .args(["--listen", &listen.to_string()])
        .args([
            "--avg-delay",
            &format!("{}ms", temper.avg_delay.as_millis()),
        ])
        .args(["--failure", &temper.failure.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A terminal's Ctrl-C goes to its whole foreground group; the workers outlast the drain.
        .process_group(0)
        .spawn()?;
    let output = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((
        process,
        pipe::Receiver::from_owned_fd(OwnedFd::from(output))?,
    ))
}

/// The address in the line that a worker starts with; `None` where there is no such line.
async fn listening_on(output: &mut (impl AsyncBufRead + Unpin)) -> Option<SocketAddr> {
    let mut line = String::new();
    output
        .take(limits::DEMO_LINE_BYTES_MAX)
        .read_line(&mut line)
        .await
        .ok()?;
    line.trim_end().strip_prefix("listening on ")?.parse().ok()
}

/// Waits until nobody holds the other end of the pipe.
async fn end_of(output: &mut (impl AsyncRead + Unpin)) {
    let mut unasked = [0; 64];
    while output
        .read(&mut unasked)
        .await
        .is_ok_and(|length| length > 0)
    {}
}

/// Sees a process to its end. One that is on its way out keeps its own exit status.
fn reap(process: &mut process::Child) {
    // Neither fails for a child of one's own that nobody else reaps.
    let _ = process.kill();
    let _ = process.wait();
}

#[cfg(test)]
mod tests {
    use super::listening_on;

    #[tokio::test]
    async fn the_first_line_of_a_worker_gives_its_address() {
        let mut good: &[u8] = b"listening on 127.0.0.1:4711\nmore";
        let address = listening_on(&mut good).await;
        assert_eq!(address, "127.0.0.1:4711".parse().ok());
    }

    #[tokio::test]
    async fn anything_else_gives_none() {
        let long = [b'x'; 4096];
        for mut bad in [
            &b""[..],
            b"listening on",
            b"listening on nothing\n",
            b"hello\n",
            &long,
        ] {
            assert_eq!(listening_on(&mut bad).await, None);
        }
    }
}
