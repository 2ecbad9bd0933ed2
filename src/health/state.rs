//! The judge: from events and time to who is picked. It knows no clock and no socket.
//!
//! A backend starts up. Checks take it down and bring it back (`rise`, `fall`); traffic can only
//! eject it, for a time that grows, never more of the fleet than the rules allow, and only for as
//! long as somebody else is up: bad answers are better than none.

use std::fmt;

use super::{CheckFailure, Event, Fault, Health, News};
use crate::balance::BackendId;
use crate::limits;

/// How many results of checks decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRules {
    /// Checks in a row that bring a backend up.
    pub rise: u32,
    /// Checks in a row that take it down.
    pub fall: u32,
}

impl Default for CheckRules {
    fn default() -> Self {
        Self {
            rise: limits::HEALTH_RISE,
            fall: limits::HEALTH_FALL,
        }
    }
}

/// When traffic ejects a backend (outlier detection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectRules {
    /// Failed requests in a row, over all workers; 0 never ejects.
    pub after: u32,
    /// How long the first ejection lasts; the nth lasts n times as long.
    pub time_ms: u64,
    /// Longest ejection.
    pub time_max_ms: u64,
    /// Most of the fleet that may be ejected, in percent; one backend always may.
    pub part_max: u32,
}

impl Default for EjectRules {
    fn default() -> Self {
        Self {
            after: limits::EJECT_AFTER,
            time_ms: limits::EJECT_TIME_MS,
            time_max_ms: limits::EJECT_TIME_MS * limits::EJECT_TIMES_MAX,
            part_max: limits::EJECT_PART_MAX_PERCENT,
        }
    }
}

/// A backend that is picked from now on, or no longer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which backend.
    pub backend: BackendId,
    /// What it is now.
    pub health: Health,
    /// Why.
    pub reason: Reason,
}

/// Why a backend changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// So many checks in a row passed.
    ChecksPassed(u32),
    /// So many checks in a row failed; the last one so.
    ChecksFailed(u32, CheckFailure),
    /// So many requests in a row failed, the last one so; it is ejected for so many milliseconds.
    Faults(u32, Fault, u64),
    /// Its ejection is over.
    TimeServed,
    /// It was ejected, and nobody else is up that answers any better.
    LastResort,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksPassed(count) => write!(f, "checks passed: {count}"),
            Self::ChecksFailed(count, failure) => {
                write!(f, "checks failed: {count}, the last one: {failure}")
            }
            Self::Faults(count, fault, time_ms) => {
                let (time, unit) = match time_ms % 1000 {
                    0 => (time_ms / 1000, "s"),
                    _ => (*time_ms, "ms"),
                };
                write!(
                    f,
                    "{count} requests in a row failed, for {time} {unit}: it {fault}"
                )
            }
            Self::TimeServed => f.write_str("its ejection is over"),
            Self::LastResort => f.write_str("its ejection ends early, for want of a better one"),
        }
    }
}

/// The health of a fleet.
#[derive(Clone, Debug)]
pub struct FleetHealth {
    members: Vec<Member>,
    counts: Counts,
    check: CheckRules,
    eject: EjectRules,
}

/// How many backends are what. All others are down.
#[derive(Clone, Copy, Debug)]
struct Counts {
    up: usize,
    ejected: usize,
}

impl Counts {
    fn moved(&mut self, before: Health, health: Health) {
        for (which, by) in [(before, -1), (health, 1)] {
            let count = match which {
                Health::Up => &mut self.up,
                Health::Ejected => &mut self.ejected,
                Health::Down => continue,
            };
            *count = count.wrapping_add_signed(by);
        }
    }
}

/// What is known of one backend. Checks and traffic judge it apart: it is picked where both agree.
#[derive(Clone, Debug, Default)]
struct Member {
    check: Check,
    traffic: Traffic,
}

#[derive(Clone, Debug, Default)]
struct Check {
    verdict: Verdict,
    /// Results in a row that speak against the verdict.
    against: u32,
    /// Failed checks since it went down, as far as they are counted.
    confirmed: u32,
}

impl Check {
    fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    /// Taken to be up, because no check has passed or failed yet.
    #[default]
    Assumed,
    Up,
    Down,
}

