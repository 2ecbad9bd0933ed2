//! `hold`: keeps N answered keep-alive connections open until its standard input closes.

use std::io;
use std::net::SocketAddr;

use clap::Parser;

/// Opens keep-alive connections, gets one answer on each, and keeps them until stdin closes.
#[derive(Parser)]
struct Flags {
    /// The server.
    address: SocketAddr,
    /// How many connections.
    #[arg(default_value_t = 8_000)]
    count: usize,
}

fn main() -> io::Result<()> {
    let Flags { address, count } = Flags::parse();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let held = fastlb_bench::hold::open(address, count)?;
    println!("holding {}", held.len());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
