//! A crowd: 8 000 clients at once, each with a request in flight. Client, proxy and origin are
//! processes of their own, so that each has its own descriptors.

use std::fs;
use std::process::{self, Command};
use std::sync::{Mutex, PoisonError};

use crate::support::{Client, Engine, Process, Proxy, address_in, eventually, get};

on_both_engines! {
    eight_thousand_at_once,
}

const CLIENTS: usize = 8_000;
/// What the proxy needs: two descriptors a client, and some for itself.
const DESCRIPTORS_MIN: usize = 2 * CLIENTS + 1_000;
/// Longer than it takes to send all requests, so that all are in flight together.
const DELAY: &str = "8s";

/// One crowd at a time: two would want more descriptors than a process has.
static ALONE: Mutex<()> = Mutex::new(());

fn eight_thousand_at_once(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(reason) = raise_descriptors() {
        eprintln!("SKIPPED: a crowd of {CLIENTS}: {reason}");
        return;
    }
    let mut origin = Process::fastlb(&[
        "worker",
        "--listen",
        "127.0.0.1:0",
        "--avg-delay",
        DELAY,
        "--failure",
        "0",
    ]);
    let backend = address_in(&origin.wait_line("listening on ")).to_string();
    let proxy = Proxy::start(engine, &["--cores", "2", "--backends", &backend]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let client = Client::connect(proxy.address);
            client.send(get("/api/v1/hello"));
            client
        })
        .collect();
    // All clients and half of their backend connections, at one moment: nobody is served yet.
    eventually("all of them to be inside", || {
        proxy.extra_descriptors() > CLIENTS + CLIENTS / 2
    });
    for client in &mut clients {
        client.response().expect_status(200);
    }
    // They are all still welcome, and now and then somebody says something.
    for client in clients.iter_mut().step_by(1_000) {
        client.get("/_health").expect_status(200);
    }
    drop(clients);
    origin.signal("TERM");
    origin.wait_exit();
    proxy.finish();
}

/// Raises the soft limit of this process to the hard one; processes that it starts inherit it.
fn raise_descriptors() -> Result<(), String> {
    let pid = process::id().to_string();
    let (soft, hard) = descriptor_limits()?;
    if hard < DESCRIPTORS_MIN {
        return Err(format!(
            "it needs {DESCRIPTORS_MIN} descriptors, the hard limit is {hard}"
        ));
    }
    if soft >= DESCRIPTORS_MIN {
        return Ok(());
    }
    let limit = format!("--nofile={hard}:{hard}");
    let raised = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    match raised {
        Ok(status) if status.success() => Ok(()),
        failed => Err(format!(
            "prlimit {limit}: {failed:?}; raise the soft limit by hand"
        )),
    }
}

/// The soft and the hard limit of open files.
fn descriptor_limits() -> Result<(usize, usize), String> {
    let limits = fs::read_to_string("/proc/self/limits").map_err(|error| error.to_string())?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.unwrap_or_default().split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(soft)), Some(Ok(hard))) => Ok((soft, hard)),
        _ => Err("/proc/self/limits does not tell".to_owned()),
    }
}