#[derive(Clone, Debug)]
struct Traffic {
    faults_in_row: u32,
    /// How often it was ejected; forgotten once it has been well for the longest ejection.
    ejections: u32,
    standing: Standing,
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    Admitted {
        since_ms: u64,
    },
    Ejected {
        until_ms: u64,
        /// Checks in a row that say the contrary of what it was ejected for: that it could not be
        /// connected to. `None` where it was for anything that no check looks at.
        refuted: Option<u32>,
    },
}

impl Standing {
    /// The checks that speak against its ejection, where any may.
    fn refuted(&mut self) -> Option<&mut u32> {
        match self {
            Self::Ejected { refuted, .. } => refuted.as_mut(),
            Self::Admitted { .. } => None,
        }
    }

    fn is_refutable(mut self) -> bool {
        self.refuted().is_some()
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            faults_in_row: 0,
            ejections: 0,
            standing: Standing::Admitted { since_ms: 0 },
        }
    }
}

impl Traffic {
    /// Whether so much went wrong in a row that it may be ejected.
    fn is_faulty(&self, rules: &EjectRules) -> bool {
        rules.after > 0 && self.faults_in_row >= rules.after
    }
}

impl Member {
    fn health(&self) -> Health {
        match (self.check.verdict, self.traffic.standing) {
            (Verdict::Down, _) => Health::Down,
            (_, Standing::Ejected { .. }) => Health::Ejected,
            (_, Standing::Admitted { .. }) => Health::Up,
        }
    }

    fn ejected_until(&self) -> Option<u64> {
        match self.traffic.standing {
            Standing::Ejected { until_ms, .. } => Some(until_ms),
            Standing::Admitted { .. } => None,
        }
    }
}

impl FleetHealth {
    /// A fleet of `count` backends, all of them up.
    pub fn new(count: usize, check: CheckRules, eject: EjectRules) -> Self {
        Self {
            members: vec![Member::default(); count],
            counts: Counts {
                up: count,
                ejected: 0,
            },
            check,
            eject,
        }
    }

    /// What a backend is now.
    pub fn health(&self, backend: BackendId) -> Health {
        self.members[backend.index()].health()
    }

    /// Whether the next check of a backend may change its state, so that it should come soon.
    pub fn is_changing(&self, backend: BackendId) -> bool {
        let Member { check, traffic } = &self.members[backend.index()];
        match check.verdict {
            Verdict::Assumed => true,
            Verdict::Up => check.against > 0 || traffic.standing.is_refutable(),
            // Whatever it was ejected for: only checks bring it back.
            Verdict::Down => check.against > 0,
        }
    }

    /// Whether a backend has only just gone down, so that it may well come back soon.
    pub fn has_just_gone_down(&self, backend: BackendId) -> bool {
        let check = &self.members[backend.index()].check;
        check.verdict == Verdict::Down && check.confirmed < limits::HEALTH_FASTER_CHECKS
    }

    /// Takes in what was learnt at `now_ms`, and tells what changes by it.
    pub fn take(&mut self, event: Event, now_ms: u64) -> Vec<Change> {
        let Event { backend, news } = event;
        let before = self.health(backend);
        let reason = match news {
            News::CheckPassed => self.check_passed(backend, now_ms),
            News::Unknown => None,
            News::CheckFailed(failure) => self.check_failed(backend, failure),
            News::Fault(fault) => self.fault(backend, fault, now_ms),
            News::Recovered => {
                self.members[backend.index()].traffic.faults_in_row = 0;
                None
            }
        };
        let change = reason.and_then(|reason| self.changed(backend, before, reason));
        let mut changes = Vec::from_iter(change);
        if self.counts.ejected > 0 && self.is_nobody_well(backend) {
            let ejected = |member: &Member| member.health() == Health::Ejected;
            changes.extend(self.readmit(ejected, Reason::LastResort, now_ms));
        }
        changes
    }

    /// Whether nobody is up, or `backend` alone, which would be ejected if there were another.
    fn is_nobody_well(&self, backend: BackendId) -> bool {
        let member = &self.members[backend.index()];
        match self.counts.up {
            0 => true,
            1 => member.health() == Health::Up && member.traffic.is_faulty(&self.eject),
            _ => false,
        }
    }

