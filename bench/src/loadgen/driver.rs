//! The event loop of one thread: opens its connections, sends when the pace says so, reads.
//!
//! In the steady state a request costs a write, a read, a look at the clock and its share of an
//! `epoll_wait`; nothing is allocated.

mod opening;

use std::collections::VecDeque;
use std::io;
use std::sync::Barrier;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use super::clock::{Clock, Timer, thread_cpu};
use super::connection::{Arrival, Connection, Link, Progress};
use super::dial::Dialler;
use super::expect::{Checksum, Judge};
use super::failure::Failure;
use super::gauge::Gauge;
use super::ledger::Ledger;
use super::plan::{Pace, Plan, Reuse, Wire};
use super::response::Options;
use super::schedule::Schedule;
use super::tally::Tally;
use super::watch::Watch;

/// Bytes that one read may take.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Reads of one connection before the others have a turn.
const READS_MAX: usize = 16;
/// Events that one turn of the loop may take.
const EVENTS_MAX: usize = 1024;
/// How often time limits are looked at, and how long a failed connection rests.
const TICK_NS: u64 = 20_000_000;
/// The token of the timer; those of connections are a number and a serial.
const TIMER: Token = Token(usize::MAX);
/// Bits of a token that hold the number of the connection.
const NUMBER_BITS: u32 = 32;

/// What all threads of a run share.
pub(super) struct Shared<'a> {
    pub(super) plan: &'a Plan,
    pub(super) judge: &'a Judge,
    /// Where all threads meet once their connections are open.
    pub(super) start: &'a Barrier,
}

/// One thread's part of a run.
pub(super) struct Driver<'a> {
    plan: &'a Plan,
    start: &'a Barrier,
    thread: usize,
    wires: Vec<Wire>,
    poll: Poll,
    timer: Timer,
    clock: Clock,
    dialler: Dialler,
    connections: Vec<Connection>,
    stage: Stage,
    /// In the open loop.
    schedule: Option<Schedule>,
    ledger: Ledger<'a>,
    /// The clocks at the beginning of the measurement, of the first thread.
    watch: Option<Watch>,
    gauge: &'a Gauge,
    /// Connections that may send, in the open loop.
    ready: VecDeque<usize>,
    /// Connections that are to be opened as soon as not too many are opening.
    down: VecDeque<usize>,
    /// Connections that failed and wait for the next tick.
    resting: Vec<usize>,
    /// Connections that had more to read than one turn may.
    unread: VecDeque<usize>,
    connecting: usize,
    next_tick: u64,
    scratch: Box<[u8]>,
}

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Kept connections are opened, nothing is sent.
    Opening,
    WarmUp,
    /// With the CPU time at its beginning.
    Measuring {
        cpu: Duration,
    },
    /// What is under way is waited for.
    Draining,
}

impl<'a> Driver<'a> {
    /// Prepares thread `thread`; nothing is opened yet.
    pub(super) fn new(shared: &Shared<'a>, gauge: &'a Gauge, thread: usize) -> io::Result<Self> {
        let plan = shared.plan;
        let options = Options {
            head_only: plan.request.method == "HEAD",
            checksum: plan.expect.checksum != Checksum::Any,
        };
        let depth = plan.reuse.depth();
        let connections: Vec<Connection> = (thread..plan.connections)
            .step_by(plan.threads)
            .map(|number| Connection::new(number % plan.targets.len(), depth, options))
            .collect();
        let count = connections.len();
        let poll = Poll::new()?;
        Ok(Self {
            plan,
            start: shared.start,
            thread,
            wires: plan
                .targets
                .iter()
                .map(|target| Wire::new(target, &plan.request, plan.reuse))
                .collect(),
            timer: Timer::new(poll.registry(), TIMER)?,
            poll,
            clock: Clock::new(),
            dialler: Dialler::new(thread),
            connections,
            stage: Stage::Opening,
            schedule: None,
            ledger: Ledger::new(shared.judge),
            watch: None,
            gauge,
            ready: VecDeque::with_capacity(count),
            down: (0..count).collect(),
            resting: Vec::with_capacity(count),
            unread: VecDeque::with_capacity(count),
            connecting: 0,
            next_tick: 0,
            scratch: vec![0; READ_BYTES_MAX].into_boxed_slice(),
        })
    }

