//! Unix sockets: as backends, as listeners, and what becomes of their files.

use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::drain::serve_the_queue;
use crate::support::{
    Broken, Client, Engine, Folder, Framing, Origin, PATIENCE, Pattern, Process, Proxy, Wire,
    answer, eventually, get, now, ok, pause,
};

on_both_engines! {
    a_backend_is_reused_and_takes_large_bodies,
    a_request_without_host_is_for_localhost,
    a_backend_that_reads_no_more_has_its_time_to_answer,
    a_backend_that_is_gone_is_passed_over,
    a_backend_whose_queue_is_full_is_passed_over,
    a_full_queue_is_waited_for_where_there_is_no_other,
    two_workers_share_a_listener,
    a_client_has_no_address,
    unix_to_unix,
    a_backend_that_restarts_is_found_again,
    a_slow_reader_is_not_cut,
    a_reader_that_stopped_is_cut,
    who_waits_in_the_queue_is_served,
    the_drain_removes_the_file,
    the_file_of_another_is_left_alone,
    a_stale_file_is_replaced,
    a_live_socket_is_in_use,
    a_foreign_file_is_left_alone,
    a_file_has_the_mode_that_is_asked_for,
    a_path_that_is_too_long_is_wrong_usage,
    a_backend_that_is_fastlb_itself_is_refused,
}

/// Answers with what came, and keeps the connection.
fn echo(path: &str) -> Origin {
    Origin::start_unix(path, |conversation| {
        while let Some(request) = conversation.request() {
            conversation.send(answer("200 OK", &["X-Backend: unix"], &request.body));
        }
    })
}

/// A proxy that listens on `path` too; its file is there once this returns.
#[track_caller]
pub(crate) fn listening(engine: Engine, path: &str, backend: &str, options: &[&str]) -> Proxy {
    let listen = format!("unix:{path}");
    let fixed = ["--listen", &listen, "--backends", backend];
    let proxy = Proxy::start(engine, &[&fixed[..], options].concat());
    eventually("the line of the listener", || {
        let named = |line: &String| line.ends_with(&format!("listening on {listen}"));
        proxy.log().iter().any(named)
    });
    proxy
}

/// What a proxy that cannot start says last, and its exit code.
#[track_caller]
fn refusal(engine: Engine, listen: &str, backend: &str) -> (i32, String) {
    let arguments = ["--listen", listen, "--backends", backend];
    let engine = ["--io", engine.flag(), "--cores", "1"];
    let ended = Process::fastlb(&[arguments, engine].concat()).wait_exit();
    (ended.code, ended.log.join("\n"))
}

fn a_backend_is_reused_and_takes_large_bodies(engine: Engine) {
    let folder = Folder::new();
    let origin = echo(&folder.file("a"));
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let body = Pattern::new().whole(1 << 20);
    for _ in 0..3 {
        client.get("/").expect_status(200);
        let response = client.post("/", &body).expect_status(200);
        assert!(response.body == body, "the body is not what was sent");
    }
    assert_eq!(origin.accepted(), 1, "connections to the backend");
    drop((client, origin));
    proxy.finish();
}

fn a_request_without_host_is_for_localhost(engine: Engine) {
    let folder = Folder::new();
    let origin = echo(&folder.file("a"));
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.response().expect_status(200);
    let request = origin.only_request();
    assert_eq!(request.field("host"), Some("localhost"));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    drop((client, origin));
    proxy.finish();
}

/// There is nobody to send the rest to, and nothing to wait for but the answer. A socket of TCP
/// does not tell of such an end.
fn a_backend_that_reads_no_more_has_its_time_to_answer(engine: Engine) {
    let folder = Folder::new();
    let origin = Origin::start_unix(&folder.file("a"), |conversation| {
        let head = conversation.head().expect("a request begins");
        let ended = conversation.wire().writer().shutdown(Shutdown::Read);
        ended.expect("the proxy has not closed");
        conversation.send(match head.target() {
            "/before" => ok(b"the last"),
            _ => b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
        });
        conversation.pass_gate();
    });
    let proxy = Proxy::before_with(engine, &origin, &["--response-timeout", "1s"]);
    let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";

    let mut client = Client::connect(proxy.address);
    client.send(format!("POST /now {head}"));
    let interim = client.wire().head().expect("the backend goes on");
    assert_eq!(interim.status(), 100);
    client.send([b'x'; 500]);
    client.response().expect_status(504);

    let mut client = Client::connect(proxy.address);
    client.get("/before").expect_status(200);
    client.send(format!("POST /behind {head}"));
    client.response().expect_status(504);
    assert_eq!(origin.accepted(), 2, "connections to the backend");
    origin.open_gate();
    drop((client, origin));
    proxy.finish();
}

