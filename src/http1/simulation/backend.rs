//! The backends of a run: what they answer, and all that backends do otherwise.

use std::cell::Cell;
use std::rc::Rc;

use super::flow::Side;
use super::ledger::{Ask, Ledger, Meant};
use super::message::{Message, Reader, Shape, encode, pattern, shape_field};
use super::scenario::Scenario;
use crate::io::sim::{Dial, End, Host, World};
use crate::proxy_protocol::Origin;

/// Longer than any limit of time of a run.
pub(super) const FOR_EVER_MS: u64 = 20_000;

#[derive(Clone)]
pub(super) struct Backend {
    pub(super) world: Rc<World>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) scenario: Rc<Scenario>,
    pub(super) stopped: Rc<Cell<bool>>,
}

/// A switch of protocols that is well formed.
pub(super) const SWITCH: &str = "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: sim\r\n\r\n";

/// What becomes of a connection behind an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
}

/// How a response fails to come as it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    Close,
    Reset,
    Stall,
    Garbage,
}

impl Backend {
    /// Serves whoever connects, until the host is told to stop.
    pub(super) async fn serve(self, host: Rc<Host>) {
        while let Some(end) = host.next().await {
            let backend = self.clone();
            self.world.executor.spawn(async move {
                match backend.scenario.tcp {
                    true => backend.flow(&end).await,
                    false => backend.converse(end).await,
                }
            });
        }
    }

    /// Is there or not, as it comes.
    pub(super) async fn change_mood(self, host: Rc<Host>) {
        while !self.stopped.get() {
            let mood = self.world.any(&[
                Dial::Accepted,
                Dial::Accepted,
                Dial::Refused,
                Dial::Full,
                Dial::Silent,
                Dial::Unreachable,
            ]);
            host.dial.set(mood);
            let pause_ms = self.world.between(20, 400);
            self.world.executor.sleep(pause_ms).await;
        }
    }

    /// Says and hears what a connection carries, whatever that is.
    async fn flow(&self, end: &Rc<End>) {
        let mut reader = Reader::new(end);
        if !self.is_introduced(&mut reader).await {
            return;
        }
        let party = self.ledger.enter_party(Side::Backend, &self.scenario);
        let brought = reader.take_rest();
        party.converse(&self.ledger, end, &brought).await;
    }

    /// Hears whom the connection is for, where it has to begin with that; `false` where it ends
    /// before.
    async fn is_introduced(&self, reader: &mut Reader) -> bool {
        if !self.ledger.tells.get() {
            return true;
        }
        let Ok(origin) = reader.preface().await else {
            return false;
        };
        self.world.count("backend is told of the client");
        match origin {
            Origin::Client(ends) => {
                assert!(self.scenario.proxied, "an address that nobody knows");
                assert_eq!(ends.source().ip().to_string(), self.scenario.client());
            }
            Origin::Unknown => assert!(!self.scenario.proxied, "the client is known"),
            Origin::Local => panic!("the connection is for a client"),
        }
        true
    }

    async fn converse(self, end: Rc<End>) {
        let (world, faults) = (&self.world, self.scenario.backend_faults_per_mille);
        let connection = end.connection;
        if world.happens(faults / 2) {
            self.ledger
                .breaks(connection, "backend dies when it has accepted");
            self.vanish(&end);
            return;
        }
        let mut reader = Reader::new(&end);
        if !self.is_introduced(&mut reader).await {
            return;
        }
        let mut first = true;
        while self.idle(&mut reader, connection, first).await {
            if world.happens(faults / 3) {
                self.ledger
                    .breaks(connection, "backend dies inside the head");
                self.vanish(&end);
                return;
            }
            let Ok(head) = reader.head().await else {
                return;
            };
            if self.answer(&head, &end, &mut reader).await == Then::Close {
                return;
            }
            first = false;
        }
    }

    /// Waits for the next request; `false` where the backend or its peer closes before it comes.
    async fn idle(&self, reader: &mut Reader, connection: u64, first: bool) -> bool {
        if !reader.is_empty() {
            return true;
        }
        if !self.world.happens(self.scenario.idle_closes_per_mille) {
            return reader.fill().await.is_ok();
        }
        let patience_ms = self.world.between(0, 60);
        if let Some(filled) = self.world.within(patience_ms, reader.fill()).await {
            return filled.is_ok();
        }
        match first {
            true => self
                .ledger
                .breaks(connection, "backend closes an unused connection"),
            false => self.world.count("backend closes an idle connection"),
        }
        false
    }

