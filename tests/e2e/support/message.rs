//! Requests and responses as the harness reads them: strictly, into owned values.

use std::borrow::Cow;

/// Most fields that the harness reads in one head.
const FIELDS_MAX: usize = 200;

/// How the end of a body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, whatever the fields say.
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head of a request or of a response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Every byte of it, the blank line included.
    pub(crate) raw: Vec<u8>,
    /// The request line or status line, without its line end.
    pub(crate) start: String,
    fields: Vec<(String, String)>,
}

/// A head with its whole body, chunking removed.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    /// The trailer section of a chunked body, a line each.
    pub(crate) trailers: Vec<String>,
}

impl Head {
    /// The head that `raw` is, from its first byte to its blank line. The error is what is wrong.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, String> {
        check_line_ends(raw)?;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let parsed = if raw.starts_with(b"HTTP/") {
            let mut response = httparse::Response::new(&mut fields);
            response
                .parse(raw)
                .map(|status| (status, owned(response.headers)))
        } else {
            let mut request = httparse::Request::new(&mut fields);
            request
                .parse(raw)
                .map(|status| (status, owned(request.headers)))
        };
        match parsed {
            Ok((httparse::Status::Complete(length), fields)) if length == raw.len() => {
                let start = raw
                    .split(|byte| *byte == b'\r')
                    .next()
                    .map(text)
                    .unwrap_or_default();
                Ok(Self {
                    raw: raw.to_vec(),
                    start,
                    fields,
                })
            }
            Ok(_) => Err("the head does not end where its blank line is".to_owned()),
            Err(error) => Err(format!("{error}: {}", text(raw))),
        }
    }

    /// The value of the only field of this name, `None` where there is none. Two are a failure.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values = self.fields_named(name);
        assert!(
            values.len() <= 1,
            "{name} is there {} times: {}",
            values.len(),
            text(&self.raw)
        );
        values.first().copied()
    }

    /// The values of all fields of this name, in their order.
    pub(crate) fn fields_named(&self, name: &str) -> Vec<&str> {
        let named = self
            .fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The status code of a response.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let code = self
            .start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("not a status line: {}", self.start))
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether `Connection` names `option`.
    pub(crate) fn connection_says(&self, option: &str) -> bool {
        let options = self.fields_named("connection").join(",");
        options
            .split(',')
            .any(|said| said.trim().eq_ignore_ascii_case(option))
    }

    /// How the body of this request ends.
    pub(crate) fn request_framing(&self) -> Result<Framing, String> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// How the body of this response to a request with `method` ends.
    pub(crate) fn response_framing(&self, method: &str) -> Result<Framing, String> {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::Empty);
        }
        Ok(self.framing()?.unwrap_or(Framing::UntilClose))
    }

    /// What the fields say, if they say anything. Both at once, or one twice, is always wrong.
    fn framing(&self) -> Result<Option<Framing>, String> {
        let lengths = self.fields_named("content-length");
        let codings = self.fields_named("transfer-encoding");
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(None),
            ([length], []) => match length.parse() {
                Ok(length) => Ok(Some(Framing::Length(length))),
                Err(_) => Err(format!("Content-Length: {length}")),
            },
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(format!("ambiguous framing: {}", text(&self.raw))),
        }
    }
}

impl Message {
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Demands this status, and shows the whole message where it is another one.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        let head = text(&self.head.raw);
        assert_eq!(self.status(), status, "{head}{}", self.text());
        self
    }
}

/// Every line ends in CRLF, and neither byte is anywhere else; httparse alone would let them pass.
fn check_line_ends(raw: &[u8]) -> Result<(), String> {
    for (at, byte) in raw.iter().enumerate() {
        let good = match byte {
            b'\n' => at > 0 && raw[at - 1] == b'\r',
            b'\r' => raw.get(at + 1) == Some(&b'\n'),
            _ => true,
        };
        if !good {
            return Err(format!("a bare CR or LF at byte {at}: {}", text(raw)));
        }
    }
    Ok(())
}

fn owned(fields: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|field| (field.name.to_owned(), text(field.value)))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
