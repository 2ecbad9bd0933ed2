//! The clients of a run: what they ask, how they misbehave, and what they make of the answers.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::Notify;

use super::backend::FOR_EVER_MS;
use super::flow::{Party, Side};
use super::ledger::{Answer, Ask, Got, Ledger};
use super::message::{Lost, Message, Reader, Shape, encode, pattern, shape_field};
use super::scenario::{self, Scenario};
use crate::io::sim::{End, World};
use crate::proxy_protocol::{Ends, Origin, Version, write};

/// How a client trickles: never idle for as long as a body may be, and slower than it may be.
const TRICKLE_MS: u64 = 900;
/// So many bytes of its body: some may have come before anybody waits for them.
const TRICKLED_BYTES: usize = 12;

/// What a client does beside asking and reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// Sends FIN behind its last request, and reads on.
    HalfClosesBehind,
    /// Sends FIN somewhere in its last request.
    HalfClosesInside,
    /// Stops somewhere in its last request, for too long.
    StallsSending,
    /// Sends some of its last request byte by byte, which is well where no rate is asked for.
    Trickles,
    /// Does not read, for too long.
    StallsReading,
    /// Closes or resets somewhere in its last request, or behind it.
    Vanishes,
    /// Its last request is none.
    SendsRubbish,
    /// Is silent for longer than an idle connection may be.
    Dawdles,
}

pub(super) struct Client {
    pub(super) world: Rc<World>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) scenario: Rc<Scenario>,
    pub(super) address: SocketAddr,
}

/// One connection of a client.
struct Conversation {
    end: Rc<End>,
    asks: Vec<Ask>,
    /// For each request, who speaks through the tunnel that may come of it.
    parties: Vec<Option<Rc<Party>>>,
    mood: Mood,
    pipelines: bool,
    answered: Cell<usize>,
    continued: Cell<bool>,
    /// What follows is no HTTP any more.
    switched: Cell<bool>,
    /// The client has done what may end the connection.
    excused: Cell<bool>,
    changed: Notify,
}

impl Client {
    pub(super) async fn run(self) {
        let pause_ms = self.world.between(0, self.scenario.arrivals_ms_max);
        self.world.executor.sleep(pause_ms).await;
        if self.scenario.tcp {
            return self.flow().await;
        }
        let Some(end) = self.connect().await else {
            return;
        };
        let mood = match self.world.happens(self.scenario.client_faults_per_mille) {
            true => self.world.any(&[
                Mood::HalfClosesBehind,
                Mood::HalfClosesInside,
                Mood::StallsSending,
                Mood::Trickles,
                Mood::StallsReading,
                Mood::Vanishes,
                Mood::SendsRubbish,
                Mood::Dawdles,
            ]),
            false => Mood::Well,
        };
        if mood != Mood::Well {
            self.world.count(match mood {
                Mood::Well | Mood::HalfClosesBehind => "client half-closes behind its requests",
                Mood::HalfClosesInside => "client half-closes inside a request",
                Mood::StallsSending => "client stalls in a request",
                Mood::Trickles => "client trickles its last body",
                Mood::StallsReading => "client does not read",
                Mood::Vanishes => "client vanishes",
                Mood::SendsRubbish => "client sends a bad head",
                Mood::Dawdles => "client is idle for too long",
            });
        }
        let count = self.world.between(1, self.scenario.requests_max);
        let asks = (1..=count).map(|number| self.ask(mood, number == count));
        let asks: Vec<Ask> = asks.collect();
        let party = |ask: &Ask| {
            let enter = || self.ledger.enter_party(Side::Client, &self.scenario);
            ask.upgrade.then(enter)
        };
        let talk = Conversation {
            end,
            parties: asks.iter().map(party).collect(),
            asks,
            mood,
            pipelines: self.world.happens(self.scenario.pipelines_per_mille),
            answered: Cell::new(0),
            continued: Cell::new(false),
            switched: Cell::new(false),
            excused: Cell::new(false),
            changed: Notify::new(),
        };
        if talk.pipelines && count > 1 {
            self.world.count("client pipelines");
        }
        self.converse(&talk).await;
    }

