//! The real `floor` before real origins: turns, pipelining, long bodies, and `hold` through it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use common::Program;

const ORIGIN: &str = env!("CARGO_BIN_EXE_origin");

/// Two origins called `a` and `b` with the relay before them.
struct Chain {
    floor: Program,
    _origins: [Program; 2],
}

impl Chain {
    fn start() -> Self {
        let origins = ["a", "b"].map(|name| Program::start(ORIGIN, &["--name", name]));
        let backends = format!("{},{}", origins[0].address, origins[1].address);
        let floor = Program::start(env!("CARGO_BIN_EXE_floor"), &["--backends", &backends]);
        Self {
            floor,
            _origins: origins,
        }
    }
}

#[test]
fn backends_take_turns_also_within_a_pipeline() {
    let chain = Chain::start();
    let mut stream = chain.floor.connect();
    stream
        .write_all("GET /bytes/1 HTTP/1.1\r\n\r\n".repeat(5).as_bytes())
        .unwrap();
    let expected = ["a", "b", "a", "b", "a"]
        .map(|name| format!("HTTP/1.1 200 OK\r\nX-Backend: {name}\r\nContent-Length: 1\r\n\r\na"));
    let mut answer = vec![0; expected.concat().len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), expected.concat());
}

#[test]
fn long_bodies_pass_both_ways() {
    let chain = Chain::start();
    let body = "0123456789".repeat(500_000);
    let mut stream = chain.floor.connect();
    let mut writer = stream.try_clone().unwrap();
    let request = format!(
        "POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let sender = std::thread::spawn(move || writer.write_all(request.as_bytes()).unwrap());
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let mut echo = vec![0; body.len()];
    stream.read_exact(&mut echo).unwrap();
    sender.join().unwrap();
    assert!(echo == body.as_bytes());
}

#[test]
fn hold_keeps_its_connections_until_its_input_closes() {
    let chain = Chain::start();
    let mut hold = Command::new(env!("CARGO_BIN_EXE_hold"))
        .args([chain.floor.address.to_string(), "50".to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 11];
    hold.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"holding 50\n");
    assert!(hold.try_wait().unwrap().is_none());
    drop(hold.stdin.take());
    assert!(hold.wait().unwrap().success());
}