fn a_backend_that_is_gone_is_passed_over(engine: Engine) {
    let folder = Folder::new();
    let (stale, missing) = (folder.file("stale"), folder.file("missing"));
    drop(UnixListener::bind(&stale).expect("the path is free"));
    let origin = echo(&folder.file("a"));
    let backends = format!("unix:{stale},unix:{missing},{}", origin.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..6 {
        client.get("/").expect_status(200);
    }
    drop((client, origin));
    proxy.finish();
}

/// The kernel says at once that there is no place, and it is not fastlb that is exhausted.
fn a_backend_whose_queue_is_full_is_passed_over(engine: Engine) {
    let folder = Folder::new();
    let full = folder.file("full");
    let _held = full_listener(&full);
    let origin = echo(&folder.file("a"));
    let backends = format!("unix:{full},{}", origin.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    let asked = now();
    for _ in 0..6 {
        client.get("/").expect_status(200);
    }
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "it waited: {took:?}");
    drop((client, origin));
    proxy.finish();
}

fn a_full_queue_is_waited_for_where_there_is_no_other(engine: Engine) {
    let folder = Folder::new();
    let full = folder.file("full");
    let held = full_listener(&full);
    let backend = format!("unix:{full}");
    let proxy = Proxy::start(engine, &["--backends", &backend, "--eject-after", "1"]);
    let mut client = Client::connect(proxy.address);
    client.send(get("/"));
    // Longer than one that refuses is tried again.
    pause(Duration::from_millis(200));
    let listener = &held[0];
    let patient = listener.set_read_timeout(Some(PATIENCE));
    patient.expect("the time is not zero");
    let accept = || listener.accept().expect("somebody is in the queue").0;
    // Those who filled it come first.
    let fillers: Vec<Socket> = held[1..].iter().map(|_| accept()).collect();
    let mut wire = Wire::new(accept().into());
    wire.request().expect("the request comes");
    wire.try_send(&ok(b"late")).expect("the proxy reads");
    assert_eq!(client.response().expect_status(200).text(), "late");
    drop((client, wire, fillers, held));
    proxy.finish();
}

fn two_workers_share_a_listener(engine: Engine) {
    const CLIENTS: usize = 200;
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    let proxy = listening(engine, &path, &origin.backend(), &["--cores", "2"]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..CLIENTS / 4 {
                    let target = format!("/{number}");
                    let mut client = Client::connect_unix(&path);
                    let response = client.get(&target).expect_status(200);
                    assert_eq!(response.text(), target);
                }
            });
        }
    });
    assert_eq!(origin.requests().len(), CLIENTS);
    // All at once, so that they wait for each other in the queue.
    let mut crowd: Vec<Client> = (0..CLIENTS).map(|_| Client::connect_unix(&path)).collect();
    crowd.iter().for_each(|client| client.send(get("/crowd")));
    for client in &mut crowd {
        client.response().expect_status(200);
    }
    drop((crowd, origin));
    proxy.finish();
}

/// Nor is it believed what it says of others, whoever is trusted.
fn a_client_has_no_address(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    let trusting = ["--trusted", "0.0.0.0/0,::/0"];
    let proxy = listening(engine, &path, &origin.backend(), &trusting);
    let mut client = Client::connect_unix(&path);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n");
    client.response().expect_status(200);
    let request = origin.only_request();
    assert_eq!(request.field("x-forwarded-for"), None);
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    drop((client, origin));
    proxy.finish();
}

