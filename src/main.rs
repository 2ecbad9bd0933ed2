//! The program: reads its command line, starts the log, and turns the outcome into an exit code.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use fastlb::cli::{self, Cli, Order};
use fastlb::{demo, server};
use mimalloc::MiMalloc;
use tracing::level_filters::LevelFilter;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    fastlb::io::use_small_pages();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return error.report(),
    };
    start_log(cli.log_level());
    let order = match cli.into_order() {
        Ok(order) => order,
        Err(error) => return error.report(),
    };
    match carry_out(order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn start_log(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // A log that nobody reads any more is no reason to panic.
        .log_internal_errors(false)
        .init();
}

fn carry_out(order: Order) -> Result<(), Box<dyn Error>> {
    match order {
        Order::Balance(config) => server::run(*config)?,
        Order::Demo(options) => demo::run(options)?,
        Order::Worker(options) => demo::worker::run(options)?,
    }
    Ok(())
}
