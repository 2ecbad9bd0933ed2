//! The flags of the balancer, and the [`Config`] that they mean.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use clap::ArgAction;
use ipnet::IpNet;
use tracing::warn;

use super::clients::ClientFlags;
use super::health::HealthFlags;
use super::values::{self, OrOff, TimeLimit};
use super::{Error, NO_BACKENDS, later, usage};
use crate::balance::Algorithm;
use crate::config::{
    BackendList, Config, Cores, Listen, ListenAt, ListenList, Timeouts, parse_duration,
};
use crate::http1::request_id::RequestIds;
use crate::http1::rewrite::{Pseudonym, Underscores};
use crate::io::{BufferOptions, EngineChoice};
use crate::limits;
use crate::proxy_protocol::Version;
use crate::upstream::RetryOn;
use crate::worker::Mode;

/// Why there is no default: whoever may send the header says who he is.
const NOBODY_TRUSTED: &str = "demands a PROXY header and would take it from nobody; name the \
    proxies before fastlb, as in --proxy-trusted 10.0.0.0/8";

/// What the user typed after `fastlb`, each value understood on its own.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// HOST[:PORT], [V6]:PORT, http://HOST:PORT or unix:/PATH, with commas; @N behind is a weight.
    #[arg(short, long, value_name = "LIST", env = "FASTLB_BACKENDS")]
    backends: Vec<String>,
    /// Port to listen on, on all IPv4 addresses; 0 takes a free one [default: 3030].
    #[arg(short, long, value_name = "PORT", env = "FASTLB_PORT")]
    port: Option<u16>,
    /// IP:PORT[,proxy] or unix:/PATH[,mode=660][,proxy] to listen on, instead of --port; may be
    /// repeated. proxy is as --accept-proxy, for that one.
    #[arg(short, long, value_name = "ADDR", env = "FASTLB_LISTEN")]
    pub(super) listen: Vec<ListenList>,
    /// What is balanced: http (requests) or tcp (connections).
    #[arg(long, value_name = "NAME", env = "FASTLB_MODE", default_value = "http")]
    #[arg(value_parser = Mode::from_str)]
    mode: Mode,
    /// Worker threads [default: one per core that the process may use].
    #[arg(long, value_name = "N", env = "FASTLB_CORES")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=limits::WORKERS_MAX as i64))]
    cores: Option<u16>,
    /// How a backend is picked.
    #[arg(
        long,
        value_name = "NAME",
        env = "FASTLB_BALANCE",
        default_value = "round-robin"
    )]
    #[arg(value_parser = values::algorithm)]
    balance: Algorithm,
    /// What moves the bytes: auto, io-uring or epoll.
    #[arg(long, value_name = "ENGINE", env = "FASTLB_IO", default_value = "auto")]
    #[arg(value_parser = EngineChoice::from_str)]
    io: EngineChoice,
    /// To connect to a backend.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_CONNECT_TIMEOUT",
        default_value = "3s"
    )]
    connect_timeout: TimeLimit,
    /// For a whole request head.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_HEADER_TIMEOUT",
        default_value = "10s"
    )]
    header_timeout: TimeLimit,
    /// Between two requests of a client.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_IDLE_TIMEOUT",
        default_value = "60s"
    )]
    idle_timeout: TimeLimit,
    /// To a whole response head, from the end of the request.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_RESPONSE_TIMEOUT",
        default_value = "30s"
    )]
    response_timeout: TimeLimit,
    /// Inside a body, while nothing moves in either direction.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_BODY_IDLE_TIMEOUT",
        default_value = "30s"
    )]
    body_idle_timeout: TimeLimit,
    /// In a TCP session or a tunnel, without a byte in either direction.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_TCP_IDLE_TIMEOUT",
        default_value = "10m"
    )]
    tcp_idle_timeout: TimeLimit,
    /// For what still runs when the program is told to end.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_DRAIN_TIMEOUT",
        default_value = "30s"
    )]
    #[arg(value_parser = parse_duration)]
    drain_timeout: Duration,
    /// Other backends that a request may go to after one failed.
    #[arg(long, value_name = "N", env = "FASTLB_RETRIES", default_value_t = limits::RETRIES)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(limits::RETRIES_MAX)))]
    retries: u32,
    /// What makes it go there: connect, reset, 5xx; the last two for harmless methods only.
    #[arg(
        long,
        value_name = "LIST",
        env = "FASTLB_RETRY_ON",
        default_value = "connect,reset"
    )]
    #[arg(value_parser = values::retry_on)]
    retry_on: RetryOn,
    #[command(flatten)]
    health: HealthFlags,
    #[command(flatten)]
    clients: ClientFlags,
    /// Peers whose Forwarded and X-Forwarded-* fields are believed; may be repeated.
    #[arg(
        long,
        value_name = "CIDR",
        env = "FASTLB_TRUSTED",
        value_delimiter = ','
    )]
    #[arg(value_parser = values::network)]
    trusted: Vec<IpNet>,
    /// Backends are sent Forwarded (RFC 7239) beside X-Forwarded-*: on or off.
    #[arg(
        long,
        value_name = "WHAT",
        env = "FASTLB_FORWARDED",
        default_value = "off"
    )]
    #[arg(action = ArgAction::Set, value_parser = values::on_or_off)]
    forwarded: bool,
    /// The name under which fastlb stands in Via of every request and response, or off.
    #[arg(long, value_name = "NAME", env = "FASTLB_VIA", default_value = "off")]
    via: OrOff<Pseudonym>,
    /// X-Request-Id, to the backend and back to the client: off, keep (that of the client, where
    /// it is good) or make (for all but --trusted).
    #[arg(
        long,
        value_name = "WHAT",
        env = "FASTLB_REQUEST_ID",
        default_value = "off"
    )]
    #[arg(value_parser = RequestIds::from_str)]
    request_id: RequestIds,
    /// Every connection has to begin with a header of the PROXY protocol, version 1 or 2, which
    /// says who the client is.
    #[arg(long, env = "FASTLB_ACCEPT_PROXY")]
    accept_proxy: bool,
    /// Peers from which that header is taken; may be repeated. Who comes over a Unix socket always
    /// is.
    #[arg(
        long,
        value_name = "CIDR",
        env = "FASTLB_PROXY_TRUSTED",
        value_delimiter = ','
    )]
    #[arg(value_parser = values::network)]
    proxy_trusted: Vec<IpNet>,
    /// Every connection to a backend begins with a header of the PROXY protocol: v1 or v2.
    #[arg(long, value_name = "VERSION", env = "FASTLB_SEND_PROXY")]
    #[arg(value_parser = Version::from_str)]
    send_proxy: Option<Version>,
    /// Fields of requests whose names have an underscore: drop or keep.
    #[arg(
        long,
        value_name = "WHAT",
        env = "FASTLB_UNDERSCORE_HEADERS",
        default_value = "drop"
    )]
    #[arg(value_parser = values::underscores)]
    underscore_headers: Underscores,
    #[command(flatten)]
    _later: later::Flags,
}

