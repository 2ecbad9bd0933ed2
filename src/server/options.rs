//! From the configuration to each module's small options: nothing below the server sees the whole.

use std::time::Duration;

use crate::clients::Clients;
use crate::config::{Config, Timeouts};
use crate::fleet::Fleet;
use crate::health::FleetHealth;
use crate::http1;
use crate::limits;
use crate::proxy_protocol;
use crate::relay::{FlowOptions, MinRate};
use crate::upstream;

/// The fleet, all of it up so far.
pub(super) fn fleet(config: &Config) -> Fleet {
    let (rules, eject) = (config.health.rules, config.health.eject);
    let health = FleetHealth::new(config.backends.len(), rules, eject);
    Fleet::new(&config.backends, health)
}

/// The options of the HTTP sessions, to be cloned for each worker: what they count together is in
/// them.
pub(super) fn http(config: &Config) -> http1::Options {
    http1::Options {
        header_timeout: config.timeouts.header,
        idle_timeout: config.timeouts.idle,
        response_timeout: config.timeouts.response,
        body_idle_timeout: config.timeouts.body_idle,
        min_rate: min_rate(config),
        // Who only waits out his grace is not to be cut.
        drain_grace: Duration::from_millis(limits::DRAIN_GRACE_MS).min(config.timeouts.drain / 2),
        clients: Clients::new(config.clients),
        trusted: config.trusted.clone(),
        underscores: config.underscores,
        via: config.via.clone(),
        forwarded: config.forwarded,
        request_ids: config.request_ids,
        flow: flow(&config.timeouts),
        proxy: proxy_protocol::Options {
            trusted: config.proxy_trusted.clone(),
            timeout: Duration::from_millis(limits::PROXY_TIMEOUT_MS),
            send: config.send_proxy,
        },
    }
}

/// Behind each time in which a body may be idle.
fn min_rate(config: &Config) -> Option<MinRate> {
    let window = config.timeouts.body_idle;
    let rate = |bytes_per_s| MinRate {
        bytes_per_s,
        window: window.unwrap_or(Duration::from_millis(limits::BODY_IDLE_TIMEOUT_MS)),
    };
    config.clients.body_rate_min.map(rate)
}

/// The options of flows: TCP sessions and tunnels.
pub(super) fn flow(timeouts: &Timeouts) -> FlowOptions {
    FlowOptions {
        idle_timeout: timeouts.tcp_idle,
        half_closed_timeout: Duration::from_millis(limits::TCP_HALF_CLOSED_TIMEOUT_MS),
        drain_idle: Duration::from_millis(limits::TCP_DRAIN_IDLE_MS).min(timeouts.drain / 2),
    }
}

/// The options of the upstream side.
pub(super) fn upstream(config: &Config) -> upstream::Options {
    upstream::Options {
        connect_timeout: config.timeouts.connect,
        retries: config.retries,
        pool_idle_max: limits::POOL_IDLE_MAX,
        pool_idle_timeout: Duration::from_millis(limits::POOL_IDLE_TIMEOUT_MS),
        retry_on: config.retry_on,
        retry_hundredths_per_second: (limits::RETRY_BUDGET_PER_SECOND * 100)
            .div_ceil(config.cores.workers as u64),
    }
}
