//! `fastlb demo`: workers as processes of their own, the balancer before them in this one, a
//! gentle stream of requests to look at, and a live table. The first thing that a newcomer runs.
//!
//! It is the real balancer with its defaults; only its surroundings are made up.

mod arguments;
mod children;
mod meter;
mod routes;
mod screen;
mod table;
mod traffic;
pub mod worker;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr as _;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use arguments::Percent;
pub use children::ChildError;

use crate::balance::Weight;
use crate::config::{BackendConfig, Config, Cores, HealthConfig, ProcessorsError, parse_duration};
use crate::fleet::Checks;
use crate::io::EngineChoice;
use crate::limits;
use crate::server::{self, Report, Server};
use crate::signals::Signals;
use children::Children;
use meter::Meter;
use screen::Screen;
use table::{Counters, Heading};
use traffic::{Tally, Traffic};

/// The path at which a worker does its work.
const HELLO: &str = "/api/v1/hello";

/// What `fastlb demo` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Demo workers to start.
    #[arg(long, value_name = "N", default_value = "3",
        value_parser = clap::value_parser!(u16).range(1..=limits::DEMO_WORKERS_MAX))]
    pub workers: u16,
    /// Requests per second that the demo sends to itself; 0 sends none.
    #[arg(long, value_name = "N", default_value = "20",
        value_parser = clap::value_parser!(u32).range(0..=limits::DEMO_RATE_MAX))]
    pub rate: u32,
    /// Port to listen on, on 127.0.0.1; 0 takes a free one.
    #[arg(short, long, value_name = "PORT", default_value_t = limits::PORT)]
    pub port: u16,
    /// Address to listen on, instead of --port.
    #[arg(short, long, value_name = "ADDR", conflicts_with = "port")]
    pub listen: Option<SocketAddr>,
    /// Average delay of a worker's answer; each is drawn evenly between half and one and a half.
    #[arg(long, value_name = "DURATION", default_value = "20ms",
        value_parser = arguments::avg_delay)]
    pub avg_delay: Duration,
    /// Percentage of requests that a worker answers with 500.
    #[arg(long, value_name = "PERCENT", default_value = "1")]
    pub failure: Percent,
    /// Threads of the balancer [default: one per processor that the process may use].
    #[arg(long, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=limits::WORKERS_MAX as i64))]
    pub cores: Option<u16>,
    /// Engine that moves the bytes.
    #[arg(long, value_name = "ENGINE", default_value = "auto",
        value_parser = EngineChoice::from_str)]
    pub io: EngineChoice,
    /// Stops by itself after this time [default: runs until Ctrl-C].
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub lasting: Option<Duration>,
}

/// Why a demo could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A worker did not come up.
    #[error(transparent)]
    Worker(#[from] ChildError),
    /// The balancer did not come up.
    #[error(transparent)]
    Balancer(#[from] server::Error),
    /// The balancer does not know where to run.
    #[error(transparent)]
    Processors(#[from] ProcessorsError),
    /// The process lacks something that every program needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// What standard output leads to takes no more.
    #[error("cannot write the table: {0}")]
    Output(io::Error),
}

/// Runs the demo until INT, TERM, the time that was set, or the end of whoever reads its output.
/// Then the balancer is drained and the workers are ended; a second signal skips the drain.
///
/// # Errors
/// Where something does not come up, or the table cannot be written. No worker is left behind then
/// either.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let mut signals = runtime
        .block_on(async { Signals::new() })
        .map_err(Error::Start)?;
    let listen = options
        .listen
        .unwrap_or_else(|| (Ipv4Addr::LOCALHOST, options.port).into());
    // Before any worker is started: the usual mistake is a second demo on the same port.
    server::check_listen(listen)?;
    let starting = Children::start(options.workers, options.avg_delay, options.failure);
    let mut children = runtime.block_on(starting)?;
    let outcome = balance(&options, listen, &runtime, &mut signals, &mut children);
    runtime.block_on(children.stop());
    outcome
}

/// Runs the balancer before the workers, from its start to the end of its drain.
fn balance(
    options: &Options,
    listen: SocketAddr,
    runtime: &Runtime,
    signals: &mut Signals,
    children: &mut Children,
) -> Result<(), Error> {
    // Not on the runtime: the server may build runtimes of its own, and they do not nest.
    let server = Server::start(config(options, listen, children)?)?;
    let target = reachable(server.addresses()[0].internet().unwrap_or(listen));
    let heading = Heading {
        url: format!("http://{target}{HELLO}"),
        engine: server.engine(),
        rate: options.rate,
    };
    let traffic = NonZeroU32::new(options.rate)
        .map(|rate| Traffic::start(target, rate))
        .transpose()
        .map_err(Error::Start)?;
    let shown = runtime.block_on(show(options, &heading, &server, signals, children));
    let tally = traffic.map(Traffic::stop);
    tracing::info!("draining; a second signal stops at once");
    server.drain();
    let report = runtime.block_on(joined(server, signals));
    let shown = shown.and_then(|()| summarise(tally, report));
    shown.or_else(|cause| match cause.kind() {
        // `fastlb demo | head` has seen enough.
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::Output(cause)),
    })
}

