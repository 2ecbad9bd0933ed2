//! `floor`: the bare relay that proxies are measured against. See [`fastlb_bench::floor`].

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use fastlb_bench::ended;
use fastlb_bench::floor::{Options, Relay};

/// A bare HTTP/1.1 relay: the least that a proxy in user space can cost.
#[derive(Parser)]
struct Flags {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to relay to, in turn.
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', required = true)]
    backends: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let of = format!("floor: on {}", flags.listen);
    ended(serve(flags), of)
}

fn serve(Flags { listen, backends }: Flags) -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut relay = Relay::bind(&Options { listen, backends })?;
    writeln!(io::stdout(), "listening on {}", relay.address()?)?;
    relay.run()
}
