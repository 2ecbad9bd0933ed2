//! Who is alive: checks and traffic take backends out and bring them back, and clients do not
//! notice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, Engine, Origin, PATIENCE, Process, Proxy, address_in, answer, eventually, now, ok,
    refusing_address, reserved_address,
};

on_both_engines! {
    a_backend_that_refuses_goes_down_and_comes_back,
    a_backend_that_is_late_at_the_start_is_found_soon,
    http_checks_look_at_the_status,
    bad_answers_eject_and_time_readmits,
    without_any_backend_up_it_is_503_at_once,
    a_reset_get_goes_to_another_backend,
    a_reset_request_that_changes_something_does_not,
    a_5xx_goes_to_another_backend_where_that_is_asked_for,
    killed_backends_cost_no_request,
    a_frozen_backend_is_passed_over_and_comes_back,
}

/// Flags that make checks quick. A backend that is gone refuses at once; one that is there has long
/// enough to answer on a busy machine.
const QUICK: [&str; 4] = ["--health-interval", "200ms", "--health-timeout", "5s"];

/// Waits for a line of the proxy's log about `backend`, the `count`th of its kind.
#[track_caller]
pub(crate) fn wait_said(proxy: &Proxy, backend: SocketAddr, words: &str, count: usize) {
    let part = format!("backend {backend} {words}");
    let said = || {
        let log = proxy.log();
        log.iter().filter(|line| line.contains(&part)).count()
    };
    eventually(&part, || said() >= count);
}

/// A demo worker as a process of its own, which can be killed and started again.
struct Worker {
    process: Process,
    address: SocketAddr,
}

impl Worker {
    fn start(listen: &str) -> Self {
        let flags = [
            "worker",
            "--avg-delay",
            "0ms",
            "--failure",
            "0",
            "--listen",
            listen,
        ];
        let mut process = Process::fastlb(&flags);
        let address = address_in(&process.wait_line("listening on "));
        Self { process, address }
    }

    fn restart(&mut self) {
        *self = Self::start(&self.address.to_string());
    }
}

fn a_backend_that_refuses_goes_down_and_comes_back(engine: Engine) {
    let mut workers = [Worker::start("127.0.0.1:0"), Worker::start("127.0.0.1:0")];
    let backends = format!("{},{}", workers[0].address, workers[1].address);
    let flags = [&["--backends", &backends, "--health", "tcp"][..], &QUICK].concat();
    let proxy = Proxy::start(engine, &flags);
    let address = workers[0].address;
    workers[0].process.signal("KILL");
    wait_said(&proxy, address, "is down: checks failed", 1);
    let mut client = Client::connect(proxy.address);
    for _ in 0..4 {
        let response = client.get("/status").expect_status(200);
        assert!(
            response
                .text()
                .contains(&workers[1].address.port().to_string())
        );
    }
    workers[0].restart();
    wait_said(&proxy, address, "is up: checks passed: 2", 1);
    let mut seen = [false; 2];
    for _ in 0..4 {
        let response = client.get("/status").expect_status(200);
        let text = response.text();
        let from = |worker: &Worker| text.contains(&worker.address.port().to_string());
        seen = [seen[0] || from(&workers[0]), seen[1] || from(&workers[1])];
    }
    assert_eq!(seen, [true, true]);
    drop((client, workers));
    proxy.finish();
}

/// Where fastlb starts before its backends do: they need not wait for a whole interval.
fn a_backend_that_is_late_at_the_start_is_found_soon(engine: Engine) {
    const INTERVAL: Duration = Duration::from_secs(6);
    let (held, address) = reserved_address();
    let backend = address.to_string();
    let flags = ["--health", "tcp", "--health-interval", "6s"];
    let proxy = Proxy::start(engine, &[&["--backends", &backend][..], &flags].concat());
    wait_said(&proxy, address, "is down: checks failed", 1);
    let worker = Worker::start(&backend);
    let listens = now();
    wait_said(&proxy, address, "is up: checks passed: 2", 1);
    let took = listens.elapsed();
    assert!(took < INTERVAL, "it took {took:?}");
    drop((worker, held));
    proxy.finish();
}