/// Redraws the table until there is a reason to stop.
async fn show(
    options: &Options,
    heading: &Heading,
    server: &Server,
    signals: &mut Signals,
    children: &mut Children,
) -> io::Result<()> {
    let started = Instant::now();
    let end = options.lasting.map(|lasting| started + lasting);
    let mut meter = Meter::new(started, usize::from(options.workers));
    let mut screen = Screen::open()?;
    screen.begin(heading)?;
    let mut redraw = interval(Duration::from_millis(limits::DEMO_REDRAW_MS));
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.recv() => break,
            () = reached(end) => break,
            () = screen.resized() => {}
            now = redraw.tick() => {
                children.revive(now);
                let rows = meter.rows(now, counters(server), &server.fleet(), children);
                screen.show(heading, now - started, &rows)?;
            }
        }
    }
    let rows = meter.rows(Instant::now(), counters(server), &server.fleet(), children);
    screen.close(&rows)
}

async fn reached(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the drain; `None` where a signal came first.
async fn joined(server: Server, signals: &mut Signals) -> Option<Report> {
    let (done, report) = oneshot::channel();
    // A receiver that is gone has been told to wait no longer.
    thread::spawn(move || done.send(server.join()));
    tokio::select! {
        report = report => report.ok().and_then(Result::ok),
        () = signals.recv() => None,
    }
}

fn counters(server: &Server) -> Vec<Counters> {
    let totals = server.stats().totals();
    let counters = totals.backends.iter().map(|backend| Counters {
        requests: backend.requests,
        failures: backend.failures,
        answered: backend.answered,
        latency_us: backend.latency_us,
    });
    counters.collect()
}

fn config(
    options: &Options,
    listen: SocketAddr,
    children: &Children,
) -> Result<Config, ProcessorsError> {
    let backends = children.iter().map(|child| BackendConfig {
        address: child.address.into(),
        authority: child.address.to_string(),
        weight: Weight::default(),
    });
    let cores = Cores::of_this_process(options.cores.map(usize::from))?;
    Ok(Config {
        io: options.io,
        health: HealthConfig {
            checks: Some(Checks::default()),
            ..HealthConfig::default()
        },
        ..Config::new(vec![listen.into()], backends.collect(), cores)
    })
}

/// Where the demo itself reaches what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Says what became of the demo's own requests and of the balancer.
fn summarise(tally: Option<Tally>, report: Option<Report>) -> io::Result<()> {
    let mut output = io::stdout();
    if let Some(tally) = tally {
        writeln!(output, "requests sent to itself: {tally}")?;
    }
    match report {
        Some(report) => writeln!(output, "{report}"),
        None => writeln!(output, "stopped at once, without the drain"),
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn an_address_for_all_interfaces_is_reached_on_the_loopback() {
        let table = [
            ("0.0.0.0:3030", "127.0.0.1:3030"),
            ("[::]:3030", "[::1]:3030"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ];
        for (listens, reached) in table {
            assert_eq!(
                reachable(listens.parse().unwrap()),
                reached.parse().unwrap()
            );
        }
    }
}
