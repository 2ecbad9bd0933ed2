//! The two parties of a flow, which a TCP session joins, or a tunnel: what they say, how they end,
//! and whether what each heard is what the other said.
//!
//! A party says first who it is, in [`NAME_BYTES`], so that nobody need know whom fastlb has
//! joined.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::Notify;

use super::backend::FOR_EVER_MS;
use super::fleet::NOBODY_UP;
use super::ledger::{Ledger, REFUSALS, SHORTAGE};
use super::message::pattern;
use super::scenario::Scenario;
use super::worker::LATE_MS_MAX;
use crate::io::sim::{Deeds, End, Fault, World};
use crate::limits;
use crate::relay::FlowOptions;

/// Bytes of a party's name, which are the first that it says.
const NAME_BYTES: usize = 2;

/// On which side of fastlb a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Backend,
}

/// How a party behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    /// Says everything, half-closes, and listens to the end.
    Well,
    /// Says everything, listens to the end, and closes then.
    Waits,
    Resets,
    /// Closes, whatever is still to be said or heard.
    Vanishes,
    /// Stops somewhere, for too long.
    StallsSending,
    /// Does not read, for too long.
    StallsReading,
}

/// How a stream ended, as its reader saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Clean,
    Reset,
}

/// One end of a flow.
pub(super) struct Party {
    world: Rc<World>,
    index: usize,
    side: Side,
    conduct: Conduct,
    words: Vec<u8>,
    /// Most milliseconds between two pieces.
    pause_ms_max: u64,
    said: Cell<usize>,
    /// FIN is behind what was said, and nothing else.
    finished: Cell<bool>,
    heard: RefCell<Vec<u8>>,
    ending: Cell<Option<Ending>>,
    over: Notify,
    /// What fastlb did at the other end of the party's connection.
    of_fastlb: OnceCell<Rc<Deeds>>,
    drained: Cell<bool>,
}

impl Ledger {
    /// Enters a party that is to say something.
    pub(super) fn enter_party(&self, side: Side, scenario: &Scenario) -> Rc<Party> {
        let world = &self.world;
        let faults = match side {
            Side::Client => scenario.client_faults_per_mille,
            Side::Backend => scenario.backend_faults_per_mille,
        };
        let conduct = match world.happens(faults) {
            true => world.any(&[
                Conduct::Resets,
                Conduct::Resets,
                Conduct::Vanishes,
                Conduct::StallsSending,
                Conduct::StallsReading,
            ]),
            false => world.any(&[Conduct::Well, Conduct::Well, Conduct::Well, Conduct::Waits]),
        };
        let mut parties = self.parties.borrow_mut();
        let index = parties.len();
        let name = u16::try_from(index).expect("so many parties have names");
        let mut words = name.to_be_bytes().to_vec();
        words.extend(pattern(index as u64, scenario.body_bytes(world)));
        let party = Rc::new(Party {
            world: world.clone(),
            index,
            side,
            conduct,
            words,
            pause_ms_max: scenario.think_ms_max,
            said: Cell::new(0),
            finished: Cell::new(false),
            heard: RefCell::default(),
            ending: Cell::new(None),
            over: Notify::new(),
            of_fastlb: OnceCell::new(),
            drained: Cell::new(false),
        });
        parties.push(party.clone());
        party
    }

    /// Judges what all parties have heard.
    pub(super) fn judge_parties(&self, scenario: &Scenario) {
        let parties = self.parties.borrow();
        for party in &*parties {
            let peer = party.peer(&parties);
            party.tell(peer);
            if let Some(peer) = peer {
                let peers_peer = peer
                    .named(&parties)
                    .map_or(party.index, |named| named.index);
                assert_eq!(peers_peer, party.index, "two streams crossed: {party:?}");
                let heard = party.heard.borrow();
                assert!(peer.words.starts_with(&heard), "other words: {party:?}");
            }
            match party.ending.get() {
                Some(Ending::Clean) => self.judge_end(party, peer, scenario),
                Some(Ending::Reset) => self.judge_reset(party, peer, scenario),
                None => {}
            }
        }
    }

    /// A clean end is that of everything that the peer had to say.
    fn judge_end(&self, party: &Party, peer: Option<&Party>, scenario: &Scenario) {
        if party.drained.get() {
            return;
        }
        let heard = party.heard.borrow().len();
        match peer {
            Some(peer) => {
                let whole = peer.finished.get() && peer.said.get() == heard;
                assert!(whole, "a clean end of {peer:?} for {party:?}");
            }
            None if is_no_tunnel(party, scenario) => {}
            None => {
                let parties = self.parties.borrow();
                let said_nothing = |other: &Rc<Party>| {
                    let said = other.said.get();
                    other.side != party.side && other.finished.get() && said < NAME_BYTES
                };
                assert!(
                    parties.iter().any(said_nothing),
                    "nobody ended so: {party:?}"
                );
            }
        }
    }

