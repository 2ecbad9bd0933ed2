//! The `Date` of a response (RFC 9110 section 6.6.1): the text of one second, written once for all
//! responses of it. What second it is, is the caller's to know.

use std::time::{Duration, UNIX_EPOCH};

use super::field::push;

/// A second as `Date` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    since_1970_s: u64,
    text: [u8; "Sun, 06 Nov 1994 08:49:37 GMT".len()],
}

impl Date {
    /// The second that begins so long after 1970. `None` beyond the year 9999, which no date has: a
    /// clock that says so is none.
    pub fn at(since_1970_s: u64) -> Option<Self> {
        const YEAR_10000_S: u64 = 253_402_300_800;
        let known = since_1970_s < YEAR_10000_S;
        let text = known
            .then(|| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(since_1970_s)))?;
        let text = text.as_bytes().try_into().ok()?;
        Some(Self { since_1970_s, text })
    }

    /// Whether it is that second.
    pub(super) fn is_at(&self, since_1970_s: u64) -> bool {
        self.since_1970_s == since_1970_s
    }

    /// Writes the field line.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        push(out, "Date", &self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::Date;

    #[test]
    fn a_second_is_written_as_the_rfc_writes_it() {
        for (second, text) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let date = Date::at(second).unwrap();
            let mut out = Vec::new();
            date.push(&mut out);
            assert_eq!(out, format!("Date: {text}\r\n").as_bytes());
            assert!(date.is_at(second) && !date.is_at(second + 1));
        }
        assert_eq!(Date::at(253_402_300_800), None);
    }
}
