//! How a session begins: who its client is, by the header that a listener demands, and what its
//! backends are told of that.

use std::net::SocketAddr;
use std::rc::Rc;

use tracing::debug;

use super::{Ends, Origin, Written, parse, write};
use crate::http1::Gateway;
use crate::http1::end::{Cause, End, Phase};
use crate::io::{ChunkSize, Deadline, Expect, Io};
use crate::listener::Arrival;
use crate::relay::{Fill, Stop, Stream};

/// Who a client is.
pub(crate) struct Introduced {
    /// Its address; that of the header, where one came.
    pub(crate) peer: Option<SocketAddr>,
    /// What each connection to a backend on its behalf begins with.
    pub(crate) preface: Option<Rc<Written>>,
}

/// Whether a session begins with [`introduce`]. Otherwise its client is the peer that it has.
pub(crate) fn is_needed<I: Io>(gateway: &Gateway<I>, arrival: Arrival) -> bool {
    arrival.proxied || gateway.options.proxy.send.is_some()
}

/// Waits for the header where one is due; nothing else is done for the client before. `None` where
/// the connection is over, which is a reset if the client is to blame. What came behind the header
/// is in the inbox.
pub(crate) async fn introduce<I: Io>(
    gateway: &Gateway<I>,
    stream: &mut Stream<I>,
    deadline: &Deadline,
    arrival: Arrival,
) -> Option<Introduced> {
    let Arrival { peer, proxied } = arrival;
    let received = match proxied {
        true => receive(gateway, stream, deadline, peer).await,
        false => Ok(Origin::Unknown),
    };
    let origin = match received {
        Ok(origin) => origin,
        Err(cause) => {
            refuse(gateway, stream, peer, cause);
            return None;
        }
    };
    let told = match origin {
        // An unspecified address, mapped or not, is nobody's: the sender does not know its client.
        Origin::Client(ends) if !ends.source().ip().to_canonical().is_unspecified() => Some(ends),
        Origin::Client(_) | Origin::Local | Origin::Unknown => None,
    };
    let preface = gateway.options.proxy.send.map(|version| {
        let local = || gateway.io.local_address(&stream.socket);
        let own = || Some(Ends::new(peer?, local()?));
        let ends = told.or_else(own);
        Rc::new(write(version, ends.map_or(Origin::Unknown, Origin::Client)))
    });
    let peer = told.map(|ends| ends.source()).or(peer);
    Some(Introduced { peer, preface })
}

async fn receive<I: Io>(
    gateway: &Gateway<I>,
    stream: &mut Stream<I>,
    deadline: &Deadline,
    peer: Option<SocketAddr>,
) -> Result<Origin, Cause> {
    let (options, grace) = (&gateway.options.proxy, gateway.options.drain_grace);
    if !options.trusts(peer) {
        return Err(Cause::UntrustedSender);
    }
    stream.arm(ChunkSize::Small, Expect::Later);
    let mut in_grace = gateway.is_draining();
    match in_grace {
        true => deadline.set(Some(grace)),
        false => deadline.set_interruptible(Some(options.timeout)),
    }
    loop {
        match stream.fill(ChunkSize::Small, deadline).await {
            Ok(Fill::Bytes) => {}
            Ok(Fill::End) | Err(Stop::Lost) => return Err(Cause::ClientGone),
            Err(Stop::Expired) if in_grace || gateway.wheel.is_cut() => return Err(Cause::Cut),
            Err(Stop::Expired) if gateway.is_draining() => {
                // The header may be on its way.
                in_grace = true;
                deadline.set(Some(grace));
                continue;
            }
            Err(Stop::Expired) => return Err(Cause::ProxyHeaderTimeout),
        }
        let parsed = parse(stream.inbox.bytes()).map_err(Cause::BadProxyHeader)?;
        if let Some(header) = parsed {
            stream.inbox.consume(header.length);
            return Ok(header.origin);
        }
    }
}

fn refuse<I: Io>(gateway: &Gateway<I>, stream: &Stream<I>, peer: Option<SocketAddr>, cause: Cause) {
    let phase = Phase::Proxy;
    debug!(?peer, end = %End { cause, phase }, "a connection ended before its PROXY header");
    if !matches!(cause, Cause::ClientGone | Cause::Cut) {
        gateway.counters.proxy_refused.add(1);
        // Nobody is answered of whom nothing is known.
        gateway.io.abort(&stream.socket);
    }
}