fn http_checks_look_at_the_status(engine: Engine) {
    let well = Arc::new(AtomicBool::new(true));
    let origin = Origin::answering({
        let well = well.clone();
        move |request| {
            if request.head.target() != "/healthz" {
                return ok(b"served");
            }
            assert_eq!(request.field("user-agent"), Some("fastlb-check"));
            match well.load(Ordering::Relaxed) {
                // In a version that is taken for 1.1, from a check as from a client.
                true => b"HTTP/1.2 204 No Content\r\n\r\n".to_vec(),
                false => answer("503 Service Unavailable", &[], b"not now"),
            }
        }
    });
    let http = ["--health", "http", "--health-path", "/healthz"];
    let proxy = Proxy::before_with(engine, &origin, &[&http[..], &QUICK].concat());
    eventually("a first check", || !origin.requests().is_empty());
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    well.store(false, Ordering::Relaxed);
    wait_said(
        &proxy,
        origin.address,
        "is down: checks failed: 3, the last one: status 503",
        1,
    );
    client.get("/").expect_status(503);
    well.store(true, Ordering::Relaxed);
    wait_said(&proxy, origin.address, "is up", 1);
    assert_eq!(client.get("/").expect_status(200).text(), "served");
    drop((client, origin));
    proxy.finish();
}

fn bad_answers_eject_and_time_readmits(engine: Engine) {
    let bad = Origin::answering(|_| answer("500 Internal Server Error", &[], b"sorry"));
    let good = Origin::named("good");
    let backends = format!("{},{}", bad.backend(), good.backend());
    let flags = [
        "--backends",
        &backends,
        "--eject-after",
        "3",
        "--eject-time",
        // Longer than the requests that are sent meanwhile take on a busy machine.
        "3s",
    ];
    let proxy = Proxy::start(engine, &flags);
    let mut client = Client::connect(proxy.address);
    let statuses: Vec<u16> = (0..6).map(|_| client.get("/").head.status()).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 500).count(), 3);
    wait_said(
        &proxy,
        bad.address,
        "is ejected: 3 requests in a row failed",
        1,
    );
    for _ in 0..6 {
        client.get("/").expect_status(200);
    }
    wait_said(&proxy, bad.address, "is up: its ejection is over", 1);
    let again = (0..2).filter(|_| client.get("/").head.status() == 500);
    assert_eq!(again.count(), 1);
    drop((client, bad, good));
    proxy.finish();
}

fn without_any_backend_up_it_is_503_at_once(engine: Engine) {
    let (_socket, refusing) = refusing_address();
    let backend = refusing.to_string();
    let flags = [&["--backends", &backend, "--health", "tcp"][..], &QUICK].concat();
    let proxy = Proxy::start(engine, &flags);
    wait_said(&proxy, refusing, "is down: checks failed: 1", 1);
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        let response = client.get("/").expect_status(503);
        assert_eq!(response.field("retry-after"), Some("2"));
        assert_eq!(response.text(), "fastlb: no backend available\n");
    }
    drop(client);
    proxy.finish();
}

/// A backend that reads each request and closes without a word, and one that answers.
fn deaf_and_good() -> (Origin, Origin) {
    let deaf = Origin::start(|conversation| {
        conversation.request();
    });
    (deaf, Origin::named("good"))
}

