//! Runs whose every step is written down, for what only a rare seed would meet. They are on the
//! engine that is like the ring, where an operation goes on by itself; that no wait holds a chunk
//! is what the world demands whenever all wait.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::backend::SWITCH;
use super::message::{Reader, Shape};
use super::{fleet, front, scenario};
use crate::balance::RoundRobin;
use crate::http1::{Gateway, Sessions};
use crate::io::BufferOptions;
use crate::io::sim::{Dial, End, Host, Network, Sim, World};
use crate::listener::Arrival;
use crate::stats::WorkerCounters;
use crate::upstream::{self, Backends, Reports, RetryOn};

/// What a session makes of its client is not what is looked at here.
const NOBODY: Arrival = Arrival {
    peer: None,
    proxied: false,
};

/// A session between one client and one backend, both of which do as the test says.
struct Stage {
    world: Rc<World>,
    client: Rc<End>,
    backend: Rc<Host>,
}

impl Stage {
    /// Plays `script`, in a network whose connections hold so many bytes each way, until the
    /// session has ended.
    fn play(seed: u64, capacity_bytes: usize, script: impl AsyncFnOnce(Self)) {
        let network = Network {
            capacity_bytes,
            ..Network::default()
        };
        let world = World::new(seed, network, BufferOptions::default());
        let io = Sim::<false>(world.clone());
        let counters = Arc::new(WorkerCounters::new(1));
        let options = upstream::Options {
            connect_timeout: None,
            retries: 0,
            pool_idle_max: 1,
            pool_idle_timeout: Duration::MAX,
            retry_on: RetryOn::default(),
            retry_hundredths_per_second: 0,
        };
        let balancer = Arc::new(RoundRobin::default());
        let (line, _heard) = mpsc::channel(1);
        let fleet = fleet::of(1);
        let backends = Backends::new(
            io.clone(),
            fleet,
            balancer,
            options,
            counters.clone(),
            Reports::new(line, 1),
        );
        let http = scenario::http(&mut fastrand::Rng::with_seed(seed));
        let gateway = Rc::new(Gateway::new(io, backends, counters, http));
        let (listener, backend) = (world.bind(front()), world.bind(fleet::at(0)));
        let over = Rc::<Cell<bool>>::default();
        let playing = async {
            let client = world.clone().visit(front()).await.expect("bound above");
            let socket = listener.next().await.expect("it is connected");
            let session = Sessions::new(gateway.clone()).open(socket, NOBODY, ());
            let ended = over.clone();
            world.executor.spawn(async move {
                session.await;
                ended.set(true);
            });
            script(Self {
                world: world.clone(),
                client,
                backend,
            })
            .await;
            while !over.get() {
                world.executor.sleep(1).await;
            }
        };
        let played = world.executor.block_on(playing);
        played.unwrap_or_else(|hang| panic!("{hang:?}"));
    }

    async fn pause(&self) {
        self.world.executor.sleep(20).await;
    }

    async fn say(&self, text: &str) {
        self.client
            .write(text.as_bytes())
            .await
            .expect("it takes it");
    }