fn unix_to_unix(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), echo(&folder.file("a")));
    let proxy = listening(engine, &path, &origin.backend(), &["--cores", "2"]);
    let body = Pattern::new().whole(1 << 20);
    let mut client = Client::connect_unix(&path);
    for _ in 0..3 {
        let response = client.post("/", &body).expect_status(200);
        assert!(response.body == body, "the body is not what was sent");
    }
    // A client that leaves in the middle leaves nothing behind.
    let cut = Client::connect_unix(&path);
    cut.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    drop((cut, client, origin));
    proxy.finish();
}

/// Its pooled connections die with it, and the file leads to a new socket.
fn a_backend_that_restarts_is_found_again(engine: Engine) {
    let folder = Folder::new();
    let path = folder.file("a");
    let origin = echo(&path);
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.get("/").expect_status(200);
    drop(origin);
    assert!(client.get("/").head.status() >= 500);
    fs::remove_file(&path).expect("the origin leaves its file");
    let origin = echo(&path);
    client.get("/").expect_status(200);
    drop((client, origin));
    proxy.finish();
}

/// More than the queues of the sockets hold, so that sends have to wait for the reader.
const LARGE: u64 = 768 << 10;

/// A response of [`LARGE`] bytes by way of `path`, where a second without progress is the end.
fn large_response(engine: Engine, path: &str) -> (Origin, Proxy, Client) {
    let origin = Origin::answering(|_| ok(&Pattern::new().whole(LARGE)));
    let impatient = ["--body-idle-timeout", "1s"];
    let proxy = listening(engine, path, &origin.backend(), &impatient);
    let client = Client::connect_unix(path);
    client.send(get("/"));
    (origin, proxy, client)
}

fn a_slow_reader_is_not_cut(engine: Engine) {
    let folder = Folder::new();
    let (origin, proxy, mut client) = large_response(engine, &folder.file("lb"));
    let head = client.wire().head().expect("the response begins");
    let framing = head.response_framing("GET").expect("its framing is sound");
    assert_eq!(framing, Framing::Length(LARGE));
    // Never a piece of the queue in one read, and all of the queue only in more than a second.
    let mut left = LARGE as usize - client.wire().unused().len();
    let (mut stream, mut piece) = (client.wire().writer(), [0; 8192]);
    while left > 0 {
        let read = stream.read(&mut piece).expect("the response goes on");
        assert!(read > 0, "cut with {left} bytes to come");
        left -= read;
        pause(Duration::from_millis(60));
    }
    drop((client, stream, origin));
    proxy.finish();
}

fn a_reader_that_stopped_is_cut(engine: Engine) {
    let folder = Folder::new();
    let (origin, proxy, mut client) = large_response(engine, &folder.file("lb"));
    eventually("the backend to be left", || {
        !origin.requests().is_empty() && origin.open() == 0
    });
    assert_eq!(client.broken_response(), Broken::Cut);
    drop((client, origin));
    proxy.finish();
}

fn who_waits_in_the_queue_is_served(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    let proxy = listening(engine, &path, &origin.backend(), &["--cores", "2"]);
    serve_the_queue(proxy, || Client::connect_unix(&path));
    assert!(!Path::new(&path).exists(), "the file is left");
}

fn the_drain_removes_the_file(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    let proxy = listening(engine, &path, &origin.backend(), &[]);
    Client::connect_unix(&path).get("/").expect_status(200);
    drop(origin);
    proxy.finish();
    assert!(!Path::new(&path).exists(), "the file is left");
}

/// The next fastlb may take the path over while this one still drains.
fn the_file_of_another_is_left_alone(engine: Engine) {
    let folder = Folder::new();
    let path = folder.file("lb");
    let origin = Origin::start(|conversation| {
        while conversation.request().is_some() {
            conversation.pass_gate();
            conversation.send(ok(b"late"));
        }
    });
    let old = listening(engine, &path, &origin.backend(), &[]);
    let mut client = Client::connect_unix(&path);
    client.send(get("/"));
    eventually("the request to reach the backend", || {
        origin.requests().len() == 1
    });
    old.signal("TERM");
    eventually("new clients to be refused", || {
        UnixStream::connect(&path).is_err()
    });
    let new = listening(engine, &path, &origin.backend(), &[]);
    origin.open_gate();
    assert_eq!(client.response().expect_status(200).text(), "late");
    drop(client);
    old.wait_exit().expect_clean();
    Client::connect_unix(&path).get("/").expect_status(200);
    drop(origin);
    new.finish();
    assert!(!Path::new(&path).exists(), "the file is left");
}

