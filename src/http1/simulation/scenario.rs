//! What a seed decides: the network, the limits, how many there are and how they behave.

use std::net::IpAddr;
use std::time::Duration;

use super::fleet::BACKENDS_MAX;
use crate::clients::{ClientLimits, Clients};
use crate::health::{CheckRules, EjectRules};
use crate::http1::Options;
use crate::http1::request_id::RequestIds;
use crate::http1::rewrite::Underscores;
use crate::io::BufferOptions;
use crate::io::sim::{Network, World};
use crate::limits;
use crate::proxy_protocol::{self, Version};
use crate::relay::{FlowOptions, MinRate};
use crate::upstream::{self, RetryOn};

/// Where clients come from.
pub(super) const PEER: &str = "10.0.0.9";
/// Where they come from by what a header says.
pub(super) const PROXIED: &str = "192.0.2.77";
/// Less than any client has that does not trickle, and more than one that does: see
/// [`Mood::Trickles`](super::client::Mood).
const LEAST: MinRate = MinRate {
    bytes_per_s: 2,
    window: Duration::from_millis(2_000),
};
/// What connections hold each way where clients read slowly.
const SLOW_BYTES: usize = 200;
/// Most other backends that a request may go to.
pub(super) const RETRIES_MAX: u32 = 2;

pub(super) struct Scenario {
    /// What is balanced are connections, not requests.
    pub(super) tcp: bool,
    pub(super) network: Network,
    pub(super) buffers: BufferOptions,
    pub(super) http: Options,
    pub(super) upstream: upstream::Options,
    pub(super) backends: usize,
    pub(super) clients: u64,
    pub(super) requests_max: u64,
    /// Most bytes of most bodies; a few are larger.
    body_bytes_max: u64,
    large_body_bytes_max: u64,
    pub(super) think_ms_max: u64,
    pub(super) arrivals_ms_max: u64,
    pub(super) backend_faults_per_mille: u32,
    pub(super) idle_closes_per_mille: u32,
    pub(super) early_per_mille: u32,
    /// Of a thousand answers behind which a connection is kept, those that something follows.
    pub(super) unasked_per_mille: u32,
    pub(super) client_faults_per_mille: u32,
    /// Of a thousand clients, those that do not wait for an answer before they ask again.
    pub(super) pipelines_per_mille: u32,
    /// Most milliseconds that clients take their time before each read.
    pub(super) read_pause_ms_max: u64,
    /// Of a thousand GETs, those that ask for another protocol.
    pub(super) upgrades_per_mille: u32,
    /// Backends come and go.
    pub(super) moody: bool,
    pub(super) judge: Judge,
    pub(super) late_ticks_per_mille: u32,
    pub(super) connections_max: usize,
    /// When the worker is told to drain, where it does not wait for the clients.
    pub(super) drain_ms: Option<u64>,
    /// How long busy sessions have then.
    pub(super) drain_timeout_ms: u64,
    /// Each connection begins with a header of the PROXY protocol, which is demanded.
    pub(super) proxied: bool,
}

/// How the fleet is judged while it is used.
pub(super) struct Judge {
    /// Most milliseconds between two looks of the control thread.
    pub(super) pause_ms_max: u64,
    pub(super) check: CheckRules,
    pub(super) eject: EjectRules,
    /// Of a thousand looks, those that check a backend.
    pub(super) checks_per_mille: u32,
    /// Of a thousand checks, those that find what is not so.
    pub(super) wrong_checks_per_mille: u32,
    /// Reports that wait for the control thread.
    pub(super) reports_max: usize,
}

impl Scenario {
    pub(super) fn of(seed: u64) -> Self {
        let rng = &mut fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let trickles = rng.u8(..3) == 0;
        let network = network(rng, trickles);
        // Most runs have faults of few kinds, so that what they cover up is seen as well.
        let quiet = rng.u8(..4) == 0;
        let mut rate = |choices: &[u32]| if quiet { 0 } else { pick(rng, choices) };
        let backend_faults_per_mille = rate(&[0, 0, 50, 200]);
        let client_faults_per_mille = rate(&[0, 0, 200, 500]);
        let moody = rate(&[0, 0, 0, 1]) > 0;
        let idle_closes_per_mille = pick(rng, &[0, 200, 700]);
        let mut scenario = Self {
            tcp: rng.u8(..4) == 0,
            network,
            buffers: BufferOptions {
                small_chunks_max: pick(rng, &[1, 2, 16]),
                large_chunks_max: pick(rng, &[0, 1, 1, 16]),
            },
            http: http(rng),
            upstream: upstream::Options {
                connect_timeout: Some(Duration::from_millis(500)),
                retries: pick(rng, &[0, 1, RETRIES_MAX, RETRIES_MAX]),
                pool_idle_max: pick(rng, &[0, 1, 4]),
                pool_idle_timeout: Duration::from_millis(pick(rng, &[100, 1_000])),
                retry_on: RetryOn {
                    connect: true,
                    reset: rng.bool(),
                    status_5xx: rng.bool(),
                },
                retry_hundredths_per_second: pick(rng, &[10, 1_000]),
            },
            backends: rng.usize(1..=BACKENDS_MAX),
            // More than the exchanges whose memory is kept in any case.
            clients: match rng.u8(..200) {
                0 => 3 * limits::EXCHANGES_SPARE_MIN as u64,
                _ => rng.u64(1..=6),
            },
            requests_max: rng.u64(1..=6),
            body_bytes_max: match trickles {
                true => 60,
                false => pick(rng, &[0, 100, 3_000]),
            },
            large_body_bytes_max: match trickles {
                true => 500,
                false => pick(rng, &[100, 10_000, 150_000]),
            },
            think_ms_max: pick(rng, &[0, 5, 100]),
            arrivals_ms_max: pick(rng, &[0, 20, 300]),
            backend_faults_per_mille,
            idle_closes_per_mille,
            early_per_mille: pick(rng, &[0, 100, 500]),
            client_faults_per_mille,
            read_pause_ms_max: 0,
            pipelines_per_mille: 300,
            unasked_per_mille: backend_faults_per_mille / 3,
            upgrades_per_mille: pick(rng, &[0, 100, 600]),
            moody,
            judge: judge(rng),
            late_ticks_per_mille: pick(rng, &[0, 0, 100]),
            connections_max: pick(rng, &[1, 2, 100]),
            drain_ms: (rng.u8(..4) == 0).then(|| rng.u64(0..400)),
            drain_timeout_ms: pick(rng, &[0, 300, 10_000, 10_000]),
            proxied: rng.u8(..4) == 0,
        };
        let send = pick(rng, &[None, None, Some(Version::V1), Some(Version::V2)]);
        scenario.http.proxy.send = send;
        scenario.http.min_rate = pick(rng, &[None, Some(LEAST)]);
        scenario.http.clients = Clients::new(ClientLimits {
            keep_alive_requests: pick(rng, &[None, None, Some(1), Some(3)]),
            ..ClientLimits::default()
        });
        scenario.slow_clients_down(trickles, rng);
        scenario
    }

