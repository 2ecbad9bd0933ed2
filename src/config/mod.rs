//! What a run of the balancer is told, valid by construction.
//!
//! `cli` turns what the user typed into a [`Config`]; `server` builds every module's small options
//! from it. Nothing below the server sees this type.

mod backends;
mod duration;
mod listen;
mod processors;
mod resolve;
mod size;

use std::time::Duration;

use ipnet::IpNet;

pub use backends::{BackendFault, BackendList, BackendListError};
pub use duration::{DurationError, parse_duration, parse_limit, parse_positive};
pub use listen::{FileMode, Listen, ListenAt, ListenFault, ListenList};
pub use processors::ProcessorsError;
pub use resolve::ResolveError;
pub use size::{SizeError, parse_size_limit};

use crate::balance::{Algorithm, Weight};
use crate::clients::ClientLimits;
use crate::fleet::Checks;
use crate::health::{CheckRules, EjectRules};
use crate::http1::request_id::RequestIds;
use crate::http1::rewrite::{Pseudonym, Underscores};
use crate::io::{Address, BufferOptions, EngineChoice};
use crate::limits;
use crate::proxy_protocol::Version;
use crate::upstream::RetryOn;
use crate::worker::Mode;

/// Everything the balancer needs to know to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is balanced.
    pub mode: Mode,
    /// Addresses to listen on; never empty.
    pub listen: Vec<Listen>,
    /// The backends, one per resolved address; never empty.
    pub backends: Vec<BackendConfig>,
    /// How a backend is picked.
    pub balance: Algorithm,
    /// Workers, and the processors that they are pinned to.
    pub cores: Cores,
    /// Which engine moves the bytes.
    pub io: EngineChoice,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// Other backends that a request may go to after one failed.
    pub retries: u32,
    /// What makes it go to another one.
    pub retry_on: RetryOn,
    /// How it is found out who is alive.
    pub health: HealthConfig,
    /// How much a client may do.
    pub clients: ClientLimits,
    /// Peers whose `X-Forwarded-*` fields are believed.
    pub trusted: Vec<IpNet>,
    /// Peers from which a header of the PROXY protocol is taken, where one is demanded.
    pub proxy_trusted: Vec<IpNet>,
    /// What backends are told of the client of each connection, if anything.
    pub send_proxy: Option<Version>,
    /// What becomes of a request's fields whose names have an underscore.
    pub underscores: Underscores,
    /// The name in `Via` of every message, where that is written.
    pub via: Option<Pseudonym>,
    /// Whether backends are sent `Forwarded` (RFC 7239) too.
    pub forwarded: bool,
    /// What becomes of `X-Request-Id`.
    pub request_ids: RequestIds,
    /// Memory that each worker receives into.
    pub buffers: BufferOptions,
}

impl Config {
    /// These, with everything else as where no flag says otherwise; but nobody is checked.
    pub fn new(listen: Vec<Listen>, backends: Vec<BackendConfig>, cores: Cores) -> Self {
        Self {
            mode: Mode::Http,
            listen,
            backends,
            balance: Algorithm::default(),
            cores,
            io: EngineChoice::default(),
            timeouts: Timeouts::default(),
            retries: limits::RETRIES,
            retry_on: RetryOn::default(),
            health: HealthConfig::default(),
            clients: ClientLimits::default(),
            trusted: Vec::new(),
            proxy_trusted: Vec::new(),
            send_proxy: None,
            underscores: Underscores::default(),
            via: None,
            forwarded: false,
            request_ids: RequestIds::default(),
            buffers: BufferOptions::default(),
        }
    }
}

/// One backend of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Where it listens.
    pub address: Address,
    /// What the user called it (`host:port`), which is the Host of requests that brought none;
    /// `localhost` for a Unix socket.
    pub authority: String,
    /// Its share of the requests.
    pub weight: Weight,
}

/// How it is found out which backends are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthConfig {
    /// How they are checked, if they are.
    pub checks: Option<Checks>,
    /// How many checks decide.
    pub rules: CheckRules,
    /// When traffic ejects one.
    pub eject: EjectRules,
}

/// How many workers there are and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Worker threads; at least one.
    pub workers: usize,
    /// Processors that the process may use, in order; worker `n` is pinned to
    /// `processors[n % processors.len()]`. Never empty.
    pub processors: Vec<usize>,
}

/// How long anything may take. `None` is what the user wrote as `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to a backend.
    pub connect: Option<Duration>,
    /// For a whole request head.
    pub header: Option<Duration>,
    /// Between two requests of a client.
    pub idle: Option<Duration>,
    /// To a whole response head, from the end of the request.
    pub response: Option<Duration>,
    /// Inside a body, while nothing moves in either direction.
    pub body_idle: Option<Duration>,
    /// In a TCP session or a tunnel, in both directions.
    pub tcp_idle: Option<Duration>,
    /// For busy sessions once the program drains.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let limit = |ms| Some(Duration::from_millis(ms));
        Self {
            connect: limit(limits::CONNECT_TIMEOUT_MS),
            header: limit(limits::HEADER_TIMEOUT_MS),
            idle: limit(limits::IDLE_TIMEOUT_MS),
            response: limit(limits::RESPONSE_TIMEOUT_MS),
            body_idle: limit(limits::BODY_IDLE_TIMEOUT_MS),
            tcp_idle: limit(limits::TCP_IDLE_TIMEOUT_MS),
            drain: Duration::from_millis(limits::DRAIN_TIMEOUT_MS),
        }
    }
}

/// Takes a quantity apart: its digits, and the unit behind them; `None` without a unit.
fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    Some(text.split_at(digits_end))
}
