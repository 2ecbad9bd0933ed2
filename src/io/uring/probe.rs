//! Whether io_uring works here, found out by using it the way a worker does.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::Poll;

use super::op;
use super::{Uring, sys};
use crate::io::buffer::{BufferOptions, ChunkSize};
use crate::io::{Expect, Io, Parcel};

/// Why io_uring cannot be used, and what would help.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed: {error}{}", cure(.error))]
pub struct ProbeError {
    step: &'static str,
    error: io::Error,
}

impl ProbeError {
    /// The ring itself cannot be had.
    pub(super) fn building(error: io::Error) -> Self {
        at("building the ring")(error)
    }
}

/// Builds a ring with the flags of a worker and makes a round trip of all it relies on: provided
/// buffers, a receive, a poll and a cancel.
///
/// # Errors
/// [`ProbeError`] names the step that failed, what the kernel said and the usual cure.
pub fn probe() -> Result<(), ProbeError> {
    // On a thread of its own, because a ring belongs to the thread that made it.
    let thread = std::thread::Builder::new()
        .name("probe".to_owned())
        .spawn(|| {
            let buffers = BufferOptions {
                small_chunks_max: 1,
                large_chunks_max: 0,
            };
            Uring::run(buffers, |io| async move { round_trip(&io).await })
        });
    let result = thread.map_err(at("starting a thread"))?.join();
    let built = result.map_err(|_| io::Error::other("the probe panicked"));
    match built.map_err(at("using the ring"))? {
        Ok((outcome, _)) => outcome,
        Err(error) => Err(error.downcast().unwrap_or_else(ProbeError::building)),
    }
}

async fn round_trip(io: &Uring) -> Result<(), ProbeError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = sys::listen(address).map_err(at("listening on loopback"))?;
    let address = sys::local_address(&listener).map_err(at("listening on loopback"))?;
    let listener = io.listener(listener).map_err(at("listening on loopback"))?;
    let ours = io
        .connect(&address.into())
        .await
        .map_err(at("connecting"))?;
    let (theirs, _) = io.accept(&listener).await.map_err(at("accepting"))?;

    let mut parcel = Parcel::default();
    parcel.lead.extend_from_slice(b"ping");
    io.send(&ours, parcel).await.0.map_err(at("sending"))?;
    io.readable(&theirs).await.map_err(at("polling"))?;
    let received = io.recv(&theirs, ChunkSize::Small, Expect::Now).await;
    let chunk = received.map_err(at("receiving into a provided buffer"))?;
    if chunk.is_none_or(|chunk| chunk.bytes() != b"ping") {
        let error = io::Error::from(io::ErrorKind::InvalidData);
        return Err(at("receiving into a provided buffer")(error));
    }

    // Cancelled by its descriptor: the one with nothing to receive ends with ECANCELED.
    let mut idle = io.recv(&theirs, ChunkSize::Small, Expect::Later);
    let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut idle).poll(cx))).await;
    op::cancel(theirs.as_raw_fd());
    match idle.await {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(error) => Err(at("cancelling by descriptor")(error)),
        Ok(_) => Err(at("cancelling by descriptor")(
            io::ErrorKind::InvalidData.into(),
        )),
    }
}

fn at(step: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |error| ProbeError { step, error }
}

/// What the user can do about what the kernel said; empty where that is not known.
fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; io_uring is forbidden here: allow it with `sysctl kernel.io_uring_disabled=0`, \
             and in a container with a seccomp profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => {
            "; this kernel or sandbox has no io_uring: Linux 6.1 or later is needed, and a \
             seccomp profile may answer so as well"
        }
        Some(libc::EINVAL) => "; this kernel's io_uring is too old: Linux 6.1 or later is needed",
        Some(libc::ENOMEM) => {
            "; the ring's memory counts as locked: raise it with `ulimit -l unlimited`, or \
             LimitMEMLOCK=infinity in systemd"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_a_container_has_a_cure() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::ENOMEM] {
            let error = ProbeError::building(io::Error::from_raw_os_error(errno));
            assert!(error.to_string().contains("; "), "{error}");
        }
    }
}