    /// One connection after the other that carries whatever it likes.
    async fn flow(&self) {
        for _ in 0..self.world.between(1, self.scenario.requests_max) {
            let Some(end) = self.connect().await else {
                return;
            };
            let party = self.ledger.enter_party(Side::Client, &self.scenario);
            party.converse(&self.ledger, &end, &[]).await;
        }
    }

    async fn connect(&self) -> Option<Rc<End>> {
        let end = self.world.clone().visit(self.address).await.ok();
        let draining = self.ledger.draining.get();
        assert!(end.is_some() || draining, "the listener is gone");
        let end = end?;
        if self.scenario.proxied {
            self.world.count("client comes through a proxy");
            let version = self.world.any(&[Version::V1, Version::V2]);
            let source = (scenario::PROXIED.parse::<IpAddr>().ok()?, 1111).into();
            let header = write(version, Origin::Client(Ends::new(source, self.address)));
            if end.write(&header).await.is_err() {
                assert!(self.ledger.draining.get(), "a good header was refused");
                return None;
            }
        }
        Some(end)
    }

    /// Writes and reads at the same time, until the answers are there or the client has gone.
    async fn converse(&self, talk: &Conversation) {
        let mut writing = pin!(self.write_all(talk));
        let mut reading = pin!(self.read_all(talk));
        let mut written = false;
        poll_fn(|cx| {
            if !written && let Poll::Ready(gone) = writing.as_mut().poll(cx) {
                written = true;
                if gone {
                    return Poll::Ready(());
                }
            }
            reading.as_mut().poll(cx)
        })
        .await;
    }

    fn ask(&self, mood: Mood, last: bool) -> Ask {
        let world = &self.world;
        let method = world.any(&[
            "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS",
        ]);
        let upgrades = self.scenario.upgrades_per_mille;
        let upgrade = method == "GET" && mood == Mood::Well && world.happens(upgrades);
        let http10 = !upgrade && world.happens(100);
        let body_bytes = self.scenario.body_bytes(world);
        let body = match method {
            "POST" | "PUT" | "PATCH" if http10 => Shape::Length(body_bytes),
            "POST" | "PUT" | "PATCH" => world.any(&[Shape::Length(body_bytes), Shape::Chunked]),
            _ => Shape::None,
        };
        let has_body = body != Shape::None;
        self.ledger.enter(Ask {
            serial: 0,
            method,
            http10,
            keep_alive: upgrade || !world.happens(if http10 { 500 } else { 50 }),
            body,
            body_bytes: if has_body { body_bytes } else { 0 },
            expects: has_body && body_bytes > 0 && !http10 && world.happens(100),
            upgrade,
            trickles: has_body && last && mood == Mood::Trickles && body_bytes >= TRICKLED_BYTES,
        })
    }

    fn bytes(&self, ask: &Ask) -> (Vec<u8>, usize) {
        let (version, connection) = match (ask.http10, ask.keep_alive) {
            (true, true) => (0, "Connection: keep-alive\r\n"),
            (true, false) => (0, ""),
            (false, true) if ask.upgrade => (1, "Upgrade: sim\r\nConnection: upgrade\r\n"),
            (false, true) => (1, ""),
            (false, false) => (1, "Connection: close\r\n"),
        };
        let expect = if ask.expects {
            "Expect: 100-continue\r\n"
        } else {
            ""
        };
        let (method, serial, field) = (ask.method, ask.serial, shape_field(ask.body));
        let mut bytes = format!(
            "{method} /s/{serial} HTTP/1.{version}\r\nHost: sim\r\n{connection}{expect}{field}\r\n"
        )
        .into_bytes();
        let head_bytes = bytes.len();
        let body = pattern(serial + 7, ask.body_bytes);
        let chunk = self.world.between(1, 1 + body.len() as u64) as usize;
        encode(ask.body, &body, chunk.max(body.len() / 8), &mut bytes);
        (bytes, head_bytes)
    }

