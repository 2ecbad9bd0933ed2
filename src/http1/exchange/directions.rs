//! The two directions of one attempt: what waits for what, and who is looked at first.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use crate::http1::end::{Cause, Phase};
use crate::http1::request;
use crate::http1::response::{Answered, Reception, Upload};
use crate::io::{Io, Parcel};
use crate::relay::{self, Pace, RelayEnd, Stream};

/// Waits until the first of a request is sent; `None` where the backend begins to answer before,
/// and may take no more until its answer is read.
pub(super) async fn sent_or_answered<I: Io, T>(
    reception: &mut Reception<'_, I>,
    client: &mut Stream<I>,
    to: &I::Socket,
    sending: impl Future<Output = T> + Unpin,
) -> Option<Result<T, RelayEnd>> {
    let gateway = reception.gateway;
    let pace = Pace {
        client: relay::ClientSide::Neither,
        ..reception.pace()
    };
    let sent = client.beside(relay::see_through(&gateway.io, to, sending, pace));
    match reception.plan.upgrade {
        // A send that is dropped would take the tunnel's own operations with it.
        true => Some(reception.upstream.beside(sent).await),
        false => reception.upstream.beside_until_bytes(sent).await,
    }
}

/// Waits for the response to a request whose last bytes are being sent. That they are sent is
/// nothing to be woken for: the response will say so. Its end may be a lie where the send was told
/// of a loss, so the send is looked at first.
pub(super) async fn unattended<I: Io>(
    mut sending: impl Future<Output = (io::Result<()>, Parcel)> + Unpin,
    outgoing: &mut Parcel,
    reception: Reception<'_, I>,
) -> Result<Answered, Cause> {
    let (deadline, progress) = (reception.deadline, reception.progress);
    let mut sent = None;
    let mut look = |cx: &mut Context<'_>| {
        if sent.is_none()
            && let Poll::Ready((result, returned)) = Pin::new(&mut sending).poll(cx)
        {
            progress.note_sent(&result);
            *outgoing = returned;
            sent = Some(result);
        }
        sent.as_ref().map(io::Result::is_ok)
    };
    let mut response = pin!(reception.run());
    let mut answered = poll_fn(|cx| {
        look(&mut Context::from_waker(Waker::noop()));
        response.as_mut().poll(cx)
    })
    .await;
    match &mut answered {
        // Answered early: whether the backend reads the rest is its business alone.
        Ok(answered) => {
            answered.reusable &= look(&mut Context::from_waker(Waker::noop())) == Some(true);
        }
        Err(Cause::BackendClosed | Cause::BackendReset | Cause::Repeated(_)) => {
            // The request may have to be sent again.
            let whole = poll_fn(|cx| look(cx).map_or(Poll::Pending, Poll::Ready));
            let _ = deadline.guard(whole).await;
        }
        // What a backend made of it is not asked again.
        Err(_) => {}
    }
    answered
}

/// What is kept of a request that was sent until its response begins. A head alone may have to be
/// sent again; what has a chunk goes, because no wait may hold one.
pub(super) fn kept_head(mut sent: Parcel) -> Parcel {
    if sent.has_body() {
        sent.clear();
    }
    sent
}

/// Runs both directions until the response is complete, and then the rest of the request for as
/// long as the backend seems to want it.
pub(super) async fn both<I: Io>(
    upload: impl Future<Output = Result<(), RelayEnd>>,
    reception: Reception<'_, I>,
) -> Result<Answered, Cause> {
    let (deadline, progress, look) = (reception.deadline, reception.progress, reception.look());
    let (mut upload, mut response) = (pin!(upload), pin!(reception.run()));
    let (mut sending, mut answered) = (true, None);
    poll_fn(|cx| {
        if sending && let Poll::Ready(end) = upload.as_mut().poll(cx) {
            sending = false;
            progress.upload.set(match end {
                Ok(()) => Upload::Whole,
                Err(_) => Upload::Cut,
            });
            if progress.phase.get() == Phase::Wait {
                // The backend's time to answer begins when it has all that it is going to have.
                progress.sent_ms.set(deadline.now_ms());
                deadline.set(Some(look));
            }
            match end {
                _ if answered.is_some() => {}
                // The backend takes no more: its answer may say why.
                Ok(()) | Err(RelayEnd::SinkLost) => {}
                Err(RelayEnd::SinkReset) => progress.traffic.set_backend_lost(true),
                Err(end) => return Poll::Ready(Err(request::cut(end))),
            }
        }
        let complete: Answered = match answered {
            Some(complete) => complete,
            None => *answered.insert(ready!(response.as_mut().poll(cx))?),
        };
        if sending && complete.wants_rest() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(complete))
    })
    .await
}
