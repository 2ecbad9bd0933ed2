//! `fastlb worker`: one demo backend, slow and unreliable to order.
//!
//! It is there to be looked at through the balancer, not to measure it. It raises no limit of its
//! own: to hold 8 000 connections at once it needs `ulimit -n` of some 8 100 or more.

use std::future::IntoFuture;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use super::arguments::{Percent, avg_delay};
use super::routes::{Character, router};
use crate::limits;
use crate::signals::Signals;

/// What `fastlb worker` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Name that it answers with [default: worker-PORT].
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// Average delay of an answer; each is drawn evenly between half of it and one and a half.
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = avg_delay)]
    pub avg_delay: Duration,
    /// Percentage of requests that are answered with 500.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    pub failure: Percent,
    /// Leaves at once when standard input, a pipe whose other end the parent holds, ends.
    #[arg(long, hide = true)]
    pub lifeline: bool,
}

/// Why a worker could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{0} is in use; name another with --listen (port 0 takes a free one)")]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// What `--listen` named.
        address: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// `--lifeline` without a pipe at standard input.
    #[error("--lifeline needs a pipe as standard input: {0}")]
    Lifeline(io::Error),
    /// The process lacks something that every program needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

/// Serves until TERM or INT, and then finishes what runs; a second signal ends it at once.
///
/// Standard output carries one line, `listening on ADDR`, once it accepts. A person finds the same
/// in the log, except under `--lifeline`, where the terminal belongs to the parent.
///
/// # Errors
/// Where it cannot begin; once it serves it does not fail.
pub fn run(options: Options) -> Result<(), Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?
        .block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Start)?;
    let lifeline = options.lifeline.then(open_lifeline).transpose()?;
    let listener = listen(options.listen)?;
    let address = listener.local_addr().map_err(Error::Start)?;
    let character = Character {
        id: options
            .id
            .unwrap_or_else(|| format!("worker-{}", address.port())),
        avg_delay: options.avg_delay,
        failure: options.failure,
    };
    announce(address, options.lifeline);

    let drain = Arc::new(Notify::new());
    let serving = serving(listener, character, Arc::clone(&drain));
    let asked_twice = async {
        signals.recv().await;
        drain.notify_one();
        signals.recv().await;
    };
    tokio::select! {
        () = serving => {}
        () = asked_twice => {}
        () = end_of(lifeline) => {}
    }
    Ok(())
}

/// Answers requests until `drain` is notified and those that run then are finished.
async fn serving(listener: TcpListener, character: Character, drain: Arc<Notify>) {
    let listener = listener.tap_io(|stream| {
        // Fails only on a connection that has already gone, which the next read notices.
        let _ = stream.set_nodelay(true);
    });
    let server = axum::serve(listener, router(character))
        .with_graceful_shutdown(async move { drain.notified().await });
    // axum deals with failing accepts itself and has no error to give.
    let _ = pin!(server.into_future()).await;
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(limits::LISTEN_BACKLOG as u32)
    };
    bound().map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse(address),
        _ => Error::Listen { address, cause },
    })
}

/// Takes over standard input as the pipe that ends with the parent.
fn open_lifeline() -> Result<pipe::Receiver, Error> {
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(Error::Lifeline)?;
    pipe::Receiver::from_owned_fd(input).map_err(Error::Lifeline)
}

/// Waits for the end of the lifeline, which is for ever where there is none.
async fn end_of(lifeline: Option<pipe::Receiver>) {
    let Some(mut pipe) = lifeline else {
        return std::future::pending().await;
    };
    let mut unasked = [0; 64];
    // An error ends the wait like the end of the pipe: a worker that nobody holds must leave.
    while pipe.read(&mut unasked).await.is_ok_and(|length| length > 0) {}
}

/// Tells where it listens: the parent or a script on standard output, a person in the log.
fn announce(address: SocketAddr, lifeline: bool) {
    if !lifeline {
        tracing::info!("listening on {address}");
    }
    // Nobody has to read it: a worker serves as well with its output closed.
    let _ = writeln!(io::stdout(), "listening on {address}");
}
