//! How single values of the command line are read.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::later::DOES_NOT_EXIST;
use crate::balance::Algorithm;
use crate::config::{DurationError, parse_limit};
use crate::http1::rewrite::Underscores;
use crate::upstream::RetryOn;

/// Algorithms that will come.
const LATER: [&str; 6] = [
    "least-connections",
    "two-choices",
    "random",
    "maglev",
    "least-latency",
    "drf",
];

/// A time limit; none where the user wrote `off`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimit(Option<Duration>);

impl FromStr for TimeLimit {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_limit(text).map(Self)
    }
}

impl From<TimeLimit> for Option<Duration> {
    fn from(TimeLimit(limit): TimeLimit) -> Self {
        limit
    }
}

/// A value; none where the user wrote `off`.
#[derive(Clone, Debug)]
pub(super) struct OrOff<T>(pub(super) Option<T>);

impl<T: FromStr> FromStr for OrOff<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(None)),
            _ => text.parse().map(|value| Self(Some(value))),
        }
    }
}

/// What is worth a line in the log, from nothing to everything.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Reads the name of an algorithm.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, String> {
    match name {
        "round-robin" => Ok(Algorithm::RoundRobin),
        _ if LATER.contains(&name) => Err(format!(
            "--balance {name} {DOES_NOT_EXIST}; there is round-robin"
        )),
        _ => Err("there is round-robin".to_owned()),
    }
}

/// Reads what becomes of names with an underscore.
pub(super) fn underscores(what: &str) -> Result<Underscores, String> {
    match what {
        "drop" => Ok(Underscores::Drop),
        "keep" => Ok(Underscores::Keep),
        _ => Err("there are drop and keep".to_owned()),
    }
}

/// Reads whether something is done.
pub(super) fn on_or_off(what: &str) -> Result<bool, String> {
    match what {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("there are on and off".to_owned()),
    }
}

/// Reads the path of a check.
pub(super) fn path(text: &str) -> Result<String, String> {
    let visible = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if text.starts_with('/') && visible {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has neither blanks nor #, as in /_health".to_owned())
    }
}

/// Reads a range of statuses, or one.
pub(super) fn statuses(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        text.parse()
            .ok()
            .filter(|status| (200..=599).contains(status))
    };
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err("statuses are one of 200 to 599, or a range, as in 200-399".to_owned()),
    }
}

/// Reads what makes a request go to another backend.
pub(super) fn retry_on(text: &str) -> Result<RetryOn, String> {
    let mut retry_on = RetryOn {
        connect: false,
        reset: false,
        status_5xx: false,
    };
    for word in text.split(',') {
        match word {
            "connect" => retry_on.connect = true,
            "reset" => retry_on.reset = true,
            "5xx" => retry_on.status_5xx = true,
            _ => return Err("there are connect, reset and 5xx, separated by commas".to_owned()),
        }
    }
    Ok(retry_on)
}

/// Reads a network, or an address as the network of it alone.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let form = "a network is an address or CIDR, as in 10.0.0.0/8 or ::1";
    text.parse()
        .or_else(|_| address())
        .map_err(|_| form.to_owned())
}
