//! Responses as they arrive in pieces: the head, then a body by length, chunked, or until the end
//! of the stream (RFC 9112 section 6).
//!
//! Bytes in, finished responses out. Whether one is what was hoped for is `expect.rs`' affair.

use std::mem;

use crc32fast::Hasher;

use super::backends::Backends;
use crate::body::Body;
use crate::head::{BadHead, Framing, announced, says, with_response};

/// A response that has come to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) status: u16,
    /// Bytes of the body's content.
    pub(super) length: u64,
    /// CRC-32 of the content; 0 unless the reader was told to compute it.
    pub(super) checksum: u32,
    /// Who sent it, as [`Backends`] numbers them.
    pub(super) backend: usize,
    /// The server closes the connection after it.
    pub(super) is_last: bool,
}

/// Bytes that are no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What the end of the stream means where it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// No response had begun.
    Between,
    /// The response ran until here.
    Finished(Finished),
    /// A response had begun; its backend, where the head had come.
    Cut { backend: usize },
}

/// What the reader is told once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// The requests are HEAD: no response has a body (RFC 9110 section 9.3.2).
    pub(super) head_only: bool,
    /// Whether to compute checksums.
    pub(super) checksum: bool,
}

/// One connection's responses, one after the other.
pub(super) struct Reader {
    options: Options,
    place: Place,
    /// The response under way; of use inside its body.
    current: Finished,
    hasher: Hasher,
    /// The start of a head whose end has not come. Keeps its capacity.
    carried: Vec<u8>,
}

/// Where in a response the next byte belongs.
enum Place {
    Head,
    Body(Body),
    UntilEnd,
}

