//! What a response should have been.

use std::sync::OnceLock;

use super::failure::Failure;
use super::plan::Plan;
use super::response::Finished;

/// What is expected of every response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The status; `None` for any of 200 to 299.
    pub status: Option<u16>,
    /// The length of the body in bytes; `None` for any that the framing bears out.
    pub length: Option<u64>,
    /// The content.
    pub checksum: Checksum,
}

/// Which content is right, by its CRC-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Any; it is not looked at.
    Any,
    /// That of the target's first response.
    First,
    /// That of the request.
    Sent,
    /// This one.
    Value(u32),
}

/// Judges the responses of all threads.
pub(super) struct Judge {
    expect: Expect,
    /// By target; of use where the content is checked.
    checksums: Vec<OnceLock<u32>>,
}

impl Judge {
    pub(super) fn new(plan: &Plan) -> Self {
        let known = match plan.expect.checksum {
            Checksum::Any | Checksum::First => None,
            Checksum::Sent => Some(crc32fast::hash(&plan.request.body().collect::<Vec<_>>())),
            Checksum::Value(value) => Some(value),
        };
        let checksum = known.map_or_else(OnceLock::new, OnceLock::from);
        Self {
            expect: plan.expect,
            checksums: vec![checksum; plan.targets.len()],
        }
    }

    /// What is wrong with a response of this target.
    pub(super) fn fault(&self, target: usize, response: &Finished) -> Option<Failure> {
        let status_is_right = match self.expect.status {
            Some(status) => response.status == status,
            None => (200..300).contains(&response.status),
        };
        if !status_is_right {
            return Some(Failure::Status);
        }
        if self
            .expect
            .length
            .is_some_and(|length| length != response.length)
        {
            return Some(Failure::Length);
        }
        let checked = self.expect.checksum != Checksum::Any;
        let right = || *self.checksums[target].get_or_init(|| response.checksum);
        (checked && right() != response.checksum).then_some(Failure::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::{Checksum, Expect, Judge};
    use crate::loadgen::failure::Failure;
    use crate::loadgen::response::Finished;
    use crate::loadgen::testing::plan;

    fn judge(status: Option<u16>, length: Option<u64>, checksum: Checksum) -> Judge {
        let mut plan = plan();
        plan.request.body_bytes = 3;
        plan.expect = Expect {
            status,
            length,
            checksum,
        };
        Judge::new(&plan)
    }

    fn response(status: u16, content: &[u8]) -> Finished {
        Finished {
            status,
            length: content.len() as u64,
            checksum: crc32fast::hash(content),
            ..Finished::default()
        }
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_named() {
        let table = [
            (judge(None, None, Checksum::Any), response(206, b"x"), None),
            (
                judge(None, None, Checksum::Any),
                response(304, b""),
                Some(Failure::Status),
            ),
            (
                judge(Some(404), None, Checksum::Any),
                response(404, b""),
                None,
            ),
            (
                judge(Some(200), Some(2), Checksum::Any),
                response(200, b"abc"),
                Some(Failure::Length),
            ),
            (
                judge(None, Some(3), Checksum::Sent),
                response(200, b"abc"),
                None,
            ),
            (
                judge(None, Some(3), Checksum::Sent),
                response(200, b"abd"),
                Some(Failure::Checksum),
            ),
            (
                judge(None, None, Checksum::Value(1)),
                response(200, b"abc"),
                Some(Failure::Checksum),
            ),
        ];
        for (judge, response, expected) in table {
            assert_eq!(judge.fault(0, &response), expected, "{response:?}");
        }
    }

    #[test]
    fn the_first_good_response_sets_the_content() {
        let judge = judge(None, None, Checksum::First);
        assert_eq!(judge.fault(0, &response(503, b"no")), Some(Failure::Status));
        assert_eq!(judge.fault(0, &response(200, b"abc")), None);
        assert_eq!(judge.fault(0, &response(200, b"abc")), None);
        assert_eq!(
            judge.fault(0, &response(200, b"no")),
            Some(Failure::Checksum)
        );
    }
}