    /// Sends all requests; `true` where the client is gone behind it.
    async fn write_all(&self, talk: &Conversation) -> bool {
        let world = &self.world;
        for (index, ask) in talk.asks.iter().enumerate() {
            // What is sent behind an upgrade is for who takes it.
            if !talk.pipelines || index > 0 && talk.asks[index - 1].upgrade {
                talk.until(|| talk.answered.get() >= index).await;
            }
            if talk.switched.get() {
                return false;
            }
            let pause_ms = world.between(0, self.scenario.think_ms_max);
            world.executor.sleep(pause_ms).await;
            let last = index + 1 == talk.asks.len();
            if last && let Some(gone) = self.misbehave(talk, ask).await {
                return gone;
            }
            let (bytes, head_bytes) = self.bytes(ask);
            let (head, body) = bytes.split_at(head_bytes);
            if talk.end.write(head).await.is_err() {
                return false;
            }
            if ask.expects {
                let told = talk.until(|| talk.continued.get() || talk.answered.get() > index);
                world.within(300, told).await;
                talk.continued.set(false);
            }
            if ask.trickles && !self.trickle(talk, &body[..TRICKLED_BYTES]).await {
                return false;
            }
            let trickled = if ask.trickles { TRICKLED_BYTES } else { 0 };
            if talk.end.write(&body[trickled..]).await.is_err() {
                return false;
            }
        }
        if talk.mood == Mood::HalfClosesBehind {
            talk.end.half_close();
        }
        false
    }

