//! HTTP/1.1 as the actors of a run speak it: its own reading of the messages, so that a mistake of
//! the path under test is not made twice.

use std::rc::Rc;

use crate::io::sim::End;
use crate::proxy_protocol::{Origin, parse};

/// Bytes that an actor asks for at a time.
const READ_BYTES: usize = 64 * 1024;

/// A head, taken apart. A head that fastlb wrote is well formed: everything else panics.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) start: String,
    fields: Vec<(String, String)>,
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    None,
    Length(usize),
    Chunked,
    Close,
}

/// The stream ended before what was waited for had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Not one byte of it had come.
    pub(super) empty: bool,
    pub(super) reset: bool,
}

/// Reads messages from a connection.
pub(super) struct Reader {
    end: Rc<End>,
    bytes: Vec<u8>,
    /// Most milliseconds that it takes its time before each read.
    pause_ms_max: u64,
}

impl Message {
    fn parse(head: &[u8]) -> Self {
        let text = std::str::from_utf8(head).expect("a head is text");
        let mut lines = text.split("\r\n");
        let start = lines.next().expect("a head has a first line").to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a field has a name");
            assert!(
                !name.is_empty() && !name.contains(' ') && !value.contains('\n'),
                "bad field {line:?}"
            );
            (name.to_ascii_lowercase(), value.to_owned())
        });
        let fields = fields.collect();
        Self { start, fields }
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(known, _)| known == name);
        let first = found.next();
        assert!(found.next().is_none(), "{name} stands there twice");
        first.map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        Some(value.parse().expect("a number"))
    }

    pub(super) fn says_close(&self) -> bool {
        self.field("connection") == Some("close")
    }

    /// How the body behind this head is delimited; `else_` where the head does not say.
    pub(super) fn shape(&self, else_: Shape) -> Shape {
        let chunked = self.field("transfer-encoding").map(|value| {
            assert_eq!(value, "chunked");
            Shape::Chunked
        });
        let length = self.number("content-length");
        assert!(chunked.is_none() || length.is_none(), "framed twice");
        let length = length.map(|length| Shape::Length(length as usize));
        chunked.or(length).unwrap_or(else_)
    }
}

impl Reader {
    pub(super) fn new(end: &Rc<End>) -> Self {
        Self::slow(end, 0)
    }

    /// One that pauses before each read, for up to so many milliseconds.
    pub(super) fn slow(end: &Rc<End>, pause_ms_max: u64) -> Self {
        Self {
            end: end.clone(),
            bytes: Vec::new(),
            pause_ms_max,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads the header of the PROXY protocol that a connection begins with.
    pub(super) async fn preface(&mut self) -> Result<Origin, Lost> {
        loop {
            if let Some(header) = parse(&self.bytes).expect("fastlb writes good headers") {
                self.bytes.drain(..header.length);
                return Ok(header.origin);
            }
            self.fill().await?;
        }
    }

    /// What has come and was not understood yet.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Waits for more bytes.
    pub(super) async fn fill(&mut self) -> Result<(), Lost> {
        let read = self.end.read_slowly(READ_BYTES, self.pause_ms_max).await;
        let (empty, reset) = (self.bytes.is_empty(), self.end.was_reset());
        match read {
            Ok(bytes) if !bytes.is_empty() => {
                self.bytes.extend_from_slice(&bytes);
                Ok(())
            }
            _ => Err(Lost { empty, reset }),
        }
    }

    pub(super) async fn head(&mut self) -> Result<Message, Lost> {
        let end = self.find(0, b"\r\n\r\n").await?;
        let message = Message::parse(&self.bytes[..end - 4]);
        self.bytes.drain(..end);
        Ok(message)
    }

    /// Reads a body to its end, or as far as it comes, to `into`.
    pub(super) async fn body(&mut self, shape: Shape, into: &mut Vec<u8>) -> Result<(), Lost> {
        match shape {
            Shape::None => Ok(()),
            Shape::Length(length) => self.take(length, into).await,
            Shape::Close => loop {
                into.append(&mut self.bytes);
                match self.fill().await {
                    Ok(()) => {}
                    Err(lost) if lost.reset => return Err(lost),
                    Err(_) => return Ok(()),
                }
            },
            Shape::Chunked => loop {
                let end = self.find(0, b"\r\n").await?;
                let digits = std::str::from_utf8(&self.bytes[..end - 2]).expect("digits");
                let size = usize::from_str_radix(digits, 16).expect("the size of a chunk");
                self.bytes.drain(..end);
                self.take(size, into).await?;
                let end = self.find(0, b"\r\n").await?;
                assert_eq!(end, 2, "a line end behind a chunk");
                self.bytes.drain(..end);
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    async fn take(&mut self, mut length: usize, into: &mut Vec<u8>) -> Result<(), Lost> {
        while length > 0 {
            if self.bytes.is_empty() {
                self.fill().await?;
            }
            let here = length.min(self.bytes.len());
            into.extend_from_slice(&self.bytes[..here]);
            drop(self.bytes.drain(..here));
            length -= here;
        }
        Ok(())
    }

    /// Waits for `mark`, and tells where it ends.
    async fn find(&mut self, mut from: usize, mark: &[u8]) -> Result<usize, Lost> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.bytes[from..], mark) {
                return Ok(from + at + mark.len());
            }
            from = (self.bytes.len() + 1).saturating_sub(mark.len());
            self.fill().await?;
        }
    }
}

/// The bytes of the body number `serial`.
pub(super) fn pattern(serial: u64, length: usize) -> Vec<u8> {
    let step = |at: usize| (serial as usize).wrapping_mul(31) + at * 7 + at / 251;
    (0..length).map(|at| b'a' + (step(at) % 26) as u8).collect()
}

/// `body` as it goes over a connection, in chunks of at most `chunk` bytes where it is chunked.
pub(super) fn encode(shape: Shape, body: &[u8], chunk: usize, out: &mut Vec<u8>) {
    if shape != Shape::Chunked {
        out.extend_from_slice(body);
        return;
    }
    for piece in body.chunks(chunk.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The field that says so.
pub(super) fn shape_field(shape: Shape) -> String {
    match shape {
        Shape::None | Shape::Close => String::new(),
        Shape::Length(length) => format!("Content-Length: {length}\r\n"),
        Shape::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
    }
}