fn a_stale_file_is_replaced(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    drop(UnixListener::bind(&path).expect("the path is free"));
    let proxy = listening(engine, &path, &origin.backend(), &[]);
    Client::connect_unix(&path).get("/").expect_status(200);
    drop(origin);
    proxy.finish();
}

fn a_live_socket_is_in_use(engine: Engine) {
    let folder = Folder::new();
    let (idle, full) = (folder.file("idle"), folder.file("full"));
    let _listener = UnixListener::bind(&idle).expect("the path is free");
    let _held = full_listener(&full);
    for path in [idle, full] {
        let before = fs::metadata(&path).expect("it is there").ino();
        let (code, log) = refusal(engine, &format!("unix:{path}"), "127.0.0.1:9");
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("another program listens there"), "{log}");
        let after = fs::metadata(&path).expect("it is still there").ino();
        assert_eq!(after, before, "the file was replaced");
    }
}

fn a_foreign_file_is_left_alone(engine: Engine) {
    let folder = Folder::new();
    let (file, link) = (folder.file("file"), folder.file("link"));
    fs::write(&file, "mine").expect("the path is free");
    std::os::unix::fs::symlink("nowhere", &link).expect("the path is free");
    for path in [&file, &link] {
        let (code, log) = refusal(engine, &format!("unix:{path}"), "127.0.0.1:9");
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("is no socket, and is left alone"), "{log}");
    }
    assert_eq!(fs::read(&file).expect("it is still there"), b"mine");
    assert!(fs::symlink_metadata(&link).is_ok(), "the link is gone");
}

fn a_file_has_the_mode_that_is_asked_for(engine: Engine) {
    let folder = Folder::new();
    let (path, origin) = (folder.file("lb"), Origin::named("a"));
    for mode in [0o600, 0o666, 0o777] {
        let listen = format!("unix:{path},mode={mode:o}");
        let arguments = ["--listen", &listen, "--backends", &origin.backend()];
        let proxy = Proxy::start(engine, &arguments);
        let has = fs::metadata(&path)
            .expect("it listens")
            .permissions()
            .mode();
        assert_eq!(has & 0o777, mode, "{has:o}");
        Client::connect_unix(&path).get("/").expect_status(200);
        // The backend keeps its connection.
        proxy.drain().expect_clean();
    }
}

fn a_path_that_is_too_long_is_wrong_usage(engine: Engine) {
    let long = format!("unix:/{}", "a".repeat(107));
    let backend = "127.0.0.1:9";
    for (listen, backend) in [(&*long, backend), ("127.0.0.1:0", &long)] {
        let (code, log) = refusal(engine, listen, backend);
        assert_eq!(code, 2, "{log}");
        assert!(
            log.contains("at most 107 bytes, and this one has 108"),
            "{log}"
        );
    }
}

fn a_backend_that_is_fastlb_itself_is_refused(engine: Engine) {
    let folder = Folder::new();
    let (path, other) = (folder.file("lb"), folder.file("other"));
    std::os::unix::fs::symlink(&path, &other).expect("the path is free");
    for backend in [&path, &other] {
        let (code, log) = refusal(engine, &format!("unix:{path}"), &format!("unix:{backend}"));
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("round in circles"), "{log}");
        assert!(!Path::new(&path).exists(), "the file is left");
    }
}

/// A socket at `path` that nobody accepts from and that has no place left, for as long as the
/// returned sockets live.
fn full_listener(path: &str) -> Vec<Socket> {
    let address = SockAddr::unix(path).expect("the path is short");
    let stream = || Socket::new(Domain::UNIX, Type::STREAM, None).expect("descriptors are left");
    let listener = stream();
    listener.bind(&address).expect("the path is free");
    listener.listen(0).expect("the socket is bound");
    let mut held = vec![listener];
    loop {
        let client = stream();
        client.set_nonblocking(true).expect("the socket is open");
        if client.connect(&address).is_err() {
            return held;
        }
        assert!(held.len() < 16, "the queue of {path} does not fill");
        held.push(client);
    }
}
