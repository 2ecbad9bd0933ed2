//! One end of a connection: bytes out, messages in.
//!
//! The client and the conversations of the origin are both one of these with a different voice.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;
use super::message::{Framing, Head, Message};

/// Longest head that the harness reads.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// What one read takes at most, unless told otherwise.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Why a message did not arrive whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer closed between two messages, which is its right.
    Closed,
    /// The peer closed or reset the connection inside a message.
    Cut,
    /// Nothing came for as long as the harness waits.
    Stalled,
    /// What came is not HTTP.
    Malformed(String),
}

/// A connected socket, of whatever family, and what was read from it but not yet used.
pub(crate) struct Wire {
    stream: TcpStream,
    unused: Vec<u8>,
    /// What one read takes at most.
    read_bytes: usize,
}

thread_local! {
    /// What a read lands in. Not part of a wire, or a crowd of them would weigh gigabytes.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // A Unix socket has no such thing.
        let _ = stream.set_nodelay(true);
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("the time is not zero");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("the time is not zero");
        Self {
            stream,
            unused: Vec::new(),
            read_bytes: READ_BYTES_MAX,
        }
    }

    /// Has every read from now on take at most so many bytes, up to what one takes anyway.
    pub(crate) fn read_at_most(&mut self, bytes: usize) {
        self.read_bytes = bytes.min(READ_BYTES_MAX);
    }

    /// A second handle of the same socket, for a thread that writes while this one reads.
    pub(crate) fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("there are descriptors left")
    }

    /// Writes all of `bytes`, or says why the peer would not take them.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(bytes)
    }

    /// Sends a FIN; the other direction stays open.
    pub(crate) fn half_close(&self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("the socket is connected");
    }

    /// Makes the close, whenever it comes, a reset.
    pub(crate) fn reset_on_close(&self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("the socket is open");
    }

    /// Bytes that were read beyond the last message.
    pub(crate) fn unused(&self) -> &[u8] {
        &self.unused
    }

    /// Whether there is something to read now, be it the end.
    pub(crate) fn has_input(&self) -> bool {
        self.stream
            .set_nonblocking(true)
            .expect("the socket is open");
        let peeked = self.stream.peek(&mut [0]);
        self.stream
            .set_nonblocking(false)
            .expect("the socket is open");
        peeked.is_ok()
    }

    /// Whether the connection failed, as by a reset, found out without reading.
    pub(crate) fn has_failed(&self) -> bool {
        let failure = self.stream.take_error().expect("the socket is open");
        failure.is_some()
    }

    /// Reads a request with its body.
    pub(crate) fn request(&mut self) -> Result<Message, Broken> {
        let head = self.head()?;
        let framing = head.request_framing().map_err(Broken::Malformed)?;
        self.rest_of(head, framing)
    }

    /// Reads a response, interim or final, to a request with `method`.
    pub(crate) fn response(&mut self, method: &str) -> Result<Message, Broken> {
        let head = self.head()?;
        let framing = head.response_framing(method).map_err(Broken::Malformed)?;
        self.rest_of(head, framing)
    }

    fn rest_of(&mut self, head: Head, framing: Framing) -> Result<Message, Broken> {
        let mut body = Vec::new();
        let trailers = self.body(framing, |piece| body.extend_from_slice(piece))?;
        Ok(Message {
            head,
            framing,
            body,
            trailers,
        })
    }

    /// Reads a head and leaves the body where it is.
    pub(crate) fn head(&mut self) -> Result<Head, Broken> {
        let mut searched = 0_usize;
        let end = loop {
            let from = searched.saturating_sub(3);
            if let Some(at) = self.unused[from..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                break from + at + 4;
            }
            searched = self.unused.len();
            if searched > HEAD_BYTES_MAX {
                return Err(Broken::Malformed("a head without an end".to_owned()));
            }
            let at_start = self.unused.is_empty();
            match self.fill() {
                Ok(true) => {}
                Ok(false) | Err(Broken::Cut) if at_start => return Err(Broken::Closed),
                Ok(false) => return Err(Broken::Cut),
                Err(broken) => return Err(broken),
            }
        };
        let raw: Vec<u8> = self.unused.drain(..end).collect();
        Head::parse(&raw).map_err(Broken::Malformed)
    }

    /// Reads a body of `framing`, hands its payload to `sink`, and returns the trailer lines.
    pub(crate) fn body(
        &mut self,
        framing: Framing,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<Vec<String>, Broken> {
        match framing {
            Framing::Empty => Ok(Vec::new()),
            Framing::Length(length) => self.exactly(length, &mut sink).map(|()| Vec::new()),
            Framing::Chunked => self.chunks(&mut sink),
            Framing::UntilClose => loop {
                sink(&self.unused);
                self.unused.clear();
                if !self.fill()? {
                    return Ok(Vec::new());
                }
            },
        }
    }

    fn chunks(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<Vec<String>, Broken> {
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default();
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = u64::from_str_radix(digits, 16).ok().filter(|_| plain);
            let size = size.ok_or_else(|| Broken::Malformed(format!("chunk size {line:?}")))?;
            if size == 0 {
                break;
            }
            self.exactly(size, sink)?;
            if !self.line()?.is_empty() {
                return Err(Broken::Malformed("a chunk longer than its size".to_owned()));
            }
        }
        let mut trailers = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Ok(trailers),
                line => trailers.push(line),
            }
        }
    }

    fn exactly(&mut self, length: u64, sink: &mut impl FnMut(&[u8])) -> Result<(), Broken> {
        let mut left = length;
        while left > 0 {
            if self.unused.is_empty() && !self.fill()? {
                return Err(Broken::Cut);
            }
            let take = left.min(self.unused.len() as u64) as usize;
            sink(&self.unused[..take]);
            self.unused.drain(..take);
            left -= take as u64;
        }
        Ok(())
    }

    /// Reads up to the next CRLF, which is dropped. A bare CR or LF inside is an error.
    fn line(&mut self) -> Result<String, Broken> {
        let end = loop {
            if let Some(at) = self.unused.windows(2).position(|two| two == b"\r\n") {
                break at;
            }
            if !self.fill()? {
                return Err(Broken::Cut);
            }
        };
        let line: Vec<u8> = self.unused.drain(..end + 2).take(end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(['\r', '\n']) {
            return Err(Broken::Malformed(format!("a bare CR or LF in {line:?}")));
        }
        Ok(line)
    }

    /// Reads once. False is the end of the stream; a reset is [`Broken::Cut`], wherever it comes.
    fn fill(&mut self) -> Result<bool, Broken> {
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let count = self.stream.read(&mut scratch[..self.read_bytes])?;
            self.unused.extend_from_slice(&scratch[..count]);
            Ok::<_, io::Error>(count)
        });
        match read {
            Ok(count) => Ok(count > 0),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Err(Broken::Stalled),
                ErrorKind::Interrupted => self.fill(),
                _ => Err(Broken::Cut),
            },
        }
    }

    /// Reads and throws away until the peer closes. False where it did not in time.
    pub(crate) fn drain_until_closed(&mut self) -> bool {
        loop {
            self.unused.clear();
            match self.fill() {
                Ok(true) => {}
                Ok(false) | Err(Broken::Cut) => return true,
                Err(_) => return false,
            }
        }
    }
}
