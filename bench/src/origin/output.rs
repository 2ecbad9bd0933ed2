//! What a client still has to be sent: bytes of our own, then a run of the static pattern.
//!
//! A body of any size costs no memory, since all bodies are cut from one buffer.

use std::io::{self, IoSlice, Write};

/// Length of the repeated alphabet.
const PERIOD: usize = 26;
/// The pattern: whole periods, so that a run may start at any letter and be of any length.
static PATTERN: [u8; PERIOD * 10_240] = pattern();
/// Longest run that is copied behind its head; a longer one goes out from the pattern itself.
const COPY_BYTES_MAX: u64 = 4096;
/// Most that one client is sent before the others have their turn: about 0.1 ms on the loopback.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// The byte at `offset` of every body that the origin makes up.
pub const fn pattern_byte(offset: u64) -> u8 {
    b'a' + (offset % PERIOD as u64) as u8
}

/// The queue of one client.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    run: Run,
    turn_is_over: bool,
}

/// What is left of a body made of the pattern.
#[derive(Clone, Copy, Default)]
struct Run {
    offset: u64,
    left: u64,
}

impl Output {
    /// Where the bytes of a response are appended. Only while no run is under way, because those
    /// bytes would overtake it.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        debug_assert!(!self.has_run());
        &mut self.bytes
    }

    /// Appends `length` bytes of pattern.
    pub(super) fn append_run(&mut self, length: u64) {
        debug_assert!(!self.has_run());
        if length <= COPY_BYTES_MAX {
            self.bytes.extend_from_slice(&PATTERN[..length as usize]);
        } else {
            self.run = Run {
                offset: 0,
                left: length,
            };
        }
    }

    /// Whether a run is still to be sent.
    pub(super) fn has_run(&self) -> bool {
        self.run.left > 0
    }

    /// Bytes that are held, the run not counted.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether the last flush ended only because others wait for their turn. The socket may take
    /// more then, so no edge will come of itself.
    pub(super) fn turn_is_over(&self) -> bool {
        self.turn_is_over
    }

    /// Writes until all is sent (`true`), or the socket takes no more or the turn is over
    /// (`false`).
    pub(super) fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        self.turn_is_over = false;
        let mut written = 0;
        while self.held() > 0 || self.has_run() {
            if written >= TURN_BYTES_MAX {
                self.turn_is_over = true;
                return Ok(false);
            }
            match self.write_once(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    written += count;
                    self.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn write_once(&self, socket: &mut impl Write) -> io::Result<usize> {
        let bytes = &self.bytes[self.sent..];
        if !self.has_run() {
            return socket.write(bytes);
        }
        let start = (self.run.offset % PERIOD as u64) as usize;
        let most = (PATTERN.len() - start) as u64;
        let most = most.min(TURN_BYTES_MAX as u64);
        let run = &PATTERN[start..start + self.run.left.min(most) as usize];
        if bytes.is_empty() {
            return socket.write(run);
        }
        socket.write_vectored(&[IoSlice::new(bytes), IoSlice::new(run)])
    }

    fn advance(&mut self, count: usize) {
        let of_bytes = count.min(self.held());
        let of_run = (count - of_bytes) as u64;
        self.sent += of_bytes;
        self.run.offset += of_run;
        self.run.left -= of_run;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // The sent half goes, so that a long echo holds no more than what is still to go.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

const fn pattern() -> [u8; PERIOD * 10_240] {
    let mut letters = [0; PERIOD * 10_240];
    let mut index = 0;
    while index < letters.len() {
        letters[index] = pattern_byte(index as u64);
        index += 1;
    }
    letters
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::{Output, pattern_byte};

    /// A socket that takes `step` bytes and then says once that it is full.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        full: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_run_survives_writes_of_any_length() {
        for step in [1_001, 65_537, 10_000_000] {
            let mut socket = Narrow {
                taken: Vec::new(),
                step,
                full: false,
            };
            let mut output = Output::default();
            output.bytes().extend_from_slice(b"head");
            output.append_run(700_000);
            while !output.flush(&mut socket).unwrap() {}

            let body = &socket.taken[4..];
            assert_eq!(&socket.taken[..4], b"head");
            assert_eq!(body.len(), 700_000);
            assert!(
                body.iter()
                    .zip(0..)
                    .all(|(byte, offset)| *byte == pattern_byte(offset))
            );
            assert_eq!(output.held(), 0);
        }
    }
}
