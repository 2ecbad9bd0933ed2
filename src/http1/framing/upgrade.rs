//! Switching protocols: who asks for it, and which response does it.

use memchr::memmem;

use super::seen::Seen;
use super::{Framing, RequestPlan, ResponsePlan, response};
use crate::http1::field::{Name, list};
use crate::http1::head::{BadHead, ResponseHead, Version};

/// The protocols of an `Upgrade` field that mean something here. HTTP/2 in clear is an offer that
/// may be passed over (RFC 9113 section 3.1).
pub(in crate::http1) fn protocols(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    list(value).filter(|to| !to.is_empty() && !to.eq_ignore_ascii_case(b"h2c"))
}

/// Decides what the response to `request` means, whose head was `sent` to the backend; only a
/// switch of protocols looks at that.
///
/// # Errors
/// The head is whole, yet must not be forwarded: see [`BadHead`].
pub fn answer(
    head: &ResponseHead<'_, '_>,
    request: &RequestPlan,
    sent: &[u8],
) -> Result<ResponsePlan, BadHead> {
    if head.status != 101 || !request.upgrade {
        return response(head, request.method);
    }
    let (mut seen, mut names, mut is_asked_for) = (Seen::default(), false, true);
    for field in head.fields {
        match Name::of(field.name) {
            Name::Upgrade => {
                names |= list(field.value).next().is_some();
                is_asked_for &= list(field.value).all(|to| is_offered(sent, to));
            }
            name => seen.note(name, field.value)?,
        }
    }
    // A protocol that the client did not name is one that it does not speak (RFC 9110 section 7.8).
    if head.version != Version::Http11 || !seen.upgrade || !names || !is_asked_for {
        return Err(BadHead::SwitchingProtocols);
    }
    Ok(ResponsePlan {
        status: head.status,
        version: head.version,
        framing: Framing::None,
        keep_alive: false,
        length_field: None,
        names_fields: seen.names_fields,
    })
}

/// Whether a request asks for this protocol, by the field that `rewrite` has written. Names of
/// protocols are compared in any case.
fn is_offered(sent: &[u8], protocol: &[u8]) -> bool {
    const FIELD: &[u8] = b"\r\nUpgrade: ";
    let Some(at) = memmem::find(sent, FIELD) else {
        return false;
    };
    let value = sent[at + FIELD.len()..].split(|&byte| byte == b'\r').next();
    let mut offers = value.into_iter().flat_map(protocols);
    offers.any(|offer| offer.eq_ignore_ascii_case(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::framing;
    use crate::http1::head::{RequestHead, field_store};

    /// The plan of a request with these lines, of which there is at least one.
    fn plan(version: &str, lines: &[&str]) -> Result<RequestPlan, BadHead> {
        let text = format!(
            "GET / {version}\r\nHost: a\r\n{}\r\n\r\n",
            lines.join("\r\n")
        );
        let mut store = field_store();
        framing::request(&RequestHead::parse(text.as_bytes(), &mut store).expect("a whole head"))
    }

    #[test]
    fn an_upgrade_is_asked_for_by_two_fields_and_without_a_body() {
        const ASKS: [&str; 2] = ["Connection: Upgrade", "Upgrade: websocket"];
        let with = |line: &'static str| [ASKS[0], ASKS[1], line];
        let table: [(&str, &[&str], Result<bool, BadHead>); 9] = [
            ("HTTP/1.1", &ASKS, Ok(true)),
            (
                "HTTP/1.1",
                &["Connection: upgrade", "Upgrade: h2c, x/1"],
                Ok(true),
            ),
            ("HTTP/1.1", &with("Content-Length: 0"), Ok(true)),
            (
                "HTTP/1.1",
                &with("Content-Length: 1"),
                Err(BadHead::Upgrade),
            ),
            (
                "HTTP/1.1",
                &with("Transfer-Encoding: chunked"),
                Err(BadHead::Upgrade),
            ),
            ("HTTP/1.0", &ASKS, Ok(false)),
            ("HTTP/1.1", &ASKS[1..], Ok(false)),
            ("HTTP/1.1", &ASKS[..1], Ok(false)),
            // An offer, not a demand.
            (
                "HTTP/1.1",
                &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"],
                Ok(false),
            ),
        ];
        for (version, lines, asked) in table {
            let planned = plan(version, lines).map(|plan| plan.upgrade);
            assert_eq!(planned, asked, "{version} {lines:?}");
        }
    }

    #[test]
    fn a_switch_of_protocols_is_asked_for_and_names_the_protocol() {
        const SENT: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX: Upgrade: other\r\n\
            Connection: Upgrade\r\nUpgrade: websocket, x/1\r\nX-Upgrade: other\r\n\r\n";
        const SWITCH: &str = "HTTP/1.1 101 Switching Protocols";
        const SAYS: [&str; 2] = ["Connection: Upgrade", "Upgrade: websocket"];
        let asks = plan("HTTP/1.1", &SAYS).unwrap();
        let asks_not = plan("HTTP/1.1", &["Accept: x"]).unwrap();
        let to = |line: &'static str| [SAYS[0], line];
        let table: [(&RequestPlan, &str, &[&str], bool); 13] = [
            (&asks, SWITCH, &SAYS, true),
            (&asks, SWITCH, &to("Upgrade: WebSocket"), true),
            (&asks, SWITCH, &to("Upgrade: x/1, websocket"), true),
            (&asks, SWITCH, &to("Upgrade: other"), false),
            (&asks, SWITCH, &to("Upgrade: websocket, other"), false),
            (&asks, SWITCH, &to("Upgrade: x/2"), false),
            (&asks, SWITCH, &to("Upgrade: x"), false),
            (&asks, SWITCH, &to("Upgrade: websocket, h2c"), false),
            (&asks_not, SWITCH, &SAYS, false),
            (&asks, SWITCH, &SAYS[..1], false),
            (&asks, SWITCH, &SAYS[1..], false),
            (
                &asks,
                SWITCH,
                &["Connection: Upgrade", "Upgrade: h2c"],
                false,
            ),
            (&asks, "HTTP/1.0 101 Switching Protocols", &SAYS, false),
        ];
        for (request, line, lines, good) in table {
            let text = format!("{line}\r\n{}\r\n\r\n", lines.join("\r\n"));
            let mut store = field_store();
            let head =
                ResponseHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
            match answer(&head, request, SENT) {
                Ok(plan) => assert!(good && plan.switches() && !plan.is_interim(), "{lines:?}"),
                Err(bad) => assert!(!good && bad == BadHead::SwitchingProtocols, "{lines:?}"),
            }
        }
    }
}
