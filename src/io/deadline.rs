//! Time on the path: a coarse clock per worker and a wheel of deadlines.
//!
//! A deadline is as exact as a tick ([`limits::TICK_MS`]). Setting one writes a number; its place
//! in the wheel is put right when the wheel comes by, so a busy connection never pays for a timer.
//! Nothing here reads the system's clock but [`Stopwatch`] and the worker's tick.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slab::Slab;

use crate::limits;

const NEVER: u64 = u64::MAX;
const NONE: usize = usize::MAX;

/// A precise measurement of time; the path takes two readings a request.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    /// Milliseconds since the start.
    pub fn elapsed_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// Whole seconds since 1970, by the clock that may be set; 0 where that is before.
pub(crate) fn wall_clock_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The deadlines of one worker and its coarse clock, in milliseconds since the worker started.
#[derive(Clone)]
pub struct Wheel(Rc<Inner>);

struct Inner {
    now_ms: Cell<u64>,
    /// Everything is over: no wait of any deadline goes on.
    cut: Cell<bool>,
    slots: RefCell<Slots>,
}

struct Slots {
    entries: Slab<Entry>,
    heads: Box<[usize; limits::WHEEL_SLOTS]>,
    /// The tick whose slot was visited last.
    tick: u64,
}

struct Entry {
    due_ms: u64,
    /// The tick at which the wheel will look at this entry; it is in that tick's slot.
    tick: u64,
    previous: usize,
    next: usize,
    expired: bool,
    /// Ends at once when the worker drains.
    interruptible: bool,
    waker: Option<Waker>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self(Rc::new(Inner {
            now_ms: Cell::new(0),
            cut: Cell::new(false),
            slots: RefCell::new(Slots {
                entries: Slab::new(),
                heads: Box::new([NONE; limits::WHEEL_SLOTS]),
                tick: 0,
            }),
        }))
    }
}

impl Wheel {
    /// Milliseconds since the worker started, as of the last tick.
    pub fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    /// A new deadline, not yet set.
    pub fn deadline(&self) -> Deadline {
        let mut slots = self.0.slots.borrow_mut();
        let horizon = slots.tick + limits::WHEEL_SLOTS as u64 - 1;
        let key = slots.entries.insert(Entry {
            due_ms: NEVER,
            tick: horizon,
            previous: NONE,
            next: NONE,
            expired: false,
            interruptible: false,
            waker: None,
        });
        slots.link(key);
        Deadline {
            wheel: self.clone(),
            key,
        }
    }

    /// Moves the clock to `now_ms` and wakes those whose time is over.
    pub fn advance(&self, now_ms: u64) {
        self.set_now(now_ms);
        let more = self.expire(usize::MAX);
        debug_assert!(!more, "there is no such number of deadlines");
    }

    /// Moves the clock to `now_ms`. Those whose time is over are woken by [`Wheel::expire`].
    pub(crate) fn set_now(&self, now_ms: u64) {
        self.0.now_ms.set(now_ms);
    }

    /// Wakes those whose time is over, `most` of them, and tells whether there are more.
    pub(crate) fn expire(&self, most: usize) -> bool {
        let (now_ms, mut left) = (self.now_ms(), most);
        let mut slots = self.0.slots.borrow_mut();
        let target = now_ms / limits::TICK_MS;
        // After a long pause of the machine each slot is visited once, not once a tick.
        let skipped = target.saturating_sub(slots.tick + limits::WHEEL_SLOTS as u64);
        slots.tick += skipped;
        // What the call before has left of a slot comes first.
        while slots.visit(now_ms, &mut left) {
            if slots.tick >= target {
                return false;
            }
            slots.tick += 1;
        }
        true
    }

