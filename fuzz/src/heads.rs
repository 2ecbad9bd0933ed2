//! Heads: found in any pieces, read as the strict reader reads them, and written so that both
//! sides read the same.

use fastlb::http1::date::Date;
use fastlb::http1::framing::{self, Framing, RequestPlan};
use fastlb::http1::head::{BadHead, RequestHead, ResponseHead, Scan, Span, field_store};
use fastlb::http1::rewrite::{self, Added, Forward, Underscores};
use fastlb::limits::{FIELDS_MAX, HEAD_BYTES_MAX};

use super::fields;
use super::pieces::places;
use super::strict::{self, Ending, Field, Read};

/// The Host of a request that has none.
const NOBODY: &str = "backend.test:80";

/// Where a head ends does not depend on its pieces, and what goes on to the backend is framed for
/// it, for us and for the strict reader as what the client sent, and says the same.
pub fn request_head(input: &[u8]) {
    let Some((&cuts, bytes)) = input.split_first() else {
        return;
    };
    let mut out = Vec::new();
    if let Ok(Some(span)) = scan(Scan::request(), bytes, cuts) {
        let _ = forward(span, &mut bytes.to_vec(), cuts, &mut out);
    }
}

/// As [`request_head`], for the response to some request.
pub fn response_head(input: &[u8]) {
    let [cuts, choice, bytes @ ..] = input else {
        return;
    };
    let mut out = Vec::new();
    if let Ok(Some(span)) = scan(Scan::response(), bytes, *cuts) {
        let (mut bytes, closing) = (bytes.to_vec(), *choice & 0x80 != 0);
        let _ = deliver(span, &mut bytes, &asked(*choice), closing, &mut out);
    }
}

/// What a client asks, so that there may be an answer.
pub(crate) struct Asked {
    pub(crate) method: &'static [u8],
    pub(crate) head: &'static [u8],
    pub(crate) plan: RequestPlan,
}

/// One of the requests that responses are told apart by.
pub(crate) fn asked(choice: u8) -> Asked {
    const REQUESTS: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    let request = REQUESTS[usize::from(choice & 0x7f) % REQUESTS.len()];
    let mut store = field_store();
    let head = RequestHead::parse(request, &mut store).expect("it is good");
    Asked {
        method: if head.method == "HEAD" {
            b"HEAD"
        } else {
            b"GET"
        },
        head: request,
        plan: framing::request(&head).expect("it is good"),
    }
}

/// Looks for the end of a head, at once and in pieces.
pub(crate) fn scan(scan: Scan, bytes: &[u8], cuts: u8) -> Result<Option<Span>, BadHead> {
    let whole = { scan }.end(bytes);
    let mut scan = scan;
    let mut in_pieces = places(cuts, bytes.len()).map(|known| scan.end(&bytes[..known]));
    let decided = in_pieces.find(|found| *found != Ok(None));
    assert_eq!(decided.unwrap_or(Ok(None)), whole);
    whole
}

/// Writes the head of a request as its backend is sent it.
pub(crate) fn forward(
    span: Span,
    bytes: &mut [u8],
    choice: u8,
    out: &mut Vec<u8>,
) -> Result<RequestPlan, BadHead> {
    const PEERS: [Option<&str>; 2] = [Some("192.0.2.1"), None];
    // Before the version is written over.
    let received = strict::request_head(&bytes[span.start..]);
    let bytes = span.of(bytes);
    let mut store = field_store();
    let head = RequestHead::parse(bytes, &mut store)?;
    let plan = framing::request(&head)?;
    let (peer, trusted) = (PEERS[usize::from(choice & 1)], choice & 2 != 0);
    let forward = Forward {
        peer: peer.map(|peer| peer.parse().expect("it is an address")),
        trusted,
        authority: NOBODY,
        underscores: match choice & 4 {
            0 => Underscores::Drop,
            _ => Underscores::Keep,
        },
        forwarded: choice & 8 != 0,
        added: added(choice & 16 != 0),
    };
    let from = out.len();
    rewrite::request(&head, &plan, &forward, out);
    let out = &out[from..];

    let received = whole(received, bytes.len());
    assert_eq!(received.method, head.method.as_bytes());
    assert_eq!(received.ending, ending(plan.framing));
    let sent = whole(strict::request_head(out), out.len());
    assert_eq!(sent.method, head.method.as_bytes());
    assert_eq!(sent.ending, ending(plan.framing));
    if head.target.starts_with('/') {
        assert_eq!(sent.target, head.target.as_bytes());
    }
    fields::check_request(&received, &sent, peer, trusted, NOBODY);
    if forward.underscores == Underscores::Drop {
        let has_underscore = |field: &Field| field.name.contains('_');
        assert!(!sent.fields.iter().any(has_underscore));
    }
    // What is added may be too much for our own limits, and the last hop goes no further.
    let counts_hops = sent.fields.iter().any(|field| field.name == "max-forwards");
    if out.len() < HEAD_BYTES_MAX && sent.fields.len() <= FIELDS_MAX && !counts_hops {
        check_read_again(out, &plan);
    }
    Ok(plan)
}

