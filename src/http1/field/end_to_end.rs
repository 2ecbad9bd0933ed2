//! Fields that are meant for everybody on the way, as far as they are known by name.
//!
//! `Connection` cannot have them dropped, or a client could strip a request of what the backend
//! decides by, and they stand in no trailer section (RFC 9110 sections 6.5.1 and 7.6.1). Those that
//! a gateway acts upon are a [`Name`](super::Name) each and not here.

const NAMES: [&str; 32] = [
    "age",
    "alt-svc",
    "authentication-info",
    "authorization",
    "cache-control",
    "clear-site-data",
    "cookie",
    "date",
    "etag",
    "expires",
    "idempotency-key",
    "last-modified",
    "link",
    "location",
    "nel",
    "origin",
    "permissions-policy",
    "pragma",
    "range",
    "referer",
    "referrer-policy",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
];

const FAMILIES: [&str; 10] = [
    "accept",
    "access-control-",
    "content-",
    "cross-origin-",
    "if-",
    "sec-",
    // What an nginx or an Envoy behind us would act upon, and what an origin tells one before us.
    "x-accel-",
    "x-content-",
    "x-frame-",
    "x-request-",
];

/// Whether a field of this name is meant for all recipients.
pub(in crate::http1) fn is_end_to_end(name: &str) -> bool {
    let begins = |family: &&str| {
        let start = name.get(..family.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(family))
    };
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)) || FAMILIES.iter().any(begins)
}
