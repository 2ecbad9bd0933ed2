//! What the sessions of one worker share: the part of a gateway (RFC 9110 section 3.7).

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tracing::debug;

use super::date::Date;
use super::end::{Cause, End, Phase};
use super::request_id::{RequestIds, RequestNames};
use super::rewrite::{Added, Pseudonym, Underscores};
use crate::clients::{Clients, Place};
use crate::io::{Io, Wheel};
use crate::proxy_protocol;
use crate::relay::{FlowOptions, MinRate, Patience};
use crate::stats::{Limit, WorkerCounters};
use crate::upstream::Backends;

/// How a session behaves, the same for every worker. `None` is no limit.
#[derive(Clone, Debug)]
pub struct Options {
    /// For a whole request head, from its first byte.
    pub header_timeout: Option<Duration>,
    /// Between two requests of a client.
    pub idle_timeout: Option<Duration>,
    /// To a whole response head, from the end of the request.
    pub response_timeout: Option<Duration>,
    /// Inside a body, while nothing moves in either direction.
    pub body_idle_timeout: Option<Duration>,
    /// What a client must have that is waited for inside a body.
    pub min_rate: Option<MinRate>,
    /// For an idle connection to begin a request that is on its way, once the worker drains.
    pub drain_grace: Duration,
    /// What clients may do, and what they have done.
    pub clients: Clients,
    /// Peers whose `X-Forwarded-*` fields are believed.
    pub trusted: Vec<IpNet>,
    /// What becomes of a request's fields whose names have an underscore.
    pub underscores: Underscores,
    /// The name in `Via`, where that is written.
    pub via: Option<Pseudonym>,
    /// Whether backends are sent `Forwarded` (RFC 7239) too.
    pub forwarded: bool,
    /// What becomes of `X-Request-Id`.
    pub request_ids: RequestIds,
    /// How long a TCP session or a tunnel may stand still.
    pub flow: FlowOptions,
    /// What is said of clients before anything else, by proxies before and to backends behind.
    pub proxy: proxy_protocol::Options,
}

/// A connection that was let in, and counts for its client where that is limited.
#[derive(Default)]
pub(crate) struct Admitted(#[expect(dead_code, reason = "held until the end")] Option<Box<Place>>);

/// Everything that a session needs besides its own connection.
pub(crate) struct Gateway<I: Io> {
    pub(crate) io: I,
    pub(crate) wheel: Wheel,
    pub(crate) backends: Backends<I>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) options: Options,
    pub(super) names: RequestNames,
    draining: Cell<bool>,
    /// `None` until the clock was read.
    date: Cell<Option<Date>>,
}

impl<I: Io> Gateway<I> {
    pub(crate) fn new(
        io: I,
        backends: Backends<I>,
        counters: Arc<WorkerCounters>,
        options: Options,
    ) -> Self {
        let wheel = Wheel::default();
        let names = RequestNames::new(options.request_ids);
        Self {
            io,
            wheel,
            backends,
            counters,
            options,
            names,
            draining: Cell::new(false),
            date: Cell::new(None),
        }
    }

    /// Closes idle connections, and every other one after its present response.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.wheel.interrupt();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// What is added to the messages of a request with this name.
    pub(super) fn added<'a>(&'a self, request_id: &'a [u8]) -> Added<'a> {
        Added {
            via: self.options.via.as_ref(),
            request_id,
            date: self.date.get(),
        }
    }

    /// Tells what second it is.
    pub(crate) fn set_date(&self, since_1970_s: u64) {
        if !self.date.get().is_some_and(|date| date.is_at(since_1970_s)) {
            self.date.set(Date::at(since_1970_s));
        }
    }

    pub(super) fn date(&self) -> Option<Date> {
        self.date.get()
    }

    /// How long an exchange may stand still.
    pub(super) fn patience(&self) -> Patience {
        Patience::Within(self.options.body_idle_timeout)
    }

    /// Lets a connection of this client in; `None` where it has too many, which resets this one.
    /// It is not answered, because to be read an answer needs a connection that is held. Who is
    /// trusted stands for many, and who has no address is not counted.
    pub(crate) fn admit(&self, socket: &I::Socket, client: Option<IpAddr>) -> Option<Admitted> {
        let (Some(connections), Some(address)) = (&self.options.clients.connections, client) else {
            return Some(Admitted::default());
        };
        if self.trusts(client) {
            return Some(Admitted::default());
        }
        let place = connections.enter(address);
        if place.is_none() {
            let (cause, phase) = (Cause::TooManyConnections, Phase::Accept);
            debug!(client = %address, end = %End { cause, phase }, "a connection was refused");
            self.counters.count_limited(Limit::Connections);
            self.io.abort(socket);
        }
        place.map(|place| Admitted(Some(Box::new(place))))
    }

    /// Takes a request from this client, which is not trusted.
    ///
    /// # Errors
    /// It has sent more than it may, and gets a 429.
    pub(super) fn charge(&self, client: Option<IpAddr>) -> Result<(), Cause> {
        let (Some(rates), Some(address)) = (&self.options.clients.rates, client) else {
            return Ok(());
        };
        // Not the worker's clock: that of another would be up to a tick ahead of it.
        let now = self.options.clients.age();
        rates.take(address.into(), now).map_err(|wait| {
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            Cause::TooManyRequests(seconds as u32)
        })
    }

    /// Nobody is trusted who has no address.
    pub(super) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let contains = |network: &IpNet| peer.is_some_and(|peer| network.contains(&peer));
        self.options.trusted.iter().any(contains)
    }
}
