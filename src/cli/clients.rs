//! The flags that say how much a client may do.

use std::str::FromStr;

use super::values::{OrOff, TimeLimit};
use crate::clients::{ClientLimits, Rate};
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
    /// Connections that one client (IPv4 address, /64 of IPv6) may have open, over all workers; who
    /// has more is reset.
    #[arg(
        long,
        value_name = "N",
        env = "FASTLB_MAX_CONNECTIONS_PER_CLIENT",
        default_value = "off"
    )]
    max_connections_per_client: CountLimit,
    /// Requests that one client may send, as in 100/s or 30/m, and as many at once; the others get
    /// a 429.
    #[arg(
        long,
        value_name = "RATE",
        env = "FASTLB_MAX_REQUEST_RATE",
        default_value = "off"
    )]
    max_request_rate: OrOff<Rate>,
    /// What a client must send or take of a body in each second, on average over
    /// --body-idle-timeout (30s where that is off), while it is waited for.
    #[arg(
        long,
        value_name = "SIZE",
        env = "FASTLB_MIN_BODY_RATE",
        default_value = "240B"
    )]
    min_body_rate: SizeLimit,
    /// Requests behind which a connection of a client is closed.
    #[arg(
        long,
        value_name = "N",
        env = "FASTLB_KEEP_ALIVE_REQUESTS",
        default_value = "off"
    )]
    keep_alive_requests: CountLimit,
    /// Age of a connection of a client at which it is closed behind the next response.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_KEEP_ALIVE_AGE",
        default_value = "off"
    )]
    keep_alive_age: TimeLimit,
}

impl From<ClientFlags> for ClientLimits {
    fn from(flags: ClientFlags) -> Self {
        Self {
            body_bytes_max: flags.max_body.0,
            connections_max: flags.max_connections_per_client.0,
            request_rate: flags.max_request_rate.0,
            body_rate_min: flags.min_body_rate.0,
            keep_alive_requests: flags.keep_alive_requests.0,
            keep_alive_age: flags.keep_alive_age.into(),
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

/// A number above 0; none where the user wrote `off`.
#[derive(Clone, Copy, Debug)]
struct CountLimit(Option<u32>);

impl FromStr for CountLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|&number| digits && number > 0);
        let number = number.ok_or("this is a whole number above 0, or `off` for no limit")?;
        Ok(Self(Some(number)))
    }
}
