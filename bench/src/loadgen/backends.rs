//! Who answered: the names that `X-Backend` carried, each with a number.
//!
//! A name costs an allocation when it is first seen and none afterwards.

use std::collections::HashMap;

/// Most names that are told apart; what a broken target invents beyond them is `(others)`.
const NAMES_MAX: usize = 16 * 1024;
/// Stands for responses without the field, and for requests without a response.
pub(super) const NAMELESS: &str = "-";

/// The names and their counts. Number 0 is [`NAMELESS`].
#[derive(Default)]
pub(super) struct Backends {
    numbers: HashMap<Box<[u8]>, usize>,
    /// By number, from 1 on.
    names: Vec<Box<[u8]>>,
    /// By number, from 0 on; shorter than the names where the last have no count yet.
    counts: Vec<Count>,
}

/// What one backend did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl Backends {
    /// The number of `name`.
    pub(super) fn number(&mut self, name: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let name = if self.names.len() < NAMES_MAX {
            name
        } else {
            &b"(others)"[..]
        };
        *self.numbers.entry(name.into()).or_insert_with(|| {
            self.names.push(name.into());
            self.names.len()
        })
    }

    /// The count of the backend with this number.
    pub(super) fn count(&mut self, number: usize) -> &mut Count {
        if self.counts.len() <= number {
            self.counts.resize(number + 1, Count::default());
        }
        &mut self.counts[number]
    }

    /// Adds what another thread counted.
    pub(super) fn merge(&mut self, other: &Self) {
        for (number, count) in other.counts.iter().enumerate() {
            let here = match number.checked_sub(1) {
                Some(index) => self.number(&other.names[index]),
                None => 0,
            };
            let sum = self.count(here);
            sum.requests += count.requests;
            sum.failures += count.failures;
        }
    }

    /// Every backend that has a count, by name, whatever has none left out.
    pub(super) fn sorted(&self) -> Vec<(String, Count)> {
        let name = |number: usize| match number.checked_sub(1) {
            Some(index) => String::from_utf8_lossy(&self.names[index]).into_owned(),
            None => NAMELESS.to_owned(),
        };
        let counted = |(_, count): &(usize, &Count)| **count != Count::default();
        let mut rows: Vec<_> = self
            .counts
            .iter()
            .enumerate()
            .filter(counted)
            .map(|(number, count)| (name(number), *count))
            .collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::{Backends, Count, NAMES_MAX};

    #[test]
    fn counts_of_threads_are_added_by_name() {
        let (mut one, mut other) = (Backends::default(), Backends::default());
        for name in [b"a", b"b"] {
            let number = one.number(name);
            one.count(number).requests += 1;
        }
        for name in [b"b", b"c"] {
            let number = other.number(name);
            other.count(number).requests += 10;
            other.count(number).failures += 1;
        }
        other.count(0).requests += 5;
        one.merge(&other);
        let count = |requests, failures| Count { requests, failures };
        let rows = [
            ("-", count(5, 0)),
            ("a", count(1, 0)),
            ("b", count(11, 1)),
            ("c", count(10, 1)),
        ];
        assert_eq!(one.sorted(), rows.map(|(name, row)| (name.to_owned(), row)));
    }

    #[test]
    fn names_without_end_share_a_number() {
        let mut backends = Backends::default();
        for index in 0..NAMES_MAX {
            backends.number(index.to_string().as_bytes());
        }
        let others = backends.number(b"one more");
        assert_eq!(backends.number(b"another"), others);
        assert_eq!(backends.number(b"0"), 1);
    }
}