    /// Readmits those whose ejection is over at `now_ms`.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Change> {
        let is_over = |member: &Member| {
            let until_ms = member.ejected_until();
            until_ms.is_some_and(|until_ms| until_ms <= now_ms)
        };
        self.readmit(is_over, Reason::TimeServed, now_ms)
    }

    /// Ends the ejection of `whom`, and names those who are up by it.
    fn readmit(
        &mut self,
        whom: impl Fn(&Member) -> bool,
        reason: Reason,
        now_ms: u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if whom(member) {
                let before = member.health();
                member.traffic.standing = Standing::Admitted { since_ms: now_ms };
                let backend = BackendId::new(index).expect("a member has an id");
                changes.extend(self.changed(backend, before, reason.clone()));
            }
        }
        changes
    }

    /// When the next ejection ends; `None` where nobody is ejected.
    pub fn due_ms(&self) -> Option<u64> {
        self.members.iter().filter_map(Member::ejected_until).min()
    }

    /// Names the change, unless the backend is what it was.
    fn changed(&mut self, backend: BackendId, before: Health, reason: Reason) -> Option<Change> {
        let health = self.health(backend);
        self.counts.moved(before, health);
        (health != before).then_some(Change {
            backend,
            health,
            reason,
        })
    }

    fn check_passed(&mut self, backend: BackendId, now_ms: u64) -> Option<Reason> {
        let rise = self.check.rise;
        let Member { check, traffic } = &mut self.members[backend.index()];
        let was_down = check.verdict == Verdict::Down;
        if was_down {
            check.against += 1;
            if check.against < rise {
                return None;
            }
            // Whatever its answers were before it went down, it is another process now.
            traffic.faults_in_row = 0;
            traffic.standing = Standing::Admitted { since_ms: now_ms };
        }
        if let Some(count) = traffic.standing.refuted() {
            // A restart that was over before a check saw it.
            *count += 1;
            if *count >= rise {
                traffic.standing = Standing::Admitted { since_ms: now_ms };
            }
        }
        *check = Check::of(Verdict::Up);
        Some(Reason::ChecksPassed(rise))
    }

    fn check_failed(&mut self, backend: BackendId, failure: CheckFailure) -> Option<Reason> {
        let Member { check, traffic } = &mut self.members[backend.index()];
        if let Some(count) = traffic.standing.refuted() {
            *count = 0;
        }
        let fall = match check.verdict {
            Verdict::Assumed => 1,
            Verdict::Up => self.check.fall,
            Verdict::Down => {
                check.against = 0;
                let counted = limits::HEALTH_FASTER_CHECKS;
                check.confirmed = check.confirmed.saturating_add(1).min(counted);
                return None;
            }
        };
        check.against += 1;
        if check.against < fall {
            return None;
        }
        *check = Check::of(Verdict::Down);
        Some(Reason::ChecksFailed(fall, failure))
    }

    fn fault(&mut self, backend: BackendId, fault: Fault, now_ms: u64) -> Option<Reason> {
        let rules = self.eject;
        let traffic = &mut self.members[backend.index()].traffic;
        if matches!(traffic.standing, Standing::Ejected { .. }) {
            // What was under way when it was ejected.
            return None;
        }
        traffic.faults_in_row = traffic.faults_in_row.saturating_add(1);
        if !traffic.is_faulty(&rules) || !self.may_eject(backend) {
            return None;
        }
        let traffic = &mut self.members[backend.index()].traffic;
        let Standing::Admitted { since_ms } = traffic.standing else {
            return None;
        };
        if now_ms >= since_ms + rules.time_max_ms {
            traffic.ejections = 0;
        }
        let faults = std::mem::take(&mut traffic.faults_in_row);
        traffic.ejections = traffic.ejections.saturating_add(1);
        let times = u64::from(traffic.ejections);
        let time_ms = rules.time_ms.saturating_mul(times).min(rules.time_max_ms);
        traffic.standing = Standing::Ejected {
            until_ms: now_ms + time_ms,
            refuted: (fault == Fault::Connect).then_some(0),
        };
        Some(Reason::Faults(faults, fault, time_ms))
    }

    /// Whether this one may be ejected too: within the part of the fleet that the rules name, and
    /// never the last one that is picked, because bad answers are better than none. Who is down is
    /// not picked anyway, and takes up no part.
    fn may_eject(&self, backend: BackendId) -> bool {
        let part = self.members.len() * self.eject.part_max as usize / 100;
        let is_up = self.health(backend) == Health::Up;
        is_up && self.counts.ejected < part.max(1) && self.counts.up > 1
    }
}

#[cfg(test)]
mod tests;
