//! What was asked, what was done about it, and whether the answers are right.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::fleet::NOBODY_UP;
use super::flow::Party;
use super::message::{Lost, Shape};
use super::scenario::RETRIES_MAX;
use crate::io::sim::{Fault, Sent, World};

/// Why a backend may not have been reached.
pub(super) const REFUSALS: [Fault; 4] = [
    "connect refused",
    "connect unreachable",
    "connect not answered",
    "connect finds a full queue",
];
/// What a backend may do before it has heard whose the connection is, where it has to be told.
const BREAKS: [Fault; 2] = [
    "backend dies when it has accepted",
    "backend closes an unused connection",
];
/// What may be missing here to reach one.
pub(super) const SHORTAGE: Fault = "connect short of descriptors";

/// A request of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) serial: u64,
    pub(super) method: &'static str,
    pub(super) http10: bool,
    pub(super) keep_alive: bool,
    pub(super) body: Shape,
    pub(super) body_bytes: usize,
    pub(super) expects: bool,
    /// It asks for another protocol.
    pub(super) upgrade: bool,
    /// Its body comes more slowly than a client may be, where that is limited.
    pub(super) trickles: bool,
}

impl Ask {
    fn is_safe(&self) -> bool {
        !matches!(self.method, "POST" | "PATCH" | "PUT" | "DELETE")
    }

    pub(super) fn is_idempotent(&self) -> bool {
        !matches!(self.method, "POST" | "PATCH")
    }
}

/// What a client got for a request.
#[derive(Debug)]
pub(super) enum Got {
    /// A response, of its backend or of fastlb.
    Answer(Answer),
    /// Not one byte.
    Nothing(Lost),
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whose request the backend answered; none where fastlb answered.
    pub(super) serial: Option<u64>,
    pub(super) body: Vec<u8>,
    /// The stream ended before the response did.
    pub(super) cut: bool,
    pub(super) close: bool,
}

/// What a backend means to answer, or did.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// Only the close of the connection ends it, so half of it looks whole. A reset ends none.
    pub(super) ends_by_close: bool,
    /// Over which connection.
    pub(super) connection: u64,
}

pub(super) struct Ledger {
    pub(super) world: Rc<World>,
    asks: RefCell<Vec<Ask>>,
    reached: RefCell<BTreeMap<u64, u32>>,
    /// By request: what its backend did to it.
    blame: RefCell<BTreeSet<u64>>,
    meant: RefCell<BTreeMap<u64, Meant>>,
    /// Connections that a backend broke, and not because they were idle between two requests.
    broken: RefCell<BTreeSet<u64>>,
    /// Those who speak through a TCP session, or a tunnel.
    pub(super) parties: RefCell<Vec<Rc<Party>>>,
    /// Backends are told whom each connection is for, before it is any request's.
    pub(super) tells: Cell<bool>,
    /// Idle connections may be closed.
    pub(super) draining: Cell<bool>,
    /// Every connection may.
    pub(super) cut: Cell<bool>,
    /// Answers that were judged.
    pub(super) answers: Cell<u64>,
}