    async fn answer(&self, head: &Message, end: &Rc<End>, reader: &mut Reader) -> Then {
        let (world, faults) = (&self.world, self.scenario.backend_faults_per_mille);
        if head.start == "POST / HTTP/1.1" {
            // A client's rubbish that is a fine head; its body does not become whole.
            while reader.fill().await.is_ok() {}
            return Then::Close;
        }
        let ask = self.understand(head);
        let (serial, connection) = (ask.serial, end.connection);
        if world.happens(faults / 2) {
            self.ledger
                .blame(serial, connection, "backend dies behind the head");
            self.vanish(end);
            return Then::Close;
        }
        let early = ask.body != Shape::None && world.happens(self.scenario.early_per_mille);
        let mut then = Then::Keep;
        if ask.expects || world.happens(50) {
            let interim = format!("HTTP/1.1 100 Continue\r\nX-Serial: {serial}\r\n\r\n");
            let count = if world.happens(faults / 8) { 40 } else { 1 };
            if count > 1 {
                self.ledger
                    .blame(serial, connection, "backend goes on with interim responses");
            }
            if end.write(interim.repeat(count).as_bytes()).await.is_err() {
                return Then::Close;
            }
        }
        if ask.upgrade && world.happens(700) {
            self.switch(&ask, end, reader).await;
            return Then::Close;
        }
        let shape = head.shape(Shape::None);
        if early {
            world.count("backend answers early");
            then = self.respond(&ask, end, true).await;
            if then == Then::Close && world.happens(600) {
                return then;
            }
        }
        let mut body = Vec::new();
        if reader.body(shape, &mut body).await.is_err() {
            return Then::Close;
        }
        // A client may say little for as long as it is answered.
        let may_trickle = early || self.scenario.http.min_rate.is_none();
        assert!(may_trickle || !ask.trickles, "{ask:?} came whole");
        let expected = pattern(serial + 7, ask.body_bytes);
        assert!(body == expected, "another request body for {ask:?}");
        if !early {
            let think_ms = self.scenario.think_ms_max;
            let think_ms = world.between(0, think_ms);
            world.executor.sleep(think_ms).await;
            then = self.respond(&ask, end, false).await;
        }
        if then == Then::Keep && world.happens(self.scenario.unasked_per_mille) {
            world.count("backend sends unasked");
            let pause_ms = world.between(0, 30);
            world.executor.sleep(pause_ms).await;
            let _ = end.write(b"\x01 unasked").await;
        }
        then
    }

    /// Checks the head of a request as fastlb wrote it.
    fn understand(&self, head: &Message) -> Ask {
        let words: Vec<&str> = head.start.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else {
            panic!("bad request line {:?}", head.start);
        };
        let serial = target
            .strip_prefix("/s/")
            .expect("the target of the client");
        let ask = self.ledger.reach(serial.parse().expect("a number"));
        assert_eq!(method, ask.method);
        assert_eq!(head.field("host"), Some("sim"));
        assert_eq!(head.field("x-forwarded-for"), Some(self.scenario.client()));
        let upgrade = ask.upgrade.then_some("Upgrade");
        assert_eq!(head.field("connection"), upgrade);
        assert_eq!(head.field("upgrade"), upgrade.map(|_| "sim"));
        assert_eq!(head.shape(Shape::None), ask.body, "{ask:?}");
        ask
    }

    /// Switches protocols, as it was asked to, and goes on with what comes then.
    async fn switch(&self, ask: &Ask, end: &Rc<End>, reader: &mut Reader) {
        let world = &self.world;
        let think_ms = world.between(0, self.scenario.think_ms_max);
        world.executor.sleep(think_ms).await;
        let early = !reader.is_empty() || end.has_unread();
        assert!(!early, "bytes before the switch of protocols");
        let serial = ask.serial;
        let mut to = "Upgrade: sim\r\n";
        if world.happens(self.scenario.backend_faults_per_mille / 4) {
            let fault = "backend switches to what was not asked for";
            self.ledger.blame(serial, end.connection, fault);
            to = world.any(&["", "Upgrade: other\r\n", "Upgrade: sim, other\r\n"]);
        }
        let head =
            format!("HTTP/1.1 101 Fine\r\nX-Serial: {serial}\r\nConnection: upgrade\r\n{to}\r\n");
        let meant = Meant {
            connection: end.connection,
            status: 101,
            body: Vec::new(),
            ends_by_close: false,
        };
        self.ledger.mean(serial, meant);
        world.count("backend switches protocols");
        let party = self.ledger.enter_party(Side::Backend, &self.scenario);
        if !party.is_well() {
            // A reset may destroy the head of the switch too.
            let fault = "backend breaks its tunnel";
            self.ledger.blame(serial, end.connection, fault);
        }
        let head_bytes = head.len();
        if self.write(ask, end, head.into_bytes(), head_bytes).await {
            let brought = reader.take_rest();
            party.converse(&self.ledger, end, &brought).await;
        }
    }

