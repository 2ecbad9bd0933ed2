//! A start that fails, in a process of its own that is short of descriptors.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Command;

use fastlb::io::{BufferOptions, EngineChoice, Epoll, Io};
use fastlb::server::Server;

use crate::descriptors;
use crate::server::{config, stop};

/// Tells the process that is short of them from the one that starts it.
const MARK: &str = "FASTLB_TEST_SHORT_OF_DESCRIPTORS";
/// More than one worker asks to be left, and few enough to be opened again and again.
const DESCRIPTORS: &str = "--nofile=256:256";

#[test]
fn a_start_that_fails_leaves_nothing_running() {
    if std::env::var_os(MARK).is_some() {
        fail_until_it_starts();
        return;
    }
    let this = std::env::current_exe().unwrap();
    let test = "start::a_start_that_fails_leaves_nothing_running";
    let mut short = Command::new("prlimit");
    short.arg(DESCRIPTORS).arg(this).args([test, "--exact"]);
    let ended = short.env(MARK, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Starts with one more descriptor each time, so that every step is the one that fails once.
fn fail_until_it_starts() {
    // The first runtime of a process opens what all later ones share.
    Epoll::run(BufferOptions::default(), async |_| ()).unwrap();
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    for spare in 1.. {
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        taken.truncate(taken.len() - spare);
        let before = descriptors();
        let config = config(EngineChoice::Epoll, nobody, BufferOptions::default());
        match Server::start(config) {
            Ok(server) => {
                assert!(spare > 6, "no step of the start failed behind the listener");
                stop(server);
                return;
            }
            Err(error) => assert_eq!(descriptors(), before, "{spare} spare: {error}"),
        }
    }
}
