//! The flags that say how it is found out which backends are alive.

use std::time::Duration;

use clap::ValueEnum;

use super::values;
use crate::config::{HealthConfig, parse_positive};
use crate::fleet::Checks;
use crate::health::active::Check;
use crate::health::{CheckRules, EjectRules};
use crate::limits;

/// What the user typed about health, each value understood on its own.
#[derive(Debug, clap::Args)]
pub(super) struct HealthFlags {
    /// How backends are checked; off leaves it to the traffic.
    #[arg(
        long,
        value_name = "KIND",
        env = "FASTLB_HEALTH",
        default_value = "tcp"
    )]
    health: Kind,
    /// What http checks ask for.
    #[arg(
        long,
        value_name = "PATH",
        env = "FASTLB_HEALTH_PATH",
        default_value = "/_health"
    )]
    #[arg(value_parser = values::path)]
    health_path: String,
    /// Statuses that are well.
    #[arg(
        long,
        value_name = "RANGE",
        env = "FASTLB_HEALTH_STATUS",
        default_value = "200-399"
    )]
    #[arg(value_parser = values::statuses)]
    health_status: (u16, u16),
    /// Between two checks of a backend; less while its state is changing.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_HEALTH_INTERVAL",
        default_value = "2s"
    )]
    #[arg(value_parser = parse_positive)]
    health_interval: Duration,
    /// For a check.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_HEALTH_TIMEOUT",
        default_value = "1s"
    )]
    #[arg(value_parser = parse_positive)]
    health_timeout: Duration,
    /// Checks in a row that bring a backend up.
    #[arg(long, value_name = "N", env = "FASTLB_RISE", default_value_t = limits::HEALTH_RISE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=limits::HEALTH_COUNT_MAX))]
    rise: u32,
    /// Checks in a row that take a backend down.
    #[arg(long, value_name = "N", env = "FASTLB_FALL", default_value_t = limits::HEALTH_FALL)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=limits::HEALTH_COUNT_MAX))]
    fall: u32,
    /// Failed requests in a row that eject a backend; 0 never does.
    #[arg(long, value_name = "N", env = "FASTLB_EJECT_AFTER",
        default_value_t = limits::EJECT_AFTER)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=limits::HEALTH_COUNT_MAX))]
    eject_after: u32,
    /// How long the first ejection lasts; the nth lasts n times as long, up to ten times.
    #[arg(
        long,
        value_name = "TIME",
        env = "FASTLB_EJECT_TIME",
        default_value = "30s"
    )]
    #[arg(value_parser = parse_positive)]
    eject_time: Duration,
    /// Most of the fleet that may be ejected, in percent; one backend always may.
    #[arg(long, value_name = "N", env = "FASTLB_EJECT_MAX",
        default_value_t = limits::EJECT_PART_MAX_PERCENT)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    eject_max: u32,
}

/// The kinds of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Tcp,
    Http,
    Off,
}

impl From<HealthFlags> for HealthConfig {
    fn from(flags: HealthFlags) -> Self {
        let check = match flags.health {
            Kind::Off => None,
            Kind::Tcp => Some(Check::Tcp),
            Kind::Http => Some(Check::Http {
                path: flags.health_path,
                statuses: flags.health_status,
            }),
        };
        let time_ms = flags.eject_time.as_millis() as u64;
        Self {
            checks: check.map(|check| Checks {
                check,
                interval: flags.health_interval,
                timeout: flags.health_timeout,
            }),
            rules: CheckRules {
                rise: flags.rise,
                fall: flags.fall,
            },
            eject: EjectRules {
                after: flags.eject_after,
                time_ms,
                time_max_ms: time_ms.saturating_mul(limits::EJECT_TIMES_MAX),
                part_max: flags.eject_max,
            },
        }
    }
}