fn a_reset_get_goes_to_another_backend(engine: Engine) {
    let (deaf, good) = deaf_and_good();
    let backends = format!("{},{}", deaf.backend(), good.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..4 {
        client.get("/").expect_status(200);
    }
    assert!(deaf.accepted() >= 2);
    drop((client, deaf, good));
    proxy.finish();
}

fn a_reset_request_that_changes_something_does_not(engine: Engine) {
    for method in ["POST", "PUT", "DELETE"] {
        let (deaf, good) = deaf_and_good();
        let backends = format!("{},{}", deaf.backend(), good.backend());
        let proxy = Proxy::start(engine, &["--backends", &backends]);
        let mut client = Client::connect(proxy.address);
        let request =
            format!("{method} / HTTP/1.1\r\nHost: fastlb.test\r\nContent-Length: 0\r\n\r\n");
        let mut statuses = [0; 2].map(|_| {
            client.send(&request);
            client.response().head.status()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502], "{method}");
        assert_eq!(good.requests().len(), 1, "{method}");
        drop((client, deaf, good));
        proxy.finish();
    }
}

fn a_5xx_goes_to_another_backend_where_that_is_asked_for(engine: Engine) {
    // A status of no class counts as one of 5xx (RFC 9110 section 15).
    for (status, line) in [(503, "503 Service Unavailable"), (600, "600 Odd")] {
        let bad = Origin::answering(move |_| answer(line, &[], b"sorry"));
        let good = Origin::named("good");
        let backends = format!("{},{}", bad.backend(), good.backend());
        let flags = ["--retry-on", "5xx", "--eject-after", "0"];
        let flags = [&["--backends", &backends][..], &flags].concat();
        let proxy = Proxy::start(engine, &flags);
        let mut client = Client::connect(proxy.address);
        for _ in 0..4 {
            client.get("/").expect_status(200);
        }
        let mut statuses = [0; 2].map(|_| client.post("/", b"once").head.status());
        statuses.sort_unstable();
        assert_eq!(statuses, [200, status], "a POST is sent once");
        drop((client, good));
        // Nobody else is left: the answer that there is has to do.
        eventually("the bad answer", || {
            let mut client = Client::connect(proxy.address);
            let response = client.get("/");
            response.head.status() == status && response.text() == "sorry"
        });
        drop(bad);
        proxy.finish();
    }
}

/// Clients that send one GET after the other on kept connections until they are told to stop.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    faults: Arc<Mutex<Vec<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn start(proxy: SocketAddr, clients: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let faults = Arc::<Mutex<Vec<String>>>::default();
        let serve = |_| {
            let (stop, served, faults) = (stop.clone(), served.clone(), faults.clone());
            thread::spawn(move || {
                let mut client = Client::connect(proxy);
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("/api/v1/hello");
                    if response.head.status() != 200 {
                        let fault = format!("{} {}", response.head.start, response.text());
                        faults.lock().expect("no holder panics").push(fault);
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Self {
            threads: (0..clients).map(serve).collect(),
            stop,
            served,
            faults,
        }
    }

    /// Waits until `count` more requests have been served.
    #[track_caller]
    fn wait_more(&self, count: usize) {
        let goal = self.served.load(Ordering::Relaxed) + count;
        eventually("more requests", || {
            self.served.load(Ordering::Relaxed) >= goal
        });
    }

    /// What was answered other than 200 so far.
    fn faults(&self) -> Vec<String> {
        self.faults.lock().expect("no holder panics").clone()
    }

    /// Stops them all; what was answered other than 200, in all.
    fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("every response arrived whole");
        }
        self.faults()
    }

    /// Stops them all and demands that every request was answered with 200.
    fn finish(self) {
        assert_eq!(self.stop(), Vec::<String>::new());
    }
}

fn killed_backends_cost_no_request(engine: Engine) {
    let mut workers = [0; 3].map(|_| Worker::start("127.0.0.1:0"));
    let backends = workers.each_ref().map(|worker| worker.address.to_string());
    let backends = backends.join(",");
    let flags = [&["--backends", &backends, "--health", "tcp"][..], &QUICK].concat();
    let proxy = Proxy::start(engine, &flags);
    let crowd = Crowd::start(proxy.address, 64);
    for round in 0..10 {
        let worker = &mut workers[round % 3];
        let count = round / 3 + 1;
        crowd.wait_more(200);
        worker.process.signal("KILL");
        wait_said(&proxy, worker.address, "is down", count);
        crowd.wait_more(200);
        worker.restart();
        wait_said(&proxy, worker.address, "is up: checks passed", count);
    }
    crowd.wait_more(200);
    crowd.finish();
    drop(workers);
    proxy.finish();
}

/// A stopped process still takes connections, by its kernel: only time-outs tell. They cost those
/// who ask before it is found out, and nobody afterwards.
fn a_frozen_backend_is_passed_over_and_comes_back(engine: Engine) {
    const CLIENTS: usize = 16;
    let workers = [0; 3].map(|_| Worker::start("127.0.0.1:0"));
    let backends = workers.each_ref().map(|worker| worker.address.to_string());
    let backends = backends.join(",");
    let http = ["--backends", &backends, "--health", "http"];
    let checks = ["--health-interval", "200ms", "--health-timeout", "500ms"];
    let times = ["--response-timeout", "500ms", "--eject-time", "3s"];
    let proxy = Proxy::start(engine, &[&http[..], &checks, &times].concat());
    let frozen = &workers[0];
    let crowd = Crowd::start(proxy.address, CLIENTS);
    crowd.wait_more(200);
    frozen.process.signal("STOP");
    wait_said(&proxy, frozen.address, "is", 1);
    let before = crowd.faults().len();
    crowd.wait_more(500);
    frozen.process.signal("CONT");
    wait_said(&proxy, frozen.address, "is up", 1);
    crowd.wait_more(200);
    let faults = crowd.stop();
    let timed_out = |fault: &String| fault.contains("504 ") && fault.contains("timed out");
    assert!(faults.iter().all(timed_out), "{faults:?}");
    // Each client may have had one request under way when it was found out.
    assert!(faults.len() <= before + CLIENTS, "{before}: {faults:?}");
    let started = now();
    let mut client = Client::connect(proxy.address);
    let port = frozen.address.port().to_string();
    while !client
        .get("/status")
        .expect_status(200)
        .text()
        .contains(&port)
    {
        assert!(started.elapsed() < PATIENCE, "it gets its share again");
    }
    drop((client, workers));
    proxy.finish();
}