impl Reader {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            place: Place::Head,
            current: Finished::default(),
            hasher: Hasher::new(),
            carried: Vec::new(),
        }
    }

    /// Forgets what had begun: the next byte is the first of a new connection.
    pub(super) fn reset(&mut self) {
        self.place = Place::Head;
        self.carried.clear();
    }

    /// Takes what belongs to the response under way from `bytes`; returns how many bytes that
    /// were, and the response if it has ended with them. Without an end all bytes are taken.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        backends: &mut Backends,
    ) -> Result<(usize, Option<Finished>), Malformed> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match &mut self.place {
                Place::Head => match self.take_head(rest, backends)? {
                    Some(length) => used += length,
                    None => return Ok((bytes.len(), None)),
                },
                Place::Body(body) => {
                    let (current, hasher) = (&mut self.current, &mut self.hasher);
                    let checksum = self.options.checksum;
                    let content = |piece: &[u8]| {
                        current.length += piece.len() as u64;
                        if checksum {
                            hasher.update(piece);
                        }
                    };
                    used += body.take(rest, content).map_err(|_| Malformed)?;
                    let finished = body.is_done().then(|| self.finish());
                    return Ok((used, finished));
                }
                Place::UntilEnd => {
                    self.current.length += rest.len() as u64;
                    if self.options.checksum {
                        self.hasher.update(rest);
                    }
                    return Ok((bytes.len(), None));
                }
            }
        }
    }

    /// The stream has ended. The reader is as new afterwards.
    pub(super) fn end(&mut self) -> AtEnd {
        let at_end = match self.place {
            Place::Head if self.carried.is_empty() => AtEnd::Between,
            Place::Head => AtEnd::Cut { backend: 0 },
            Place::Body(_) => AtEnd::Cut {
                backend: self.current.backend,
            },
            Place::UntilEnd => AtEnd::Finished(self.finish()),
        };
        self.reset();
        at_end
    }

    /// The backend of the response under way; 0 where that is not known.
    pub(super) fn backend(&self) -> usize {
        match self.place {
            Place::Head => 0,
            Place::Body(_) | Place::UntilEnd => self.current.backend,
        }
    }

    /// How many of `bytes` belong to the head; `None` while it is incomplete.
    fn take_head(
        &mut self,
        bytes: &[u8],
        backends: &mut Backends,
    ) -> Result<Option<usize>, Malformed> {
        // The common case: nothing is carried, the whole head has come.
        if self.carried.is_empty() {
            let length = self.read_head(bytes, backends)?;
            if length.is_none() {
                self.carried.extend_from_slice(bytes);
            }
            return Ok(length);
        }
        let before = self.carried.len();
        let mut carried = mem::take(&mut self.carried);
        carried.extend_from_slice(bytes);
        let length = self.read_head(&carried, backends);
        if matches!(length, Ok(Some(_))) {
            carried.clear();
        }
        self.carried = carried;
        // The carried bytes alone were no head, so it ends behind them.
        Ok(length?.map(|length| length - before))
    }

    /// The length of the head that `bytes` start with; sets what follows it.
    fn read_head(
        &mut self,
        bytes: &[u8],
        backends: &mut Backends,
    ) -> Result<Option<usize>, Malformed> {
        let head = with_response(bytes, |length, response| {
            let fields = &*response.headers;
            let status = response.code.unwrap_or_default();
            let name = fields
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("x-backend"));
            let is_last = match response.version {
                Some(0) => !says(fields, "connection", "keep-alive"),
                _ => says(fields, "connection", "close"),
            };
            let head = Finished {
                status,
                backend: name.map_or(0, |field| backends.number(field.value)),
                is_last,
                ..Finished::default()
            };
            Ok((length, head, announced(fields)?))
        });
        let Some((length, head, framing)) = head.map_err(|BadHead| Malformed)? else {
            return Ok(None);
        };
        self.current = head;
        self.hasher.reset();
        self.place = match (head.status, framing) {
            // Interim: the response is still to come. Nobody asked for a 101.
            (101, _) => return Err(Malformed),
            (100..200, _) => Place::Head,
            (204 | 304, _) => Place::Body(Body::new(Framing::Length(0))),
            _ if self.options.head_only => Place::Body(Body::new(Framing::Length(0))),
            (_, Some(framing)) => Place::Body(Body::new(framing)),
            (_, None) => Place::UntilEnd,
        };
        Ok(Some(length))
    }

    fn finish(&mut self) -> Finished {
        if self.options.checksum {
            self.current.checksum = mem::take(&mut self.hasher).finalize();
        }
        self.current.is_last |= matches!(self.place, Place::UntilEnd);
        self.place = Place::Head;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::{AtEnd, Finished, Malformed, Options, Reader};
    use crate::loadgen::backends::Backends;

    const CHECKED: Options = Options {
        head_only: false,
        checksum: true,
    };

    /// Feeds `wire` in pieces of `step` bytes; all that was finished, and what its end means.
    fn read(
        wire: &[u8],
        step: usize,
        options: Options,
    ) -> Result<(Vec<Finished>, AtEnd), Malformed> {
        let mut reader = Reader::new(options);
        let mut backends = Backends::default();
        let mut finished = Vec::new();
        for piece in wire.chunks(step) {
            let mut used = 0;
            while used < piece.len() {
                let (taken, response) = reader.take(&piece[used..], &mut backends)?;
                used += taken;
                finished.extend(response);
                assert!(
                    response.is_some() || used == piece.len(),
                    "all taken or an end"
                );
            }
        }
        Ok((finished, reader.end()))
    }

    fn answer(status: u16, content: &[u8], is_last: bool) -> Finished {
        Finished {
            status,
            length: content.len() as u64,
            checksum: crc32fast::hash(content),
            backend: 1,
            is_last,
        }
    }

    #[test]
    fn responses_arrive_in_pieces_of_any_length() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\n\
            HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 5\r\n\r\nhello\
            HTTP/1.1 503 No\r\nx-backend: a\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
            HTTP/1.1 204 No Content\r\nX-Backend: a\r\n\r\n\
            HTTP/1.1 200 OK\r\nX-Backend: a\r\nConnection: close\r\n\r\nto the end";
        for step in 1..=wire.len() {
            let (finished, at_end) = read(wire, step, CHECKED).unwrap();
            let expected = [
                answer(200, b"hello", false),
                answer(503, b"abcde", false),
                answer(204, b"", false),
            ];
            assert_eq!(finished, expected, "in pieces of {step}");
            let last = answer(200, b"to the end", true);
            assert_eq!(at_end, AtEnd::Finished(last), "in pieces of {step}");
        }
    }

    #[test]
    fn every_prefix_of_a_response_is_incomplete_and_its_end_a_cut() {
        let wires: [&[u8]; 2] = [
            b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nhello\r\n0\r\nSum: 1\r\n\r\n",
        ];
        for wire in wires {
            let head = wire
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .unwrap()
                + 4;
            for end in 0..wire.len() {
                let (finished, at_end) = read(&wire[..end], wire.len(), CHECKED).unwrap();
                assert_eq!(finished, []);
                let expected = match end {
                    0 => AtEnd::Between,
                    end if end < head => AtEnd::Cut { backend: 0 },
                    _ => AtEnd::Cut { backend: 1 },
                };
                assert_eq!(at_end, expected, "after {end} bytes");
            }
            let (finished, at_end) = read(wire, wire.len(), CHECKED).unwrap();
            assert_eq!(finished, [answer(200, b"hello", false)]);
            assert_eq!(at_end, AtEnd::Between);
        }
    }

    #[test]
    fn who_closes_is_known_beforehand() {
        let table = [
            ("HTTP/1.1 200 OK\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: upgrade, Close\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close-not\r\n", false),
            ("HTTP/1.0 200 OK\r\n", true),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", false),
        ];
        for (head, is_last) in table {
            let wire = format!("{head}Content-Length: 0\r\n\r\n");
            let (finished, _) = read(wire.as_bytes(), wire.len(), CHECKED).unwrap();
            assert_eq!(finished[0].is_last, is_last, "{head}");
        }
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        let options = Options {
            head_only: true,
            checksum: false,
        };
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".repeat(2);
        let (finished, at_end) = read(&wire, 7, options).unwrap();
        assert_eq!((finished.len(), finished[0].length), (2, 0));
        assert_eq!(at_end, AtEnd::Between);
    }

    #[test]
    fn garbage_is_malformed() {
        let table: [&[u8]; 7] = [
            b"\0\x01\x02\x03",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ];
        for wire in table {
            for step in 1..=wire.len() {
                let result = read(wire, step, CHECKED);
                assert_eq!(result, Err(Malformed), "{}", wire.escape_ascii());
            }
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nA: "[..], &[b'a'; 100_000]].concat();
        assert_eq!(read(&endless, 4096, CHECKED), Err(Malformed));
    }
}
