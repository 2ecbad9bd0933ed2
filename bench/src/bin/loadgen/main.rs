//! `loadgen`: drives HTTP/1.1 targets and measures them. See [`fastlb_bench::loadgen`].

mod values;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use fastlb_bench::loadgen::{
    self, Checksum, Expect, Pace, Plan, Progress, Request, Reuse, Tally, Target,
};
use indicatif::{ProgressBar, ProgressStyle};

use values::{checksum, field, method, target, time};

/// Most connections; each needs a descriptor and some memory.
const CONNECTIONS_MAX: u64 = 1_000_000;
/// Most threads; each has source addresses of its own up to here.
const THREADS_MAX: u64 = 126;
/// Most requests under way on a connection.
const PIPELINE_MAX: u64 = 1024;
/// Longest request body: each target has its requests in memory.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most requests a second.
const RATE_MAX: u64 = 100_000_000;
/// The kernel gives lower numbers to processes (proc(5), `pid_max`); a clock of one beyond its bits
/// would be that of another.
const PID_LIMIT: i64 = 1 << 22;
/// Descriptors that are no connections.
const DESCRIPTORS_BESIDE: u64 = 64;

/// Drives HTTP/1.1 targets and measures what they do with it.
///
/// Without --rate each connection sends as soon as it is answered (closed loop). With --rate so
/// many requests are sent a second whatever the targets do (open loop), and latency counts from
/// the moment at which a request was meant to be sent, so that a stall shows in full.
///
/// Every response is checked; failures are counted by kind and never enter the latencies, but for
/// requests that were given up, which enter with the time they had waited. On the loopback of
/// IPv4 connections come from source addresses in turn, so that ports never run out.
#[derive(Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES)]
struct Flags {
    /// Where to, such as http://127.0.0.1:3030/path. Connections are dealt to several in turn.
    #[arg(required = true, value_name = "URL", value_parser = target)]
    targets: Vec<Target>,
    /// Connections that are open at once.
    #[arg(short, long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    connections: u64,
    /// Threads, each with its share of the connections and of the rate.
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX))]
    threads: u64,
    /// Time of the measurement, such as 10s, 500ms or 2m.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = time)]
    duration: Duration,
    /// Time before it, under the same load, that is not measured; 0s for none.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = time)]
    warm_up: Duration,
    /// Requests a second of all connections (open loop).
    #[arg(short, long, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=RATE_MAX))]
    rate: Option<u64>,
    /// A new connection for every request, which says `Connection: close`.
    #[arg(long)]
    no_keep_alive: bool,
    /// Requests that may be under way on each connection.
    #[arg(short, long, value_name = "N", default_value_t = 1, conflicts_with = "no_keep_alive",
          value_parser = clap::value_parser!(u64).range(1..=PIPELINE_MAX))]
    pipeline: u64,
    /// The method [default: GET, or POST with --body-bytes].
    #[arg(short, long, value_name = "NAME", value_parser = method)]
    method: Option<String>,
    /// A further field of every request, such as 'X-Demand: 3'; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = field)]
    fields: Vec<String>,
    /// Bytes of body that every request carries.
    #[arg(short, long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=BODY_BYTES_MAX))]
    body_bytes: u64,
    /// The status that every response must have [default: any of 200 to 299].
    #[arg(long, value_name = "STATUS",
          value_parser = clap::value_parser!(u16).range(200..=599))]
    expect_status: Option<u16>,
    /// The length that every body must have; without it that which the response announces.
    #[arg(long, value_name = "BYTES")]
    expect_length: Option<u64>,
    /// Checks the content: `first` (as that of the target's first good response), `sent` (as the
    /// body of the request) or a CRC-32 in hexadecimal digits.
    #[arg(long, value_name = "WHAT", value_parser = checksum)]
    checksum: Option<Checksum>,
    /// Longest time without a byte on a connection that owes one, and longest wait at the end for
    /// what is still under way.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    timeout: Duration,
    /// Most failures with which the exit code is 0; without it any number of them.
    #[arg(long, value_name = "N")]
    max_failures: Option<u64>,
    /// The number of a process on this machine. The JSON tells its CPU time during the
    /// measurement, and what the cores were idle.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..PID_LIMIT))]
    watch: Option<i32>,
    /// Where to write latency.hgrm, result.json and server_stats.csv.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON instead of the summary.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  loadgen http://127.0.0.1:3030/                           64 connections, as fast as it goes
  loadgen -c 256 -r 20000 -d 30s -o out http://lb:3030/    20 000 a second, files into out
  loadgen --no-keep-alive http://127.0.0.1:3030/           a connection for each request
  loadgen -b 1048576 --checksum sent http://origin/echo    uploads, the echo compared

Exit codes: 0 something was answered as expected, 1 nothing was, more failed than --max-failures, or
the run was not possible, 2 wrong usage.";