    /// Has responses wait for their clients, who ask again meanwhile, and backends go on then: in
    /// half of the runs, and not where all comes byte by byte, which would take too long.
    fn slow_clients_down(&mut self, trickles: bool, rng: &mut fastrand::Rng) {
        if trickles || !rng.bool() {
            return;
        }
        self.read_pause_ms_max = pick(rng, &[1, 5]);
        self.unasked_per_mille = pick(rng, &[0, 500]);
        self.pipelines_per_mille = 900;
        self.think_ms_max = 0;
        self.body_bytes_max = 3_000;
        self.network.capacity_bytes = self.network.capacity_bytes.min(SLOW_BYTES);
    }

    /// Whom backends are told to be serving.
    pub(super) fn client(&self) -> &'static str {
        if self.proxied { PROXIED } else { PEER }
    }

    pub(super) fn body_bytes(&self, world: &World) -> usize {
        let most = match world.happens(60) {
            true => self.large_body_bytes_max,
            false => self.body_bytes_max,
        };
        world.between(0, most) as usize
    }
}

fn network(rng: &mut fastrand::Rng, trickles: bool) -> Network {
    let piece_bytes_max = match trickles {
        true => pick(rng, &[1, 2, 7, 40]),
        false => pick(rng, &[300, 4096, 100_000]),
    };
    Network {
        piece_bytes_max,
        capacity_bytes: match trickles {
            true => pick(rng, &[8, 64, 1000]),
            false => pick(rng, &[200, 4096, 64 * 1024]),
        },
        delays_per_mille: pick(rng, &[0, 30, 200]) / if trickles { 10 } else { 1 },
        delay_ms_max: pick(rng, &[1, 5, 20]),
        shortages_per_mille: pick(rng, &[0, 0, 0, 0, 0, 0, 0, 100]),
    }
}

pub(super) fn http(rng: &mut fastrand::Rng) -> Options {
    Options {
        header_timeout: Some(Duration::from_millis(2_000)),
        idle_timeout: Some(Duration::from_millis(3_000)),
        response_timeout: Some(Duration::from_millis(2_000)),
        body_idle_timeout: Some(Duration::from_millis(2_000)),
        min_rate: None,
        drain_grace: Duration::from_millis(300),
        clients: Clients::new(ClientLimits::default()),
        trusted: Vec::new(),
        underscores: Underscores::default(),
        via: None,
        forwarded: false,
        // Names are random, and a run is to be the same again.
        request_ids: RequestIds::Off,
        flow: FlowOptions {
            idle_timeout: Some(Duration::from_millis(3_000)),
            half_closed_timeout: Duration::from_millis(pick(rng, &[500, 1_000, 5_000])),
            drain_idle: Duration::from_millis(100),
        },
        proxy: proxy_protocol::Options {
            trusted: vec![PEER.parse::<IpAddr>().expect("it is one").into()],
            timeout: Duration::from_millis(limits::PROXY_TIMEOUT_MS),
            send: None,
        },
    }
}

fn judge(rng: &mut fastrand::Rng) -> Judge {
    Judge {
        pause_ms_max: pick(rng, &[50, 300]),
        check: CheckRules {
            rise: rng.u32(1..=2),
            fall: rng.u32(1..=3),
        },
        eject: EjectRules {
            after: pick(rng, &[0, 1, 3]),
            time_ms: 150,
            time_max_ms: 600,
            part_max: pick(rng, &[10, 50, 100]),
        },
        checks_per_mille: pick(rng, &[0, 200, 800]),
        wrong_checks_per_mille: pick(rng, &[0, 0, 100, 500]),
        reports_max: pick(rng, &[1, limits::REPORTS_MAX]),
    }
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}
