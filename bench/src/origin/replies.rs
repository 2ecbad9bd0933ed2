//! The responses of the origin, formatted once for its name. They go into a [`Output`].

use std::io::Write;

use super::output::Output;
use super::route::BODY_BYTES;
use crate::head::Framing;

/// The part of a request that shapes the response around its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// HEAD: the head alone is sent (RFC 9110 section 9.3.2).
    pub(super) head_only: bool,
    /// The connection ends with this response.
    pub(super) close: bool,
}

/// Heads that carry the name of this origin.
pub(super) struct Replies {
    /// The whole answer to `GET /`, which is nearly all that is ever sent.
    root: Vec<u8>,
    ok: Vec<u8>,
    bad_request: Vec<u8>,
    not_found: Vec<u8>,
}

impl Replies {
    /// Formats the heads for an origin called `name`.
    pub(super) fn new(name: &str) -> Self {
        let status = |line| format!("HTTP/1.1 {line}\r\nX-Backend: {name}\r\n").into_bytes();
        let mut replies = Self {
            root: Vec::new(),
            ok: status("200 OK"),
            bad_request: status("400 Bad Request"),
            not_found: status("404 Not Found"),
        };
        let mut output = Output::default();
        replies.pattern(
            &mut output,
            BODY_BYTES,
            Shape {
                head_only: false,
                close: false,
            },
        );
        replies.root = output.bytes().clone();
        replies
    }

    /// 200 with [`BODY_BYTES`] bytes.
    pub(super) fn root(&self, output: &mut Output, shape: Shape) {
        if shape.head_only || shape.close {
            self.pattern(output, BODY_BYTES, shape);
        } else {
            output.bytes().extend_from_slice(&self.root);
        }
    }

    /// 200 with `length` bytes of the pattern.
    pub(super) fn pattern(&self, output: &mut Output, length: u64, shape: Shape) {
        head(output.bytes(), &self.ok, Framing::Length(length), shape);
        if !shape.head_only {
            output.append_run(length);
        }
    }

    /// The head of a 200 of which the body follows piece by piece.
    pub(super) fn echo(&self, output: &mut Output, framing: Framing, shape: Shape) {
        head(output.bytes(), &self.ok, framing, shape);
    }

    /// 200 with a text.
    pub(super) fn text(&self, output: &mut Output, text: &[u8], shape: Shape) {
        head(
            output.bytes(),
            &self.ok,
            Framing::Length(text.len() as u64),
            shape,
        );
        if !shape.head_only {
            output.bytes().extend_from_slice(text);
        }
    }

    /// 404 without a body.
    pub(super) fn not_found(&self, output: &mut Output, shape: Shape) {
        head(output.bytes(), &self.not_found, Framing::Length(0), shape);
    }

    /// 400 without a body, and the end of the connection.
    pub(super) fn bad_request(&self, output: &mut Output) {
        let shape = Shape {
            head_only: false,
            close: true,
        };
        head(output.bytes(), &self.bad_request, Framing::Length(0), shape);
    }
}

/// Writes a chunk (RFC 9112 section 7.1); one of no bytes would end the body and is left out.
pub(super) fn chunk(bytes: &mut Vec<u8>, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    write!(bytes, "{:x}\r\n", content.len()).expect("a Vec takes all that is written");
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(b"\r\n");
}

fn head(bytes: &mut Vec<u8>, start: &[u8], framing: Framing, shape: Shape) {
    bytes.extend_from_slice(start);
    match framing {
        Framing::Length(length) => write!(bytes, "Content-Length: {length}\r\n"),
        Framing::Chunked => write!(bytes, "Transfer-Encoding: chunked\r\n"),
    }
    .expect("a Vec takes all that is written");
    if shape.close {
        bytes.extend_from_slice(b"Connection: close\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
}