    /// Ends the waits that are marked as interruptible, as a drain does with idle connections.
    pub fn interrupt(&self) {
        let mut slots = self.0.slots.borrow_mut();
        for (_, entry) in slots
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.interruptible)
        {
            entry.expire();
        }
    }

    /// Ends every wait, those that begin later too: the time to drain is over.
    pub fn cut(&self) {
        self.0.cut.set(true);
        for (_, entry) in &mut self.0.slots.borrow_mut().entries {
            entry.expire();
        }
    }

    /// Deadlines that there are, set or not.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn deadlines(&self) -> usize {
        self.0.slots.borrow().entries.len()
    }

    /// Whether [`Wheel::cut`] was called.
    pub fn is_cut(&self) -> bool {
        self.0.cut.get()
    }
}

impl Slots {
    /// Visits the slot of the present tick, and expires so many deadlines that are still `left` to
    /// be; `false` where there are more.
    fn visit(&mut self, now_ms: u64, left: &mut usize) -> bool {
        let mut key = self.heads[slot_of(self.tick)];
        while key != NONE {
            let entry = &mut self.entries[key];
            let next = entry.next;
            if entry.due_ms <= now_ms {
                let Some(fewer) = left.checked_sub(1) else {
                    return false;
                };
                *left = fewer;
                entry.expire();
            }
            // Visited early because it was moved on, or for the horizon: put it where it is due.
            self.unlink(key);
            let tick = self.tick_of(self.entries[key].due_ms);
            self.entries[key].tick = tick;
            self.link(key);
            key = next;
        }
        true
    }

    /// The tick at which a deadline has passed for certain, or the horizon where that is nearer.
    fn tick_of(&self, due_ms: u64) -> u64 {
        let horizon = self.tick + limits::WHEEL_SLOTS as u64 - 1;
        due_ms
            .div_ceil(limits::TICK_MS)
            .clamp(self.tick + 1, horizon)
    }

    fn link(&mut self, key: usize) {
        let head = &mut self.heads[slot_of(self.entries[key].tick)];
        let next = std::mem::replace(head, key);
        self.entries[key].previous = NONE;
        self.entries[key].next = next;
        if next != NONE {
            self.entries[next].previous = key;
        }
    }

    fn unlink(&mut self, key: usize) {
        let Entry {
            previous,
            next,
            tick,
            ..
        } = self.entries[key];
        match previous {
            NONE => self.heads[slot_of(tick)] = next,
            _ => self.entries[previous].next = next,
        }
        if next != NONE {
            self.entries[next].previous = previous;
        }
    }
}