    async fn respond(&self, ask: &Ask, end: &Rc<End>, early: bool) -> Then {
        let world = &self.world;
        if world.happens(self.scenario.backend_faults_per_mille / 8) && !ask.upgrade {
            let fault = "backend switches unasked";
            self.ledger.blame(ask.serial, end.connection, fault);
            let _ = end.write(SWITCH.as_bytes()).await;
            return Then::Close;
        }
        let refuses = early && world.happens(500);
        let status = match refuses {
            true => 413,
            false => world.any(&[200, 200, 200, 200, 204, 304, 404, 500]),
        };
        let length = self.scenario.body_bytes(world);
        let bodiless = matches!(status, 204 | 304);
        let mut shape = world.any(&[Shape::Length(length), Shape::Chunked, Shape::Close]);
        if bodiless {
            shape = Shape::None;
        }
        let body = if bodiless {
            Vec::new()
        } else {
            pattern(ask.serial, length)
        };
        let close = shape == Shape::Close || refuses || world.happens(100);
        let connection = if close { "Connection: close\r\n" } else { "" };
        let field = shape_field(shape);
        let serial = ask.serial;
        let version = if close && shape != Shape::Chunked && world.happens(300) {
            0
        } else {
            1
        };
        let head = format!(
            "HTTP/1.{version} {status} Fine\r\nX-Serial: {serial}\r\n{field}{connection}\r\n"
        );
        let mut bytes = head.into_bytes();
        let head_bytes = bytes.len();
        self.ledger.mean(
            serial,
            Meant {
                status,
                body: body.clone(),
                ends_by_close: shape == Shape::Close,
                connection: end.connection,
            },
        );
        if ask.method != "HEAD" {
            let chunk = world.between(1, 1 + length as u64) as usize;
            encode(shape, &body, chunk.max(length / 8), &mut bytes);
        }
        if early && close {
            // What the client still sends makes the close a reset; the answer may not survive it.
            self.ledger.blame(
                serial,
                end.connection,
                "backend closes behind an early answer",
            );
        }
        let whole = self.write(ask, end, bytes, head_bytes).await;
        if whole && !close {
            Then::Keep
        } else {
            Then::Close
        }
    }

    /// Writes a response as it is, or with a flaw; `false` where that ends the connection.
    async fn write(&self, ask: &Ask, end: &Rc<End>, mut bytes: Vec<u8>, head_bytes: usize) -> bool {
        let world = &self.world;
        let flaw = match world.happens(self.scenario.backend_faults_per_mille) {
            true => world.any(&[Flaw::Close, Flaw::Reset, Flaw::Stall, Flaw::Garbage]),
            false => Flaw::None,
        };
        let in_head = world.happens(300);
        let end_of_part = if in_head { head_bytes } else { bytes.len() };
        let place = world.between(0, end_of_part as u64 - 1) as usize;
        let (serial, connection) = (ask.serial, end.connection);
        match flaw {
            Flaw::None => return end.write(&bytes).await.is_ok(),
            Flaw::Close => self
                .ledger
                .blame(serial, connection, "backend closes in its response"),
            Flaw::Reset => self
                .ledger
                .blame(serial, connection, "backend resets in its response"),
            Flaw::Stall => {
                self.ledger
                    .blame(serial, connection, "backend stalls in its response");
                if end.write(&bytes[..place]).await.is_ok() {
                    world.executor.sleep(FOR_EVER_MS).await;
                    return end.write(&bytes[place..]).await.is_ok();
                }
            }
            Flaw::Garbage => {
                self.ledger
                    .blame(serial, connection, "backend sends garbage");
                let place = place.min(head_bytes - 2);
                bytes.splice(place..place, *b"\n\0\n");
                let _ = end.write(&bytes).await;
            }
        }
        if matches!(flaw, Flaw::Close | Flaw::Reset) && end.write(&bytes[..place]).await.is_ok() {
            let pause_ms = world.between(0, 3);
            world.executor.sleep(pause_ms).await;
        }
        if flaw == Flaw::Reset {
            end.reset_on_close();
        }
        false
    }

    fn vanish(&self, end: &End) {
        if self.world.happens(500) {
            end.reset_on_close();
        }
    }
}
