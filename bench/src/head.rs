//! Heads as the measuring programs need them: where one ends and how its body is framed.
//!
//! Not a judge of HTTP: what httparse takes is taken. The strict rules are the balancer's.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

/// Most fields in a head.
pub(crate) const FIELDS_MAX: usize = 100;
/// Longest head.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A head that cannot be used; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHead;

/// How the body after a head is delimited (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
}

/// Parses a request head and hands it to `look` with its length in bytes; `None` while incomplete.
pub(crate) fn with_request<T>(
    bytes: &[u8],
    look: impl FnOnce(usize, &httparse::Request<'_, '_>) -> Result<T, BadHead>,
) -> Result<Option<T>, BadHead> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parser = ParserConfig::default();
    match parser.parse_request_with_uninit_headers(&mut request, bytes, &mut fields) {
        Ok(Status::Complete(length)) => look(length, &request).map(Some),
        Ok(Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(BadHead),
    }
}

/// Parses a response head and hands it to `look` with its length in bytes; `None` while incomplete.
pub(crate) fn with_response<T>(
    bytes: &[u8],
    look: impl FnOnce(usize, &httparse::Response<'_, '_>) -> Result<T, BadHead>,
) -> Result<Option<T>, BadHead> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parser = ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut fields) {
        Ok(Status::Complete(length)) => look(length, &response).map(Some),
        Ok(Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(BadHead),
    }
}

/// The framing of a message whose body has no bytes where `fields` announce none.
pub(crate) fn framing(fields: &[Header<'_>]) -> Result<Framing, BadHead> {
    Ok(announced(fields)?.unwrap_or(Framing::Length(0)))
}

/// The framing that `fields` announce. Two framings at once are refused (RFC 9112 section 6.3).
pub(crate) fn announced(fields: &[Header<'_>]) -> Result<Option<Framing>, BadHead> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        // The lengths of the two names tell most fields apart without a comparison of letters.
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let value = decimal(field.value).ok_or(BadHead)?;
                if length.replace(value).is_some() {
                    return Err(BadHead);
                }
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(BadHead),
        (_, true) => Ok(Some(Framing::Chunked)),
        (length, false) => Ok(length.map(Framing::Length)),
    }
}

/// Whether a field `name`, a list, is there with `value` in it, both without regard to case.
pub(crate) fn says(fields: &[Header<'_>], name: &str, value: &str) -> bool {
    let is_value = |item: &[u8]| item.trim_ascii().eq_ignore_ascii_case(value.as_bytes());
    fields.iter().any(|field| {
        field.name.eq_ignore_ascii_case(name) && field.value.split(|&b| b == b',').any(is_value)
    })
}

/// A number of decimal digits only, as `Content-Length` is (RFC 9110 section 8.6).
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{BadHead, Framing, decimal, framing, with_request, with_response};

    fn request_framing(head: &str) -> Result<Option<Framing>, BadHead> {
        with_request(head.as_bytes(), |_, request| framing(request.headers))
    }

    #[test]
    fn framing_follows_the_fields() {
        let table = [
            ("", Ok(Framing::Length(0))),
            ("Content-Length: 12\r\n", Ok(Framing::Length(12))),
            ("transfer-encoding: Chunked\r\n", Ok(Framing::Chunked)),
            ("Transfer-Encoding: gzip\r\n", Err(BadHead)),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Err(BadHead)),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                Err(BadHead),
            ),
            ("Content-Length: +1\r\n", Err(BadHead)),
        ];
        for (fields, expected) in table {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(request_framing(&head), expected.map(Some), "{fields:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_head_is_incomplete() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(
                with_request(&request[..end], |length, _| Ok(length)),
                Ok(None)
            );
        }
        for end in 0..response.len() {
            assert_eq!(
                with_response(&response[..end], |length, _| Ok(length)),
                Ok(None)
            );
        }
        assert_eq!(
            with_request(request, |length, _| Ok(length)),
            Ok(Some(request.len()))
        );
        assert_eq!(
            with_response(response, |length, _| Ok(length)),
            Ok(Some(response.len()))
        );
    }

    #[test]
    fn decimal_takes_digits_that_fit() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b" 1"), None);
    }
}