    /// Sends these bytes one at a time; `false` where the other side is gone.
    async fn trickle(&self, talk: &Conversation, bytes: &[u8]) -> bool {
        talk.excused.set(self.scenario.http.min_rate.is_some());
        for byte in bytes {
            self.world.executor.sleep(TRICKLE_MS).await;
            if talk.end.write(&[*byte]).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Does to the last request what the mood says; `None` where it is sent as it should.
    async fn misbehave(&self, talk: &Conversation, ask: &Ask) -> Option<bool> {
        let (world, end) = (&self.world, &talk.end);
        if matches!(
            talk.mood,
            Mood::Well | Mood::HalfClosesBehind | Mood::StallsReading | Mood::Trickles
        ) {
            return None;
        }
        talk.excused.set(true);
        let (bytes, _) = self.bytes(ask);
        let place = world.between(0, bytes.len() as u64) as usize;
        match talk.mood {
            Mood::Dawdles => {
                world.executor.sleep(FOR_EVER_MS).await;
                return None;
            }
            Mood::SendsRubbish => {
                let rubbish = world.any(&[
                    "GET / HTTP/1.1\nHost: sim\n\n",
                    "GET / HTTP/1.1\r\n\r\n",
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                    "POST / HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
                    "\x16\x03\x01\x02",
                    "GET / HTTP/3.0\r\n\r\n",
                ]);
                let _ = end.write(rubbish.as_bytes()).await;
                return Some(false);
            }
            _ => {}
        }
        if end.write(&bytes[..place]).await.is_err() {
            return Some(false);
        }
        match talk.mood {
            Mood::HalfClosesInside => {
                end.half_close();
                Some(false)
            }
            Mood::StallsSending => {
                world.executor.sleep(FOR_EVER_MS).await;
                let _ = end.write(&bytes[place..]).await;
                Some(false)
            }
            _ => {
                let pause_ms = world.between(0, 100);
                world.executor.sleep(pause_ms).await;
                if world.happens(500) {
                    end.reset_on_close();
                }
                Some(true)
            }
        }
    }

    async fn read_all(&self, talk: &Conversation) {
        let mut reader = Reader::slow(&talk.end, self.scenario.read_pause_ms_max);
        for (index, ask) in talk.asks.iter().enumerate() {
            let last = index + 1 == talk.asks.len();
            if last && talk.mood == Mood::StallsReading {
                talk.excused.set(true);
                self.world.executor.sleep(FOR_EVER_MS).await;
            }
            let got = self.read(talk, &mut reader, ask).await;
            // A response that only the close ends is cut by a reset, which those before may not
            // survive.
            let next = &talk.asks[index + 1..];
            let reset = |ask: &Ask| ask.http10 && self.ledger.is_blamed(ask.serial);
            let excused = talk.excused.get() || next.iter().any(reset);
            self.ledger.judge(ask, &got, excused);
            let switched = matches!(&got, Got::Answer(answer) if answer.status == 101);
            talk.switched.set(switched);
            self.judge_persistence(index + 1, &got);
            talk.answered.set(index + 1);
            talk.changed.notify_waiters();
            if switched && let Some(party) = &talk.parties[index] {
                let brought = reader.take_rest();
                return party.converse(&self.ledger, &talk.end, &brought).await;
            }
            match got {
                Got::Answer(answer) if !answer.close && !answer.cut => {}
                Got::Nothing(_) => return,
                Got::Answer(_) => break,
            }
        }
        let rest = self.world.within(FOR_EVER_MS, reader.fill());
        let closes = !talk.asks.is_empty() && talk.answered.get() < talk.asks.len();
        if closes {
            let rest = rest.await.expect("closed in time, as was said");
            assert!(rest.is_err(), "bytes behind the last answer");
        }
    }

    /// Who has asked as often as it may is told that no further answer comes.
    fn judge_persistence(&self, asked: usize, got: &Got) {
        let limits = &self.scenario.http.clients.limits;
        let is_worn_out = limits
            .keep_alive_requests
            .is_some_and(|max| asked >= max as usize);
        if let Got::Answer(answer) = got
            && is_worn_out
        {
            assert!(
                answer.close || answer.cut || answer.status == 101,
                "{answer:?}"
            );
        }
    }

    async fn read(&self, talk: &Conversation, reader: &mut Reader, ask: &Ask) -> Got {
        let head = loop {
            let head = match reader.head().await {
                Ok(head) => head,
                Err(lost) => {
                    let excused = talk.excused.get() || self.ledger.draining.get();
                    assert!(lost.empty || lost.reset || excused, "half a head: {lost:?}");
                    return Got::Nothing(lost);
                }
            };
            assert!(head.field("date").is_some(), "no date in {head:?}");
            if status(&head) >= 200 {
                break head;
            }
            if status(&head) == 101 {
                assert!(ask.upgrade, "a switch of protocols for {ask:?}");
                assert_eq!(head.field("connection"), Some("Upgrade"));
                assert_eq!(head.field("upgrade"), Some("sim"));
                break head;
            }
            assert!(!ask.http10, "an interim response for HTTP/1.0");
            assert_eq!(head.number("x-serial"), Some(ask.serial));
            talk.continued.set(true);
            talk.changed.notify_waiters();
        };
        let status = status(&head);
        let shape = match status {
            101 | 204 | 304 => Shape::None,
            _ if ask.method == "HEAD" => Shape::None,
            _ => head.shape(Shape::Close),
        };
        assert!(
            !ask.http10 || shape != Shape::Chunked,
            "chunks for HTTP/1.0"
        );
        let mut body = Vec::new();
        let read = reader.body(shape, &mut body).await;
        let keeps = match ask.http10 {
            true => head.field("connection") == Some("keep-alive"),
            false => !head.says_close(),
        };
        assert!(!keeps || ask.keep_alive, "kept although the client closes");
        Got::Answer(Answer {
            status,
            serial: head.number("x-serial"),
            body,
            cut: matches!(read, Err(Lost { .. })),
            close: !keeps || shape == Shape::Close,
        })
    }
}

impl Conversation {
    async fn until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            self.changed.notified().await;
        }
    }
}

fn status(head: &Message) -> u16 {
    let rest = head.start.strip_prefix("HTTP/1.1 ").expect("a status line");
    let (digits, _) = rest.split_once(' ').expect("a blank behind the status");
    assert_eq!(digits.len(), 3);
    digits.parse().expect("a status")
}