fn main() -> ExitCode {
    let flags = Flags::parse();
    let (out, as_json, max_failures) = (flags.out.clone(), flags.json, flags.max_failures);
    let plan = plan(flags).unwrap_or_else(|problem| {
        Flags::command()
            .error(ErrorKind::ValueValidation, problem)
            .exit()
    });
    match drive(&plan, out, as_json) {
        Ok(tally) if tally.good() == 0 => ExitCode::FAILURE,
        Ok(tally) if max_failures.is_some_and(|most| tally.failed() > most) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("loadgen: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs and prints; what was counted.
fn drive(plan: &Plan, out: Option<PathBuf>, as_json: bool) -> Result<Tally, String> {
    raise_descriptors(plan)?;
    let unwritable = |directory: &Path, error: io::Error| {
        let directory = directory.display();
        format!("cannot write into {directory}: {error}; name another with --out")
    };
    // Before the run: whoever has waited for minutes shall not learn it then.
    if let Some(directory) = &out {
        loadgen::prepare(directory).map_err(|error| unwritable(directory, error))?;
    }
    let bar = progress_bar(plan);
    let tally = loadgen::run(plan, |progress| show(&bar, progress))
        .map_err(|error| format!("the run broke off: {error}"))?;
    bar.finish_and_clear();
    if let Some(directory) = &out {
        loadgen::write_files(directory, plan, &tally)
            .map_err(|error| unwritable(directory, error))?;
    }
    print(&if as_json {
        format!("{:#}", loadgen::json(plan, &tally))
    } else {
        loadgen::summary(plan, &tally)
    })?;
    Ok(tally)
}

/// Prints a text. A reader that has gone has read what it wanted.
fn print(text: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot print the result: {error}"))
        }
        _ => Ok(()),
    }
}

/// Every connection needs a descriptor.
fn raise_descriptors(plan: &Plan) -> Result<(), String> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)
        .map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    let needed = plan.connections as u64 + DESCRIPTORS_BESIDE;
    if limit < needed {
        return Err(format!(
            "{} connections need {needed} descriptors and the hard limit is {limit}; \
             raise it (ulimit -Hn) or take fewer --connections",
            plan.connections
        ));
    }
    Ok(())
}

/// A bar on standard error if that is a terminal, and nothing otherwise.
fn progress_bar(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new((plan.warm_up + plan.duration).as_millis() as u64);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}");
    bar.set_style(style.expect("the template is a constant that was tried"));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    let Progress {
        elapsed,
        good,
        failed,
    } = progress;
    bar.set_position(elapsed.as_millis() as u64);
    bar.set_message(format!("{good} good, {failed} failed"));
}

/// What the flags mean together.
fn plan(flags: Flags) -> Result<Plan, String> {
    let Flags {
        connections,
        threads,
        duration,
        body_bytes,
        ..
    } = flags;
    if threads > connections {
        return Err(format!(
            "--threads {threads} needs at least as many --connections, not {connections}"
        ));
    }
    if flags.targets.len() as u64 > connections {
        return Err(format!(
            "{} targets need at least as many --connections, not {connections}",
            flags.targets.len()
        ));
    }
    if duration.is_zero() {
        return Err("--duration 0s measures nothing; a second or more is sensible".to_owned());
    }
    if flags.timeout.is_zero() {
        return Err(
            "--timeout 0s leaves no time to answer; a second or more is sensible".to_owned(),
        );
    }
    let is_head = flags.method.as_deref() == Some("HEAD");
    if is_head && (flags.expect_length.is_some() || flags.checksum.is_some()) {
        return Err("--expect-length and --checksum are about bodies; HEAD has none".to_owned());
    }
    let default_method = if body_bytes > 0 { "POST" } else { "GET" };
    let checksum = flags.checksum.unwrap_or(Checksum::Any);
    Ok(Plan {
        targets: flags.targets,
        connections: connections as usize,
        threads: threads as usize,
        pace: flags.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
        reuse: if flags.no_keep_alive {
            Reuse::PerRequest
        } else {
            Reuse::Kept {
                depth: flags.pipeline as usize,
            }
        },
        request: Request {
            method: flags.method.unwrap_or_else(|| default_method.to_owned()),
            fields: flags.fields,
            body_bytes: body_bytes as usize,
        },
        expect: Expect {
            status: flags.expect_status,
            length: flags.expect_length,
            checksum,
        },
        warm_up: flags.warm_up,
        duration,
        timeout: flags.timeout,
        watch: flags.watch,
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Flags, plan};

    #[test]
    fn the_flags_are_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_cure() {
        let refused = |flags: &[&str]| {
            let flags = [&["loadgen", "http://127.0.0.1:1/"], flags].concat();
            match Flags::try_parse_from(flags) {
                Ok(flags) => plan(flags).map(|_| ()).unwrap_err(),
                Err(error) => error.to_string(),
            }
        };
        assert!(refused(&["-t", "4", "-c", "3"]).contains("at least as many --connections"));
        assert!(refused(&["-c", "1", "http://127.0.0.1:2/"]).contains("2 targets need"));
        assert!(refused(&["-d", "0s"]).contains("measures nothing"));
        assert!(refused(&["--timeout", "0s"]).contains("no time"));
        assert!(refused(&["-m", "HEAD", "--expect-length", "1"]).contains("HEAD has none"));
        assert!(refused(&["--checksum", "+ff"]).contains("hexadecimal"));
        assert!(refused(&["-p", "2", "--no-keep-alive"]).contains("cannot be used with"));
        assert!(refused(&["-c", "0"]).contains("1..=1000000"));
        assert!(refused(&["--checksum", "xyz"]).contains("hexadecimal"));
        assert!(refused(&["-H", "Host: a"]).contains("the URL"));
    }
}
