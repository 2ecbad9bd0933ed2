//! What a request is called, so that it is found again in the logs of all who had it: whose name is
//! kept, and how one is made.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr;

use arrayvec::ArrayVec;
use httparse::Header;

use super::field::{Name, is_token};
use crate::limits::REQUEST_ID_BYTES_MAX;

/// What becomes of `X-Request-Id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestIds {
    /// Nothing: it is a field as any other.
    #[default]
    Off,
    /// What the client calls its request is kept, where that is one good name; otherwise a name is
    /// made.
    Keep,
    /// As [`RequestIds::Keep`] for clients that are trusted; for all others a name is made.
    Make,
}

impl FromStr for RequestIds {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "off" => Ok(Self::Off),
            "keep" => Ok(Self::Keep),
            "make" => Ok(Self::Make),
            _ => Err("there are off, keep and make".to_owned()),
        }
    }
}

/// What a request is called; empty where it has no name.
pub(crate) type RequestId = ArrayVec<u8, REQUEST_ID_BYTES_MAX>;

/// Names the requests of one worker.
#[derive(Debug, Default)]
pub(crate) struct RequestNames {
    ids: RequestIds,
    /// The first is from the system's source of random numbers, once a thread, and the second is
    /// the next after it: that is how std makes them. What is counted up is hashed with each, so
    /// that no two workers make the same name, and who has seen some cannot tell the next.
    keys: [RandomState; 2],
    made: Cell<u64>,
}

impl RequestNames {
    pub(crate) fn new(ids: RequestIds) -> Self {
        Self {
            ids,
            ..Self::default()
        }
    }

    /// Finds the name of a request with these fields.
    pub(crate) fn name(&self, fields: &[Header<'_>], trusted: bool, id: &mut RequestId) {
        id.clear();
        let kept = match self.ids {
            RequestIds::Off => return,
            RequestIds::Make if !trusted => None,
            RequestIds::Keep | RequestIds::Make => told(fields),
        };
        match kept {
            Some(kept) => id.extend(kept.iter().copied()),
            None => self.make(id),
        }
    }

    /// Makes a name of 128 bits, in hexadecimal digits.
    fn make(&self, id: &mut RequestId) {
        let number = self.made.replace(self.made.get().wrapping_add(1));
        for key in &self.keys {
            let word = key.hash_one(number);
            let digits = (0..16).rev().map(|place| word >> (4 * place) & 0xf);
            id.extend(digits.map(|digit| b"0123456789abcdef"[digit as usize]));
        }
    }
}

/// The one good name among the fields: two are none, because nobody knows which of them others
/// take.
fn told<'b>(fields: &[Header<'b>]) -> Option<&'b [u8]> {
    let mut named = fields
        .iter()
        .filter(|field| Name::of(field.name) == Name::RequestId);
    let only = named.next().filter(|_| named.next().is_none())?;
    is_good(only.value).then_some(only.value)
}

/// Token characters, and what else base64 has: nothing that could be taken for the end of a name in
/// a log or in a field.
fn is_good(name: &[u8]) -> bool {
    let known = |&byte: &u8| is_token(byte) || b"/=".contains(&byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&name.len()) && name.iter().all(known)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What a request is called whose fields of the name have these values.
    fn named(ids: RequestIds, trusted: bool, values: &[&str]) -> String {
        let other = Header {
            name: "X-Request-Ids",
            value: b"other",
        };
        let mut fields = vec![other];
        fields.extend(values.iter().map(|value| Header {
            name: "x-request-ID",
            value: value.as_bytes(),
        }));
        let mut id = RequestId::new();
        RequestNames::new(ids).name(&fields, trusted, &mut id);
        String::from_utf8(id.to_vec()).unwrap()
    }

    fn is_made(id: &str) -> bool {
        id.len() == 32 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    }

    #[test]
    fn one_good_name_is_kept_and_everything_else_replaced() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        for good in ["a", "7f3c-11", "Root=1-67-abc", "q/8+Zw==", &longest] {
            assert_eq!(named(RequestIds::Keep, false, &[good]), good);
        }
        let longer = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        for bad in ["", "a b", "a,b", "a;b", "\"a\"", "a\tb", "\u{e4}", &longer] {
            assert!(is_made(&named(RequestIds::Keep, true, &[bad])), "{bad:?}");
        }
        assert!(is_made(&named(RequestIds::Keep, true, &[])));
        assert!(is_made(&named(RequestIds::Keep, true, &["a", "a"])));
    }

    #[test]
    fn where_names_are_made_only_the_trusted_bring_their_own() {
        assert!(is_made(&named(RequestIds::Make, false, &["a"])));
        assert_eq!(named(RequestIds::Make, true, &["a"]), "a");
        assert!(is_made(&named(RequestIds::Make, true, &["a b"])));
        assert_eq!(named(RequestIds::Off, true, &["a"]), "");
    }

    #[test]
    fn no_two_requests_are_called_the_same() {
        let workers = [(); 3].map(|()| RequestNames::new(RequestIds::Make));
        let (mut id, mut seen) = (RequestId::new(), HashSet::new());
        for worker in &workers {
            for _ in 0..10_000 {
                worker.name(&[], false, &mut id);
                assert!(seen.insert(id.clone()), "{id:?} twice");
            }
        }
    }
}