    /// Has a request answered, so that the pool has a connection, whose other end this returns.
    async fn pooled(&self) -> (Rc<End>, Reader) {
        self.say("GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let end = self.backend.next().await.expect("it is connected to");
        let mut requests = Reader::new(&end);
        requests.head().await.expect("the request comes");
        say(&end, "HTTP/1.1 204 Fine\r\n\r\n").await;
        let mut answers = Reader::new(&self.client);
        answers.head().await.expect("the answer comes");
        self.pause().await;
        (end, requests)
    }

    /// Has the client read an answer to its end.
    async fn expect(&self, status: &str) {
        let mut answers = Reader::new(&self.client);
        let head = answers.head().await.expect("an answer comes");
        assert!(head.start.contains(status), "{head:?}");
    }
}

async fn say(end: &End, text: &str) {
    end.write(text.as_bytes()).await.expect("it takes it");
}

#[test]
fn the_answers_before_a_cut_one_arrive() {
    // Whether a reset destroys what was not read yet is a matter of luck.
    for seed in 0..32 {
        Stage::play(seed, 4096, async |stage: Stage| {
            stage.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            stage.say("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let end = stage.backend.next().await.expect("it is connected to");
            let mut requests = Reader::new(&end);
            requests.head().await.expect("the first request comes");
            say(&end, "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\nwhole").await;
            requests.head().await.expect("the second request comes");
            say(&end, "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\nha").await;
            stage.pause().await;
            // Nobody receives it, so a close would be a reset.
            stage.say("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            stage.pause().await;
            drop((requests, end));
            stage.pause().await;
            let mut heard = Vec::new();
            loop {
                match stage.client.read(4096).await {
                    Ok(bytes) if !bytes.is_empty() => heard.extend(bytes),
                    ended => break assert!(ended.is_ok(), "seed {seed}: {ended:?}"),
                }
            }
            let heard = String::from_utf8(heard).expect("text");
            assert!(heard.contains("whole"), "seed {seed}: {heard:?}");
            assert!(heard.ends_with("\r\n\r\nha"), "seed {seed}: {heard:?}");
        });
    }
}

/// A pooled connection dies under a request whose body is still to come, and comes when the next
/// connection is not there yet, or does not take the head yet.
#[test]
fn a_body_that_comes_while_a_request_goes_elsewhere_holds_no_chunk() {
    for (seed, dial) in [
        (0, Dial::Accepted),
        (0, Dial::Unreachable),
        (1, Dial::Unreachable),
    ] {
        Stage::play(seed, 64, async |stage: Stage| {
            let (end, mut requests) = stage.pooled().await;
            stage
                .say("PUT /second HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
                .await;
            requests.head().await.expect("the request comes");
            stage.backend.dial.set(dial);
            drop((requests, end));
            stage.pause().await;
            stage.say("body").await;
            stage.pause().await;
            if dial != Dial::Accepted {
                return stage.expect("503").await;
            }
            let end = stage.backend.next().await.expect("it is connected to");
            let mut requests = Reader::new(&end);
            requests.head().await.expect("the request comes again");
            let mut body = Vec::new();
            let read = requests.body(Shape::Length(4), &mut body).await;
            assert!(read.is_ok() && body == b"body", "{read:?} {body:?}");
            say(&end, "HTTP/1.1 204 Fine\r\n\r\n").await;
            stage.expect("204").await;
        });
    }
}

#[test]
fn an_answer_that_comes_while_the_head_is_sent_holds_no_chunk() {
    Stage::play(0, 64, async |stage: Stage| {
        let (end, mut requests) = stage.pooled().await;
        stage
            .say("PUT /second HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
            .await;
        // The head is longer than the connection holds, and nobody reads it yet.
        stage.pause().await;
        say(&end, "HTTP/1.1 204 Fine\r\n\r\n").await;
        stage.pause().await;
        requests.head().await.expect("the request comes");
        stage.expect("204").await;
        stage.say("body").await;
    });
}

#[test]
fn what_comes_behind_a_switch_of_protocols_holds_no_chunk() {
    Stage::play(0, 64, async |stage: Stage| {
        stage.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let end = stage.backend.next().await.expect("it is connected to");
        let mut requests = Reader::new(&end);
        requests.head().await.expect("the first request comes");
        say(&end, "HTTP/1.1 204 Fine\r\n\r\n").await;
        stage.say("GET /2 HTTP/1.1\r\nHost: a\r\n").await;
        stage
            .say("Connection: upgrade\r\nUpgrade: sim\r\n\r\n")
            .await;
        requests.head().await.expect("the second request comes");
        // The client reads nothing, and there is no room for this behind the first answer.
        say(&end, SWITCH).await;
        say(&end, "hello").await;
        stage.pause().await;
        let mut answers = Reader::new(&stage.client);
        for status in ["204", "101"] {
            let head = answers.head().await.expect("an answer comes");
            assert!(head.start.contains(status), "{head:?}");
        }
        let mut heard = answers.take_rest();
        while heard.len() < 5 {
            answers.fill().await.expect("there is more");
            heard.append(&mut answers.take_rest());
        }
        assert_eq!(heard, b"hello");
    });
}

/// While a client takes its time with a response, its backend says more, or closes.
#[test]
fn what_came_behind_a_response_that_a_client_reads_slowly_answers_nothing() {
    const ANSWER: &str = "HTTP/1.1 200 Fine\r\nContent-Length: 300\r\n\r\n";
    for closes in [false, true] {
        Stage::play(0, 200, async |stage: Stage| {
            stage.say("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
            stage
                .say("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                .await;
            let end = stage.backend.next().await.expect("it is connected to");
            let mut requests = Reader::new(&end);
            requests.head().await.expect("the first request comes");
            say(&end, ANSWER).await;
            say(&end, &"x".repeat(300)).await;
            stage.pause().await;
            if closes {
                end.half_close();
            } else {
                say(&end, "HTTP/1.1 204 Unasked\r\n\r\n").await;
            }
            stage.pause().await;
            let mut answers = Reader::new(&stage.client);
            let head = answers.head().await.expect("an answer comes");
            let read = answers.body(head.shape(Shape::None), &mut Vec::new()).await;
            read.expect("it is whole");
            let other = stage.world.within(20, stage.backend.next()).await;
            let other = other.flatten().expect("another connection is made");
            let mut requests = Reader::new(&other);
            requests.head().await.expect("the second request comes");
            say(&other, "HTTP/1.1 204 Fine\r\n\r\n").await;
            let head = answers.head().await.expect("an answer comes");
            assert!(head.start.ends_with(" 204 Fine"), "{head:?}");
        });
    }
}
