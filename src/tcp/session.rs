//! One connection of a client: a backend is picked and connected to, then both are joined.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use tracing::debug;

use crate::health::Fault;
use crate::http1::Gateway;
use crate::http1::end::Cause;
use crate::io::{Deadline, Io, Parcel, Stopwatch};
use crate::listener::Arrival;
use crate::proxy_protocol::Written;
use crate::proxy_protocol::receive::{self, Introduced};
use crate::relay::{Flow, FlowEnd, Stream};
use crate::upstream::{Reuse, Tried, Upstream};

/// Serves one connection to its end, and lets go of `guest` then.
pub(crate) fn open<I: Io, G>(
    gateway: Rc<Gateway<I>>,
    socket: I::Socket,
    arrival: Arrival,
    guest: G,
) -> impl Future<Output = ()> {
    let mut client = Stream::new(gateway.io.clone(), socket);
    // A block and not an `async fn`, whose future would have room for its arguments twice.
    async move {
        let deadline = gateway.wheel.deadline();
        let Some(introduced) = introduced(&gateway, &mut client, &deadline, arrival).await else {
            return;
        };
        let (Introduced { peer, preface }, clock) = (introduced, Stopwatch::start());
        let address = peer.map(|peer| peer.ip());
        let Some(admitted) = gateway.admit(&client.socket, address) else {
            return;
        };
        match connect(&gateway, &deadline, preface.as_ref()).await {
            Ok(mut upstream) => {
                let counters = &gateway.counters.backends[upstream.backend.index()];
                counters.requests.add(1);
                let (greeting, took_us) = (Parcel::default(), clock.elapsed_us());
                let (client, upstream) = (&mut client, &mut *upstream);
                let joined = join(&gateway, client, upstream, greeting, &deadline, took_us);
                let end = joined.await;
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
        drop((client, admitted));
        // A part of this future to the end, so that a session that panics lets go of it too.
        drop(guest);
    }
}

/// Who the client is; `None` where the connection is over.
async fn introduced<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Stream<I>,
    deadline: &Deadline,
    arrival: Arrival,
) -> Option<Introduced> {
    if !receive::is_needed(gateway, arrival) {
        let (peer, preface) = (arrival.peer, None);
        return Some(Introduced { peer, preface });
    }
    // Boxed, because it is over long before the session is.
    let introduction = Box::pin(receive::introduce(gateway, client, deadline, arrival));
    let introduced = introduction.await;
    // What came behind the header waits until the backend is there.
    client.inbox.settle();
    introduced
}

async fn connect<I: Io>(
    gateway: &Gateway<I>,
    deadline: &Deadline,
    preface: Option<&Rc<Written>>,
) -> Result<Box<Upstream<I>>, Cause> {
    let (backends, now_ms) = (&gateway.backends, gateway.wheel.now_ms());
    let mut tried = Tried::default();
    let picked = backends.pick(&tried, now_ms, |_, backend| backend);
    let backend = picked.ok_or(Cause::NoBackend)?;
    // Nothing of a stream may come before it, so no connection serves two.
    let reuse = Reuse::Refused;
    let dialling = backends.connection(backend, reuse, preface, &mut tried, deadline, now_ms);
    dialling.await
}

/// Relays both ways to the end, `greeting` first, and accounts for it. `took_us` is how long the
/// backend took to be there.
pub(crate) async fn join<I: Io>(
    gateway: &Gateway<I>,
    client: &mut Stream<I>,
    upstream: &mut Upstream<I>,
    greeting: Parcel,
    deadline: &Deadline,
    took_us: u64,
) -> FlowEnd {
    let (backend, backends) = (upstream.backend, &gateway.backends);
    // A connection alone says little: whatever listens takes it, and may reset it at once.
    let has_spoken = Cell::new(false);
    let heard = || {
        if !has_spoken.replace(true) {
            backends.well(backend);
        }
    };
    let flow = Flow {
        client,
        backend: &mut upstream.stream,
        greeting,
        heard: &heard,
        deadline,
        wheel: &gateway.wheel,
        options: &gateway.options.flow,
    };
    let end = flow.run(|| gateway.is_draining()).await;
    let counters = &gateway.counters.backends[backend.index()];
    counters.answered.add(1);
    counters.latency_us.add(took_us);
    match end {
        FlowEnd::BackendLost => backends.failed(backend, Some(Fault::Broken)),
        FlowEnd::Finished | FlowEnd::Drained => backends.served(backend, took_us),
        FlowEnd::ClientLost | FlowEnd::Idle | FlowEnd::Cut => backends.ended(backend, took_us),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::open;
    use crate::io::{Epoll, Uring};
    use crate::listener::Guest;

    /// Most bytes of a session's future, which every idle connection has.
    const SESSION_BYTES_MAX: usize = 3 * 1024;

    fn output_size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_is_small() {
        for (engine, size) in [
            ("io_uring", output_size(open::<Uring, Guest>)),
            ("epoll", output_size(open::<Epoll, Guest>)),
        ] {
            assert!(size <= SESSION_BYTES_MAX, "{engine}: {size} bytes");
        }
    }
}
