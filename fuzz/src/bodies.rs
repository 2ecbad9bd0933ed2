//! Chunked bodies.

use fastlb::http1::chunked::{BadChunk, Decoder, Encoder};

use super::pieces::lengths;
use super::strict::{self, Read};

/// What was found of a body: its payload, its bytes, whether it is whole.
type Found = Result<(Vec<u8>, usize, bool), BadChunk>;

/// A chunked body means the same in any pieces, and what the strict reader takes it for; what is
/// framed anew is the same payload.
pub fn chunked(input: &[u8]) {
    let Some((&cuts, bytes)) = input.split_first() else {
        return;
    };
    let whole = decode(bytes, std::iter::repeat(usize::MAX));
    let in_pieces = decode(bytes, lengths(cuts));
    assert_eq!(in_pieces, whole);
    let strict = strict::chunked(bytes, true);
    match whole {
        Ok((payload, consumed, true)) => {
            assert_eq!(strict, Read::Whole(payload.clone(), consumed));
            check_encoded(&payload, cuts);
        }
        Ok((_, consumed, false)) => {
            assert_eq!(
                consumed,
                bytes.len(),
                "all is taken that is not behind the end"
            );
            assert_eq!(strict, Read::Partial);
        }
        Err(bad) => {
            // What is too long is refused although it is legal, and so is one blank.
            let is_limit = matches!(
                bad,
                BadChunk::LineTooLong | BadChunk::ExtensionsTooLong | BadChunk::TrailerTooLong
            );
            let is_good = matches!(strict::chunked(bytes, false), Read::Whole(..));
            assert!(!is_good || is_limit, "good, but {bad:?}");
        }
    }
}

/// Decodes pieces of these lengths until the body is whole.
pub(crate) fn decode(bytes: &[u8], mut lengths: impl Iterator<Item = usize>) -> Found {
    let mut decoder = Decoder::default();
    let (mut payload, mut consumed) = (Vec::new(), 0);
    while consumed < bytes.len() {
        let rest = &bytes[consumed..];
        let length = lengths.next().unwrap_or(rest.len()).min(rest.len());
        let mut piece = rest[..length].to_vec();
        let decoded = decoder.decode(&mut piece)?;
        payload.extend_from_slice(&piece[..decoded.payload]);
        consumed += decoded.consumed;
        if decoded.done {
            return Ok((payload, consumed, true));
        }
    }
    Ok((payload, consumed, false))
}

/// Frames a payload in pieces of these lengths.
pub(crate) fn encode(payload: &[u8], cuts: u8, is_whole: bool, out: &mut Vec<u8>) {
    let mut encoder = Encoder::default();
    let mut rest = payload;
    for length in lengths(cuts) {
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        encoder.lead(piece.len(), out);
        out.extend_from_slice(piece);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    if is_whole {
        encoder.finish(out);
    }
}

fn check_encoded(payload: &[u8], cuts: u8) {
    let mut encoded = Vec::new();
    encode(payload, cuts, true, &mut encoded);
    let length = encoded.len();
    assert_eq!(
        strict::chunked(&encoded, false),
        Read::Whole(payload.to_vec(), length)
    );
    let again = decode(&encoded, std::iter::repeat(usize::MAX));
    assert_eq!(again, Ok((payload.to_vec(), length, true)));
}
