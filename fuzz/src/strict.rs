//! A strict reader of HTTP/1.x messages, after RFC 9112 and nothing of fastlb: the second opinion.
//!
//! It looks at whole bytes, goes from the end of a head backwards into its lines, and is slow. It
//! has no limits, no state and no dependency, so that it has no mistake in common with the rules
//! that it is held against.

/// What stands at the front of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read<T> {
    /// A whole one, and how many bytes it takes.
    Whole(T, usize),
    /// The beginning of one, as far as can be told.
    Partial,
    /// None.
    Bad(&'static str),
}

impl<T> Read<T> {
    fn then<U>(self, next: impl FnOnce(T, usize) -> Read<U>) -> Read<U> {
        match self {
            Self::Whole(value, length) => next(value, length),
            Self::Partial => Read::Partial,
            Self::Bad(why) => Read::Bad(why),
        }
    }
}

/// How a body is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    None,
    Length(u64),
    Chunked,
    Close,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) ending: Ending,
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<Field>,
    pub(crate) ending: Ending,
}

/// A field, its name in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
}

/// Reads a request with its body.
pub(crate) fn request(bytes: &[u8]) -> Read<(Request, Vec<u8>)> {
    request_head(bytes).then(|head, length| with_body(head.ending, head, bytes, length))
}

/// Reads the response to a request of this method, with its body.
pub(crate) fn response(bytes: &[u8], method: &[u8]) -> Read<(Response, Vec<u8>)> {
    response_head(bytes, method).then(|head, length| with_body(head.ending, head, bytes, length))
}

fn with_body<T>(ending: Ending, head: T, bytes: &[u8], length: usize) -> Read<(T, Vec<u8>)> {
    let read = body(ending, &bytes[length..]);
    read.then(|body, body_length| Read::Whole((head, body), length + body_length))
}

/// Reads the head of a request.
pub(crate) fn request_head(bytes: &[u8]) -> Read<Request> {
    head_lines(bytes).then(|lines, length| match request_of(&lines) {
        Ok(request) => Read::Whole(request, length),
        Err(why) => Read::Bad(why),
    })
}

/// Reads the head of the response to a request of this method.
pub(crate) fn response_head(bytes: &[u8], method: &[u8]) -> Read<Response> {
    head_lines(bytes).then(|lines, length| match response_of(&lines, method) {
        Ok(response) => Read::Whole(response, length),
        Err(why) => Read::Bad(why),
    })
}

/// The lines before the first empty one.
fn head_lines(bytes: &[u8]) -> Read<Vec<&[u8]>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Read::Partial;
    };
    let mut lines = Vec::new();
    let mut rest = &bytes[..end + 2];
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    Read::Whole(lines, end + 4)
}

fn request_of(lines: &[&[u8]]) -> Result<Request, &'static str> {
    let words: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err("a request line has three words");
    };
    if method.is_empty() || !method.iter().all(|&byte| is_tchar(byte)) {
        return Err("a method is a token");
    }
    if target.is_empty() || !target.iter().all(|byte| (0x21..=0x7e).contains(byte)) {
        return Err("a target is of visible characters");
    }
    let minor = minor_of(version)?;
    let fields = fields_of(&lines[1..])?;
    let hosts = fields.iter().filter(|field| field.name == "host").count();
    if hosts > 1 || (hosts == 0 && minor > 0) {
        return Err("a request has one Host");
    }
    let ending = named_ending(&fields, minor)?.unwrap_or(Ending::None);
    Ok(Request {
        method: method.to_vec(),
        target: target.to_vec(),
        fields,
        ending,
    })
}

fn response_of(lines: &[&[u8]], method: &[u8]) -> Result<Response, &'static str> {
    let line = lines[0];
    let (Some(version), Some(b' '), Some(digits)) = (line.get(..8), line.get(8), line.get(9..12))
    else {
        return Err("a status line has a version and a status");
    };
    let minor = minor_of(version)?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err("a status has three digits");
    }
    let status = digits
        .iter()
        .fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    match line.get(12) {
        None | Some(b' ') if line[12..].iter().all(|&byte| is_value(byte)) => {}
        _ => return Err("a reason phrase is text behind a blank"),
    }
    let fields = fields_of(&lines[1..])?;
    let named = named_ending(&fields, minor)?;
    let ending = match status {
        100..=199 | 204 | 304 => Ending::None,
        _ if method == b"HEAD" => Ending::None,
        _ => named.unwrap_or(Ending::Close),
    };
    Ok(Response {
        status,
        fields,
        ending,
    })
}

fn minor_of(version: &[u8]) -> Result<u8, &'static str> {
    match version {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor @ b'0'..=b'9',
        ] => Ok(minor - b'0'),
        _ => Err("the version is HTTP/1.x"),
    }
}

fn fields_of(lines: &[&[u8]]) -> Result<Vec<Field>, &'static str> {
    let field_of = |line: &&[u8]| {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.ok_or("a field line has a colon")?);
        let value = &value[1..];
        if name.is_empty() || !name.iter().all(|&byte| is_tchar(byte)) {
            return Err("a name is a token");
        }
        if !value.iter().all(|&byte| is_value(byte)) {
            return Err("a value is text");
        }
        Ok(Field {
            name: String::from_utf8_lossy(name).to_ascii_lowercase(),
            value: without_blanks(value).to_vec(),
        })
    };
    lines.iter().map(field_of).collect()
}

