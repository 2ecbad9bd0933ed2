//! Chunked bodies by table, and under any cuts.

use proptest::prelude::*;

use super::{BadChunk, Decoded, Decoder, Encoder};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Decodes the pieces between the cuts: the payload, the bytes consumed, whether the body is whole.
fn decode(body: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let mut decoder = Decoder::default();
    let (mut payload, mut consumed, mut done) = (Vec::new(), 0, false);
    let mut from = 0;
    for to in cuts.iter().copied().chain([body.len()]) {
        let mut piece = body[from..to].to_vec();
        let decoded = decoder.decode(&mut piece)?;
        payload.extend_from_slice(&piece[..decoded.payload]);
        consumed += decoded.consumed;
        done = decoded.done;
        if !done {
            assert_eq!(decoded.consumed, piece.len());
        }
        from = to;
    }
    Ok((payload, consumed, done))
}

fn decode_bytewise(body: &[u8]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let cuts: Vec<usize> = (1..body.len()).collect();
    decode(body, &cuts)
}

#[test]
fn good_bodies_are_decoded_at_once_and_byte_by_byte() {
    let table: [(&str, &str, usize); 11] = [
        ("0\r\n\r\n", "", 0),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
        ("3\r\nabc\r\n00002\r\nde\r\n000\r\n\r\n", "abcde", 0),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0),
        ("A\r\n01234\r\n789\r\n0\r\n\r\n", "01234\r\n789", 0),
        ("2;a=b;c=\"d e\"\r\nhi\r\n0;last\r\n\r\n", "hi", 0),
        (
            "2;a;b=c ; d = \"\\\"\\\\;\"\t;e\r\nhi\r\n0\r\n\r\n",
            "hi",
            0,
        ),
        ("2;a=\"\u{e4}\t \"\r\nhi\r\n0;b=\"\"\r\n\r\n", "hi", 0),
        ("2\r\nhi\r\n0\r\nTrailer: x\r\nOther:\ty\r\n\r\n", "hi", 0),
        ("2\r\nhi\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "hi", 16),
        ("0\r\n\r\n\r\n", "", 2),
    ];
    for (body, payload, rest) in table {
        let expected = Ok((payload.as_bytes().to_vec(), body.len() - rest, true));
        assert_eq!(decode(body.as_bytes(), &[]), expected, "{body:?}");
        assert_eq!(decode_bytewise(body.as_bytes()), expected, "{body:?}");
        for cut in 0..body.len() - rest {
            let prefix = decode(&body.as_bytes()[..cut], &[]).unwrap();
            assert!(!prefix.2, "{cut} bytes of {body:?}");
        }
    }
}

#[test]
fn bad_bodies_are_refused_at_once_and_byte_by_byte() {
    let long_line = format!("1;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX));
    let of_100_bytes = format!("1;{}\r\nx\r\n", "a".repeat(100));
    let many_extensions = of_100_bytes.repeat(CHUNK_EXTENSION_BYTES_MAX / 100 + 1);
    let long_zeros = "0".repeat(CHUNK_LINE_BYTES_MAX + 1);
    let long_trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(TRAILER_BYTES_MAX));
    let many_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
    let table = [
        ("\r\n", BadChunk::Size),
        (";a\r\n", BadChunk::Size),
        ("x\r\n", BadChunk::Size),
        ("0x5\r\nhello\r\n", BadChunk::Size),
        ("+5\r\nhello\r\n", BadChunk::Size),
        ("-1\r\n", BadChunk::Size),
        (" 5\r\nhello\r\n", BadChunk::Size),
        ("5 \r\nhello\r\n", BadChunk::Size),
        ("5\t;a\r\nhello\r\n", BadChunk::Size),
        ("5\nhello\r\n", BadChunk::Size),
        ("10000000000000000\r\n", BadChunk::SizeTooLarge),
        ("5\rhello\r\n", BadChunk::LineEnd),
        ("5\r\r\nhello\r\n", BadChunk::LineEnd),
        ("5;a\nhello\r\n", BadChunk::Extension),
        ("5;a\0\r\nhello\r\n", BadChunk::Extension),
        ("5;a\rb\r\nhello\r\n", BadChunk::LineEnd),
        ("5;\r\nhello\r\n", BadChunk::Extension),
        ("5;;a\r\nhello\r\n", BadChunk::Extension),
        ("5;a;\r\nhello\r\n", BadChunk::Extension),
        ("5; \r\nhello\r\n", BadChunk::Extension),
        ("5;=a\r\nhello\r\n", BadChunk::Extension),
        ("5;a=\r\nhello\r\n", BadChunk::Extension),
        ("5;a= ;b\r\nhello\r\n", BadChunk::Extension),
        ("5;a b\r\nhello\r\n", BadChunk::Extension),
        ("5;a \r\nhello\r\n", BadChunk::Extension),
        ("5;a=b c\r\nhello\r\n", BadChunk::Extension),
        ("5;a=b=c\r\nhello\r\n", BadChunk::Extension),
        ("5;a/b\r\nhello\r\n", BadChunk::Extension),
        ("5;a=b/c\r\nhello\r\n", BadChunk::Extension),
        ("5;a=\"b\r\nhello\r\n", BadChunk::Extension),
        ("5;a=\"\\\r\nhello\r\n", BadChunk::Extension),
        ("5;a=\"b\"c\r\nhello\r\n", BadChunk::Extension),
        ("5;a=\"\u{7f}\"\r\nhello\r\n", BadChunk::Extension),
        ("5\r\nhello!\r\n", BadChunk::LineEnd),
        ("5\r\nhello\n0\r\n\r\n", BadChunk::LineEnd),
        ("5\r\nhello\r0\r\n\r\n", BadChunk::LineEnd),
        ("5\r\nhello0\r\n\r\n", BadChunk::LineEnd),
        ("5\r\nhello!\n0\r\n\r\n", BadChunk::LineEnd),
        ("0\r\n\n", BadChunk::Trailer),
        ("0\r\n\rX", BadChunk::LineEnd),
        ("0\r\nno colon\r\n\r\n", BadChunk::Trailer),
        ("0\r\nA : b\r\n\r\n", BadChunk::Trailer),
        ("0\r\n: b\r\n\r\n", BadChunk::Trailer),
        ("0\r\nA: b\n\r\n", BadChunk::Trailer),
        ("0\r\nA: b\r\n c\r\n\r\n", BadChunk::Trailer),
        ("0\r\nA: b\rc\r\n\r\n", BadChunk::LineEnd),
        (&long_line, BadChunk::LineTooLong),
        (&many_extensions, BadChunk::ExtensionsTooLong),
        (&long_zeros, BadChunk::LineTooLong),
        (&long_trailer, BadChunk::TrailerTooLong),
        (&many_trailers, BadChunk::TrailerTooLong),
    ];
    for (body, bad) in table {
        assert_eq!(decode(body.as_bytes(), &[]), Err(bad), "{body:?}");
        assert_eq!(decode_bytewise(body.as_bytes()), Err(bad), "{body:?}");
    }
}

