//! `fastlb worker` and `fastlb demo` as a user starts them: what they answer and print, and that
//! no process outlives them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Longest time that anything here may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Most lines of a demo that are looked through for one: those of a minute.
const LINES_MAX: usize = 90;

/// Pause between two looks at something that tells nobody when it changes.
const POLL: Duration = Duration::from_millis(5);

const HELLO: &str = "/api/v1/hello";

/// The workers of a demo, unless it is told how many.
const WORKERS: [&str; 3] = ["worker-1", "worker-2", "worker-3"];

#[test]
fn a_worker_answers_what_it_is_asked() {
    let worker = Worker::start(&["--id", "w1", "--avg-delay", "4ms"]);
    let (status, hello) = worker.get(HELLO);
    let hello: Value = serde_json::from_str(&hello).unwrap();
    assert_eq!(
        (status, &hello["id"], &hello["request"]),
        (200, &"w1".into(), &1.into())
    );
    assert!(
        (2.0..=6.0).contains(&hello["delay_ms"].as_f64().unwrap()),
        "{hello}"
    );
    assert_eq!(worker.get("/_health"), (200, "ok".to_owned()));
    let (status, counted) = worker.get("/status");
    let counted: Value = serde_json::from_str(&counted).unwrap();
    assert_eq!(
        (status, &counted["requests"], &counted["failures"]),
        (200, &1.into(), &0.into())
    );
    assert_eq!(worker.get("/elsewhere").0, 404);
}

#[test]
fn a_worker_is_named_by_its_port_and_fails_to_order() {
    let worker = Worker::start(&["--avg-delay", "0ms", "--failure", "100"]);
    let (status, hello) = worker.get(HELLO);
    let hello: Value = serde_json::from_str(&hello).unwrap();
    assert_eq!(status, 500);
    assert_eq!(hello["id"], format!("worker-{}", worker.address.port()));
    assert_eq!(hello["error"], "failed on purpose");
}

#[test]
fn a_worker_finishes_what_runs_when_it_is_told_to_stop() {
    let mut worker = Worker::start(&["--avg-delay", "400ms"]);
    let _silent = worker.connect();
    let mut busy = worker.connect();
    send(&mut busy, HELLO);
    worker.wait_for_in_flight(1);
    worker.process.signal("TERM");
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(worker.process.wait().success());
}

#[test]
fn a_second_signal_ends_a_worker_at_once() {
    let mut worker = Worker::start(&["--avg-delay", "1h"]);
    let mut busy = worker.connect();
    send(&mut busy, HELLO);
    worker.wait_for_in_flight(1);
    worker.process.signal("INT");
    wait_until("the worker stops listening", || {
        TcpStream::connect(worker.address).is_err()
    });
    worker.process.signal("INT");
    assert!(worker.process.wait().success());
}

#[test]
fn a_worker_leaves_at_the_end_of_its_lifeline() {
    let mut worker = Worker::start(&["--lifeline", "--avg-delay", "1h"]);
    let mut busy = worker.connect();
    send(&mut busy, HELLO);
    worker.wait_for_in_flight(1);
    drop(worker.process.0.stdin.take());
    assert!(worker.process.wait().success());
}

#[test]
fn a_port_in_use_is_named_with_its_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    for args in [["worker", "--listen", &address], ["demo", "--port", &port]] {
        let output = fastlb(&args).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        let names_it = message.contains(&address) && message.contains("in use");
        assert!(names_it && message.contains("another"), "{message}");
    }
}

