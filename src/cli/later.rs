//! What the command line will take in later versions, and how it is refused until then.
//!
//! The names are promised already. Who uses one is told that it is too early, rather than that
//! there is no such thing.

use std::ffi::{OsStr, OsString};

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// How each refusal ends.
pub(super) const DOES_NOT_EXIST: &str = "does not exist yet in this version";

/// Flags to come, each with its variable in the environment.
const FLAGS: [(&str, &str); 3] = [
    ("config", "FASTLB_CONFIG"),
    ("stats-db", "FASTLB_STATS_DB"),
    ("access-log", "FASTLB_ACCESS_LOG"),
];

/// Takes the flags to come, to refuse them. Carries nothing.
#[derive(Clone, Debug)]
pub(super) struct Flags;

/// Takes whatever stands behind a command to come. Carries nothing.
#[derive(Clone, Debug)]
pub(super) struct Anything;

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let admin = sole("admin", "FASTLB_ADMIN", "off").help("Where the admin side listens: off");
        let refused = FLAGS.into_iter().map(|(name, variable)| {
            let flag = Arg::new(name).long(name).env(variable).hide(true);
            flag.num_args(0..=1)
                .default_missing_value("")
                .value_parser(Refuse(name))
        });
        command.arg(admin).args(refused)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// A flag that has one value so far.
fn sole(name: &'static str, variable: &'static str, value: &'static str) -> Arg {
    let flag = Arg::new(name).long(name).env(variable).value_name("NAME");
    flag.default_value(value).value_parser(Sole { name, value })
}

impl FromArgMatches for Flags {
    fn from_arg_matches(_matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _matches: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl Args for Anything {
    fn augment_args(command: Command) -> Command {
        let words = Arg::new("words").action(ArgAction::Append).num_args(0..);
        command.arg(words.trailing_var_arg(true).allow_hyphen_values(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Anything {
    fn from_arg_matches(_matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _matches: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// Refuses a flag, whatever its value.
#[derive(Clone, Debug)]
struct Refuse(&'static str);

impl TypedValueParser for Refuse {
    type Value = OsString;

    fn parse_ref(
        &self,
        command: &Command,
        _arg: Option<&Arg>,
        _value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        Err(refusal(command, format!("--{} {DOES_NOT_EXIST}", self.0)))
    }
}

/// Refuses every value of a flag but one.
#[derive(Clone, Debug)]
struct Sole {
    name: &'static str,
    value: &'static str,
}

impl TypedValueParser for Sole {
    type Value = OsString;

    fn parse_ref(
        &self,
        command: &Command,
        _arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        if value == self.value {
            return Ok(value.to_owned());
        }
        let Self { name, value: sole } = self;
        let value = value.to_string_lossy();
        Err(refusal(
            command,
            format!("--{name} {value} {DOES_NOT_EXIST}; there is --{name} {sole}"),
        ))
    }
}

fn refusal(command: &Command, message: String) -> clap::Error {
    command.clone().error(ErrorKind::ValueValidation, message)
}
