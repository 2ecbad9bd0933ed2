//! What a newcomer meets first: the command line, its mistakes, and what the start says.

use std::net::TcpListener;
use std::num::NonZero;
use std::thread;

use crate::support::{Client, Ended, Engine, Origin, PATIENCE, Process, Proxy, wait_for};

on_both_engines! {
    the_start_names_the_engine,
    a_port_in_use_is_named,
    more_workers_than_cores_run_with_a_warning,
    several_listeners_all_serve,
}

fn the_start_names_the_engine(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let (log, name) = (proxy.log(), format!("engine {}", engine.name()));
    assert!(log.iter().any(|line| line.contains(&name)), "{log:#?}");
    drop(origin);
    proxy.finish();
}

fn a_port_in_use_is_named(engine: Engine) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are ports left");
    let address = taken.local_addr().expect("the socket is bound").to_string();
    let ended = run(&[
        "--listen",
        &address,
        "--backends",
        "127.0.0.1:9",
        "--io",
        engine.flag(),
    ]);
    expect_failure(&ended, 1, &[&address, "in use"]);
}

fn more_workers_than_cores_run_with_a_warning(engine: Engine) {
    let too_many = thread::available_parallelism().map_or(4, NonZero::get) + 3;
    let origin = Origin::named("a");
    let (cores, backend) = (too_many.to_string(), origin.backend());
    let proxy = Proxy::start(engine, &["--cores", &cores, "--backends", &backend]);
    Client::connect(proxy.address).get("/").expect_status(200);
    let log = proxy.log();
    let warned = log
        .iter()
        .any(|line| line.contains("WARN") && line.contains(&cores));
    assert!(warned, "nothing warns of {cores} workers: {log:#?}");
    drop(origin);
    proxy.finish();
}

fn several_listeners_all_serve(engine: Engine) {
    let origin = Origin::named("a");
    let backend = origin.backend();
    let second = ["--listen", "127.0.0.1:0"];
    let proxy = Proxy::start(engine, &[&second[..], &["--backends", &backend]].concat());
    for address in proxy.addresses(2) {
        Client::connect(address).get("/").expect_status(200);
    }
    drop(origin);
    proxy.finish();
}

/// Without a choice it runs on either engine, and says on which.
#[test]
fn auto_says_what_it_chose() {
    let mut process = Process::fastlb(&[
        "--listen",
        "127.0.0.1:0",
        "--backends",
        "127.0.0.1:9",
        "--cores",
        "1",
    ]);
    process.wait_line("listening on ");
    let chose = process.wait_line("engine ");
    assert!(
        chose.contains("io_uring") || chose.contains("epoll"),
        "{chose}"
    );
    process.signal("TERM");
    assert_eq!(process.wait_exit().code, 0);
}

#[test]
fn help_and_version_are_there() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    let text = help.log.join("\n");
    let flags = [
        "--backends",
        "--listen",
        "--cores",
        "--io",
        "--drain-timeout",
        "--retries",
    ];
    for word in flags.iter().chain(&["worker", "demo"]) {
        assert!(text.contains(word), "--help does not know {word}");
    }
    let version = run(&["--version"]);
    assert_eq!((version.code, version.log.len()), (0, 1));
    assert_eq!(
        version.log[0],
        concat!("fastlb ", env!("CARGO_PKG_VERSION"))
    );
}

/// Each mistake ends with code 2, and the message has the word that is wrong in it.
#[test]
fn mistakes_are_named() {
    let good = ["--listen", "127.0.0.1:0", "--backends", "127.0.0.1:9"];
    let mistakes: &[(&[&str], &[&str])] = &[
        (&["--no-such-flag"], &["--no-such-flag"]),
        (&["--cores", "0"], &["--cores"]),
        (&["--cores", "many"], &["many"]),
        (&["--retries", "17"], &["--retries"]),
        (&["--header-timeout", "soon"], &["soon"]),
        (&["--drain-timeout", "off"], &["off"]),
        (&["--trusted", "10.0.0.0/33"], &["10.0.0.0/33"]),
        (&["--listen", "nowhere"], &["nowhere"]),
        (&["--io", "kqueue"], &["kqueue"]),
        (&["--mode", "udp"], &["udp"]),
        (&["--health-path", "health"], &["health", "/"]),
        (&["--retry-on", "4xx"], &["4xx"]),
        (&["--balance", "maglev"], &["maglev", "yet"]),
        (&["--admin", "127.0.0.1:9494"], &["--admin"]),
    ];
    for (wrong, words) in mistakes {
        expect_failure(&run(&[&good[..], wrong].concat()), 2, words);
    }
}

#[test]
fn wrong_backends_are_named() {
    let lists = [
        "127.0.0.1:9@0",
        "127.0.0.1:9@257",
        "127.0.0.1:9@heavy",
        "127.0.0.1:99999",
        "https://127.0.0.1:9",
    ];
    for list in lists {
        let ended = run(&["--listen", "127.0.0.1:0", "--backends", list]);
        expect_failure(&ended, 2, &[list.split('@').next().unwrap_or(list)]);
    }
    // Not wrong as such: the name may resolve the next time.
    let unresolved = "no-such-host.invalid:80";
    let ended = run(&["--listen", "127.0.0.1:0", "--backends", unresolved]);
    expect_failure(&ended, 1, &[unresolved]);
    expect_failure(
        &run(&["--listen", "127.0.0.1:0", "--backends", ""]),
        2,
        &["backend"],
    );
    expect_failure(&run(&["--listen", "127.0.0.1:0"]), 2, &["--backends"]);
}

/// Runs fastlb until it ends by itself.
#[track_caller]
fn run(arguments: &[&str]) -> Ended {
    let mut process = Process::fastlb(arguments);
    wait_for(PATIENCE, &format!("the end of {arguments:?}"), || {
        process.exit_code()
    });
    process.wait_exit()
}

/// Demands this exit code and a message that has all `words`, and is no panic.
#[track_caller]
fn expect_failure(ended: &Ended, code: i32, words: &[&str]) {
    let text = ended.log.join("\n");
    assert_eq!(ended.code, code, "{words:?}: {text}");
    for word in words {
        let found = text.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "the message does not have {word:?}: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}
