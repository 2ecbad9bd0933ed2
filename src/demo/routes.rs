//! What a demo worker answers, and what it counts. Listening and leaving are `worker`'s.
//!
//! `/api/v1/hello` is the work, late and failing to order; `/_health` and `/status` answer at once
//! and are not counted. Everything but `/_health` is JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::arguments::Percent;

/// How a worker behaves.
pub(super) struct Character {
    /// What it calls itself.
    pub(super) id: String,
    /// Mean of the delays of its answers.
    pub(super) avg_delay: Duration,
    /// How often it fails.
    pub(super) failure: Percent,
}

/// The routes of one worker.
pub(super) fn router(character: Character) -> Router {
    let worker = Arc::new(Worker {
        character,
        started: Instant::now(),
        requests: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
    });
    Router::new()
        .route("/api/v1/hello", get(hello))
        .route("/_health", get(|| async { "ok" }))
        .route("/status", get(status))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are understood",
            )
        })
        .with_state(worker)
}

struct Worker {
    character: Character,
    started: Instant,
    requests: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU64,
}

async fn hello(State(worker): State<Arc<Worker>>) -> Response {
    let request = InFlight::new(&worker);
    let delay = delay(worker.character.avg_delay, fastrand::f64());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let failed = worker.character.failure.happens(fastrand::f64());
    let number = request.answered(failed);
    let id = worker.character.id.as_str();
    let delay_ms = delay.as_micros() as f64 / 1000.0;
    if failed {
        let error = "failed on purpose";
        let body = json!({ "id": id, "delay_ms": delay_ms, "request": number, "error": error });
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response();
    }
    Json(json!({ "id": id, "delay_ms": delay_ms, "request": number })).into_response()
}

async fn status(State(worker): State<Arc<Worker>>) -> Json<Value> {
    Json(json!({
        "id": worker.character.id,
        "uptime_s": worker.started.elapsed().as_secs(),
        "requests": worker.requests.load(Relaxed),
        "failures": worker.failures.load(Relaxed),
        "in_flight": worker.in_flight.load(Relaxed),
    }))
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// A delay drawn evenly from half of `average` up to one and a half of it; `drawn` is evenly
/// from 0 up to but not including 1.
fn delay(average: Duration, drawn: f64) -> Duration {
    average.mul_f64(0.5 + drawn)
}

/// A request that is being worked on. Dropped before its answer, because the client went away, it
/// counts as in flight no more and as served never.
struct InFlight<'a>(&'a Worker);

impl<'a> InFlight<'a> {
    fn new(worker: &'a Worker) -> Self {
        worker.in_flight.fetch_add(1, Relaxed);
        Self(worker)
    }

    /// Counts the answer and tells its number; the first is 1.
    fn answered(self, failed: bool) -> u64 {
        self.0.failures.fetch_add(u64::from(failed), Relaxed);
        self.0.requests.fetch_add(1, Relaxed) + 1
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;
    use std::time::Duration;

    use http_body_util::{BodyExt, Empty};
    use hyper::body::Bytes;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::{Character, delay, router};

    /// The status and the body of each path, asked in order of a worker on a socket of its own.
    async fn ask(failure: &str, paths: &[&str]) -> Vec<(u16, String)> {
        let character = Character {
            id: "w".to_owned(),
            avg_delay: Duration::from_millis(2),
            failure: failure.parse().unwrap(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(axum::serve(listener, router(character)).into_future());
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let mut answers = Vec::new();
        for path in paths {
            let response = client
                .get(format!("http://{address}{path}").parse().unwrap())
                .await
                .unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            answers.push((status, String::from_utf8(body.to_vec()).unwrap()));
        }
        server.abort();
        answers
    }

    fn parsed(body: &str) -> Value {
        serde_json::from_str(body).unwrap()
    }

    #[tokio::test]
    async fn hello_tells_who_answered_how_late_and_the_how_manieth() {
        let answers = ask("0", &["/api/v1/hello", "/api/v1/hello"]).await;
        for (index, (status, body)) in answers.iter().enumerate() {
            let body = parsed(body);
            assert_eq!(*status, 200);
            assert_eq!(body["id"], "w");
            assert_eq!(body["request"], index + 1);
            let delay_ms = body["delay_ms"].as_f64().unwrap();
            assert!((1.0..=3.0).contains(&delay_ms), "{delay_ms}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_a_500_and_is_counted() {
        let answers = ask("100", &["/api/v1/hello", "/status"]).await;
        assert_eq!(answers[0].0, 500);
        assert_eq!(parsed(&answers[0].1)["error"], "failed on purpose");
        let status = parsed(&answers[1].1);
        assert_eq!(status["requests"], 1);
        assert_eq!(status["failures"], 1);
        assert_eq!(status["in_flight"], 0);
        assert_eq!(status["id"], "w");
        assert!(status["uptime_s"].is_u64());
    }

    #[tokio::test]
    async fn health_is_plain_and_what_is_unknown_is_refused_in_json() {
        let answers = ask("100", &["/_health", "/nothing"]).await;
        assert_eq!(answers[0], (200, "ok".to_owned()));
        assert_eq!(answers[1].0, 404);
        assert_eq!(parsed(&answers[1].1)["error"], "no such path");
    }

    #[test]
    fn delays_lie_between_half_the_average_and_one_and_a_half() {
        let average = Duration::from_millis(20);
        assert_eq!(delay(average, 0.0), Duration::from_millis(10));
        assert_eq!(delay(average, 0.5), average);
        assert!(delay(average, 1.0 - f64::EPSILON) <= Duration::from_millis(30));
        assert_eq!(delay(Duration::ZERO, 0.7), Duration::ZERO);
    }

    #[test]
    fn delays_have_the_average_that_was_asked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        let draws = 10_000;
        let average = Duration::from_millis(20);
        let sum: Duration = (0..draws).map(|_| delay(average, random.f64())).sum();
        let mean_ms = (sum / draws).as_secs_f64() * 1000.0;
        assert!((19.8..=20.2).contains(&mean_ms), "{mean_ms}");
    }
}
