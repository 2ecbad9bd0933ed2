//! The real `scripts/loadtest.sh` against a target that it did not start.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Program;
use serde_json::Value;

/// The script with the programs of this build.
fn script(out: &Path, seconds: &str, flags: &[&str]) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/loadtest.sh");
    let programs = Path::new(env!("CARGO_BIN_EXE_loadgen")).parent().unwrap();
    let mut command = Command::new(script);
    command.arg("--bin").arg(programs).arg("--out").arg(out);
    command.args(["--seconds", seconds, "--warm-up", "0"]);
    command.args(flags);
    command
}

fn run(out: &Path, flags: &[&str]) -> Output {
    script(out, "1", flags).output().unwrap()
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fastlb-loadtest-{name}-{}", std::process::id()))
}

#[test]
fn a_target_is_measured_and_all_of_it_kept() {
    let origin = Program::start(env!("CARGO_BIN_EXE_origin"), &["--name", "o1"]);
    let url = format!("http://{}/bytes/7", origin.address);
    let out = folder("kept");
    let flags = [
        "--connections",
        "3",
        "--target",
        &url,
        "--",
        "--rate",
        "50",
        "-H",
        r#"X-A: "b\c""#,
    ];
    let output = run(&out, &flags);
    let again = run(&out, &["--target", &url]);
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let json = |name: &str| serde_json::from_str::<Value>(&read(name)).unwrap();
    let (result, environment) = (json("result.json"), json("environment.json"));
    let (summary, stats, percentiles) = (
        read("summary.txt"),
        read("server_stats.csv"),
        read("latency.hgrm"),
    );
    fs::remove_dir_all(&out).unwrap();

    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), summary);
    assert!(
        summary.contains("kernel") && summary.contains("p99.99"),
        "{summary}"
    );
    assert_eq!(stats, "backend,requests,share,failures\no1,50,1.000000,0\n");
    assert!(percentiles.contains("Total count    =           50]"));
    assert_eq!(result["requests"], 50);
    assert_eq!(result["plan"]["connections"], 3);
    assert_eq!(environment["targets"], url);
    assert_eq!(environment["loadgen_flags"], r#"--rate 50 -H X-A: "b\c""#);
    for fact in ["date", "commit", "cpu", "cores", "kernel", "loadgen"] {
        assert!(
            environment[fact]
                .as_str()
                .is_some_and(|fact| !fact.is_empty())
        );
    }
    assert_eq!(environment.get("engine"), None, "nothing is known of it");

    assert_eq!(again.status.code(), Some(1), "results are not overwritten");
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));
}

#[test]
fn a_run_that_is_ended_leaves_nothing_and_has_its_folder_alone() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let out = folder("ended");
    let mut running = script(&out, "60", &["--target", &url]).spawn().unwrap();
    let _client = listener.accept().unwrap();
    let again = run(&out, &["--target", &url]);
    let number = running.id().to_string();
    let told = Command::new("kill").args(["-TERM", &number]).status();
    let ended = running.wait().unwrap();

    assert!(told.unwrap().success());
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("another run writes"));
    assert_eq!(ended.code(), Some(143));
    assert!(!out.exists());
}

#[test]
fn what_cannot_run_says_why_and_leaves_no_result() {
    let out = folder("wrong");
    let target = ["--target", "http://127.0.0.1:1/"];
    let table = [
        (&["--seconds", "x"][..], 1, "--seconds needs a whole number"),
        (&["--path", "/bytes/7"], 1, "--path: nothing is started"),
        (
            &["--io", "epoll", "--cores", "2"],
            1,
            "--io --cores: nothing",
        ),
        (&["--nonsense"], 1, "--help lists them"),
        (&["--", "--pipeline", "0"], 2, "1..=1024"),
    ];
    for (flags, code, text) in table {
        let output = run(&out, &[&target, flags].concat());
        let left_result = out.join("result.json").exists();
        let _ = fs::remove_dir_all(&out);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(text), "{error}");
        assert!(!left_result);
    }
}
