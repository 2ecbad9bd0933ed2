//! One connection of the origin as a value: bytes go in, output comes out, no socket is seen.
//!
//! Requests are answered in order, one after the other; a pipelined one waits in `carried` while
//! the response before it is delayed or too long to be held.

use std::mem;

use super::output::Output;
use super::replies::{Replies, Shape, chunk};
use super::route::Route;
use crate::body::Body;
use crate::head::{BadHead, Framing, framing, says, with_request};

/// Bytes of responses that are held before reading stops. Far more than any socket's buffer, so
/// that a client which sends all of a long body before it reads the echo is not left hanging.
const OUTPUT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The state of one connection.
#[derive(Default)]
pub(super) struct Session {
    /// What is to be sent.
    pub(super) output: Output,
    /// Bytes that could not be used yet: part of a head, or requests whose turn is not yet.
    carried: Vec<u8>,
    state: State,
    input_ended: bool,
}

#[derive(Default)]
enum State {
    /// Between requests, or inside a head.
    #[default]
    Head,
    /// Inside the body of a request.
    Body { body: Body, exchange: Exchange },
    /// The request is complete and its answer waits; `ms` until the delay is queued.
    Delay { ms: Option<u64>, shape: Shape },
    /// The connection ends when the output is sent.
    Closing,
}

/// What is owed to the request whose body arrives.
struct Exchange {
    answer: Answer,
    shape: Shape,
}

enum Answer {
    /// Made up from the route once the body is complete.
    Made(Route),
    /// This text, likewise.
    Text(Box<[u8]>),
    /// The body itself, as it arrives, framed like the request.
    Echo(Framing),
}

impl Session {
    /// Takes bytes that the client sent.
    pub(super) fn receive(&mut self, bytes: &[u8], replies: &Replies) {
        if self.carried.is_empty() {
            let used = self.consume(bytes, replies);
            self.carried.extend_from_slice(&bytes[used..]);
        } else {
            self.carried.extend_from_slice(bytes);
            self.resume(replies);
        }
    }

    /// Goes on with carried bytes; whether any were used.
    pub(super) fn resume(&mut self, replies: &Replies) -> bool {
        if self.carried.is_empty() {
            return false;
        }
        let mut carried = mem::take(&mut self.carried);
        let used = self.consume(&carried, replies);
        carried.drain(..used);
        self.carried = carried;
        used > 0
    }

    /// The client will send no more. What is complete is still answered.
    pub(super) fn end_of_input(&mut self) {
        self.input_ended = true;
        if !matches!(self.state, State::Delay { .. }) {
            self.state = State::Closing;
        }
    }

    /// Whether further bytes could be used now.
    pub(super) fn wants_bytes(&self) -> bool {
        let reads = matches!(self.state, State::Head | State::Body { .. });
        reads && !self.input_ended && self.has_room()
    }

