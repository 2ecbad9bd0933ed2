//! `hold`: keeps N answered keep-alive connections open until its standard input closes.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use fastlb_bench::ended;

/// Opens keep-alive connections, gets one answer on each, and keeps them until stdin closes.
#[derive(Parser)]
struct Flags {
    /// The server.
    address: SocketAddr,
    /// How many connections.
    #[arg(default_value_t = 8_000)]
    count: usize,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    ended(hold(&flags), format_args!("hold: {}", flags.address))
}

fn hold(&Flags { address, count }: &Flags) -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let held = fastlb_bench::hold::open(address, count)?;
    writeln!(io::stdout(), "holding {}", held.len())?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
