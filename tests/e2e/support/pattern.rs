//! Large bodies that can be checked byte for byte without being kept.
//!
//! Each byte follows from its offset, so a receiver that knows the offset knows the byte. That is
//! stronger than a checksum: it tells where the first wrong byte is, and costs one memcmp.

/// A prime, so that no power-of-two buffer ever lines up with it: a chunk that is lost, doubled or
/// swapped with its neighbour always shows.
const PERIOD: usize = 65_521;

/// The source of the bytes.
pub(crate) struct Pattern {
    /// Two periods, so that a whole period can be borrowed from any phase.
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_u32;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        Self {
            bytes: [&period[..], &period[..]].concat(),
        }
    }

    /// The bytes from `offset` on: at most `length`, at most one period, at least one byte.
    pub(crate) fn at(&self, offset: u64, length: u64) -> &[u8] {
        let phase = (offset % PERIOD as u64) as usize;
        let length = length.min(PERIOD as u64) as usize;
        &self.bytes[phase..phase + length]
    }

    /// The whole body of `length` bytes, in pieces.
    pub(crate) fn pieces(&self, length: u64) -> impl Iterator<Item = &[u8]> {
        let starts = (0..length).step_by(PERIOD);
        starts.map(move |offset| self.at(offset, length - offset))
    }

    /// The body of `length` bytes, for bodies small enough to be kept.
    pub(crate) fn whole(&self, length: u64) -> Vec<u8> {
        self.pieces(length).collect::<Vec<_>>().concat()
    }
}

/// The receiving side: takes pieces of any size, fails at the first wrong byte.
pub(crate) struct Checker {
    pattern: Pattern,
    offset: u64,
}

impl Checker {
    pub(crate) fn new() -> Self {
        Self {
            pattern: Pattern::new(),
            offset: 0,
        }
    }

    /// Bytes taken so far, all of them right.
    pub(crate) fn length(&self) -> u64 {
        self.offset
    }

    pub(crate) fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let expected = self.pattern.at(self.offset, piece.len() as u64);
            let (mine, rest) = piece.split_at(expected.len());
            if mine != expected {
                let wrong = mine
                    .iter()
                    .zip(expected)
                    .take_while(|(a, b)| a == b)
                    .count();
                panic!(
                    "the body is wrong from byte {} on",
                    self.offset + wrong as u64
                );
            }
            self.offset += mine.len() as u64;
            piece = rest;
        }
    }
}
