//! How the small programs end.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

/// What a program exits with; where its work failed it says of what, and why.
pub fn ended(work: io::Result<()>, of: impl Display) -> ExitCode {
    let Err(error) = work else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{of}: {error}");
    ExitCode::FAILURE
}