impl Ledger {
    pub(super) fn new(world: &Rc<World>) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            asks: RefCell::default(),
            reached: RefCell::default(),
            blame: RefCell::default(),
            meant: RefCell::default(),
            broken: RefCell::default(),
            parties: RefCell::default(),
            tells: Cell::new(false),
            draining: Cell::new(false),
            cut: Cell::new(false),
            answers: Cell::new(0),
        })
    }

    /// Enters a request, which gets its serial number.
    pub(super) fn enter(&self, ask: Ask) -> Ask {
        let mut asks = self.asks.borrow_mut();
        let serial = asks.len() as u64;
        asks.push(Ask { serial, ..ask });
        asks[serial as usize]
    }

    /// A backend has read the head of a request.
    pub(super) fn reach(&self, serial: u64) -> Ask {
        let ask = self.asks.borrow()[serial as usize];
        let times = *self
            .reached
            .borrow_mut()
            .entry(serial)
            .and_modify(|times| *times += 1)
            .or_insert(1);
        // Each backend that it goes to may have it over a dead connection and again over a new one.
        let most = match ask.is_idempotent() {
            true if ask.is_safe() => 2 * (1 + RETRIES_MAX),
            true => 2,
            false => 1,
        };
        assert!(times <= most, "{ask:?} reached a backend {times} times");
        ask
    }

    /// A backend does something to a request that may well end it.
    pub(super) fn blame(&self, serial: u64, connection: u64, fault: Fault) {
        self.world.count(fault);
        self.blame.borrow_mut().insert(serial);
        self.broken.borrow_mut().insert(connection);
    }

    /// Whether a backend did something to a request that may well end it.
    pub(super) fn is_blamed(&self, serial: u64) -> bool {
        self.blame.borrow().contains(&serial)
    }

    /// A backend breaks a connection, whatever request may be on it.
    pub(super) fn breaks(&self, connection: u64, fault: Fault) {
        self.world.count(fault);
        self.broken.borrow_mut().insert(connection);
    }

    /// What the client has to get, if nothing else happens.
    pub(super) fn mean(&self, serial: u64, meant: Meant) {
        self.meant.borrow_mut().insert(serial, meant);
    }

    pub(super) fn happened(&self, faults: &[Fault]) -> bool {
        let counted = self.world.faults.borrow();
        faults.iter().any(|fault| counted.contains_key(fault))
    }

    /// Judges what the client got for `ask`; `excused` says that the client itself did what may
    /// have ended it.
    pub(super) fn judge(&self, ask: &Ask, got: &Got, excused: bool) {
        self.world
            .tell(|| format!("{ask:?} got {got:?}, excused: {excused}"));
        self.answers.set(self.answers.get() + 1);
        let excused = excused || self.cut.get();
        match got {
            Got::Nothing(lost) => {
                // What was sent of a response that cannot go on may be lost with the rest.
                let cut = lost.reset && self.blame.borrow().contains(&ask.serial);
                let excused = excused || cut || self.draining.get();
                assert!(excused, "no answer to {ask:?}: {lost:?}");
            }
            Got::Answer(answer) => match answer.serial {
                Some(serial) => {
                    assert_eq!(
                        serial, ask.serial,
                        "the answer of another request: {answer:?}"
                    );
                    self.judge_relayed(ask, answer, excused);
                }
                None => self.judge_own(ask, answer, excused),
            },
        }
    }

    fn judge_relayed(&self, ask: &Ask, answer: &Answer, excused: bool) {
        let blamed = self.blame.borrow().contains(&ask.serial);
        let all = self.meant.borrow();
        let meant = all.get(&ask.serial).expect("a backend meant it");
        let body: &[u8] = if ask.method == "HEAD" {
            &[]
        } else {
            &meant.body
        };
        assert_eq!(answer.status, meant.status, "{ask:?}");
        assert!(body.starts_with(&answer.body), "another body for {ask:?}");
        let short = answer.body.len() < body.len();
        let reset = self.world.resets.borrow().contains(&meant.connection);
        let may_be_short = blamed && (answer.cut || meant.ends_by_close && !reset);
        assert!(
            !(short || answer.cut) || may_be_short || excused,
            "{} of {} bytes for {ask:?}, cut: {}",
            answer.body.len(),
            body.len(),
            answer.cut
        );
    }

    /// Whether fastlb had a reason to answer itself.
    fn judge_own(&self, ask: &Ask, answer: &Answer, excused: bool) {
        assert!(!answer.cut || excused, "{answer:?}");
        if ask.method == "HEAD" || answer.cut {
            assert!(answer.body.is_empty() || answer.cut, "a body for HEAD");
            assert!(answer.status >= 400);
            return;
        }
        let text = std::str::from_utf8(&answer.body).expect("its answers are text");
        let reason = text
            .strip_prefix("fastlb: ")
            .and_then(|text| text.strip_suffix('\n'));
        let reason = reason.expect("its answers name the reason");
        let blamed = self.blame.borrow().contains(&ask.serial);
        let (status, had_reason) = match reason {
            "no backend available" | "backend cannot be reached" => {
                let none = reason.starts_with("no");
                // Where nobody is up, nobody is connected to.
                let nobody_up = none && self.happened(&[NOBODY_UP]);
                let untold = self.tells.get() && self.happened(&BREAKS);
                let had_reason = nobody_up || untold || self.happened(&REFUSALS);
                (if none { 503 } else { 502 }, had_reason)
            }
            "connection to the backend timed out" => {
                let silent = ["connect not answered", "connect finds a full queue"];
                (504, self.happened(&silent))
            }
            "no descriptor left to reach a backend with" => (503, self.happened(&[SHORTAGE])),
            "backend closed" | "backend reset" => (502, self.may_be_lost(ask)),
            "response cut short" | "too many interim responses" => (502, blamed),
            "response stalled" => (504, blamed),
            // What it says unasked it may say while it reads nothing.
            "response timed out" => (504, blamed || self.happened(&["backend sends unasked"])),
            "bad response" | "bad response body" => {
                (502, blamed || self.happened(&["backend sends unasked"]))
            }
            "request head timed out" | "request body timed out" => (408, excused),
            _ => {
                assert!(answer.status >= 400 && excused, "{answer:?} for {ask:?}");
                return;
            }
        };
        assert_eq!(answer.status, status, "{reason}");
        assert!(
            had_reason || excused,
            "no reason for {status} {reason:?} to {ask:?}"
        );
    }

    /// Whether the connection of a request that a backend did not answer was lost by more than
    /// having been idle.
    fn may_be_lost(&self, ask: &Ask) -> bool {
        let path = format!(" /s/{} ", ask.serial);
        let is_ours = |sent: &Sent| memchr::memmem::find(&sent.begin, path.as_bytes()).is_some();
        let sends = self.world.sends.borrow();
        let Some(last) = sends.iter().rposition(is_ours) else {
            return false;
        };
        let connection = sends[last].connection;
        let mut before = sends[..last].iter();
        let fresh = !before.any(|sent| sent.connection == connection && is_request(sent));
        let broken = self.broken.borrow().contains(&connection);
        if ask.is_idempotent() && ask.body == Shape::None {
            return fresh && broken;
        }
        broken || !fresh
    }
}

/// Whether a send begins with a request of a client.
pub(super) fn is_request(sent: &Sent) -> bool {
    memchr::memmem::find(&sent.begin, b" /s/").is_some()
}

/// A connection on which something came behind a response, be it the end, serves no other request.
/// What comes in the millisecond in which that is sent cannot be told from its answer.
pub(super) fn judge_reuse(world: &World, is_request: impl Fn(&Sent) -> bool) {
    let mut used = BTreeSet::new();
    let sends = world.sends.borrow();
    for sent in sends.iter().filter(|sent| is_request(sent)) {
        let reused = !used.insert(sent.connection);
        assert!(
            !(reused && sent.neglects),
            "something had come over connection {} before {}",
            sent.connection,
            sent.begin.escape_ascii()
        );
    }
}
