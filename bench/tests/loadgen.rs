//! The real `loadgen` against real origins, and against targets that do everything wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use common::Program;
use serde_json::{Value, json};
use socket2::SockRef;

const ORIGIN: &str = env!("CARGO_BIN_EXE_origin");
const REQUEST_END: &[u8] = b"\r\n\r\n";

/// Answers a request, of which it is told the number on its connection; an error ends that.
type Serve = fn(&mut TcpStream, usize) -> io::Result<()>;

/// Runs for half a second without a warm-up and returns the JSON.
fn drive(flags: &[&str]) -> Value {
    let short = ["--json", "--warm-up", "0s", "--duration", "500ms"];
    let output = run(&[&short[..], flags].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
}

fn run(flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(flags).output().unwrap()
}

fn origin(name: &str) -> (Program, String) {
    let program = Program::start(ORIGIN, &["--name", name]);
    let url = format!("http://{}", program.address);
    (program, url)
}

/// Fails unless all requests, and at least one, were good.
fn assert_all_good(result: &Value) {
    assert_eq!(result["failures"], json!({}), "{result:#}");
    assert_eq!(result["good"], result["requests"], "{result:#}");
    assert!(result["good"].as_u64() > Some(0), "{result:#}");
}

/// Accepts connections until the test ends, one after the other, and lets `serve` answer.
fn target(serve: Serve) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut requests = 0;
            while read_head(&mut stream).is_ok() {
                if serve(&mut stream, requests).is_err() {
                    break;
                }
                requests += 1;
            }
        }
    });
    url
}

fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(REQUEST_END) {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

fn over() -> io::Result<()> {
    Err(io::ErrorKind::Other.into())
}

fn kinds(result: &Value) -> Vec<&str> {
    let failures = result["failures"].as_object().unwrap();
    failures.keys().map(String::as_str).collect()
}

#[test]
fn a_closed_loop_counts_what_each_backend_answered() {
    let (_a, first) = origin("a");
    let (_b, second) = origin("b");
    let flags = [
        "-c",
        "4",
        "-t",
        "2",
        "--expect-length",
        "100",
        &first,
        &second,
    ];
    let result = drive(&flags);
    assert_all_good(&result);
    let backends = result["backends"].as_array().unwrap();
    let names: Vec<_> = backends.iter().map(|row| &row["backend"]).collect();
    assert_eq!(names, ["a", "b"]);
    let sum: u64 = backends
        .iter()
        .map(|row| row["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(result["requests"], sum);
    assert_eq!(result["statuses"]["200"], sum);
    assert_eq!(result["received_bytes"], sum * 100);
    assert_eq!(result["connects"], 4);
    let latency = |name: &str| result["latency_ms"][name].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99.99"));
    assert!(latency("p99.99") <= latency("max") && latency("max") < 10_000.0);
    assert!(result["driver"]["cpu_us_per_request"].as_f64() > Some(0.0));
}

#[test]
fn an_open_loop_sends_as_many_as_it_was_told() {
    let (_origin, url) = origin("a");
    for flags in [&["-t", "2"][..], &["--no-keep-alive"], &["-p", "4"]] {
        let result = drive(&[&["-r", "300", "-c", "8", &url], flags].concat());
        assert_all_good(&result);
        assert_eq!(result["requests"], 150, "{flags:?}");
    }
}

/// One connection serves ten requests a second; a hundred were meant. The last of 50 was due after
/// 490 ms and answered after 5 s. A closed loop would have seen 100 ms throughout.
#[test]
fn an_open_loop_hides_no_waiting() {
    let (_origin, url) = origin("a");
    let url = format!("{url}/delay/100");
    let result = drive(&["-r", "100", "-c", "1", "--timeout", "30s", &url]);
    assert_all_good(&result);
    assert_eq!(result["requests"], 50);
    let latency = |name: &str| result["latency_ms"][name].as_f64().unwrap();
    assert!(latency("min") >= 100.0, "{result:#}");
    assert!(latency("p50") >= 2_200.0, "{result:#}");
    assert!(latency("max") >= 4_500.0, "{result:#}");
    // Five or six were sent in their half second, and the others behind its end.
    assert!(result["late"].as_u64() >= Some(43), "{result:#}");
    assert!(
        result["requests_per_s"].as_f64() <= Some(14.0),
        "{result:#}"
    );

    let output = run(&["-w", "0s", "-d", "500ms", "-r", "50", "-c", "1", &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("of 50 a second were had"), "{text}");
}

/// Its one request was sent in the warm-up and ran into its time limit in the measurement.
#[test]
fn a_target_that_is_silent_since_the_warm_up_fails() {
    let url = target(|_, _| Ok(()));
    for pace in [&[][..], &["-r", "20"]] {
        let flags = [
            "--json",
            "-c",
            "1",
            "-w",
            "300ms",
            "-d",
            "300ms",
            "--timeout",
            "400ms",
        ];
        let output = run(&[&flags[..], pace, &[&url]].concat());
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            result["failures"]["timeout"].as_u64() > Some(0),
            "{result:#}"
        );
        assert_eq!(result["requests"], result["failed"], "{result:#}");
    }
}

/// What never was sent waited as long as anything did, so it is counted and stands in the
/// latencies.
#[test]
fn what_could_not_be_sent_is_counted_and_not_forgotten() {
    let (_origin, url) = origin("a");
    let url = format!("{url}/delay/60000");
    let result = drive(&["-r", "100", "-c", "3", "--timeout", "1s", &url]);
    assert_eq!(result["requests"], 50);
    assert_eq!(result["good"], 0);
    assert_eq!(kinds(&result), ["timeout", "unsent"]);
    let failures = &result["failures"];
    let given_up = failures["timeout"].as_u64().unwrap() + failures["unsent"].as_u64().unwrap();
    assert_eq!(given_up, 50);
    assert!(
        result["latency_ms"]["min"].as_f64() >= Some(990.0),
        "{result:#}"
    );
}

#[test]
fn a_connection_per_request_comes_from_many_addresses() {
    let (_origin, url) = origin("a");
    let result = drive(&["-c", "4", "--no-keep-alive", "--expect-length", "100", &url]);
    assert_all_good(&result);
    assert!(result["connects"].as_u64() >= result["requests"].as_u64());

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let sources = thread::spawn(move || {
        let peer = |stream: io::Result<TcpStream>| stream.unwrap().peer_addr().unwrap().ip();
        let mut sources: Vec<_> = listener.incoming().take(8).map(peer).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    });
    drive(&["-c", "8", &format!("http://{address}/")]);
    let sources = sources.join().unwrap();
    assert_eq!(sources.len(), 8, "{sources:?}");
    assert!(sources.iter().all(|source| source.is_loopback()));
}

#[test]
fn pipelines_and_uploads_are_answered_in_full() {
    let (_origin, url) = origin("a");
    let pipelined = drive(&["-p", "16", "-c", "2", "--checksum", "first", &url]);
    assert_all_good(&pipelined);
    let echo = format!("{url}/echo");
    let upload = [
        "-b",
        "300000",
        "-c",
        "2",
        "-p",
        "2",
        "--checksum",
        "sent",
        &echo,
    ];
    let uploaded = drive(&upload);
    assert_all_good(&uploaded);
    let requests = uploaded["requests"].as_u64().unwrap();
    assert_eq!(uploaded["received_bytes"], requests * 300_000);
}

#[test]
fn what_was_not_expected_is_counted_by_kind() {
    let (_origin, url) = origin("a");
    let table = [
        (&["--expect-length", "99"][..], "/", "length"),
        (&["--expect-status", "404"], "/", "status"),
        (&[], "/unknown", "status"),
        (&["--checksum", "00000000"], "/", "checksum"),
    ];
    for (flags, path, kind) in table {
        let url = format!("{url}{path}");
        let result = drive(&[flags, &["-c", "2", &url]].concat());
        assert_eq!(kinds(&result), [kind]);
        assert_eq!(result["failures"][kind], result["requests"]);
        assert_eq!(result["good"], 0);
        assert_eq!(result["backends"][0]["failures"], result["requests"]);
    }
}

#[test]
fn targets_that_break_off_are_counted_by_kind() {
    let table: [(&str, Serve); 6] = [
        ("reset", |stream, _| {
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
            over()
        }),
        ("closed", |_, _| over()),
        ("cut", |stream, _| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")?;
            stream.shutdown(Shutdown::Write)?;
            over()
        }),
        ("malformed", |stream, _| {
            stream.write_all(b"SSH-2.0-OpenSSH\r\n")
        }),
        ("unasked", |stream, _| {
            stream.write_all(&b"HTTP/1.1 204 No Content\r\n\r\n".repeat(2))
        }),
        ("timeout", |_, _| Ok(())),
    ];
    for (kind, serve) in table {
        let url = target(serve);
        let result = drive(&["-c", "1", "--timeout", "200ms", &url]);
        assert_eq!(kinds(&result), [kind], "{result:#}");
        assert!(result["failures"][kind].as_u64() > Some(0));
    }
}

/// Whoever sends one more request to a server that has said goodbye loses it, and it is not the
/// server's fault.
#[test]
fn a_server_that_closes_after_its_answer_does_no_wrong() {
    let url = target(|stream, requests| {
        // The last answer and the FIN go out as one.
        SockRef::from(&*stream).set_tcp_cork(requests == 2)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")?;
        if requests == 2 { over() } else { Ok(()) }
    });
    for pace in [&[][..], &["-r", "100"]] {
        let result = drive(&[pace, &["-c", "1", "--expect-length", "2", &url]].concat());
        assert_all_good(&result);
        let [requests, connects] = ["requests", "connects"].map(|name| result[name].as_u64());
        assert!(
            connects >= requests.map(|requests| requests / 3),
            "{result:#}"
        );
    }

    let until_close = target(|stream, _| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")?;
        over()
    });
    let result = drive(&["-c", "1", "--expect-length", "13", &until_close]);
    assert_all_good(&result);
}

#[test]
fn a_refused_connect_is_reported_and_ends_with_1() {
    let refusing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = refusing.local_addr().unwrap();
    drop(refusing);
    let url = format!("http://{address}/");
    let (_origin, good) = origin("a");

    let result = drive(&["-c", "2", &good, &url]);
    assert_eq!(kinds(&result), ["connect_refused"]);
    let output = run(&["-w", "0s", "-d", "100ms", "-c", "2", &good, &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    let unreached = format!("connects failed to: {url}\n");
    assert!(text.contains(&unreached), "{text}");
    assert_eq!(result["good"], result["requests"], "they are not requests");
    let result = drive(&["-c", "2", "--no-keep-alive", &good, &url]);
    let requests = result["requests"].as_u64().unwrap();
    let refused = result["failures"]["connect_refused"].as_u64().unwrap();
    assert!(refused > 0);
    assert_eq!(result["good"], requests - refused, "here they are");

    let output = run(&["-w", "0s", "-d", "100ms", &url]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("connect_refused") && text.contains("nobody listens"));
}

#[test]
fn the_files_agree_with_each_other() {
    let (_origin, url) = origin("a");
    let folder = std::env::temp_dir().join(format!("fastlb-loadgen-{}", std::process::id()));
    let flags = ["-w", "100ms", "-d", "300ms", "-c", "2", "--out"];
    let output = run(&[&flags[..], &[folder.to_str().unwrap(), &url]].concat());
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let result: Value = serde_json::from_str(&read("result.json")).unwrap();
    let (stats, percentiles) = (read("server_stats.csv"), read("latency.hgrm"));
    fs::remove_dir_all(&folder).unwrap();

    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("p99.99") && text.contains("100.00 %"),
        "{text}"
    );
    let requests = result["requests"].as_u64().unwrap();
    let row = format!("a,{requests},1.000000,0");
    let lines: Vec<&str> = stats.lines().collect();
    assert_eq!(lines, ["backend,requests,share,failures", &row]);
    let count = format!("Total count    = {requests:>12}]");
    assert!(percentiles.contains(&count), "{percentiles}");
}

#[test]
fn a_folder_that_cannot_be_had_is_known_before_the_run() {
    let url = target(|_, _| panic!("nothing is sent"));
    for folder in [
        "/proc/nowhere",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ] {
        let output = run(&["--out", folder, &url]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("name another with --out"), "{text}");
    }
}

#[test]
fn a_reader_that_has_gone_takes_no_files_along() {
    let (_origin, url) = origin("a");
    let folder = std::env::temp_dir().join(format!("fastlb-unread-{}", std::process::id()));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["-w", "0s", "-d", "100ms", "-c", "1", &url, "--out"])
        .arg(&folder)
        .stdout(writer)
        .status()
        .unwrap();
    let names = fs::read_dir(&folder).unwrap().count();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!((status.code(), names), (Some(0), 3));
}

#[test]
fn statuses_that_were_not_expected_are_told() {
    let url = target(|stream, requests| {
        let status = if requests == 0 { "500 No" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
    });
    let output = run(&["-c", "1", "-w", "0s", "-d", "100ms", &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" of 200, 1 of 500\n"), "{text}");
}

#[test]
fn wrong_usage_says_what_to_do() {
    let table = [
        (&["https://a/"][..], "write http://"),
        (&["--rate", "0", "http://127.0.0.1:1/"], "1..=100000000"),
        (&["--duration", "10", "http://127.0.0.1:1/"], "500ms"),
        (
            &["-c", "1", "-t", "2", "http://127.0.0.1:1/"],
            "at least as many",
        ),
        (&[], "<URL>"),
    ];
    for (flags, cure) in table {
        let output = run(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(cure), "{text}");
    }
}

#[test]
fn a_watched_process_has_its_time_told() {
    let (program, url) = origin("watched");
    let result = drive(&["--watch", &program.pid().to_string(), &url]);
    assert_all_good(&result);
    let watch = &result["watch"];
    let seconds = |value: &Value| value.as_f64().unwrap();
    assert!(seconds(&watch["wall_s"]) >= 0.49, "{watch}");
    assert!(seconds(&watch["cpu_s"]) > 0.0, "{watch}");
    assert!(
        seconds(&watch["cpu_s"]) <= seconds(&watch["wall_s"]) * 1.1,
        "one thread: {watch}"
    );
    assert_eq!(watch["pid"], program.pid());
    let output = run(&["-w", "0s", "-d", "100ms", "--watch", "4194303", &url]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("process 4194303 of --watch is not there"),
        "{text}"
    );
    let cores = watch["cores"].as_array().unwrap();
    assert!(cores.len() >= thread::available_parallelism().unwrap().get());
    assert_eq!(drive(&[&url])["watch"], Value::Null);
}

#[test]
fn too_many_failures_are_an_exit_code() {
    let url = target(|stream, requests| {
        let status = if requests == 0 { "500 No" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
    });
    let code = |most: &[&str]| {
        let flags = ["-c", "1", "-w", "0s", "-d", "100ms"];
        let output = run(&[&flags[..], most, &[&url]].concat());
        output.status.code()
    };
    assert_eq!(code(&["--max-failures", "0"]), Some(1));
    assert_eq!(code(&["--max-failures", "1"]), Some(0));
    assert_eq!(code(&[]), Some(0), "something was answered as expected");
}
