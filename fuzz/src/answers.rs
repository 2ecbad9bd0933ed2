//! What a client got, held against what it sent, for tests that include this file beside the
//! strict reader.

use super::strict::{self, Field, Read, Response};

/// The response behind any interim ones, with its body, and where it ends.
pub(crate) fn final_response(bytes: &[u8], method: &[u8]) -> Read<(Response, Vec<u8>)> {
    let mut at = 0;
    loop {
        match strict::response(&bytes[at..], method) {
            Read::Whole((head, _), length) if !is_final(&head) => at += length,
            Read::Whole(answer, length) => return Read::Whole(answer, at + length),
            other => return other,
        }
    }
}

/// Whether it is the last response to its request.
pub(crate) fn is_final(head: &Response) -> bool {
    head.status >= 200 || head.status == 101
}

/// The value of the field of this name, which stands there once at most.
pub(crate) fn field<'a>(fields: &'a [Field], name: &str) -> Option<&'a [u8]> {
    let mut named = fields.iter().filter(|field| field.name == name);
    let value = named.next().map(|field| &field.value[..]);
    assert!(named.next().is_none(), "{name} stands there twice");
    value
}

fn says_close(head: &Response) -> bool {
    field(&head.fields, "connection").is_some_and(|said| said.eq_ignore_ascii_case(b"close"))
}

/// Whether the proxy's own answer follows those of backends, which is the last then. It is to what
/// was `sent` behind the requests that backends got. A whole request there is answered, unless the
/// `last` answer of a backend announced the end of the connection.
pub(crate) fn is_refused(
    sent: &[u8],
    last: Option<&Response>,
    received: &[u8],
) -> Result<bool, String> {
    let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let (blanks, sent) = sent.split_at(sent.iter().take_while(blank).count());
    if received.is_empty() {
        let is_whole = matches!(strict::request(sent), Read::Whole(..));
        return match is_whole && !last.is_some_and(says_close) {
            true => Err(format!("no answer to {}", sent.escape_ascii())),
            false => Ok(false),
        };
    }
    let is_head = match blanks {
        b"" | b"\r\n" => sent.starts_with(b"HEAD "),
        // Refused for its blanks alone, perhaps before the method was there.
        _ => received.ends_with(b"\r\n\r\n"),
    };
    let method: &[u8] = if is_head { b"HEAD" } else { b"GET" };
    let (head, body) = match final_response(received, method) {
        Read::Whole(answer, length) if length == received.len() => answer,
        Read::Whole(..) => return Err("something behind a refusal".to_owned()),
        other => return Err(format!("no whole refusal: {other:?}")),
    };
    if field(&head.fields, "x-serial").is_some() {
        return Err("an answer too many".to_owned());
    }
    if head.status < 400 && head.status != 200 {
        return Err(format!("a refusal of {}", head.status));
    }
    if !is_head && !body.starts_with(b"fastlb: ") {
        return Err("a refusal that does not say why".to_owned());
    }
    Ok(true)
}