impl Flags {
    /// What the flags mean together, on this machine.
    pub(super) fn into_config(self) -> Result<Config, Error> {
        if self.backends.is_empty() {
            return Err(usage(NO_BACKENDS));
        }
        let listen = self.listen_addresses();
        if let Some(twice) = repeated(&listen) {
            return Err(usage(format!("--listen {twice} is named twice")));
        }
        let demands =
            |listen: &&Listen| listen.proxied && matches!(listen.at, ListenAt::Internet(_));
        if let Some(listen) = listen.iter().find(demands)
            && self.proxy_trusted.is_empty()
        {
            return Err(usage(format!("{listen} {NOBODY_TRUSTED}")));
        }
        let backends: BackendList = self.backends.join(",").parse().map_err(usage)?;
        if self.mode == Mode::Tcp {
            backends.check_ports_named().map_err(usage)?;
        }
        Ok(Config {
            mode: self.mode,
            backends: backends.resolve()?,
            cores: cores(self.cores)?,
            listen,
            balance: self.balance,
            io: self.io,
            timeouts: self.timeouts(),
            retries: self.retries,
            retry_on: self.retry_on,
            health: self.health.into(),
            clients: self.clients.into(),
            trusted: self.trusted,
            proxy_trusted: self.proxy_trusted,
            send_proxy: self.send_proxy,
            underscores: self.underscore_headers,
            via: self.via.0,
            forwarded: self.forwarded,
            request_ids: self.request_id,
            buffers: BufferOptions::default(),
        })
    }

    fn listen_addresses(&self) -> Vec<Listen> {
        let mut listen: Vec<Listen> = if self.listen.is_empty() {
            let port = self.port.unwrap_or(limits::PORT);
            vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()]
        } else {
            let all = self.listen.iter().flat_map(|ListenList(list)| list);
            all.cloned().collect()
        };
        for listen in &mut listen {
            listen.proxied |= self.accept_proxy;
        }
        listen
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout.into(),
            header: self.header_timeout.into(),
            idle: self.idle_timeout.into(),
            response: self.response_timeout.into(),
            body_idle: self.body_idle_timeout.into(),
            tcp_idle: self.tcp_idle_timeout.into(),
            drain: self.drain_timeout,
        }
    }
}

fn repeated(all: &[Listen]) -> Option<&Listen> {
    let earlier = |&(place, listen): &(usize, &Listen)| {
        let before = &all[..place];
        before.iter().any(|earlier| listen.excludes(earlier))
    };
    let repeated = all.iter().enumerate().find(earlier);
    repeated.map(|(_, listen)| listen)
}

fn cores(workers: Option<u16>) -> Result<Cores, Error> {
    let cores = Cores::of_this_process(workers.map(usize::from))?;
    if cores.are_shared() {
        warn!(
            "{} workers share {} cores; --cores {} would give each its own",
            cores.workers,
            cores.processors.len(),
            cores.processors.len(),
        );
    }
    Ok(cores)
}
