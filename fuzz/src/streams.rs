//! Whole streams through the rules, held against the strict reader on both sides: what the client
//! sent and what the backend is sent are the same messages, and the other way round.

use fastlb::http1::framing::Framing;
use fastlb::http1::head::Scan;

use super::bodies::{decode, encode};
use super::heads::{Asked, Delivered, asked, deliver, forward, scan};
use super::pieces::lengths;
use super::strict::{self, Read};

/// Requests, one behind the other.
pub fn request_stream(input: &[u8]) {
    let Some((&cuts, bytes)) = input.split_first() else {
        return;
    };
    let (mut at, mut out) = (0, Vec::new());
    // Of each request that went on, whether it is whole.
    let mut went = Vec::new();
    while let Ok(Some(span)) = scan(Scan::request(), &bytes[at..], cuts) {
        let before = out.len();
        let mut head = bytes[at..][..span.end].to_vec();
        let Ok(plan) = forward(span, &mut head, cuts, &mut out) else {
            out.truncate(before);
            break;
        };
        at += span.end;
        let (taken, is_whole) = relay(&bytes[at..], plan.framing, plan.framing, cuts, &mut out);
        at += taken;
        went.push(is_whole);
        if !is_whole || !plan.keep_alive {
            break;
        }
    }
    let (mut client_at, mut backend_at) = (0, 0);
    for is_whole in went {
        // One empty line may precede a request, but we send none.
        let blank = bytes[client_at..].starts_with(b"\r\n");
        client_at += if blank { 2 } else { 0 };
        let client = strict::request(&bytes[client_at..]);
        let backend = strict::request(&out[backend_at..]);
        match (client, backend) {
            (Read::Whole(sent, length), Read::Whole(got, forwarded)) if is_whole => {
                assert_eq!((sent.0.method, sent.1), (got.0.method, got.1));
                client_at += length;
                backend_at += forwarded;
            }
            (_, backend) if !is_whole => assert_eq!(backend, Read::Partial),
            other => panic!("not the same whole request: {other:?}"),
        }
        if !is_whole {
            return;
        }
    }
    assert_eq!(backend_at, out.len(), "no byte is left over");
}

/// Responses to requests of a kind, one behind the other.
pub fn response_stream(input: &[u8]) {
    let [cuts, choice, bytes @ ..] = input else {
        return;
    };
    let (asked, closing) = (asked(*choice), choice & 0x80 != 0);
    let (mut at, mut out) = (0, Vec::new());
    while let Ok(Some(span)) = scan(Scan::response(), &bytes[at..], *cuts) {
        let (from, sent_from) = (at, out.len());
        let mut head = bytes[at..][..span.end].to_vec();
        let Ok(delivered) = deliver(span, &mut head, &asked, closing, &mut out) else {
            return;
        };
        at += span.end;
        let (received, sent, kept) = match delivered {
            Delivered::Interim => continue,
            Delivered::Switched => return,
            Delivered::Final {
                received,
                sent,
                backend_kept,
                client_kept,
            } => (received, sent, backend_kept && client_kept),
        };
        let (taken, is_whole) = relay(&bytes[at..], received, sent, *cuts, &mut out);
        at += taken;
        check_response(&bytes[from..], &out[sent_from..], &asked, is_whole);
        if !is_whole || !kept {
            return;
        }
    }
}

fn check_response(received: &[u8], sent: &[u8], asked: &Asked, is_whole: bool) {
    let backend = strict::response(received, asked.method);
    let client = strict::response(sent, asked.method);
    match (backend, client) {
        (Read::Whole(backend, _), Read::Whole(client, length)) if is_whole => {
            assert_eq!((backend.0.status, backend.1), (client.0.status, client.1));
            assert_eq!(length, sent.len(), "no byte is left over");
        }
        // The close of the connection is the end, on either side.
        (Read::Partial, Read::Whole(..)) if is_whole => {}
        (_, Read::Partial) => {}
        other => panic!("not the same response, {is_whole}: {other:?}"),
    }
}

/// Brings a body to the other side: how much of it came, and whether it is whole.
fn relay(
    bytes: &[u8],
    received: Framing,
    sent: Framing,
    cuts: u8,
    out: &mut Vec<u8>,
) -> (usize, bool) {
    let (payload, taken, is_whole) = match received {
        Framing::None => (Vec::new(), 0, true),
        Framing::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let taken = length.min(bytes.len());
            (bytes[..taken].to_vec(), taken, taken == length)
        }
        Framing::Chunked => decode(bytes, lengths(cuts)).unwrap_or_default(),
        Framing::Close => (bytes.to_vec(), bytes.len(), true),
    };
    match sent {
        Framing::Chunked => encode(&payload, cuts, is_whole, out),
        _ => out.extend_from_slice(&payload),
    }
    (taken, is_whole)
}
