//! Our own answers: what a client is told where no backend's response can be.

use super::date::Date;
use super::end::Cause;
use super::field::{push, push_decimal, push_length, push_persistence};
use super::head::Version;

/// Writes the whole answer to a request that ended by `cause`: nothing where that has no status.
/// `head_only` leaves the body out, as HEAD wants it; `request_id` is what the request is called,
/// where it has a name.
pub fn write(
    cause: Cause,
    version: Version,
    keep_alive: bool,
    head_only: bool,
    request_id: &[u8],
    date: Option<Date>,
    out: &mut Vec<u8>,
) {
    let Some(status) = cause.status() else {
        return;
    };
    let body = ["fastlb: ", cause.reason(), "\n"];
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    for part in [" ", phrase(status), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(date) = date {
        date.push(out);
    }
    push(out, "Content-Type", b"text/plain; charset=utf-8");
    push_length(out, body.iter().map(|part| part.len() as u64).sum());
    if matches!(status, 200 | 405) {
        push(
            out,
            "Allow",
            b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
        );
    }
    if let Some(seconds) = cause.retry_after_s() {
        out.extend_from_slice(b"Retry-After: ");
        push_decimal(out, seconds);
        out.extend_from_slice(b"\r\n");
    }
    if !request_id.is_empty() {
        push(out, "X-Request-Id", request_id);
    }
    push_persistence(out, version, keep_alive);
    out.extend_from_slice(b"\r\n");
    for part in body.iter().filter(|_| !head_only) {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The reason phrase of a status that a [`Cause`] may have (RFC 9110 section 15, RFC 6585).
fn phrase(status: u16) -> &'static str {
    match status {
        // An OPTIONS that goes no further.
        200 => "OK",
        400 => "Bad Request",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Date, Version, phrase, write};
    use crate::http1::framing::{self, Framing, Method};
    use crate::http1::head::{BadHead, ResponseHead, Scan, field_store};

    fn written(cause: Cause, version: Version, keep_alive: bool, head_only: bool) -> String {
        let mut out = Vec::new();
        write(
            cause,
            version,
            keep_alive,
            head_only,
            b"",
            Date::at(784_111_777),
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_names_the_reason() {
        let cause = Cause::NoBackend;
        let head = "HTTP/1.1 503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; charset=utf-8\r\nContent-Length: 29\r\n\
            Retry-After: 2\r\n";
        let body = "fastlb: no backend available\n";
        let expected = format!("{head}\r\n{body}");
        assert_eq!(written(cause, Version::Http11, true, false), expected);
        let expected = format!("{head}Connection: close\r\n\r\n{body}");
        assert_eq!(written(cause, Version::Http11, false, false), expected);
        let expected = format!("{head}Connection: keep-alive\r\n\r\n");
        assert_eq!(written(cause, Version::Http10, true, true), expected);
        assert_eq!(written(Cause::ClientGone, Version::Http11, true, false), "");
        let limited = written(Cause::TooManyRequests(7), Version::Http11, true, false);
        assert!(limited.starts_with("HTTP/1.1 429 Too Many Requests\r\n"));
        assert!(limited.contains("\r\nRetry-After: 7\r\n"));
        let allow = written(
            Cause::BadRequest(BadHead::Connect),
            Version::Http11,
            false,
            false,
        );
        assert!(allow.contains("\r\nAllow: GET, "));
    }

    #[test]
    fn an_answer_says_what_its_request_is_called() {
        let mut out = Vec::new();
        let (cause, version) = (Cause::NoBackend, Version::Http11);
        write(cause, version, true, true, b"id-1", None, &mut out);
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("\r\nX-Request-Id: id-1\r\n\r\n"), "{out}");
    }

    #[test]
    fn an_answer_parses_to_its_own_length() {
        let causes = [
            Cause::BadRequest(BadHead::BareLf),
            Cause::BadRequest(BadHead::Connect),
            Cause::BadRequest(BadHead::LastOptions),
            Cause::BadRequest(BadHead::LengthTooLarge),
            Cause::BadRequest(BadHead::LineTooLong),
            Cause::BadRequest(BadHead::BadExpectation),
            Cause::BadRequest(BadHead::TooLong),
            Cause::BadRequest(BadHead::Upgrade),
            Cause::BadRequest(BadHead::UnsupportedVersion),
            Cause::HeaderTimeout,
            Cause::TooManyRequests(7),
            Cause::BackendReset,
            Cause::NoBackend,
            Cause::ConnectTimeout,
        ];
        for cause in causes {
            let answer = written(cause, Version::Http11, true, false);
            let span = Scan::response().end(answer.as_bytes()).unwrap().unwrap();
            let mut store = field_store();
            let head = ResponseHead::parse(&answer.as_bytes()[..span.end], &mut store).unwrap();
            let plan = framing::response(&head, Method::Get).unwrap();
            assert_eq!(Some(plan.status), cause.status());
            assert_eq!(
                plan.framing,
                Framing::Length((answer.len() - span.end) as u64)
            );
            assert!(!phrase(plan.status).is_empty(), "{}", plan.status);
        }
    }
}
