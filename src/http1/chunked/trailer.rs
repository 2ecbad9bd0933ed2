//! The trailer section that goes on, where somebody takes it (RFC 9110 section 6.5).

use crate::http1::field::{Name, is_end_to_end, push};

/// The lines of a section. They were checked as they came. Boxed where it is kept, because hardly
/// any body has one and every relay would have room for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trailers(pub(super) Vec<u8>);

impl Trailers {
    /// Writes those lines that may stand in a section.
    pub(super) fn push_allowed(&self, out: &mut Vec<u8>) {
        for line in self.0.split(|&byte| byte == b'\n') {
            let mut parts = line.splitn(2, |&byte| byte == b':');
            let name = parts.next().and_then(|name| str::from_utf8(name).ok());
            if let (Some(name), Some(value)) = (name, parts.next())
                && may_trail(name)
            {
                push(out, name, value.trim_ascii());
            }
        }
    }
}

/// Whether a field means the same behind a body as before it. What frames, routes, authenticates,
/// or says how the body is to be read, does not (RFC 9110 section 6.5.1), and who merges it into
/// the head could be deceived.
fn may_trail(name: &str) -> bool {
    // RFC 9530 section 2, RFC 9110 section 8.8.3: who computes them has to send the body first.
    const ALLOWED: [&str; 2] = ["content-digest", "etag"];
    let is_allowed = || ALLOWED.iter().any(|known| name.eq_ignore_ascii_case(known));
    Name::of(name) == Name::Other && (!is_end_to_end(name) || is_allowed())
}
