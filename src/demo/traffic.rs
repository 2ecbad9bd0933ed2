//! The gentle stream of requests that the demo sends to itself, as any client would: over HTTP,
//! on kept connections, from a thread of its own. It is not a load test.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::limits;

/// Time that the requests under way have to end once the stream is stopped.
const STOP_TIMEOUT: Duration = Duration::from_millis(limits::DEMO_TRAFFIC_STOP_TIMEOUT_MS);
/// What is asked for, in turn: mostly the work.
const PATHS: [&str; 8] = [
    super::HELLO,
    super::HELLO,
    super::HELLO,
    "/status",
    super::HELLO,
    super::HELLO,
    super::HELLO,
    "/_health",
];

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// The stream while it runs.
pub(super) struct Traffic {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Tally>,
}

/// How the requests of the stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Answered with success.
    pub(super) succeeded: u64,
    /// Answered with anything else.
    pub(super) refused: u64,
    /// Not answered, or not to the end.
    pub(super) broken: u64,
    /// Not sent, because too many were under way.
    pub(super) left_out: u64,
}

impl Traffic {
    /// Starts to send `rate` requests per second to `target`.
    ///
    /// # Errors
    /// Where there is no thread or no runtime for it.
    pub(super) fn start(target: SocketAddr, rate: NonZeroU32) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let uris = PATHS
            .map(|path| format!("http://{target}{path}").parse())
            .into_iter()
            .collect::<Result<Vec<Uri>, _>>()
            .map_err(io::Error::other)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("demo-traffic".to_owned())
            .spawn(move || runtime.block_on(stream(&uris, rate, stopped)))?;
        Ok(Self { stop, thread })
    }

    /// Sends no more, waits for the answers that are still due, and tells what became of all.
    pub(super) fn stop(self) -> Tally {
        // Where the thread has gone there is nobody to stop.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

async fn stream(uris: &[Uri], rate: NonZeroU32, mut stopped: oneshot::Receiver<()>) -> Tally {
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let mut uris = uris.iter().cycle();
    let mut tally = Tally::default();
    let mut under_way = JoinSet::new();
    let mut turns = interval(Duration::from_secs(1) / rate.get());
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(ended) = under_way.join_next() => tally.count(ended.unwrap_or(Ended::Broken)),
            _ = turns.tick() => match uris.next() {
                Some(uri) if under_way.len() < limits::DEMO_IN_FLIGHT_MAX => {
                    under_way.spawn(ask(client.clone(), uri.clone()));
                }
                _ => tally.left_out += 1,
            },
        }
    }
    let rest = async {
        while let Some(ended) = under_way.join_next().await {
            tally.count(ended.unwrap_or(Ended::Broken));
        }
    };
    if timeout(STOP_TIMEOUT, rest).await.is_err() {
        tally.broken += under_way.len() as u64;
    }
    tally
}

/// How one request ended.
enum Ended {
    Succeeded,
    Refused,
    Broken,
}

async fn ask(client: HttpClient, uri: Uri) -> Ended {
    let Ok(response) = client.get(uri).await else {
        return Ended::Broken;
    };
    let status = response.status();
    // The body is read to its end, or the connection could not serve the next request.
    match response.into_body().collect().await {
        Ok(_) if status == StatusCode::OK => Ended::Succeeded,
        Ok(_) => Ended::Refused,
        Err(_) => Ended::Broken,
    }
}

impl Tally {
    fn count(&mut self, ended: Ended) {
        match ended {
            Ended::Succeeded => self.succeeded += 1,
            Ended::Refused => self.refused += 1,
            Ended::Broken => self.broken += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            succeeded,
            refused,
            broken,
            left_out,
        } = self;
        write!(
            f,
            "{succeeded} succeeded, {refused} answered with an error, {broken} unanswered"
        )?;
        if *left_out > 0 {
            write!(f, ", {left_out} left out because too many were under way")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::net::TcpListener;
    use std::num::NonZeroU32;
    use std::thread;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::sync::mpsc;
    use tokio::task::spawn_blocking;

    use super::{Tally, Traffic};

    const RATE: NonZeroU32 = NonZeroU32::new(500).unwrap();

    #[tokio::test]
    async fn every_request_of_the_stream_is_counted_by_how_it_ended() {
        let (served, mut seen) = mpsc::unbounded_channel();
        let (succeeded, refused) = (served.clone(), served);
        let router = Router::new()
            .route(
                "/api/v1/hello",
                get(async move || succeeded.send(true).unwrap()),
            )
            .fallback(async move || {
                refused.send(false).unwrap();
                StatusCode::NOT_FOUND
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(axum::serve(listener, router).into_future());

        let traffic = Traffic::start(address, RATE).unwrap();
        let mut all = Vec::new();
        while all.len() < 20 {
            all.push(seen.recv().await.unwrap());
        }
        let tally = spawn_blocking(|| traffic.stop()).await.unwrap();
        while let Ok(succeeded) = seen.try_recv() {
            all.push(succeeded);
        }
        let succeeded = all.iter().filter(|succeeded| **succeeded).count() as u64;
        let refused = all.len() as u64 - succeeded;
        assert!(refused > 0);
        assert_eq!(
            tally,
            Tally {
                succeeded,
                refused,
                ..Tally::default()
            }
        );
        server.abort();
    }

    #[test]
    fn requests_that_nobody_answers_are_broken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let closing = thread::spawn(move || listener.incoming().take(3).for_each(drop));
        let traffic = Traffic::start(address, RATE).unwrap();
        closing.join().unwrap();
        let tally = traffic.stop();
        assert!(tally.broken >= 3 && tally.succeeded == 0, "{tally:?}");
    }
}
