//! What clients may do: the limits of each, none of which is about a backend.

/// How much clients may do; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes of the body of one request.
    pub body_bytes_max: Option<u64>,
}