    /// Opens, waits for the other threads, drives and returns what it counted.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let opened = self.open_all(&mut events);
        // The others are waiting, whatever came of it here.
        self.start.wait();
        opened?;
        self.begin();
        while !self.is_over() {
            self.turn(&mut events)?;
        }
        self.give_up();
        Ok(self.ledger.tally)
    }

    /// Opens kept connections before time begins. Those that fail, or take longer than the time
    /// limit in all, are opened while it runs.
    fn open_all(&mut self, events: &mut Events) -> io::Result<()> {
        if self.plan.reuse == Reuse::PerRequest {
            return Ok(());
        }
        let mut now = self.clock.now();
        let end = now + nanoseconds(self.plan.timeout);
        self.open_waiting(now);
        while now < end && (self.connecting > 0 || !self.down.is_empty()) {
            self.next_tick = now + TICK_NS;
            self.poll_once(events)?;
            now = self.clock.now();
            self.look_at_limits(now);
            self.open_waiting(now);
        }
        Ok(())
    }

    /// Time begins: sets the window and sends the first requests.
    fn begin(&mut self) {
        let now = self.clock.now();
        let begin = now + nanoseconds(self.plan.warm_up);
        let end = begin + nanoseconds(self.plan.duration);
        self.ledger.window = begin..end;
        self.stage = Stage::WarmUp;
        if let Pace::Open { rate } = self.plan.pace {
            let threads = self.plan.threads;
            self.schedule = Some(Schedule::new(now, end, rate, self.thread, threads));
        }
        self.next_tick = self.tick_after(now);
        self.down.extend(self.resting.drain(..));
        for index in 0..self.connections.len() {
            if matches!(self.connections[index].link, Link::Up(_)) {
                self.may_send(index, now);
            }
        }
        self.open_waiting(now);
    }

    /// One turn of the loop: what time asks for, then what sockets ask for.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let now = self.clock.now();
        self.change_stage(now)?;
        if now >= self.next_tick {
            self.next_tick = self.tick_after(now);
            self.look_at_limits(now);
            self.down.extend(self.resting.drain(..));
        }
        self.open_waiting(now);
        self.dispatch(now);
        self.gauge
            .set(self.ledger.tally.good, self.ledger.tally.failed());
        self.poll_once(events)
    }

    fn change_stage(&mut self, now: u64) -> io::Result<()> {
        match self.stage {
            Stage::WarmUp if now >= self.ledger.window.start => {
                if let Some(pid) = self.plan.watch
                    && self.thread == 0
                {
                    self.watch = Some(Watch::begin(pid, self.clock)?);
                }
                self.stage = Stage::Measuring { cpu: thread_cpu() };
            }
            Stage::Measuring { cpu } if now >= self.ledger.window.end => {
                self.ledger.tally.cpu = thread_cpu().saturating_sub(cpu);
                if let Some(watch) = self.watch.take() {
                    self.ledger.tally.watched = Some(watch.end(self.clock)?);
                }
                self.stage = Stage::Draining;
            }
            _ => {}
        }
        Ok(())
    }

    /// The next tick behind `now`. The edges of the measurement are ticks, so that nothing counts
    /// to it, or not, because no event came to wake the loop.
    fn tick_after(&self, now: u64) -> u64 {
        let window = &self.ledger.window;
        let edges = [window.start, window.end].into_iter();
        let edge = edges.filter(|&edge| edge > now).min();
        edge.unwrap_or(u64::MAX).min(now + TICK_NS)
    }

    /// Whether all that was to be measured has been, or has had its time.
    fn is_over(&self) -> bool {
        if self.stage != Stage::Draining {
            return false;
        }
        let unsent = self
            .schedule
            .is_some_and(|schedule| schedule.next().is_some());
        let is_idle = |connection: &Connection| connection.in_flight() == 0;
        (!unsent && self.connections.iter().all(is_idle))
            || self.clock.now() >= self.ledger.window.end + nanoseconds(self.plan.timeout)
    }

    /// Ends what is still under way, and what was due and never sent.
    fn give_up(&mut self) {
        let now = self.clock.now();
        for connection in &mut self.connections {
            connection.close(now, Failure::Timeout, &mut self.ledger);
        }
        while let Some(start) = self.schedule.and_then(|schedule| schedule.next()) {
            self.ledger.unsent(start, now);
            self.schedule.iter_mut().for_each(Schedule::advance);
        }
        self.gauge
            .set(self.ledger.tally.good, self.ledger.tally.failed());
    }

    /// Waits for readiness, for the next request of the open loop, or for the next tick.
    fn poll_once(&mut self, events: &mut Events) -> io::Result<()> {
        let now = self.clock.now();
        let mut timeout = Duration::from_nanos(self.next_tick.saturating_sub(now).min(TICK_NS));
        if !self.unread.is_empty() {
            timeout = Duration::ZERO;
        } else if let Some(moment) = self.schedule.and_then(|schedule| schedule.next())
            && !self.ready.is_empty()
        {
            self.timer.set(now, moment)?;
        }
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for _ in 0..self.unread.len() {
            if let Some(index) = self.unread.pop_front() {
                self.read(index, true);
            }
        }
        for event in &*events {
            if event.token() != TIMER {
                self.serve(event);
            }
            if self.schedule.is_some() {
                self.dispatch(self.clock.now());
            }
        }
        Ok(())
    }

    /// Acts on an event of a connection, unless that has a new socket since.
    fn serve(&mut self, event: &Event) {
        let Token(token) = event.token();
        let index = token & ((1 << NUMBER_BITS) - 1);
        let connection = &mut self.connections[index];
        if token >> NUMBER_BITS != connection.serial as usize {
            return;
        }
        if matches!(connection.link, Link::Connecting(_)) {
            self.finish_connect(index, event);
        }
        let connection = &mut self.connections[index];
        if event.is_writable()
            && let Err(error) = connection.write(&self.wires[connection.target])
        {
            // What came before the end tells more of it than the failed write: perhaps an answer.
            self.read(index, true);
            if matches!(self.connections[index].link, Link::Up(_)) {
                self.fail(index, Failure::of(&error));
            }
            return;
        }
        if event.is_readable() {
            self.read(index, event.is_read_closed());
        }
    }

    /// Reads and digests until the socket is empty. A read that leaves room in the buffer has
    /// emptied it (epoll(7)); only a FIN makes a further one necessary (`to_the_end`). New requests
    /// come last, so that none goes to a server which has closed behind its answer.
    fn read(&mut self, index: usize, to_the_end: bool) {
        let mut answered_at = None;
        for reads in 1..=READS_MAX {
            let connection = &mut self.connections[index];
            let count = match connection.read(&mut self.scratch) {
                Ok(Arrival::Nothing) => break,
                Ok(Arrival::Bytes(count)) => count,
                Ok(Arrival::End) => {
                    connection.end(self.clock.now(), &mut self.ledger);
                    return self.ended(index);
                }
                Err(error) => return self.fail(index, Failure::of(&error)),
            };
            let now = self.clock.now();
            match connection.digest(&self.scratch[..count], now, &mut self.ledger) {
                Ok(Progress::Answered(0)) => {}
                Ok(Progress::Answered(_)) if self.plan.reuse == Reuse::PerRequest => {
                    return self.ended(index);
                }
                Ok(Progress::Answered(_)) => answered_at = Some(now),
                Ok(Progress::Ended) => return self.ended(index),
                Err(failure) => return self.fail(index, failure),
            }
            if count < self.scratch.len() && !to_the_end {
                break;
            }
            if reads == READS_MAX {
                self.unread.push_back(index);
            }
        }
        if let Some(now) = answered_at {
            self.may_send(index, now);
        }
    }

    /// A kept connection has room for requests: fills it in the closed loop, queues it in the open.
    fn may_send(&mut self, index: usize, now: u64) {
        if self.stage == Stage::Opening {
            return;
        }
        if self.schedule.is_some() {
            return self.queue(index);
        }
        if now >= self.ledger.window.end {
            return;
        }
        let connection = &mut self.connections[index];
        let was_writable = connection.is_writable();
        for _ in connection.in_flight()..self.plan.reuse.depth() {
            connection.add(now, now);
        }
        if was_writable {
            self.write(index);
        }
    }

    /// Sends what the open loop has due, on connections in turn, as long as any has room.
    fn dispatch(&mut self, now: u64) {
        while let Some(start) = self.schedule.and_then(|schedule| schedule.next())
            && start <= now
            && let Some(index) = self.next_ready()
        {
            self.schedule.iter_mut().for_each(Schedule::advance);
            match self.plan.reuse {
                Reuse::PerRequest => self.open(index, Some(start), now),
                Reuse::Kept { depth } => {
                    let connection = &mut self.connections[index];
                    let was_writable = connection.is_writable();
                    connection.add(start, now);
                    if connection.in_flight() < depth {
                        self.queue(index);
                    }
                    if was_writable {
                        self.write(index);
                    }
                }
            }
        }
    }

    /// The next connection in the queue that can still send.
    fn next_ready(&mut self) -> Option<usize> {
        while let Some(index) = self.ready.pop_front() {
            let connection = &mut self.connections[index];
            connection.is_queued = false;
            let can_send = match (&connection.link, self.plan.reuse) {
                (Link::Up(_), Reuse::Kept { depth }) => connection.in_flight() < depth,
                (Link::Down, Reuse::PerRequest) => true,
                _ => false,
            };
            if can_send {
                return Some(index);
            }
        }
        None
    }

    fn queue(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_queued {
            connection.is_queued = true;
            self.ready.push_back(index);
        }
    }

    fn write(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.write(&self.wires[connection.target]).is_err() {
            // The socket is readable too then, and reading says what has happened.
            self.unread.push_back(index);
        }
    }
}

/// A time of the plan, which bounds them far below what fits.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}