/// The body that the fields announce, if they do.
fn named_ending(fields: &[Field], minor: u8) -> Result<Option<Ending>, &'static str> {
    let values = |name: &str| -> Vec<&[u8]> {
        let named = fields.iter().filter(|field| field.name == name);
        named.map(|field| &field.value[..]).collect()
    };
    match (
        &values("transfer-encoding")[..],
        &values("content-length")[..],
    ) {
        ([], []) => Ok(None),
        ([coding], []) if minor > 0 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Ending::Chunked))
        }
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let text = String::from_utf8_lossy(length);
            let length = text.parse().map_err(|_| "a length fits into 64 bits")?;
            Ok(Some(Ending::Length(length)))
        }
        _ => Err("the end of the body is said once and clearly"),
    }
}

/// Reads a body; one that only the end of the connection ends is never whole.
pub(crate) fn body(ending: Ending, bytes: &[u8]) -> Read<Vec<u8>> {
    match ending {
        Ending::None => Read::Whole(Vec::new(), 0),
        Ending::Length(length) => match usize::try_from(length) {
            Ok(length) if length <= bytes.len() => Read::Whole(bytes[..length].to_vec(), length),
            _ => Read::Partial,
        },
        Ending::Chunked => chunked(bytes, true),
        Ending::Close => Read::Partial,
    }
}

/// Reads a chunked body (RFC 9112 section 7.1). Whether blanks may lead from a size to its
/// extensions is left to the caller: the grammar has them, and fastlb refuses them.
pub(crate) fn chunked(bytes: &[u8], blank_may_lead: bool) -> Read<Vec<u8>> {
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let line = match line(&bytes[at..]) {
            Read::Whole(line, length) => {
                at += length;
                line
            }
            Read::Partial => return Read::Partial,
            Read::Bad(why) => return Read::Bad(why),
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, extensions) = line.split_at(digits.count());
        let is_lead_good = blank_may_lead || behind_blanks(extensions) == extensions;
        if size.is_empty() || !is_lead_good || !are_extensions(extensions) {
            return Read::Bad("a size line is a size with extensions");
        }
        let Ok(size) = u64::from_str_radix(&String::from_utf8_lossy(size), 16) else {
            return Read::Bad("a size fits into 64 bits");
        };
        if size == 0 {
            return trailers(&bytes[at..]).then(|(), length| Read::Whole(payload, at + length));
        }
        let whole = usize::try_from(size)
            .ok()
            .and_then(|size| bytes[at..].get(..size));
        let Some(chunk) = whole else {
            return Read::Partial;
        };
        payload.extend_from_slice(chunk);
        at += chunk.len();
        match bytes[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Read::Partial,
            _ => return Read::Bad("a chunk ends with CRLF"),
        }
    }
}

fn trailers(bytes: &[u8]) -> Read<()> {
    let mut at = 0;
    loop {
        match line(&bytes[at..]) {
            Read::Whole([], length) => return Read::Whole((), at + length),
            Read::Whole(line, length) => {
                if let Err(why) = fields_of(&[line]) {
                    return Read::Bad(why);
                }
                at += length;
            }
            Read::Partial => return Read::Partial,
            Read::Bad(why) => return Read::Bad(why),
        }
    }
}

/// A line without its CRLF, and its length with it.
fn line(bytes: &[u8]) -> Read<&[u8]> {
    match bytes.iter().position(|&byte| byte == b'\n') {
        None => Read::Partial,
        Some(at) => match bytes[..at].strip_suffix(b"\r") {
            Some(line) => Read::Whole(line, at + 1),
            None => Read::Bad("a line ends with CRLF"),
        },
    }
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` of section 7.1.1.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(behind) = behind_blanks(rest).strip_prefix(b";") else {
            return false;
        };
        let Some(behind) = behind_token(behind_blanks(behind)) else {
            return false;
        };
        rest = behind;
        if let Some(value) = behind_blanks(rest).strip_prefix(b"=") {
            let value = behind_blanks(value);
            let behind = match value {
                [b'"', quoted @ ..] => behind_quoted(quoted),
                _ => behind_token(value),
            };
            let Some(behind) = behind else {
                return false;
            };
            rest = behind;
        }
    }
    true
}

fn behind_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| b" \t".contains(byte));
    &bytes[blanks.count()..]
}

fn behind_token(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.iter().take_while(|&&byte| is_tchar(byte)).count();
    (length > 0).then(|| &bytes[length..])
}

/// What follows a quoted string whose first quote is gone (RFC 9110 section 5.6.4).
fn behind_quoted(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] if is_value(*byte) => bytes = rest,
            [b'\\', ..] | [] => return None,
            [byte, rest @ ..] if is_value(*byte) => bytes = rest,
            _ => return None,
        }
    }
}

fn without_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_tchar(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
        | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
}

/// A blank, a tab, a visible character or a byte beyond ASCII.
fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
