//! What a newcomer meets first: the command line, its mistakes, and what the start says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::thread;

use crate::support::{
    Client, Ended, Engine, Origin, PATIENCE, Process, Proxy, address_in, eventually, get, ok,
    reserved_address, reserved_port, wait_for,
};

on_both_engines! {
    the_start_names_the_engine,
    a_port_in_use_is_named,
    more_workers_than_cores_run_with_a_warning,
    several_listeners_all_serve,
    both_families_are_listened_on_at_one_port,
    a_backend_that_is_fastlb_itself_is_refused,
    a_log_that_nobody_reads_stops_nothing,
    a_hangup_is_passed_over,
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

/// Whatever the system has as default: IPv4 is not a part of IPv6 here.
fn both_families_are_listened_on_at_one_port(engine: Engine) {
    let Some((_reserved, port)) = reserved_port() else {
        eprintln!("SKIPPED: this machine has no IPv6");
        return;
    };
    let origin = Origin::named("a");
    let (backend, v4, v6) = (
        origin.backend(),
        format!("0.0.0.0:{port}"),
        format!("[::]:{port}"),
    );
    let options = ["--listen", &v4, "--listen", &v6, "--backends", &backend];
    let proxy = Proxy::start(engine, &options);
    let loopbacks = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    for loopback in loopbacks {
        let mut client = Client::connect(SocketAddr::from((loopback, port)));
        client.get("/").expect_status(200);
    }
    drop(origin);
    proxy.finish();
}

/// Or one request would go round until all connections are taken.
fn a_backend_that_is_fastlb_itself_is_refused(engine: Engine) {
    let (_reserved, address) = reserved_address();
    let (itself, everywhere) = (address.to_string(), format!("0.0.0.0:{}", address.port()));
    for listen in [&itself, &everywhere] {
        let backends = format!("127.0.0.1:9,{itself}");
        let arguments = ["--listen", listen, "--backends", &backends];
        let ended = run(&[&arguments[..], &["--io", engine.flag()]].concat());
        expect_failure(&ended, 1, &[&itself, "itself"]);
    }
}

/// What read it was stopped first, or has failed: no reason to leave clients alone.
fn a_log_that_nobody_reads_stops_nothing(engine: Engine) {
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.pass_gate();
            conversation.send(ok(b"served"));
        }
    });
    let proxy = Proxy::start_unheard(engine, &["--backends", &origin.backend()]);
    let mut client = Client::connect(proxy.address);
    client.send(get("/"));
    eventually("the request to reach the backend", || {
        origin.requests().len() == 1
    });
    for signal in ["HUP", "TERM"] {
        proxy.signal(signal);
    }
    let address = proxy.address;
    eventually("new clients to be refused", || {
        TcpStream::connect(address).is_err()
    });
    origin.open_gate();
    assert_eq!(client.response().expect_status(200).text(), "served");
    client.expect_close();
    assert_eq!(proxy.wait_code(), 0);
}

/// Who sends it wants a configuration reloaded, not the service ended.
fn a_hangup_is_passed_over(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    proxy.signal("HUP");
    eventually("a word about it", || {
        proxy.log().iter().any(|line| line.contains("HUP"))
    });
    client.get("/").expect_status(200);
    Client::connect(proxy.address).get("/").expect_status(200);
    drop((client, origin));
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

/// One ring could be had, but not one for each of so many workers. Where the kernel does not count
/// a ring's memory as locked, all of them can.
#[test]
fn auto_survives_a_lack_of_locked_memory() {
    let origin = Origin::named("a");
    let backend = origin.backend();
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--backends",
        &backend,
        "--admin",
        "off",
        "--cores",
        "8",
    ];
    let mut process = Process::fastlb_with_locked(1024 * 1024, &arguments);
    let address = address_in(&process.wait_line("listening on "));
    Client::connect(address).get("/").expect_status(200);
    if process.has_said("engine io_uring") {
        eprintln!("SKIPPED: locked memory was no limit here");
    } else {
        let warning = process.wait_line("WARN engine epoll");
        assert!(warning.contains("io_uring"), "{warning}");
    }
    let log = process.log();
    let limits = log.iter().filter(|line| line.contains("at most "));
    assert_eq!(limits.count(), 1, "{log:#?}");
    process.signal("TERM");
    let ended = process.wait_exit();
    let last_line = ended.log.last().cloned().unwrap_or_default();
    assert!(
        last_line.contains(" 0 chunks held, 0 operations"),
        "{last_line}"
    );
    assert_eq!(ended.code, 0);
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
        (
            &["--listen", "127.0.0.1:9494", "--listen", "127.0.0.1:9494"],
            &["127.0.0.1:9494", "twice"],
        ),
        (&["--io", "kqueue"], &["kqueue"]),
        (&["--mode", "udp"], &["udp", "tcp"]),
        (
            &["--mode", "tcp", "--backends", "127.0.0.2"],
            &["127.0.0.2", "port"],
        ),
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