/// What every message may be sent with.
fn added(named: bool) -> Added<'static> {
    Added {
        via: None,
        request_id: if named { b"0a1b2c3d" } else { b"" },
        date: Date::at(784_111_777),
    }
}

fn check_read_again(out: &[u8], plan: &RequestPlan) {
    let found = Scan::request()
        .end(out)
        .map(|span| span.map(|span| span.end));
    assert_eq!(found, Ok(Some(out.len())));
    let mut store = field_store();
    let head = RequestHead::parse(out, &mut store).expect("what is written can be read");
    let again = framing::request(&head).expect("what is written is understood");
    let meaning = |plan: &RequestPlan| (plan.method, plan.framing, plan.upgrade);
    assert_eq!(meaning(&again), meaning(plan));
    assert!(again.keep_alive, "a backend's connection is kept");
}

/// How a response goes on.
pub(crate) enum Delivered {
    /// Another one follows; `Some` where a client of HTTP/1.1 was told.
    Interim,
    /// What follows is another protocol.
    Switched,
    Final {
        received: Framing,
        sent: Framing,
        backend_kept: bool,
        client_kept: bool,
    },
}

/// Writes the head of a response as the client is sent it.
pub(crate) fn deliver(
    span: Span,
    bytes: &mut [u8],
    asked: &Asked,
    closing: bool,
    out: &mut Vec<u8>,
) -> Result<Delivered, BadHead> {
    // Before the version is written over.
    let received = strict::response_head(&bytes[span.start..], asked.method);
    let bytes = span.of(bytes);
    let mut store = field_store();
    let head = ResponseHead::parse(bytes, &mut store)?;
    let plan = framing::answer(&head, &asked.plan, asked.head)?;
    let received = whole(received, bytes.len());
    assert_eq!(received.status, plan.status);
    assert_eq!(received.ending, ending(plan.framing));
    let from = out.len();
    let added = added(closing);
    let (delivered, framing) = if plan.switches() {
        rewrite::switching(&head, &plan, added, out);
        (Delivered::Switched, Framing::None)
    } else if plan.is_interim() {
        rewrite::interim(&head, &plan, added, out);
        (Delivered::Interim, Framing::None)
    } else {
        let delivery = framing::deliver(&plan, &asked.plan, closing);
        rewrite::response(&head, &plan, delivery, &asked.plan, added, out);
        let delivered = Delivered::Final {
            received: plan.framing,
            sent: delivery.framing,
            backend_kept: plan.keep_alive,
            client_kept: delivery.keep_alive,
        };
        (delivered, delivery.framing)
    };
    let out = &out[from..];
    let sent = whole(strict::response_head(out, asked.method), out.len());
    assert_eq!(sent.status, plan.status);
    assert_eq!(sent.ending, ending(framing));
    fields::check_response(&received, &sent);
    Ok(delivered)
}

fn whole<T>(read: Read<T>, bytes: usize) -> T {
    match read {
        Read::Whole(head, length) => {
            assert_eq!(length, bytes, "both find the same end");
            head
        }
        Read::Partial => panic!("the strict reader finds no end"),
        Read::Bad(why) => panic!("the strict reader refuses it: {why}"),
    }
}

pub(crate) fn ending(framing: Framing) -> Ending {
    match framing {
        Framing::None => Ending::None,
        Framing::Length(length) => Ending::Length(length),
        Framing::Chunked => Ending::Chunked,
        Framing::Close => Ending::Close,
    }
}