impl Entry {
    fn expire(&mut self) {
        self.due_ms = NEVER;
        self.expired = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn slot_of(tick: u64) -> usize {
    tick as usize % limits::WHEEL_SLOTS
}

/// When the present wait of one connection is over. There is one wait at a time, or several that
/// end together.
pub struct Deadline {
    wheel: Wheel,
    key: usize,
}

/// The wait took longer than its deadline allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

impl Deadline {
    /// Begins a wait that may take this long; `None` is for ever. What expired before is forgotten.
    pub fn set(&self, timeout: Option<Duration>) {
        self.start(self.now_ms(), timeout, false);
    }

    /// As [`Deadline::set`], for a wait that a drain ends at once.
    pub fn set_interruptible(&self, timeout: Option<Duration>) {
        self.start(self.now_ms(), timeout, true);
    }

    /// As [`Deadline::set_interruptible`], for a wait that began at `since_ms`. It ends with the
    /// next tick where its time is over already.
    pub fn set_interruptible_since(&self, since_ms: u64, timeout: Option<Duration>) {
        self.start(since_ms, timeout, true);
    }

    /// Waits for `future`, until the deadline.
    ///
    /// # Errors
    /// [`Expired`] when the deadline came first. The future is dropped with what it waited for.
    pub fn guard<F: Future + Unpin>(&self, future: F) -> Guarded<'_, F> {
        Guarded {
            deadline: self,
            future,
        }
    }

    /// Milliseconds on its worker's clock, as [`Wheel::now_ms`].
    pub fn now_ms(&self) -> u64 {
        self.wheel.now_ms()
    }

    /// As [`Wheel::is_cut`]: nothing that expires now was too late.
    pub fn is_cut(&self) -> bool {
        self.wheel.is_cut()
    }

    /// What is left of a wait that began at `since_ms` and may take this long; `None` where it is
    /// over, as every wait is after [`Wheel::cut`].
    pub fn left(&self, since_ms: u64, timeout: Duration) -> Option<Duration> {
        let end_ms = since_ms.saturating_add(timeout.as_millis() as u64);
        // As late as if it had been set then.
        let due_ms = end_ms.saturating_add(limits::TICK_MS);
        let is_over = self.wheel.is_cut() || due_ms <= self.now_ms();
        (!is_over).then(|| Duration::from_millis(end_ms.saturating_sub(self.now_ms())))
    }

    fn start(&self, since_ms: u64, timeout: Option<Duration>, interruptible: bool) {
        let mut slots = self.wheel.0.slots.borrow_mut();
        let due_ms = timeout.map_or(NEVER, |timeout| {
            // The clock may be a tick behind; late by a tick is fine, early is not.
            let timeout_ms = timeout.as_millis() as u64;
            let due_ms = since_ms.saturating_add(timeout_ms);
            due_ms.saturating_add(limits::TICK_MS)
        });
        let entry = &mut slots.entries[self.key];
        entry.due_ms = due_ms;
        entry.expired = false;
        entry.interruptible = interruptible;
        // Later than its place in the wheel: left there, and moved when the wheel comes by.
        if due_ms < entry.tick * limits::TICK_MS {
            let tick = slots.tick_of(due_ms);
            slots.unlink(self.key);
            slots.entries[self.key].tick = tick;
            slots.link(self.key);
        }
    }

    fn poll_expired(&self, cx: &Context<'_>) -> Poll<Expired> {
        let mut slots = self.wheel.0.slots.borrow_mut();
        let entry = &mut slots.entries[self.key];
        if entry.expired || self.wheel.is_cut() {
            return Poll::Ready(Expired);
        }
        match &entry.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => entry.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.wheel.0.slots.borrow_mut();
        slots.unlink(self.key);
        let entry = slots.entries.remove(self.key);
        // A waker's own drop may run other code; not under the borrow.
        drop(slots);
        drop(entry);
    }
}

/// A future with a deadline, made by [`Deadline::guard`].
pub struct Guarded<'a, F> {
    deadline: &'a Deadline,
    future: F,
}

