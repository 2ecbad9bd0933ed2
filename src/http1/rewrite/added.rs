//! What fastlb adds to every message that it forwards, in both directions: that it stood on the way
//! (`Via`), and which request it was (`X-Request-Id`).

use std::str::FromStr;

use crate::http1::date::Date;
use crate::http1::field::{is_token, push};
use crate::http1::head::Version;
use crate::limits::PSEUDONYM_BYTES_MAX;

/// What is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added<'a> {
    /// The name in `Via`, where that is written.
    pub via: Option<&'a Pseudonym>,
    /// What the request is called; empty where it has no name. The field of whoever sent the
    /// message does not go on then.
    pub request_id: &'a [u8],
    /// When a response came, for one without a date (RFC 9110 section 6.6.1).
    pub date: Option<Date>,
}

impl Added<'_> {
    /// Writes the fields for a message that was received in this version. `Via` has a line of its
    /// own, which stands behind the others for the last member of one list (RFC 9110 section 5.3).
    pub(super) fn push(self, received: Version, out: &mut Vec<u8>) {
        if let Some(Pseudonym(name)) = self.via {
            let version = match received {
                Version::Http10 => "1.0 ",
                Version::Http11 => "1.1 ",
            };
            for part in ["Via: ", version, name, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if !self.request_id.is_empty() {
            push(out, "X-Request-Id", self.request_id);
        }
    }
}

/// The name that fastlb goes by in `Via`: a token, which need not be that of a host (RFC 9110
/// section 7.6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pseudonym(Box<str>);

/// The text is no [`Pseudonym`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name for Via is a token of at most {PSEUDONYM_BYTES_MAX} characters, as in edge-1")]
pub struct BadPseudonym;

impl FromStr for Pseudonym {
    type Err = BadPseudonym;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_good = (1..=PSEUDONYM_BYTES_MAX).contains(&name.len());
        match is_good && name.bytes().all(is_token) {
            true => Ok(Self(name.into())),
            false => Err(BadPseudonym),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_a_token() {
        let longest = "x".repeat(PSEUDONYM_BYTES_MAX);
        for name in ["a", "edge-1", "lb.example.test", &longest] {
            assert_eq!(name.parse(), Ok(Pseudonym(name.into())));
        }
        let longer = "x".repeat(PSEUDONYM_BYTES_MAX + 1);
        for name in [
            "", "a b", "a:80", "a,b", "a/b", "(a)", "\u{e4}", "a\r\n", &longer,
        ] {
            assert_eq!(name.parse::<Pseudonym>(), Err(BadPseudonym), "{name:?}");
        }
    }

    #[test]
    fn each_message_says_in_which_version_it_came() {
        let written = |added: Added<'_>, version| {
            let mut out = Vec::new();
            added.push(version, &mut out);
            String::from_utf8(out).unwrap()
        };
        let name = Pseudonym("edge".into());
        let (via, request_id) = (Some(&name), &b"id-1"[..]);
        let date = None;
        let both = Added {
            via,
            request_id,
            date,
        };
        let old = "Via: 1.0 edge\r\nX-Request-Id: id-1\r\n";
        assert_eq!(written(both, Version::Http10), old);
        let alone = Added {
            request_id: b"",
            ..both
        };
        assert_eq!(written(alone, Version::Http11), "Via: 1.1 edge\r\n");
        assert_eq!(written(Added::default(), Version::Http11), "");
    }
}
