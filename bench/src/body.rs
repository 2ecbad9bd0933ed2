//! Bodies as they arrive in pieces: by length, or chunked (RFC 9112 section 7.1).
//!
//! Strict about every CR and LF, so that a proxy which garbles a body is found out.

use crate::head::Framing;

/// A body that breaks the rules of its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBody;

/// Where in a body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are missing.
    Length(u64),
    /// The first digit of a chunk's size.
    SizeStart,
    /// Further digits of it.
    Size(u64),
    /// After the size, up to CR.
    Extension(u64),
    /// The LF that ends the line of the size.
    SizeLf(u64),
    /// So many bytes of the chunk are missing.
    Data(u64),
    /// The CR after the chunk.
    DataCr,
    /// The LF after it.
    DataLf,
    /// The first byte of a trailer line.
    TrailerStart,
    /// The rest of a trailer line.
    Trailer,
    /// The LF that ends a trailer line.
    TrailerLf,
    /// The LF that ends the body.
    LastLf,
}

impl Body {
    /// A body of which nothing has arrived.
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::SizeStart,
        }
    }

    /// Whether all has arrived.
    pub(crate) fn is_done(self) -> bool {
        self == Self::Length(0)
    }

    /// Takes what belongs to the body from `bytes`, hands its content to `content` and returns
    /// how many bytes were taken: all of them, or fewer where the body ends before.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut content: impl FnMut(&[u8]),
    ) -> Result<usize, BadBody> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            let (Self::Length(left) | Self::Data(left)) = self else {
                *self = self.after(bytes[used])?;
                used += 1;
                continue;
            };
            let count = (bytes.len() - used).min(usize::try_from(*left).unwrap_or(usize::MAX));
            content(&bytes[used..used + count]);
            used += count;
            *left -= count as u64;
            if *self == Self::Data(0) {
                *self = Self::DataCr;
            }
        }
        Ok(used)
    }

    /// The state after one byte of the framing.
    fn after(self, byte: u8) -> Result<Self, BadBody> {
        Ok(match (self, byte) {
            (Self::SizeStart, _) => Self::Size(hex_digit(byte)?),
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Size(size), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Size(size), _) => {
                let digit = hex_digit(byte)?;
                Self::Size(size.checked_mul(16).ok_or(BadBody)? + digit)
            }
            (Self::Extension(_) | Self::Trailer | Self::TrailerStart, b'\n') => {
                return Err(BadBody);
            }
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::SizeStart,
            (Self::TrailerStart, b'\r') => Self::LastLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::LastLf, b'\n') => Self::Length(0),
            _ => return Err(BadBody),
        })
    }
}

fn hex_digit(byte: u8) -> Result<u64, BadBody> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(BadBody)
}

#[cfg(test)]
mod tests {
    use super::{BadBody, Body};
    use crate::head::Framing;

    /// Feeds `wire` in pieces of `step` bytes; the content and how much of the wire was taken.
    fn decode(wire: &[u8], step: usize) -> Result<(Vec<u8>, usize), BadBody> {
        let mut body = Body::new(Framing::Chunked);
        let mut content = Vec::new();
        let mut used = 0;
        for piece in wire.chunks(step) {
            used += body.take(piece, |bytes| content.extend_from_slice(bytes))?;
        }
        assert!(body.is_done(), "{body:?}");
        Ok((content, used))
    }

    #[test]
    fn chunks_arrive_in_pieces_of_any_length() {
        let wire = b"5\r\nhello\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nSum: 1\r\nB: 2\r\n\r\nGET /";
        for step in 1..=wire.len() {
            let (content, used) = decode(wire, step).unwrap();
            assert_eq!(content, b"hello0123456789");
            assert_eq!(&wire[used..], b"GET /");
        }
    }

    #[test]
    fn garbled_chunks_are_refused() {
        let table: [&[u8]; 7] = [
            b"\r\n",
            b"g\r\n",
            b"5\nhello",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"11111111111111111\r\n",
            b"0\r\nA: b\n\r\n",
        ];
        for wire in table {
            let taken = Body::new(Framing::Chunked).take(wire, |_| {});
            assert_eq!(taken, Err(BadBody), "{:?}", wire.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut body = Body::new(Framing::Length(3));
        assert_eq!(body.take(b"ab", |_| {}), Ok(2));
        assert_eq!(body.take(b"cd", |_| {}), Ok(1));
        assert!(body.is_done());
    }
}
