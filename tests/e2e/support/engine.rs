//! The two engines, and whether this machine lets the ring run at all.

use std::env;
use std::sync::OnceLock;

use super::{PATIENCE, Process, wait_for};

/// What moves the bytes of the proxy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    IoUring,
    Epoll,
}

impl Engine {
    /// The value of `--io` that asks for it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
        }
    }

    /// What the log calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Runs `test` on `engine`. Where the machine forbids the ring its tests say so and pass, unless
/// `FASTLB_REQUIRE_URING=1` makes that a failure.
pub(crate) fn run_on(engine: Engine, test: fn(Engine)) {
    if engine == Engine::IoUring
        && let Some(reason) = why_no_uring()
    {
        let required = env::var("FASTLB_REQUIRE_URING").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "io_uring is required and forbidden here: {reason}"
        );
        eprintln!("SKIPPED: io_uring is forbidden here: {reason}");
        return;
    }
    test(engine);
}

/// The last words of a proxy that asked for the ring and did not get it; asked once a run.
///
/// Only exit code 1 with a message that names the ring counts as forbidden: a crash at start is a
/// failure of the tests, not a reason to skip them.
fn why_no_uring() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(ask_for_uring).as_deref()
}

fn ask_for_uring() -> Option<String> {
    let ring = [
        "--listen",
        "127.0.0.1:0",
        "--backends",
        "127.0.0.1:9",
        "--io",
        "io-uring",
    ];
    let mut process = Process::fastlb(&[&ring[..], &["--admin", "off", "--cores", "1"]].concat());
    let code = wait_for(PATIENCE, "fastlb to start or to leave", || {
        if process.has_said("listening on ") {
            return Some(None);
        }
        process.exit_code().map(Some)
    })?;
    let words = process.wait_exit().log.join("\n");
    (code == 1 && words.contains("io_uring")).then_some(words)
}