    /// A reset is that of the peer, or has another reason.
    fn judge_reset(&self, party: &Party, peer: Option<&Party>, scenario: &Scenario) {
        if party.drained.get() || !party.is_well() {
            return;
        }
        let Some(peer) = peer else {
            if is_no_tunnel(party, scenario) {
                return;
            }
            let parties = self.parties.borrow();
            let reason = self.happened(&REFUSALS)
                || self.happened(&[NOBODY_UP, SHORTAGE])
                || parties
                    .iter()
                    .any(|other| other.side != party.side && !other.is_well());
            assert!(reason, "a reset without a reason: {party:?}");
            return;
        };
        let stands_still = match (party.conduct, peer.conduct) {
            (_, Conduct::Resets | Conduct::Vanishes) => return,
            (Conduct::Waits, Conduct::Waits) => true,
            (_, other) => matches!(other, Conduct::StallsSending | Conduct::StallsReading),
        };
        assert!(stands_still, "a reset without a reason: {party:?} {peer:?}");
        // What fastlb has not read, or has handed over to be read, does not move for it.
        let moved_ms = party
            .deeds()
            .moved_ms
            .get()
            .max(peer.deeds().moved_ms.get());
        let still_ms = party.deeds().closed_ms.get() - moved_ms;
        let (least_ms, most_ms) = patience(party, peer, scenario);
        assert!(
            (least_ms..=most_ms).contains(&still_ms),
            "reset after {still_ms} ms, not {least_ms} to {most_ms}: {party:?} {peer:?}"
        );
    }
}

/// Whether the exchange of a party that heard nothing may have come to no tunnel, although the
/// backend said so.
fn is_no_tunnel(party: &Party, scenario: &Scenario) -> bool {
    !scenario.tcp && party.side == Side::Backend
}

/// How long two parties may stand still, at least and at most, before fastlb gives them up.
fn patience(party: &Party, peer: &Party, scenario: &Scenario) -> (u64, u64) {
    let FlowOptions {
        idle_timeout,
        half_closed_timeout,
        ..
    } = scenario.http.flow;
    let idle_ms = idle_timeout.map_or(u64::MAX / 2, |idle| idle.as_millis() as u64);
    let half_closed_ms = (half_closed_timeout.as_millis() as u64).min(idle_ms);
    let half_closed = party.deeds().read_end.get() || peer.deeds().read_end.get();
    let limit_ms = if half_closed { half_closed_ms } else { idle_ms };
    let late_ms = match scenario.late_ticks_per_mille {
        0 => 0,
        _ => LATE_MS_MAX,
    };
    // A clock that is late makes the wait that begins too short, and the one that ends too long.
    let early_ms = if late_ms > 0 {
        late_ms + limits::TICK_MS
    } else {
        0
    };
    // The look that first finds it still, and the last one, come as late as any deadline.
    let look_ms = limit_ms / u64::from(limits::TCP_IDLE_LOOKS);
    let looks_late_ms = 2 * (2 * limits::TICK_MS + late_ms);
    (
        limit_ms.saturating_sub(early_ms),
        limit_ms + look_ms + looks_late_ms,
    )
}

