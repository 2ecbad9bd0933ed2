//! One connection of a client: a backend is picked and connected to, then both are joined.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use tracing::debug;

use crate::health::Fault;
use crate::http1::Gateway;
use crate::http1::end::Cause;
use crate::io::{Deadline, Io, Parcel, Stopwatch};
use crate::relay::{Flow, FlowEnd, Stream};
use crate::upstream::{Reuse, Tried, Upstream};

/// Serves one connection to its end, and lets go of `guest` then.
pub(crate) fn open<I: Io, G>(
    gateway: Rc<Gateway<I>>,
    socket: I::Socket,
    peer: Option<SocketAddr>,
    guest: G,
) -> impl Future<Output = ()> {
    let mut client = Stream::new(gateway.io.clone(), socket);
    // A block and not an `async fn`, whose future would have room for its arguments twice.
    async move {
        let deadline = gateway.wheel.deadline();
        match connect(&gateway, &deadline).await {
            Ok(mut upstream) => {
                let end = join(&gateway, &mut client, &mut upstream, &deadline).await;
                if !end.is_clean() {
                    debug!(?peer, end = end.reason(), "a connection ended early");
                }
            }
            Err(cause) => {
                debug!(?peer, %cause, "a connection found no backend");
                // A clean close would say that there was nothing to say.
                gateway.io.abort(&client.socket);
            }
        }
        drop(client);
        // A part of this future to the end, so that a session that panics lets go of it too.
        drop(guest);
    }
}

async fn connect<I: Io>(
    gateway: &Gateway<I>,
    deadline: &Deadline,
) -> Result<Box<Upstream<I>>, Cause> {
    let (backends, now_ms) = (&gateway.backends, gateway.wheel.now_ms());
    let mut tried = Tried::default();
    let picked = backends.pick(&tried, now_ms, |_, backend| backend);
    let backend = picked.ok_or(Cause::NoBackend)?;
    // Nothing of a stream may come before it, so no connection serves two.
    let dialling = backends.connection(backend, Reuse::Refused, &mut tried, deadline, now_ms);
    dialling.await
}

/// Relays both ways to the end, and accounts for it.
async fn join<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Stream<I>,
    upstream: &mut Upstream<I>,
    deadline: &Deadline,
) -> FlowEnd {
    let clock = Stopwatch::start();
    let backend = upstream.backend;
    let counters = &gateway.counters.backends[backend.index()];
    counters.requests.add(1);
    let flow = Flow {
        client,
        backend: &mut upstream.stream,
        greeting: Parcel::default(),
        deadline,
        wheel: &gateway.wheel,
        options: &gateway.options.flow,
    };
    let end = flow.run(|| gateway.is_draining()).await;
    match end {
        FlowEnd::BackendLost => gateway.backends.failed(backend, Some(Fault::Broken)),
        _ if end.is_clean() => {
            let took_us = clock.elapsed_us();
            counters.latency_us.add(took_us);
            gateway.backends.served(backend, took_us);
        }
        _ => gateway.backends.failed(backend, None),
    }
    end
}
