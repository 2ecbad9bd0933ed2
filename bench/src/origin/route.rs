//! What a target asks for.
//!
//! | target | answer |
//! |---|---|
//! | `/` | 100 bytes |
//! | `/bytes/N` | N bytes of the pattern |
//! | `/delay/MS` | 100 bytes, MS milliseconds after the request |
//! | `/echo` | the body of the request, while it arrives |
//! | `/echo/head` | the head of the request as text, as it arrived |
//!
//! Where the request has a body, all but `/echo` take it as it comes and forget it, and answer once
//! it is complete: an upload to `/` costs no memory.

use crate::head::decimal;

/// Length of a body where the target names none, in bytes.
pub(super) const BODY_BYTES: u64 = 100;

/// Longest delay that may be asked for: an hour.
const DELAY_MS_MAX: u64 = 3_600_000;

/// One answer of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Root,
    Bytes(u64),
    Delay { ms: u64 },
    Echo,
    EchoHead,
    Unknown,
}

impl Route {
    /// The route of a target in origin form (RFC 9112 section 3.2.1); a query changes nothing.
    pub(super) fn of(target: &str) -> Self {
        if target == "/" {
            return Self::Root;
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if let Some(length) = number_after(path, "/bytes/") {
            return Self::Bytes(length);
        }
        if let Some(ms) = number_after(path, "/delay/") {
            return if ms <= DELAY_MS_MAX {
                Self::Delay { ms }
            } else {
                Self::Unknown
            };
        }
        match path {
            "/" => Self::Root,
            "/echo" => Self::Echo,
            "/echo/head" => Self::EchoHead,
            _ => Self::Unknown,
        }
    }
}

fn number_after(path: &str, prefix: &str) -> Option<u64> {
    decimal(path.strip_prefix(prefix)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::Route;

    #[test]
    fn targets_find_their_routes() {
        let table = [
            ("/", Route::Root),
            ("/?q=1", Route::Root),
            ("/bytes/0", Route::Bytes(0)),
            ("/bytes/104857600?x", Route::Bytes(104_857_600)),
            ("/bytes/", Route::Unknown),
            ("/bytes/-1", Route::Unknown),
            ("/delay/250", Route::Delay { ms: 250 }),
            ("/delay/3600001", Route::Unknown),
            ("/echo", Route::Echo),
            ("/echo/head", Route::EchoHead),
            ("/echo/other", Route::Unknown),
            ("*", Route::Unknown),
        ];
        for (target, route) in table {
            assert_eq!(Route::of(target), route, "{target}");
        }
    }
}
