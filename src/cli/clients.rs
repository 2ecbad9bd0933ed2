//! The flags that say how much a client may do.

use std::str::FromStr;

use crate::clients::ClientLimits;
use crate::config::{SizeError, parse_size_limit};

/// What the user typed about clients, each value understood on its own.
#[derive(Debug, clap::Args)]
pub(super) struct ClientFlags {
    /// Longest body of a request, as in 10MiB.
    #[arg(
        long,
        value_name = "SIZE",
        env = "FASTLB_MAX_BODY",
        default_value = "off"
    )]
    max_body: SizeLimit,
}

impl From<ClientFlags> for ClientLimits {
    fn from(flags: ClientFlags) -> Self {
        Self {
            body_bytes_max: flags.max_body.0,
        }
    }
}

/// A limit in bytes; none where the user wrote `off`.
#[derive(Clone, Copy, Debug)]
struct SizeLimit(Option<u64>);

impl FromStr for SizeLimit {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_size_limit(text).map(Self)
    }
}
