//! `origin`: a fast HTTP/1.1 backend to measure proxies with. See [`fastlb_bench::origin`].

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use fastlb_bench::ended;
use fastlb_bench::origin::{Options, Server};

/// A fast HTTP/1.1 backend to measure proxies with.
///
/// Routes: / (100 bytes), /bytes/N, /delay/MS, /echo, /echo/head.
#[derive(Parser)]
struct Flags {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Sent as X-Backend with every response.
    #[arg(long, default_value = "origin", value_parser = field_value)]
    name: String,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let of = format!("origin: on {}", flags.listen);
    ended(serve(flags), of)
}

fn serve(Flags { listen, name }: Flags) -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let mut server = Server::bind(&Options { listen, name })?;
    writeln!(io::stdout(), "listening on {}", server.address()?)?;
    server.run()
}

/// Only what may stand in a field's value; anything else would break every response.
fn field_value(name: &str) -> Result<String, String> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("visible ASCII characters without spaces".to_owned());
    }
    Ok(name.to_owned())
}
