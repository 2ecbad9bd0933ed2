//! The chunked transfer coding (RFC 9112 section 7.1), taken apart and put together in pieces.
//!
//! Extensions are checked and dropped, and so are trailers, unless somebody takes them. The bytes
//! are the caller's; nothing else is kept here but the place in the grammar.

use self::extension::Place;
pub(crate) use self::trailer::Trailers;
use super::field::{is_text, is_token};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

mod extension;
#[cfg(test)]
mod tests;
mod trailer;

/// Decodes a body whose bytes come in any pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    state: State,
    /// Bytes of the size line or of the trailer section so far.
    line_bytes: u16,
    /// Bytes of all extensions of the body so far.
    extension_bytes: u16,
    /// Payload of this chunk that is still to come; while its size is read, the size so far.
    left: u64,
    /// The trailer section so far, where it is to go on.
    trailers: Option<Box<Trailers>>,
}

const _: () = assert!(CHUNK_LINE_BYTES_MAX < u16::MAX as usize);
const _: () = assert!(CHUNK_EXTENSION_BYTES_MAX < u16::MAX as usize);
const _: () = assert!(TRAILER_BYTES_MAX < u16::MAX as usize);

/// What the next byte must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A digit of the size, or what ends it.
    #[default]
    Size,
    /// A byte of an extension, or what ends it.
    Extension(Place),
    /// The line feed of the size line.
    SizeLf,
    /// Payload.
    Payload,
    /// The carriage return behind the payload.
    PayloadCr,
    /// The line feed behind the payload.
    PayloadLf,
    /// The first byte of a line of the trailer section.
    Trailer,
    /// A byte of a trailer's name.
    TrailerName,
    /// A byte of a trailer's value.
    TrailerValue,
    /// The line feed of a trailer.
    TrailerLf,
    /// The line feed of the empty line that ends all.
    EndLf,
    /// Nothing: the body is whole.
    Done,
}

/// What a call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of payload, now at the front.
    pub payload: usize,
    /// Bytes that belonged to the body; fewer than given only where it ended.
    pub consumed: usize,
    /// Whether the body is whole.
    pub done: bool,
}

/// Why a chunked body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadChunk {
    /// A size that is not hexadecimal digits.
    Size,
    /// A size beyond 64 bits.
    SizeTooLarge,
    /// A size line longer than `CHUNK_LINE_BYTES_MAX`.
    LineTooLong,
    /// A chunk extension that is none (RFC 9112 section 7.1.1).
    Extension,
    /// More than `CHUNK_EXTENSION_BYTES_MAX` of extensions in one body.
    ExtensionsTooLong,
    /// Something other than CRLF where a line or a chunk must end.
    LineEnd,
    /// A trailer that is no field line.
    Trailer,
    /// A trailer section longer than `TRAILER_BYTES_MAX`.
    TrailerTooLong,
}

impl BadChunk {
    /// A short phrase for the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "bad chunk size",
            Self::SizeTooLarge => "chunk size too large",
            Self::LineTooLong => "chunk size line too long",
            Self::Extension => "bad chunk extension",
            Self::ExtensionsTooLong => "chunk extensions too long",
            Self::LineEnd => "chunk without its line end",
            Self::Trailer => "bad trailer",
            Self::TrailerTooLong => "trailers too long",
        }
    }
}

impl Decoder {
    /// Keeps the trailer section, which is dropped otherwise.
    pub(crate) fn keep_trailers(&mut self) {
        self.trailers = Some(Box::default());
    }