impl Party {
    /// Says and hears everything, or as much as the party's conduct lets it. `brought` has come
    /// already.
    pub(super) async fn converse(&self, ledger: &Ledger, end: &End, brought: &[u8]) {
        self.count();
        let first = self.of_fastlb.set(end.peer_deeds());
        first.expect("a party has one connection");
        self.heard.borrow_mut().extend_from_slice(brought);
        let mut saying = pin!(self.say(end));
        let mut hearing = pin!(self.hear(end, ledger));
        let (mut said, mut heard) = (false, false);
        poll_fn(|cx| {
            if !said && let Poll::Ready(gone) = saying.as_mut().poll(cx) {
                said = true;
                if gone {
                    return Poll::Ready(());
                }
            }
            if !heard && hearing.as_mut().poll(cx).is_ready() {
                heard = true;
                if self.ending.get() == Some(Ending::Reset) {
                    return Poll::Ready(());
                }
            }
            if said && heard {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Says what comes before the place `until`; `false` where the connection takes no more.
    async fn say_until(&self, end: &End, until: usize) -> bool {
        while self.said.get() < until {
            let rest = &self.words[self.said.get()..until];
            let Ok(written) = poll_fn(|cx| end.poll_write(cx, rest)).await else {
                return false;
            };
            self.said.set(self.said.get() + written);
        }
        true
    }

    /// A place in what it says.
    fn place(&self) -> usize {
        self.world.between(0, self.words.len() as u64) as usize
    }

    /// Says everything; `true` where the party is gone behind it.
    async fn say(&self, end: &End) -> bool {
        let place = match self.conduct {
            Conduct::Well | Conduct::Waits | Conduct::StallsReading => self.words.len(),
            Conduct::Resets | Conduct::Vanishes | Conduct::StallsSending => self.place(),
        };
        while self.said.get() < place {
            let pause_ms = self.world.between(0, self.pause_ms_max);
            self.world.executor.sleep(pause_ms).await;
            let left = place - self.said.get();
            let piece = self.world.between(1, left as u64) as usize;
            let until = self.said.get() + piece.max(self.words.len() / 4).min(left);
            if !self.say_until(end, until).await {
                return false;
            }
        }
        match self.conduct {
            Conduct::Resets | Conduct::Vanishes => {
                let pause_ms = self.world.between(0, 10);
                self.world.executor.sleep(pause_ms).await;
                let resets = self.conduct == Conduct::Resets || end.has_unread();
                if resets {
                    end.reset_on_close();
                } else {
                    self.finish(end);
                }
                return true;
            }
            Conduct::StallsSending => {
                self.world.executor.sleep(FOR_EVER_MS).await;
                if !self.say_until(end, self.words.len()).await {
                    return false;
                }
            }
            Conduct::Waits => {
                while self.ending.get().is_none() {
                    self.over.notified().await;
                }
            }
            Conduct::Well | Conduct::StallsReading => {}
        }
        self.finish(end);
        false
    }

    fn finish(&self, end: &End) {
        end.half_close();
        self.finished.set(true);
    }

    async fn hear(&self, end: &End, ledger: &Ledger) {
        if self.conduct == Conduct::StallsReading {
            self.world.executor.sleep(FOR_EVER_MS).await;
        }
        let ending = loop {
            match end.read(64 * 1024).await {
                Ok(bytes) if !bytes.is_empty() => {
                    self.heard.borrow_mut().extend_from_slice(&bytes);
                }
                _ if end.was_reset() => break Ending::Reset,
                _ => break Ending::Clean,
            }
        };
        self.ending.set(Some(ending));
        self.drained.set(ledger.draining.get());
        self.over.notify_waiters();
    }

    fn deeds(&self) -> &Deeds {
        self.of_fastlb.get().expect("it conversed")
    }

    /// The party that was heard, or that heard this one.
    fn peer<'a>(&self, parties: &'a [Rc<Self>]) -> Option<&'a Self> {
        let hears_me = |other: &&Rc<Self>| {
            let named = other.named(parties);
            named.is_some_and(|named| named.index == self.index)
        };
        let found = self.named(parties);
        found.or_else(|| parties.iter().find(hears_me).map(Rc::as_ref))
    }

    /// The party whose name was heard.
    fn named<'a>(&self, parties: &'a [Rc<Self>]) -> Option<&'a Self> {
        let heard = self.heard.borrow();
        let name = heard.first_chunk::<NAME_BYTES>()?;
        let index = usize::from(u16::from_be_bytes(*name));
        let named = parties.get(index).expect("the name of a party");
        assert_ne!(named.side, self.side, "joined to its own side");
        Some(named)
    }

    pub(super) fn is_well(&self) -> bool {
        matches!(self.conduct, Conduct::Well | Conduct::Waits)
    }

    fn count(&self) {
        let fault: Fault = match (self.conduct, self.side) {
            (Conduct::Well, _) => "flow: party half-closes",
            (Conduct::Waits, _) => "flow: party waits for the other's end",
            (Conduct::Resets, Side::Client) => "flow: client resets",
            (Conduct::Resets, Side::Backend) => "flow: backend resets",
            (Conduct::Vanishes, Side::Client) => "flow: client closes inside",
            (Conduct::Vanishes, Side::Backend) => "flow: backend closes inside",
            (Conduct::StallsSending, Side::Client) => "flow: client stops sending",
            (Conduct::StallsSending, Side::Backend) => "flow: backend stops sending",
            (Conduct::StallsReading, Side::Client) => "flow: client does not read",
            (Conduct::StallsReading, Side::Backend) => "flow: backend does not read",
        };
        self.world.count(fault);
    }

    fn tell(&self, peer: Option<&Self>) {
        let peer = peer.map(|peer| peer.index);
        self.world.tell(|| format!("{self:?}, joined to {peer:?}"));
    }
}

impl std::fmt::Debug for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (index, side, conduct) = (self.index, self.side, self.conduct);
        let (said, words) = (self.said.get(), self.words.len());
        let fin = if self.finished.get() { " and FIN" } else { "" };
        let (heard, ending) = (self.heard.borrow().len(), self.ending.get());
        let closed_ms = self.of_fastlb.get().map(|deeds| deeds.closed_ms.get());
        write!(
            f,
            "{side:?} {index} {conduct:?} said {said} of {words}{fin}, heard {heard}, {ending:?}, \
             closed at {closed_ms:?} ms"
        )
    }
}
