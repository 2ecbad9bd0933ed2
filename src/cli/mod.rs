//! The command line: from what the user typed to what the program is to do.
//!
//! [`Cli`] holds the words; [`Cli::into_order`] gives them their meaning. Nothing runs here.

mod clients;
mod effect;
mod flags;
mod health;
mod later;
mod values;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{Config, ProcessorsError, ResolveError};
use crate::demo;
use flags::Flags;
use values::LogLevel;

/// Wrong usage or configuration; the same as clap's own.
const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  fastlb -b 10.0.0.1:8080,10.0.0.2:8080    balance two backends on port 3030
  fastlb -b web-1@3,web-2 -p 80 --cores 4  the first gets three of four requests
  fastlb demo                              see it work, without any backend

Each flag may come from the environment too: --idle-timeout from FASTLB_IDLE_TIMEOUT.
Times are written as 500ms, 3s, 10m or 1h; `off` is no limit.";

const NO_BACKENDS: &str = "\
no backends are named

  fastlb --backends 10.0.0.1:8080,10.0.0.2:8080    balances these two
  fastlb demo                                      starts some to look at";

/// A load balancer for TCP and HTTP/1.x: io_uring, one thread per core.
#[derive(Debug, Parser)]
#[command(name = "fastlb", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    flags: Flags,
    /// What is worth a line on standard error [default: info, for the demo error].
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        value_enum,
        env = "FASTLB_LOG_LEVEL"
    )]
    #[arg(hide_possible_values = true, display_order = 100)]
    log_level: Option<LogLevel>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Embedded workers behind the balancer, and a live table: the first thing to run.
    Demo(demo::Options),
    /// One demo backend, slow and unreliable to order.
    Worker(demo::worker::Options),
    #[command(hide = true, disable_help_flag = true)]
    Check(later::Anything),
}

/// What the program is to do.
#[derive(Debug)]
pub enum Order {
    /// Run the balancer.
    Balance(Box<Config>),
    /// Run the demo.
    Demo(demo::Options),
    /// Run a demo backend.
    Worker(demo::worker::Options),
}

/// The words cannot be turned into an order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They are wrong, or ask for the help or the version, which ends the program too.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// They are right, but name backends that cannot be used.
    #[error(transparent)]
    Backends(#[from] ResolveError),
    /// The machine does not say which processors may be used.
    #[error(transparent)]
    Processors(#[from] ProcessorsError),
}

impl Error {
    /// Tells the user, and returns the exit code of the program.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // Where standard error is closed there is nobody to tell.
                let _ = error.print();
                if error.use_stderr() {
                    ExitCode::from(EXIT_USAGE)
                } else {
                    ExitCode::SUCCESS
                }
            }
            Self::Backends(ResolveError::Duplicate { .. } | ResolveError::TooMany(_)) => {
                complain(self);
                ExitCode::from(EXIT_USAGE)
            }
            // A resolver may answer the next time: not the fault of the configuration.
            Self::Backends(ResolveError::Name { .. }) | Self::Processors(_) => {
                complain(self);
                ExitCode::FAILURE
            }
        }
    }
}

/// Writes an error for the user, for as long as there is somebody to read it.
pub fn complain(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "fastlb: error: {error}");
}

impl Cli {
    /// Reads the words of the command line, the program's name first, and the environment.
    ///
    /// # Errors
    ///
    /// Where they are wrong, or ask for the help or the version.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let mut command = Self::command().mut_args(|arg| arg.hide_env(true));
        let matches = command.try_get_matches_from_mut(words)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let Some(lacking) = effect::lacking(&matches) {
            return Err(usage(lacking));
        }
        if port_wins(&matches)? {
            cli.flags.listen.clear();
        }
        Ok(cli)
    }

    /// What the log should hold.
    pub fn log_level(&self) -> LevelFilter {
        let quiet = matches!(self.command, Some(Command::Demo(_)));
        let default = if quiet {
            // What happens to its workers is in its table, which the log would tear.
            LogLevel::Error
        } else {
            LogLevel::Info
        };
        self.log_level.unwrap_or(default).into()
    }

    /// What the words mean on this machine. Resolves the names of backends and waits for that.
    ///
    /// # Errors
    ///
    /// Where the backends are missing, wrong or unknown to the resolver.
    pub fn into_order(self) -> Result<Order, Error> {
        match self.command {
            None => Ok(Order::Balance(Box::new(self.flags.into_config()?))),
            Some(Command::Demo(options)) => Ok(Order::Demo(options)),
            Some(Command::Worker(options)) => Ok(Order::Worker(options)),
            Some(Command::Check(_)) => {
                Err(usage(format!("`fastlb check` {}", later::DOES_NOT_EXIST)))
            }
        }
    }
}

