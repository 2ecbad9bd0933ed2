//! What a case of the tables may say, and how its bytes are written there.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// A request, and what becomes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestCase {
    pub(super) name: String,
    /// Where it is said what has to become of it.
    pub(super) rfc: String,
    /// What the client sends.
    pub(super) send: Bytes,
    /// The client closes its sending side behind it.
    #[serde(default)]
    pub(super) half_close: bool,
    /// Options of the proxy.
    #[serde(default)]
    pub(super) options: Vec<String>,
    /// The status of each answer.
    #[serde(deserialize_with = "one_or_many")]
    pub(super) status: Vec<u16>,
    /// The request lines that the backend sees.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) line: Vec<Bytes>,
    /// Fields of the first of them, each name with all its values.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) has: Vec<String>,
    /// Names of fields that it does not have.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) lacks: Vec<String>,
    /// Its body.
    pub(super) body: Option<Bytes>,
    ends: Option<bool>,
}

/// A response, and what the client sees of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseCase {
    pub(super) name: String,
    /// Where it is said what has to become of it.
    pub(super) rfc: String,
    /// What is asked.
    #[serde(default)]
    pub(super) asked: Asked,
    /// What the backend sends.
    pub(super) reply: Bytes,
    /// What it does behind that.
    #[serde(default)]
    pub(super) then: Then,
    /// Options of the proxy.
    #[serde(default)]
    pub(super) options: Vec<String>,
    /// The statuses of the responses that the client sees, all but the last of them interim.
    #[serde(deserialize_with = "one_or_many")]
    pub(super) status: Vec<u16>,
    /// Fields of the last of them, each name with all its values.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) has: Vec<String>,
    /// Names of fields that it does not have.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) lacks: Vec<String>,
    /// Its body, or what came of it.
    pub(super) body: Option<Bytes>,
    /// Its trailer section, line by line.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(super) trailers: Vec<String>,
    /// What becomes of the client's connection.
    #[serde(default)]
    pub(super) after: After,
    /// Whether the backend's connection serves the next request.
    pub(super) reused: bool,
}

/// The request that a response answers.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) version: String,
    /// Field lines with their ends.
    pub(super) fields: Bytes,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            version: "1.1".to_owned(),
            fields: Bytes(Vec::new()),
        }
    }
}

/// What a backend does behind its response.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Then {
    #[default]
    Wait,
    Close,
    Reset,
}

/// What becomes of the client's connection behind a response.
#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum After {
    /// It serves the next request.
    #[default]
    Keep,
    /// The response is whole, and it is closed.
    Close,
    /// The client can tell that the response is not whole.
    Cut,
}

impl RequestCase {
    /// The method of the request that this answer is to. What the backend does not see is what the
    /// client sends, where that is all.
    pub(super) fn method(&self, answer: usize) -> &str {
        let unseen = (answer == 0).then_some(&self.send);
        let said = self.line.get(answer).or(unseen);
        said.map_or("GET", Bytes::first_word)
    }

    /// Whether the connection ends behind the last answer: where that is a refusal, unless the case
    /// says otherwise.
    pub(super) fn ends(&self) -> bool {
        let refused = self.status.last().is_some_and(|status| *status >= 400);
        self.ends.unwrap_or(refused || self.half_close)
    }
}

pub(super) fn requests() -> Vec<RequestCase> {
    let cases: Vec<RequestCase> = table(include_str!("../../conformance/requests.toml"));
    assert_unique(cases.iter().map(|case| (&*case.name, &case.send)));
    cases
}

pub(super) fn responses() -> Vec<ResponseCase> {
    let cases: Vec<ResponseCase> = table(include_str!("../../conformance/responses.toml"));
    assert_unique(cases.iter().map(|case| (&*case.name, &case.reply)));
    cases
}

fn table<T: DeserializeOwned>(text: &str) -> Vec<T> {
    #[derive(Deserialize)]
    struct Table<T> {
        case: Vec<T>,
    }
    let table: Table<T> = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    table.case
}

/// A name says which case it is.
fn assert_unique<'a>(cases: impl Iterator<Item = (&'a str, &'a Bytes)>) {
    let mut names = HashSet::new();
    for (name, Bytes(bytes)) in cases {
        assert!(names.insert(name), "two cases are called {name:?}");
        assert!(
            !bytes.is_empty() || name.contains("nothing"),
            "{name:?} sends nothing"
        );
    }
}

/// Bytes as the tables write them: text in which `\r`, `\n`, `\t`, `\0`, `\\` and `\x80` stand for
/// one byte each, and `\*9{ab}` for nine times what is between the braces.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    /// What stands before the first blank, behind empty lines; of a request that is the method.
    pub(super) fn first_word(&self) -> &str {
        let empty = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let text = &self.0[self.0.iter().take_while(empty).count()..];
        let word = text.split(|byte| *byte == b' ').next();
        word.and_then(|word| str::from_utf8(word).ok())
            .unwrap_or_default()
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (mut bytes, mut rest) = (Vec::new(), text.as_str());
        while let Some((plain, escaped)) = rest.split_once('\\') {
            bytes.extend_from_slice(plain.as_bytes());
            let (byte, behind) =
                escape(escaped).ok_or_else(|| format!("bad escape: \\{escaped}"))?;
            bytes.extend(byte);
            rest = behind;
        }
        bytes.extend_from_slice(rest.as_bytes());
        Ok(Self(bytes))
    }
}

/// The bytes that an escape stands for, and the text behind it.
fn escape(text: &str) -> Option<(Vec<u8>, &str)> {
    let known = [
        ('r', b'\r'),
        ('n', b'\n'),
        ('t', b'\t'),
        ('0', 0),
        ('\\', b'\\'),
    ];
    let (letter, rest) = text.split_at_checked(1)?;
    if let Some((_, byte)) = known.iter().find(|(known, _)| letter.starts_with(*known)) {
        return Some((vec![*byte], rest));
    }
    match letter {
        "x" => {
            let (digits, rest) = rest.split_at_checked(2)?;
            Some((vec![u8::from_str_radix(digits, 16).ok()?], rest))
        }
        "*" => {
            let (times, rest) = rest.split_once('{')?;
            let (what, rest) = rest.split_once('}')?;
            let Bytes(what) = Bytes::try_from(what.to_owned()).ok()?;
            Some((what.repeat(times.parse().ok()?), rest))
        }
        _ => None,
    }
}

/// A list that may be written as its only member.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[test]
fn bytes_are_read_as_they_are_written() {
    let read = |text: &str| Bytes::try_from(text.to_owned()).map(|Bytes(bytes)| bytes);
    assert_eq!(read(r"a\r\n\t\0\\\x80b"), Ok(b"a\r\n\t\0\\\x80b".to_vec()));
    assert_eq!(read(r"\*3{a\n}"), Ok(b"a\na\na\n".to_vec()));
    for bad in [r"\", r"\q", r"\x8", r"\xzz", r"\*3a", r"\*x{a}"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
