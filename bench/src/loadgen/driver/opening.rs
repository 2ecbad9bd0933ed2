//! The connections of a driver as they come and go: opening, ending, failing, time limits.

use std::mem;

use mio::Token;
use mio::event::Event;

use super::{Driver, NUMBER_BITS, Stage, nanoseconds};
use crate::acceptor::BOTH_WAYS;
use crate::loadgen::connection::Link;
use crate::loadgen::failure::Failure;
use crate::loadgen::plan::Reuse;

/// Connections that may be opening at once, so that no backlog overflows.
const CONNECTING_MAX: usize = 256;

impl Driver<'_> {
    /// The connection has ended as it should: another takes its place at once, unless the server
    /// closes one after the other without an answer.
    pub(super) fn ended(&mut self, index: usize) {
        let now = self.clock.now();
        let connection = &mut self.connections[index];
        let answered = connection.has_answered();
        connection.close(now, Failure::Closed, &mut self.ledger);
        if answered {
            self.revive(index, now);
        } else {
            self.resting.push(index);
        }
    }

    pub(super) fn fail(&mut self, index: usize, failure: Failure) {
        let connection = &mut self.connections[index];
        if connection.in_flight() == 0 {
            self.ledger.tally.failed_alone(failure);
        }
        connection.close(self.clock.now(), failure, &mut self.ledger);
        self.resting.push(index);
    }

    fn connect_failed(&mut self, index: usize, failure: Failure) {
        self.connecting -= 1;
        let target = self.connections[index].target;
        self.ledger.tally.unreached.insert(target);
        self.fail(index, failure);
    }

    /// Opens what waits, as far as not too many are opening.
    pub(super) fn open_waiting(&mut self, now: u64) {
        while self.connecting < CONNECTING_MAX
            && let Some(index) = self.down.pop_front()
        {
            self.revive(index, now);
        }
    }

    /// Puts a connection without a socket to use again.
    fn revive(&mut self, index: usize, now: u64) {
        let has_ended = self.stage != Stage::Opening && now >= self.ledger.window.end;
        match (self.plan.reuse, self.schedule) {
            (Reuse::PerRequest, Some(_)) => self.queue(index),
            _ if has_ended && self.schedule.is_none() => {}
            (Reuse::PerRequest, None) => self.open(index, Some(now), now),
            (Reuse::Kept { .. }, _) => self.open(index, None, now),
        }
    }

    /// Begins to connect; `start` is the moment of the request that needs it.
    pub(super) fn open(&mut self, index: usize, start: Option<u64>, now: u64) {
        let connection = &mut self.connections[index];
        self.connecting += 1;
        if let Some(start) = start {
            connection.add(start, now);
        }
        let address = self.plan.targets[connection.target].address;
        let token = index | (connection.serial as usize) << NUMBER_BITS;
        let registry = self.poll.registry();
        let opened = self.dialler.dial(address).and_then(|mut stream| {
            registry.register(&mut stream, Token(token), BOTH_WAYS)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => connection.connecting(stream, now),
            Err(error) => self.connect_failed(index, Failure::of_connect(&error)),
        }
    }

    /// Gives up on connections that owe something and have been quiet for too long.
    pub(super) fn look_at_limits(&mut self, now: u64) {
        let timeout = nanoseconds(self.plan.timeout);
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if now.saturating_sub(connection.quiet_since) < timeout {
                continue;
            }
            match connection.link {
                Link::Connecting(_) => self.connect_failed(index, Failure::ConnectTimeout),
                Link::Up(_) if connection.in_flight() > 0 => self.fail(index, Failure::Timeout),
                _ => {}
            }
        }
    }

    pub(super) fn finish_connect(&mut self, index: usize, event: &Event) {
        let connection = &mut self.connections[index];
        let Link::Connecting(stream) = &connection.link else {
            return;
        };
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => {
                return self.connect_failed(index, Failure::of_connect(&error));
            }
            Ok(None) if !event.is_writable() => return,
            Ok(None) => {}
        }
        self.connecting -= 1;
        self.ledger.tally.connects += 1;
        let link = mem::replace(&mut connection.link, Link::Down);
        if let Link::Connecting(stream) = link {
            connection.link = Link::Up(stream);
        }
        if self.plan.reuse != Reuse::PerRequest {
            self.may_send(index, self.clock.now());
        }
    }
}