#[test]
fn a_demo_shows_its_workers_and_leaves_none_behind() {
    let args = [
        "--for",
        "3s",
        "--rate",
        "50",
        "--port",
        "0",
        "--failure",
        "0",
        "--cores",
        "1",
    ];
    let mut demo = Demo::start(&args);
    let first = demo.line("engine ");
    assert!(first.contains("curl http://127.0.0.1:"), "{first}");
    for name in WORKERS {
        let line = demo.line(name);
        assert!(line.contains(": running, up, requests "), "{line}");
    }
    let workers = demo.workers();
    assert_eq!(workers.len(), 3);
    let busy = demo.line("worker-3");
    assert!(!busy.contains("requests 0,"), "{busy}");
    assert!(demo.line("BACKEND").contains("REQUESTS"));
    let all = demo.line("all ");
    assert!(number_after(&all, "all") >= 50, "{all}");
    let own = demo.line("requests sent to itself: ");
    assert!(
        own.contains(", 0 answered with an error, 0 unanswered"),
        "{own}"
    );
    assert!(demo.process.wait().success());
    assert!(workers.iter().all(|worker| is_gone(*worker)));
}

#[test]
fn a_demo_is_stopped_by_the_signals_of_a_terminal_and_of_a_service() {
    for signal in ["INT", "TERM"] {
        let mut demo = Demo::start(&["--port", "0", "--workers", "2", "--cores", "1"]);
        demo.line("worker-2");
        let workers = demo.workers();
        assert_eq!(workers.len(), 2);
        demo.process.signal(signal);
        assert!(demo.process.wait().success());
        assert!(workers.iter().all(|worker| is_gone(*worker)));
    }
}

#[test]
fn a_demo_that_is_killed_leaves_no_worker_behind() {
    let mut demo = Demo::start(&["--port", "0", "--cores", "1", "--avg-delay", "1h"]);
    demo.line("worker-3");
    let workers = demo.workers();
    assert_eq!(workers.len(), 3);
    demo.process.signal("KILL");
    demo.process.wait();
    for worker in workers {
        wait_until("the worker leaves", || is_gone(worker));
    }
}

#[test]
fn a_worker_that_dies_is_shown_as_dead_and_down_and_started_again() {
    let mut demo = Demo::start(&["--port", "0", "--rate", "0", "--cores", "1"]);
    let lines = WORKERS.map(|name| demo.line(name));
    let victim = *demo.workers().first().unwrap();
    let name = name_of(victim);
    let line = lines.iter().find(|line| line.contains(&name)).unwrap();
    kill("KILL", victim);
    // While somebody else has its port it cannot come back.
    let port = hold(address_after(line, &name));
    demo.line_with(&[&name, ": killed (9), "]);
    demo.line_with(&[&name, ", down, "]);
    drop(port);
    let back = demo.line_with(&[&name, ": running (start ", ", up, requests 0,"]);
    assert_eq!(demo.workers().len(), 3, "{back}");
    demo.process.signal("TERM");
    assert!(demo.process.wait().success());
}

#[test]
fn a_worker_whose_answers_are_bad_is_shown_as_ejected() {
    let quiet = ["--port", "0", "--rate", "0", "--cores", "1"];
    let bad = ["--failure", "100", "--avg-delay", "0ms"];
    let mut demo = Demo::start(&[&quiet[..], &bad].concat());
    let url = demo
        .line("engine ")
        .split_once("curl http://")
        .unwrap()
        .1
        .to_owned();
    let address = url.split_once('/').unwrap().0.parse().unwrap();
    // Five in a row from each, of which one is enough.
    for _ in 0..5 * WORKERS.len() {
        assert_eq!(get(connect(address), HELLO).0, 500);
    }
    demo.line(": running, ejected, requests ");
    // All are bad, and a part of them is left.
    let lines = WORKERS.map(|name| demo.line(name));
    let count = |part| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!((count(", ejected, "), count(", up, ")), (1, 2), "{lines:?}");
    demo.process.signal("TERM");
    demo.line("HEALTH");
    demo.line(" ejected ");
    assert!(demo.process.wait().success());
}

#[test]
fn a_demo_ends_with_the_reader_of_its_output() {
    let mut demo = Demo::start(&["--port", "0", "--cores", "1"]);
    demo.line("worker-3");
    let workers = demo.workers();
    drop(demo.lines);
    assert!(demo.process.wait().success());
    assert!(workers.iter().all(|worker| is_gone(*worker)));
}