    /// Whether the connection ends once its output is sent.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Closing)
    }

    /// The delay that has just begun, in milliseconds, once.
    pub(super) fn take_delay(&mut self) -> Option<u64> {
        match &mut self.state {
            State::Delay { ms, .. } => ms.take(),
            _ => None,
        }
    }

    /// Gives the answer that was delayed.
    pub(super) fn delay_is_over(&mut self, replies: &Replies) {
        if let State::Delay { shape, .. } = self.state {
            replies.root(&mut self.output, shape);
            self.after_response(shape);
        }
    }

    /// Uses as many of `bytes` as it can; returns how many.
    fn consume(&mut self, bytes: &[u8], replies: &Replies) -> usize {
        let mut used = 0;
        while used < bytes.len() && self.has_room() {
            let rest = &bytes[used..];
            let taken = match self.state {
                State::Head => self.take_head(rest, replies),
                State::Body { .. } => self.take_body(rest, replies),
                State::Delay { .. } => 0,
                State::Closing => rest.len(),
            };
            if taken == 0 {
                break;
            }
            used += taken;
        }
        used
    }

    fn has_room(&self) -> bool {
        !self.output.has_run() && self.output.held() < OUTPUT_BYTES_MAX
    }

    /// Takes a head if it is complete, and answers where nothing follows it.
    fn take_head(&mut self, bytes: &[u8], replies: &Replies) -> usize {
        match with_request(bytes, |length, request| Ask::of(&bytes[..length], request)) {
            Ok(None) => 0,
            Ok(Some(ask)) => {
                self.begin(&ask, &bytes[..ask.head_length], replies);
                ask.head_length
            }
            Err(BadHead) => self.refuse(bytes, replies),
        }
    }

    fn begin(&mut self, ask: &Ask, head: &[u8], replies: &Replies) {
        let body = Body::new(ask.framing);
        // The common case: nothing follows, nothing has to be remembered.
        if body.is_done() && !matches!(ask.route, Route::EchoHead | Route::Echo) {
            return self.answer(ask.route, ask.shape, replies);
        }
        if ask.expects_continue && !body.is_done() {
            self.output
                .bytes()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let answer = match ask.route {
            Route::Echo => {
                replies.echo(&mut self.output, ask.framing, ask.shape);
                Answer::Echo(ask.framing)
            }
            Route::EchoHead => Answer::Text(head.into()),
            route => Answer::Made(route),
        };
        let exchange = Exchange {
            answer,
            shape: ask.shape,
        };
        if body.is_done() {
            self.finish(&exchange, replies);
        } else {
            self.state = State::Body { body, exchange };
        }
    }

    fn take_body(&mut self, bytes: &[u8], replies: &Replies) -> usize {
        let State::Body { body, exchange } = &mut self.state else {
            return 0;
        };
        let output = &mut self.output;
        let silent = exchange.shape.head_only;
        let taken = body.take(bytes, |content| match exchange.answer {
            Answer::Echo(Framing::Chunked) if !silent => chunk(output.bytes(), content),
            Answer::Echo(Framing::Length(_)) if !silent => {
                output.bytes().extend_from_slice(content);
            }
            _ => {}
        });
        match taken {
            Ok(used) if body.is_done() => {
                let State::Body { exchange, .. } = mem::take(&mut self.state) else {
                    return used;
                };
                self.finish(&exchange, replies);
                used
            }
            Ok(used) => used,
            // In the middle of an echo a 400 would be taken for its body; the cut says enough.
            Err(_) if matches!(exchange.answer, Answer::Echo(_)) => {
                self.state = State::Closing;
                bytes.len()
            }
            Err(_) => self.refuse(bytes, replies),
        }
    }

    /// The request is complete: gives what is still owed.
    fn finish(&mut self, exchange: &Exchange, replies: &Replies) {
        let shape = exchange.shape;
        match &exchange.answer {
            Answer::Made(route) => return self.answer(*route, shape, replies),
            Answer::Text(text) => replies.text(&mut self.output, text, shape),
            Answer::Echo(Framing::Chunked) if !shape.head_only => {
                self.output.bytes().extend_from_slice(b"0\r\n\r\n");
            }
            Answer::Echo(_) => {}
        }
        self.after_response(shape);
    }

    fn answer(&mut self, route: Route, shape: Shape, replies: &Replies) {
        match route {
            Route::Root => replies.root(&mut self.output, shape),
            Route::Bytes(length) => replies.pattern(&mut self.output, length, shape),
            Route::Delay { ms } => {
                self.state = State::Delay {
                    ms: Some(ms),
                    shape,
                };
                return;
            }
            Route::Echo | Route::EchoHead | Route::Unknown => {
                replies.not_found(&mut self.output, shape);
            }
        }
        self.after_response(shape);
    }

    fn after_response(&mut self, shape: Shape) {
        let ends = shape.close || self.input_ended;
        self.state = if ends { State::Closing } else { State::Head };
    }

    /// Answers 400 and reads no further; all of `bytes` counts as used.
    fn refuse(&mut self, bytes: &[u8], replies: &Replies) -> usize {
        replies.bad_request(&mut self.output);
        self.state = State::Closing;
        bytes.len()
    }
}

/// What a head asks for.
struct Ask {
    head_length: usize,
    route: Route,
    framing: Framing,
    shape: Shape,
    expects_continue: bool,
}

impl Ask {
    fn of(head: &[u8], request: &httparse::Request<'_, '_>) -> Result<Self, BadHead> {
        let fields = &*request.headers;
        let close = request.version == Some(0) || says(fields, "connection", "close");
        Ok(Self {
            head_length: head.len(),
            route: Route::of(request.path.unwrap_or_default()),
            framing: framing(fields)?,
            shape: Shape {
                head_only: request.method == Some("HEAD"),
                close,
            },
            expects_continue: says(fields, "expect", "100-continue"),
        })
    }
}