#[test]
fn the_largest_size_is_taken_and_its_payload_left_in_place() {
    let mut decoder = Decoder::default();
    decoder
        .decode(&mut b"ffffffffffffffff\r\n".to_vec())
        .unwrap();
    let mut piece = *b"payload";
    let whole = Decoded {
        payload: 7,
        consumed: 7,
        done: false,
    };
    assert_eq!(decoder.decode(&mut piece), Ok(whole));
    assert_eq!(&piece, b"payload");
}

#[test]
fn a_trailer_section_goes_on_without_what_may_not_stand_there() {
    let body = b"1\r\nx\r\n0\r\nX-Sum:\t1 \r\nContent-Length: 5\r\nset-cookie: a\r\nTE: b\r\n\
        Grpc-Status: 0\r\nX-Forwarded-For: c\r\nEmpty:\r\n\r\n";
    for cut in 0..body.len() {
        let mut decoder = Decoder::default();
        decoder.keep_trailers();
        decoder.decode(&mut body[..cut].to_vec()).unwrap();
        let decoded = decoder.decode(&mut body[cut..].to_vec()).unwrap();
        assert!(decoded.done);
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        let trailers = decoder.take_trailers();
        encoder.finish_with(trailers.as_deref(), &mut out);
        let expected = "0\r\nX-Sum: 1\r\nGrpc-Status: 0\r\nEmpty: \r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{cut}");
    }
}

#[test]
fn behind_the_end_nothing_is_consumed() {
    let mut decoder = Decoder::default();
    decoder.decode(&mut b"0\r\n\r\n".to_vec()).unwrap();
    let nothing = Decoded {
        payload: 0,
        consumed: 0,
        done: true,
    };
    assert_eq!(decoder.decode(&mut b"5\r\n".to_vec()), Ok(nothing));
}

#[test]
fn pieces_are_framed() {
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    for size in [1, 0, 15, 16, 255, 0x10000] {
        encoder.lead(size, &mut out);
    }
    encoder.finish(&mut out);
    assert_eq!(
        out,
        b"1\r\n\r\nf\r\n\r\n10\r\n\r\nff\r\n\r\n10000\r\n\r\n0\r\n\r\n"
    );
    let mut empty = Vec::new();
    Encoder::default().finish(&mut empty);
    assert_eq!(empty, b"0\r\n\r\n");
}

fn sorted(mut cuts: Vec<usize>, bytes: usize) -> Vec<usize> {
    cuts.retain(|&cut| cut < bytes);
    cuts.sort_unstable();
    cuts
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..12),
        cuts in prop::collection::vec(0_usize..1200, 0..24),
        rest in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut encoder = Encoder::default();
        let mut body = Vec::new();
        for piece in &pieces {
            encoder.lead(piece.len(), &mut body);
            body.extend_from_slice(piece);
        }
        encoder.finish(&mut body);
        let whole = body.len();
        body.extend_from_slice(&rest);
        let cuts = sorted(cuts, body.len());
        prop_assert_eq!(decode(&body, &cuts), Ok((pieces.concat(), whole, true)));
    }

    #[test]
    fn any_cut_gives_the_result_of_no_cut(
        body in bytes_like_bodies(),
        cuts in prop::collection::vec(0_usize..200, 0..24),
    ) {
        let cuts = sorted(cuts, body.len());
        prop_assert_eq!(decode(&body, &cuts), decode(&body, &[]));
    }
}

/// Bytes that are arbitrary, or a line of pieces that chunked bodies are made of.
fn bytes_like_bodies() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 12] = [
        "0",
        "1",
        "a",
        "f",
        "\r\n",
        "\r",
        "\n",
        ";x=y",
        "A: b",
        ":",
        "1\r\nx\r\n",
        "0\r\n\r\n",
    ];
    let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        pieces.prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}