/// A process that does not outlive the test.
struct Process(Child);

/// A worker, and where it listens.
struct Worker {
    process: Process,
    address: SocketAddr,
}

/// A demo, and the lines that it prints.
struct Demo {
    process: Process,
    lines: Receiver<String>,
}

impl Worker {
    fn start(args: &[&str]) -> Self {
        let mut command = fastlb(&["worker"]);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        Self { process, address }
    }

    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// The status and the body.
    fn get(&self, path: &str) -> (u16, String) {
        get(self.connect(), path)
    }

    fn wait_for_in_flight(&self, count: u64) {
        wait_until("requests are in flight", || {
            let status: Value = serde_json::from_str(&self.get("/status").1).unwrap();
            status["in_flight"] == count
        });
    }
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let mut command = fastlb(&["demo"]);
        let mut process = Process(command.args(args).stdout(Stdio::piped()).spawn().unwrap());
        let output = BufReader::new(process.0.stdout.take().unwrap());
        let (print, lines) = mpsc::channel();
        // Ends with the demo, or with the test that stops to read.
        thread::spawn(move || {
            output
                .lines()
                .try_for_each(|line| print.send(line.unwrap()))
        });
        Self { process, lines }
    }

    /// The next line that has `part` in it.
    fn line(&self, part: &str) -> String {
        self.line_with(&[part])
    }

    /// The next line that has all the `parts` in it.
    fn line_with(&self, parts: &[&str]) -> String {
        for _ in 0..LINES_MAX {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line with {parts:?}: {error}"),
            }
        }
        panic!("no line with {parts:?} among {LINES_MAX}");
    }

    /// The ids of the processes that it started.
    fn workers(&self) -> BTreeSet<u32> {
        let parent = self.process.0.id();
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .filter(|id| parent_of(*id) == Some(parent))
        });
        ids.collect()
    }
}

impl Process {
    fn signal(&self, name: &str) {
        kill(name, self.0.id());
    }

    /// Waits for its end, but not for ever.
    fn wait(&mut self) -> ExitStatus {
        wait_until("the process ends", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fastlb(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastlb"));
    command.args(args);
    command
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status and the body.
fn get(mut stream: TcpStream, path: &str) -> (u16, String) {
    send(&mut stream, path);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn send(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

fn kill(signal: &str, id: u32) {
    let status = Command::new("kill")
        .args(["-s", signal, &id.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// What the demo calls the worker that is this process.
fn name_of(id: u32) -> String {
    let arguments = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
    let mut arguments = arguments.split('\0').skip_while(|word| *word != "--id");
    arguments.nth(1).unwrap().to_owned()
}

/// Takes an address as soon as nobody has it, and does not listen there.
fn hold(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    wait_until("the address is free", || {
        socket.bind(&address.into()).is_ok()
    });
    socket
}

/// The address that follows `word`, with its colon behind.
fn address_after(line: &str, word: &str) -> SocketAddr {
    let rest = line.split_once(word).unwrap().1;
    let address = rest.split_whitespace().next().unwrap();
    address.trim_end_matches(':').parse().unwrap()
}

/// The number that follows `word`.
fn number_after(line: &str, word: &str) -> u64 {
    let rest = line.split_once(word).unwrap().1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// The fourth field of proc_pid_stat(5); the second is in brackets and may hold anything.
fn parent_of(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Whether the process has ended, be it that nobody has reaped it yet.
fn is_gone(id: u32) -> bool {
    match fs::read_to_string(format!("/proc/{id}/stat")) {
        Ok(stat) => stat
            .rsplit_once(')')
            .is_none_or(|(_, rest)| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if condition() {
            return;
        }
        thread::park_timeout(POLL);
    }
    panic!("waited in vain until {what}");
}