impl<F: Future + Unpin> Future for Guarded<'_, F> {
    type Output = Result<F::Output, Expired>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The future first: what has arrived in time counts, even if the tick came first.
        if let Poll::Ready(output) = Pin::new(&mut self.future).poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.deadline.poll_expired(cx).map(Err)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn expired(deadline: &Deadline) -> bool {
        deadline
            .poll_expired(&Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_deadline_expires_in_the_tick_after_it_is_due_and_not_before() {
        let wheel = Wheel::default();
        let deadline = wheel.deadline();
        deadline.set(SECOND);
        wheel.advance(1_000);
        assert!(!expired(&deadline));
        wheel.advance(1_100);
        assert!(expired(&deadline));
    }

    #[test]
    fn those_who_expire_together_are_woken_a_few_at_a_time() {
        let wheel = Wheel::default();
        let mut deadlines: Vec<_> = (0..5).map(|_| wheel.deadline()).collect();
        deadlines.iter().for_each(|deadline| deadline.set(SECOND));
        wheel.set_now(1_100);
        let are_expired = |deadlines: &[Deadline]| deadlines.iter().filter(|d| expired(d)).count();
        assert!(wheel.expire(2));
        assert_eq!(are_expired(&deadlines), 2);
        // Who has more time by now, or is gone, is passed over.
        let (waiting, served): (Vec<_>, Vec<_>) = deadlines.drain(..).partition(|d| !expired(d));
        waiting[0].set(SECOND);
        drop(served);
        assert!(!wheel.expire(2));
        assert_eq!(are_expired(&waiting), 2);
        wheel.advance(2_200);
        assert_eq!(are_expired(&waiting), 3);
    }

    #[test]
    fn setting_it_again_moves_it_both_ways() {
        let wheel = Wheel::default();
        let deadline = wheel.deadline();
        deadline.set(SECOND);
        wheel.advance(900);
        deadline.set(SECOND);
        wheel.advance(1_800);
        assert!(!expired(&deadline));
        deadline.set(Some(Duration::from_millis(100)));
        wheel.advance(2_000);
        assert!(expired(&deadline));
    }

    #[test]
    fn what_is_left_counts_from_when_it_began() {
        let wheel = Wheel::default();
        let deadline = wheel.deadline();
        wheel.advance(1_000);
        let left = |since_ms| deadline.left(since_ms, Duration::from_secs(1));
        assert_eq!(left(900), Some(Duration::from_millis(900)));
        // The clock may have been a tick behind when it began.
        assert_eq!(left(0), Some(Duration::ZERO));
        wheel.advance(1_100);
        assert_eq!(left(0), None);
        assert_eq!(left(1_100), SECOND);
        wheel.cut();
        assert_eq!(left(1_100), None);
    }

    #[test]
    fn beyond_the_horizon_and_never() {
        let wheel = Wheel::default();
        let (far, never) = (wheel.deadline(), wheel.deadline());
        far.set(Some(Duration::from_secs(600)));
        never.set(None);
        for second in 1..600 {
            wheel.advance(second * 1_000);
            assert!(!expired(&far));
        }
        wheel.advance(600_100);
        assert!(expired(&far));
        wheel.advance(100_000_000);
        assert!(!expired(&never));
    }

    #[test]
    fn a_drain_ends_only_what_may_be_interrupted_and_a_cut_ends_all() {
        let wheel = Wheel::default();
        let (idle, busy) = (wheel.deadline(), wheel.deadline());
        idle.set_interruptible(SECOND);
        busy.set(SECOND);
        wheel.interrupt();
        assert!(expired(&idle) && !expired(&busy));
        wheel.cut();
        assert!(expired(&busy) && expired(&wheel.deadline()));
    }

    #[test]
    fn dropped_deadlines_leave_nothing_behind() {
        let wheel = Wheel::default();
        let mut deadlines: Vec<_> = (0..100).map(|_| wheel.deadline()).collect();
        for (index, deadline) in deadlines.iter().enumerate() {
            deadline.set(Some(Duration::from_millis(index as u64 * 37)));
        }
        deadlines.retain(|deadline| deadline.key % 3 == 0);
        wheel.advance(50_000);
        assert!(deadlines.iter().all(expired));
        drop(deadlines);
        let slots = wheel.0.slots.borrow();
        assert!(slots.entries.is_empty());
        assert!(slots.heads.iter().all(|&head| head == NONE));
    }

    proptest! {
        /// Whatever is set and whenever the clock moves: expired exactly when due, to the tick.
        #[test]
        fn expiry_is_exact_to_the_tick(
            steps in prop::collection::vec((0_usize..8, 0_u64..200_000, 0_u64..30_000), 1..60)
        ) {
            let wheel = Wheel::default();
            let deadlines: Vec<_> = (0..8).map(|_| wheel.deadline()).collect();
            let mut due = [NEVER; 8];
            let mut now = 0;
            for (which, timeout, pause) in steps {
                deadlines[which].set(Some(Duration::from_millis(timeout)));
                due[which] = now + timeout + limits::TICK_MS;
                now += pause;
                wheel.advance(now);
                for (deadline, due) in deadlines.iter().zip(&mut due) {
                    let visited = now / limits::TICK_MS * limits::TICK_MS;
                    let must = *due <= visited.saturating_sub(limits::TICK_MS);
                    prop_assert!(!must || expired(deadline), "due {due} at {now}");
                    prop_assert!(*due <= now || !expired(deadline), "early: {due} at {now}");
                }
            }
        }
    }
}
