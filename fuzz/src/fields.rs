//! The fields of a head on their way to the other side: what has to go on as it came, and what a
//! gateway writes itself.

use super::strict::{Field, Request, Response};

/// Names of one connection, or of a proxy that the other side knows of.
const OF_A_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// A backend is told of the host that the client asks for, of the client where it has an address,
/// and of every field that is nobody's business in between.
pub(crate) fn check_request(
    received: &Request,
    sent: &Request,
    peer: Option<&str>,
    trusted: bool,
    nobody: &str,
) {
    const OURS: [&str; 9] = [
        "expect",
        "forwarded",
        "host",
        "max-forwards",
        "te",
        "trailer",
        "via",
        "x-real-ip",
        "x-request-id",
    ];
    let is_ours = |name: &str| OURS.contains(&name) || name.starts_with("x-forwarded");
    check(&received.fields, &sent.fields, is_ours, is_plain);

    let field = values(&received.fields, "host").first().copied();
    let host = authority(&received.target).or(field);
    let host = host.unwrap_or(nobody.as_bytes());
    assert_eq!(values(&sent.fields, "host"), [host]);
    let told = values(&sent.fields, "x-forwarded-for");
    let last = told.last().copied();
    match peer {
        Some(peer) if trusted => assert!(last.is_some_and(|last| last.ends_with(peer.as_bytes()))),
        Some(peer) => assert_eq!(told, [peer.as_bytes()]),
        None => assert_eq!(told, [b""; 0]),
    }
    if !trusted {
        assert_eq!(values(&sent.fields, "x-real-ip"), [b""; 0]);
        assert!(values(&sent.fields, "forwarded").len() <= 1, "ours alone");
    }
}

/// A client is told of every field that is nobody's business in between, and of a date.
pub(crate) fn check_response(received: &Response, sent: &Response) {
    let is_ours = |name: &str| matches!(name, "date" | "te" | "trailer" | "via" | "x-request-id");
    check(&received.fields, &sent.fields, is_ours, |_| true);
    let (said, told) = (
        values(&received.fields, "date"),
        values(&sent.fields, "date"),
    );
    let is_missing = said.is_empty();
    assert!(if is_missing {
        told.len() == 1
    } else {
        told == said
    });
}

/// Demands that all goes on in its order that is not ours. What `Connection` names, and what has no
/// plain name, goes on whole or not at all.
fn check(
    received: &[Field],
    sent: &[Field],
    is_ours: impl Fn(&str) -> bool,
    is_plain: fn(&str) -> bool,
) {
    let options = values(received, "connection").join(&b","[..]);
    let named: Vec<Vec<u8>> = options
        .split(|&byte| byte == b',')
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .collect();
    let is_ours = |name: &str| OF_A_CONNECTION.contains(&name) || is_ours(name);
    let is_free =
        |name: &str| !is_plain(name) || named.iter().any(|named| named == name.as_bytes());
    let goes_on = |field: &&Field| !is_ours(&field.name) && !is_free(&field.name);
    assert!(
        received
            .iter()
            .filter(goes_on)
            .eq(sent.iter().filter(goes_on)),
        "{received:?} became {sent:?}"
    );
    for field in sent.iter().filter(|field| !is_ours(&field.name)) {
        assert_eq!(values(sent, &field.name), values(received, &field.name));
    }
}

/// Whether nothing reads a name as another one.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
}

fn values<'a>(fields: &'a [Field], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|field| field.name == name);
    named.map(|field| &field.value[..]).collect()
}

/// What stands between the scheme and the path of an absolute target.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let rest = target[colon..].strip_prefix(b"://")?;
    if target.starts_with(b"/") {
        return None;
    }
    rest.split(|byte| b"/?".contains(byte)).next()
}