/// Whether `--port` counts although there is a `--listen`: the one of the command line wins over
/// the one of the environment, and both at once on the command line contradict each other.
fn port_wins(matches: &ArgMatches) -> Result<bool, Error> {
    let typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    match (typed("port"), typed("listen")) {
        (true, true) => Err(usage(
            "--port and --listen exclude each other; --listen names both",
        )),
        (port, _) => Ok(port),
    }
}

fn usage(message: impl Display) -> Error {
    Cli::command()
        .error(ErrorKind::ValueValidation, message)
        .into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::ClientLimits;
    use crate::config::{BackendConfig, Timeouts};
    use crate::fleet::Checks;
    use crate::health::{CheckRules, EjectRules};
    use crate::http1::request_id::RequestIds;
    use crate::http1::rewrite::Underscores;
    use crate::limits;
    use crate::proxy_protocol::Version;
    use crate::worker::Mode;

    fn order(line: &str) -> Result<Order, Error> {
        let words = std::iter::once("fastlb")
            .chain(line.split_whitespace())
            .map(OsString::from);
        Cli::read(words)?.into_order()
    }

    fn config(line: &str) -> Config {
        match order(line) {
            Ok(Order::Balance(config)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn named(config: &Config) -> Vec<String> {
        config.listen.iter().map(ToString::to_string).collect()
    }

    fn error(line: &str) -> String {
        order(line).unwrap_err().to_string()
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_limits() {
        let config = config("-b 127.0.0.1");
        assert_eq!(config.timeouts, Timeouts::default());
        assert_eq!(config.retries, limits::RETRIES);
        assert_eq!(config.health.checks, Some(Checks::default()));
        assert_eq!(config.health.rules, CheckRules::default());
        assert_eq!(config.health.eject, EjectRules::default());
        assert_eq!(limits::EJECT_TIMES_MAX, 10, "as the help of --eject-time");
        assert_eq!(named(&config), [format!("0.0.0.0:{}", limits::PORT)]);
        assert_eq!(config.cores.workers, config.cores.processors.len());
    }

    #[test]
    fn backends_add_up_over_flags() {
        let backends = config("-b 127.0.0.1:1,127.0.0.1:2 --backends 127.0.0.1:3@4").backends;
        let ports: Vec<u16> = backends
            .iter()
            .filter_map(|b: &BackendConfig| b.address.internet())
            .map(|address| address.port())
            .collect();
        assert_eq!(ports, [1, 2, 3]);
        assert_eq!(backends[2].weight.share(), 4);
        assert!(error("-b 127.0.0.1:1 -b 127.0.0.1:x").contains("backend 2 (`127.0.0.1:x`)"));
    }

    #[test]
    fn listening_is_by_port_or_by_address() {
        let table: [(&str, &[&str]); 4] = [
            ("-p 80", &["0.0.0.0:80"]),
            ("-l 127.0.0.1:0 -l [::1]:81", &["127.0.0.1:0", "[::1]:81"]),
            (
                "-l 127.0.0.1:0,127.0.0.1:0",
                &["127.0.0.1:0", "127.0.0.1:0"],
            ),
            ("-l unix:/a,mode=660,[::1]:1", &["unix:/a", "[::1]:1"]),
        ];
        for (line, expected) in table {
            assert_eq!(named(&config(&format!("-b 127.0.0.1 {line}"))), expected);
        }
        assert!(error("-b 127.0.0.1 -l unix:/a -l unix:/a,mode=600").contains("named twice"));
        assert!(error("-b 127.0.0.1 -l 127.0.0.1:0 -p 80").contains("exclude each other"));
        assert!(error("-b 127.0.0.1 -l localhost").contains("IP:PORT"));
    }

    #[test]
    fn times_may_be_off_except_the_drain() {
        assert_eq!(
            config("-b 127.0.0.1 --idle-timeout off").timeouts.idle,
            None
        );
        assert!(error("-b 127.0.0.1 --drain-timeout off").contains("cannot be off"));
        assert!(error("-b 127.0.0.1 --connect-timeout 3").contains("a whole number and a unit"));
    }

    #[test]
    fn trusted_peers_are_networks_or_addresses() {
        let trusted = config("-b 127.0.0.1 --trusted 10.0.0.0/8,::1 --trusted 192.0.2.7").trusted;
        let written: Vec<String> = trusted.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]);
        assert!(error("-b 127.0.0.1 --trusted all").contains("CIDR"));
    }

    #[test]
    fn who_demands_a_header_says_from_whom() {
        let demanding = |line: &str| {
            let config = config(&format!("-b 127.0.0.1 {line}"));
            let proxied = config.listen.iter().map(|listen| listen.proxied);
            (proxied.collect::<Vec<_>>(), config.proxy_trusted.len())
        };
        let table: [(&str, (&[bool], usize)); 6] = [
            ("", (&[false], 0)),
            ("--accept-proxy --proxy-trusted 10.0.0.0/8", (&[true], 1)),
            (
                "--accept-proxy -l [::1]:1,unix:/a --proxy-trusted ::1,10.0.0.1",
                (&[true, true], 2),
            ),
            (
                "-l [::1]:1,[::1]:2,proxy --proxy-trusted 0.0.0.0/0,::/0",
                (&[false, true], 2),
            ),
            ("--accept-proxy -l unix:/a", (&[true], 0)),
            ("-l unix:/a,proxy,mode=600 -l [::1]:1", (&[true, false], 0)),
        ];
        for (line, (proxied, trusted)) in table {
            assert_eq!(demanding(line), (proxied.to_vec(), trusted), "{line}");
        }
        let table = [
            ("--accept-proxy", "0.0.0.0:3030 demands a PROXY header"),
            ("-l [::1]:1,proxy", "[::1]:1 demands a PROXY header"),
            ("--accept-proxy --proxy-trusted all", "CIDR"),
            ("--proxy-trusted ::1", "--proxy-trusted has no effect"),
            (
                "-l [::1]:1 --proxy-trusted ::1",
                "it needs --accept-proxy, or --listen ADDR,proxy",
            ),
            ("--send-proxy v3", "there are v1 and v2"),
        ];
        for (line, part) in table {
            let error = error(&format!("-b 127.0.0.1 {line}"));
            assert!(error.contains(part), "{line}: {error}");
        }
        let sends = |line: &str| config(&format!("-b 127.0.0.1:1 {line}")).send_proxy;
        assert_eq!(sends(""), None);
        assert_eq!(sends("--send-proxy v1"), Some(Version::V1));
        assert_eq!(sends("--send-proxy v2 --mode tcp"), Some(Version::V2));
    }

    #[test]
    fn names_with_underscores_are_dropped_unless_they_are_to_be_kept() {
        let of = |flags: &str| config(&format!("-b 127.0.0.1 {flags}")).underscores;
        assert_eq!(of(""), Underscores::Drop);
        assert_eq!(of("--underscore-headers keep"), Underscores::Keep);
        assert!(error("-b 127.0.0.1 --underscore-headers off").contains("drop and keep"));
    }

    #[test]
    fn what_is_added_to_messages_is_off_unless_asked_for() {
        let of = |flags: &str| {
            let config = config(&format!("-b 127.0.0.1 {flags}"));
            (config.via, config.forwarded, config.request_ids)
        };
        let edge = "edge".parse().ok();
        assert_eq!(of(""), (None, false, RequestIds::Off));
        let off = "--via off --forwarded off --request-id off";
        assert_eq!(of(off), (None, false, RequestIds::Off));
        let on = "--via edge --forwarded on --request-id keep";
        assert_eq!(of(on), (edge, true, RequestIds::Keep));
        assert_eq!(of("--request-id make").2, RequestIds::Make);
        let table = [
            ("--via a/b", "a token of at most 64 characters"),
            ("--forwarded yes", "there are on and off"),
            ("--request-id on", "there are off, keep and make"),
            ("--mode tcp --via a", "--via has no effect"),
            ("--mode tcp --forwarded on", "--forwarded has no effect"),
            ("--mode tcp --request-id make", "--request-id has no effect"),
        ];
        for (flags, part) in table {
            let error = error(&format!("-b 127.0.0.1:1 {flags}"));
            assert!(error.contains(part), "{flags}: {error}");
        }
    }

    #[test]
    fn a_flag_without_effect_says_what_it_needs() {
        let table = [
            (
                "--health-path /x",
                "--health-path has no effect with --health tcp; it needs --health http",
            ),
            (
                "--health off --rise 3",
                "--rise has no effect with --health off",
            ),
            (
                "--eject-after 0 --eject-time 3s",
                "it needs --eject-after above 0",
            ),
            (
                "--retries 0 --retry-on 5xx",
                "--retry-on has no effect with --retries 0",
            ),
            (
                "--mode tcp --trusted ::1",
                "--trusted has no effect with --mode tcp",
            ),
        ];
        for (flags, part) in table {
            let error = error(&format!("-b 127.0.0.1:1 {flags}"));
            assert!(error.contains(part), "{flags}: {error}");
        }
        config("-b 127.0.0.1:1 --health http --health-path /x --rise 3 --eject-time 3s");
        config("-b 127.0.0.1:1 --mode tcp --retry-on connect --tcp-idle-timeout 1s");
    }

    #[test]
    fn what_clients_may_do_is_mostly_off_unless_asked_for() {
        let clients = |line: &str| config(&format!("-b 127.0.0.1:1 {line}")).clients;
        assert_eq!(clients(""), ClientLimits::default());
        assert_eq!(clients("--max-body 1KiB").body_bytes_max, Some(1024));
        let connections = clients("--mode tcp --max-connections-per-client 7").connections_max;
        assert_eq!(connections, Some(7));
        let kept = clients("--keep-alive-requests 9 --keep-alive-age 1h");
        assert_eq!(kept.keep_alive_requests, Some(9));
        assert_eq!(kept.keep_alive_age, Some(Duration::from_secs(3_600)));
        assert_eq!(clients("").body_rate_min, Some(limits::BODY_RATE_MIN));
        assert_eq!(clients("--min-body-rate off").body_rate_min, None);
        assert_eq!(clients("--min-body-rate 1KiB").body_rate_min, Some(1024));
        let rate = clients("--max-request-rate 30/m").request_rate;
        assert_eq!(rate, Some("30/m".parse().unwrap()));
        let table = [
            ("--max-body 10m", "a whole number and a unit (B, KiB"),
            (
                "--max-connections-per-client 0",
                "a whole number above 0, or `off`",
            ),
            ("--max-request-rate 5/h", "with /s or /m behind it"),
            (
                "--mode tcp --max-request-rate 5/s",
                "--max-request-rate has no effect",
            ),
            ("--max-body 0B", "write `off` where none is meant"),
            ("--mode tcp --max-body 1KiB", "--max-body has no effect"),
        ];
        for (line, part) in table {
            let error = error(&format!("-b 127.0.0.1:1 {line}"));
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn workers_may_outnumber_processors() {
        assert_eq!(config("-b 127.0.0.1 --cores 1000").cores.workers, 1000);
        assert!(error("-b 127.0.0.1 --cores 0").contains("1..=1024"));
    }

    #[test]
    fn what_does_not_exist_yet_says_so() {
        let table = [
            ("--config lb.yaml", "--config does not exist yet"),
            ("--stats-db", "--stats-db does not exist yet"),
            (
                "-b 127.0.0.1 --access-log=-",
                "--access-log does not exist yet",
            ),
            (
                "check --config lb.yaml",
                "`fastlb check` does not exist yet",
            ),
            (
                "-b 127.0.0.1 --admin 127.0.0.1:9494",
                "--admin 127.0.0.1:9494 does not exist yet",
            ),
            (
                "-b 127.0.0.1 --balance maglev",
                "--balance maglev does not exist yet",
            ),
        ];
        for (line, part) in table {
            let error = error(line);
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(error("-b 127.0.0.1 --balance best").contains("round-robin"));
        config("-b 127.0.0.1 --mode http --admin off --balance round-robin --io epoll");
    }

    #[test]
    fn tcp_wants_a_port_of_every_backend() {
        let tcp = config("-b 127.0.0.1:1 --mode tcp --tcp-idle-timeout 1s");
        assert_eq!(tcp.mode, Mode::Tcp);
        assert_eq!(tcp.timeouts.tcp_idle, Some(Duration::from_secs(1)));
        let error = error("-b 127.0.0.1:1,127.0.0.2 --mode tcp");
        assert!(error.contains("backend 2 (`127.0.0.2`)"), "{error}");
    }

    #[test]
    fn without_backends_the_demo_is_named() {
        assert!(error("").contains("fastlb demo"));
    }

    #[test]
    fn subcommands_and_their_log() {
        assert!(matches!(order("demo"), Ok(Order::Demo(_))));
        assert!(matches!(order("worker"), Ok(Order::Worker(_))));
        let level = |line: &str| {
            Cli::read(line.split(' ').map(OsString::from))
                .unwrap()
                .log_level()
        };
        assert_eq!(level("fastlb demo"), LevelFilter::ERROR);
        assert_eq!(level("fastlb demo --log-level debug"), LevelFilter::DEBUG);
        assert_eq!(level("fastlb worker"), LevelFilter::INFO);
    }
}