    /// The trailer section of a body that is whole, where it was kept.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<Trailers>> {
        self.trailers.take()
    }

    /// Takes the next bytes of the body and moves their payload to the front of `bytes`.
    ///
    /// # Errors
    /// The body is not chunked as it should be. The place of its end is lost, so the connection
    /// cannot be used on, and neither can this decoder.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BadChunk> {
        let (mut payload, mut consumed) = (0, 0);
        while consumed < bytes.len() && self.state != State::Done {
            if self.state == State::Payload {
                let taken = self.take(bytes.len() - consumed);
                // In the common case all is payload and stays where it is.
                if payload != consumed {
                    bytes.copy_within(consumed..consumed + taken, payload);
                }
                payload += taken;
                consumed += taken;
            } else {
                self.state = self.step(bytes[consumed])?;
                consumed += 1;
            }
        }
        let done = self.state == State::Done;
        Ok(Decoded {
            payload,
            consumed,
            done,
        })
    }

    /// Takes as much payload as there is among the next `bytes`.
    fn take(&mut self, bytes: usize) -> usize {
        let taken = usize::try_from(self.left).map_or(bytes, |left| left.min(bytes));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::PayloadCr;
        }
        taken
    }

    /// The state behind a byte that is not payload.
    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        match self.state {
            State::Size | State::Extension(_) | State::SizeLf => self.size_line(byte),
            State::PayloadCr if byte == b'\r' => Ok(State::PayloadLf),
            State::PayloadLf if byte == b'\n' => Ok(State::Size),
            State::Payload | State::PayloadCr | State::PayloadLf => Err(BadChunk::LineEnd),
            State::Trailer
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => self.trailer(byte),
            State::Done => Ok(State::Done),
        }
    }

    fn size_line(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.line_bytes += 1;
        if usize::from(self.line_bytes) > CHUNK_LINE_BYTES_MAX {
            return Err(BadChunk::LineTooLong);
        }
        match (self.state, byte) {
            (State::Size, b'\r') if self.line_bytes > 1 => Ok(State::SizeLf),
            (State::Size, b';') if self.line_bytes > 1 => Ok(State::Extension(Place::Lead)),
            (State::Size, _) => self.digit(byte),
            (State::Extension(place), b'\r') if extension::may_end(place) => Ok(State::SizeLf),
            (State::Extension(place), _) => self.extension(place, byte),
            (_, b'\n') => {
                self.line_bytes = 0;
                Ok(if self.left == 0 {
                    State::Trailer
                } else {
                    State::Payload
                })
            }
            _ => Err(BadChunk::LineEnd),
        }
    }

    fn extension(&mut self, place: Place, byte: u8) -> Result<State, BadChunk> {
        self.extension_bytes += 1;
        if usize::from(self.extension_bytes) > CHUNK_EXTENSION_BYTES_MAX {
            return Err(BadChunk::ExtensionsTooLong);
        }
        let next = extension::step(place, byte).ok_or(BadChunk::Extension)?;
        Ok(State::Extension(next))
    }

    fn digit(&mut self, byte: u8) -> Result<State, BadChunk> {
        let digit = char::from(byte).to_digit(16).ok_or(BadChunk::Size)?;
        if self.left > u64::MAX >> 4 {
            return Err(BadChunk::SizeTooLarge);
        }
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.line_bytes += 1;
        if usize::from(self.line_bytes) > TRAILER_BYTES_MAX {
            return Err(BadChunk::TrailerTooLong);
        }
        if let Some(trailers) = &mut self.trailers {
            trailers.0.push(byte);
        }
        match (self.state, byte) {
            (State::Trailer, b'\r') => Ok(State::EndLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::Trailer | State::TrailerName, _) if is_token(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_text(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::Trailer),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerLf | State::EndLf, _) => Err(BadChunk::LineEnd),
            _ => Err(BadChunk::Trailer),
        }
    }
}

/// Frames payload as chunks. Only what stands before and behind each piece is written, so the
/// payload itself is not copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoder {
    /// Whether a chunk was led in, whose line end is still owed.
    begun: bool,
}

impl Encoder {
    /// Writes what precedes a piece of `payload` bytes. For an empty piece that is nothing, since a
    /// chunk of size 0 would end the body.
    pub fn lead(&mut self, payload: usize, out: &mut Vec<u8>) {
        if payload == 0 {
            return;
        }
        self.close(out);
        self.begun = true;
        let digits = (usize::BITS - payload.leading_zeros()).div_ceil(4);
        for digit in (0..digits).rev() {
            out.push(b"0123456789abcdef"[payload >> (4 * digit) & 0xf]);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the end of the body.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.finish_with(None, out);
    }

    /// As [`Encoder::finish`], with those trailers that may stand there.
    pub(crate) fn finish_with(&mut self, trailers: Option<&Trailers>, out: &mut Vec<u8>) {
        self.close(out);
        out.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            trailers.push_allowed(out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.begun {
            out.extend_from_slice(b"\r\n");
            self.begun = false;
        }
    }
}
