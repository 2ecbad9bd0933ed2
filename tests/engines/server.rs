//! A whole balancer in this process, with what no flag can give it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fastlb::balance::{Ask, BackendId, Balancer, Outcome, RoundRobin, Snapshot};
use fastlb::clients::ClientLimits;
use fastlb::config::{BackendList, Config, Cores};
use fastlb::io::{BufferOptions, EngineChoice};
use fastlb::server::{Report, Server};
use fastlb::stats::Limit;
use socket2::{Domain, Socket, Type};

use crate::{eventually, leaves_nothing_open, on_both_engines, pause};

on_both_engines!(
    choices:
    a_session_that_panics_ends_alone,
    each_request_without_a_backend_has_one_answer,
    each_pick_has_one_end,
    idle_connections_cost_no_time,
    refused_headers_are_counted,
    what_limits_end_is_counted_by_reason,
);

/// Serves every connection to the end with the same small answer.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    closing: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Origin {
    pub(crate) fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let closing = Arc::<AtomicBool>::default();
        let closes = closing.clone();
        let answer = Arc::new(answer);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(serve(listener, answer, closes));
        });
        Self {
            address,
            closing,
            thread: Some(thread),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // Wakes the accept loop, which looks at the flag then.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

async fn serve(listener: TcpListener, answer: Arc<Vec<u8>>, closing: Arc<AtomicBool>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while !closing.load(Ordering::Relaxed) {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer_all(stream, answer.clone()));
    }
}

async fn answer_all(mut stream: tokio::net::TcpStream, answer: Arc<Vec<u8>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        request.extend_from_slice(&piece[..read]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

pub(crate) fn config(engine: EngineChoice, origin: SocketAddr, buffers: BufferOptions) -> Config {
    let backends = origin.to_string().parse::<BackendList>().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    let cores = Cores::of_this_process(Some(1)).unwrap();
    Config {
        io: engine,
        retries: 0,
        buffers,
        ..Config::new(vec![listen], backends.resolve().unwrap(), cores)
    }
}

/// Drains the balancer and demands that everything came back.
pub(crate) fn stop(server: Server) -> Report {
    server.drain();
    let report = server.join().unwrap();
    let text = report.to_string();
    assert!(
        text.ends_with("0 chunks held, 0 operations in flight"),
        "{text}"
    );
    report
}

pub(crate) fn get(mut stream: &TcpStream) -> String {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let (mut text, mut piece) = (String::new(), [0; 1024]);
    while !text.ends_with("hello") {
        let read = stream.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    text
}

/// Panics at its first pick, inside the session that asked.
#[derive(Default)]
struct PanicsOnce {
    panicked: AtomicBool,
    then: RoundRobin,
}

impl Balancer for PanicsOnce {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        assert!(self.panicked.swap(true, Ordering::Relaxed), "on purpose");
        self.then.pick(fleet, ask)
    }
}

fn a_session_that_panics_ends_alone(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
        let config = config(engine, origin.address, BufferOptions::default());
        let server = Server::start_with(config, Arc::new(PanicsOnce::default())).unwrap();
        let address = server.addresses()[0].internet().unwrap();
        let (unlucky, lucky) = (
            TcpStream::connect(address).unwrap(),
            TcpStream::connect(address).unwrap(),
        );
        assert_eq!(get(&unlucky), "", "the session is gone");
        assert!(get(&lucky).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(get(&lucky).ends_with("hello"));
        drop((unlucky, lucky));
        stop(server);
        drop(origin);
    });
}

/// Knows of no backend that could serve.
struct PicksNone;

impl Balancer for PicksNone {
    fn pick(&self, _: &Snapshot, _: &Ask<'_>) -> Option<BackendId> {
        None
    }
}

fn each_request_without_a_backend_has_one_answer(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let config = config(engine, nowhere, BufferOptions::default());
        let server = Server::start_with(config, Arc::new(PicksNone)).unwrap();
        let stream = TcpStream::connect(server.addresses()[0].internet().unwrap()).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        let mut answers = BufReader::new(&stream);
        for _ in 0..2 {
            (&stream)
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            let status = read_response(&mut answers);
            assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
        }
        // What was answered twice would still come before the end, if there is one.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        answers.take(1_000).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        drop(stream);
        assert_eq!(server.stats().totals().own_replies, 2);
        stop(server);
    });
}

/// Reads one response with its body, and returns its status line.
fn read_response(from: &mut impl BufRead) -> String {
    let mut head = Vec::new();
    while head.last().is_none_or(|line: &String| !line.is_empty()) {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "the head ends in {line:?}");
        head.push(line.trim_end().to_owned());
    }
    let length = |line: &String| line.strip_prefix("Content-Length: ")?.parse().ok();
    let length: usize = head.iter().find_map(length).unwrap();
    from.read_exact(&mut vec![0; length]).unwrap();
    head.remove(0)
}

/// Keeps what it was asked and told.
#[derive(Default)]
struct Records {
    picked: Mutex<Vec<BackendId>>,
    ended: Mutex<Vec<(BackendId, Outcome)>>,
    then: RoundRobin,
}

impl Balancer for Records {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        let picked = self.then.pick(fleet, ask);
        self.picked.lock().unwrap().extend(picked);
        picked
    }

    fn done(&self, id: BackendId, outcome: &Outcome) {
        self.ended.lock().unwrap().push((id, *outcome));
    }
}

fn each_pick_has_one_end(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
        // Bound and not listening: it refuses.
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        refusing.bind(&any_port.into()).unwrap();
        let refuses = refusing.local_addr().unwrap().as_socket().unwrap();
        let backends = format!("{},{refuses}", origin.address);
        let config = Config {
            backends: backends.parse::<BackendList>().unwrap().resolve().unwrap(),
            retries: 1,
            ..config(engine, origin.address, BufferOptions::default())
        };
        let records = Arc::new(Records::default());
        let server = Server::start_with(config, records.clone()).unwrap();
        let stream = TcpStream::connect(server.addresses()[0].internet().unwrap()).unwrap();
        for _ in 0..6 {
            assert!(get(&stream).ends_with("hello"));
        }
        drop(stream);
        stop(server);

        let mut picked = records.picked.lock().unwrap().clone();
        let mut ended = records.ended.lock().unwrap().clone();
        picked.sort_unstable();
        ended.sort_unstable_by_key(|(id, _)| *id);
        let ids: Vec<_> = ended.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, picked);
        let (good, bad) = (BackendId::new(0).unwrap(), BackendId::new(1).unwrap());
        for (id, outcome) in ended {
            let answered = matches!(outcome, Outcome::Answered { .. });
            assert_eq!(answered, id == good, "{id:?}: {outcome:?}");
        }
        let picks = |id| picked.iter().filter(|picked| **picked == id).count();
        assert_eq!(picks(good), 6, "each request was answered");
        assert!(picks(bad) > 0, "the other one was tried");
        drop((refusing, origin));
    });
}

/// Ten ticks a second are all that an idle worker does.
fn idle_connections_cost_no_time(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
        let config = config(engine, origin.address, BufferOptions::default());
        let server = Server::start(config).unwrap();
        let address = server.addresses()[0].internet().unwrap();
        let clients: Vec<_> = (0..100)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for client in &clients {
            assert!(get(client).ends_with("hello"));
        }
        let before = cpu_ticks();
        pause(1_000);
        let used = cpu_ticks() - before;
        assert!(
            used <= 5,
            "{used} of 100 ticks of a second were used for nothing"
        );
        clients
            .iter()
            .for_each(|client| drop(client.shutdown(Shutdown::Both)));
        stop(server);
        drop((clients, origin));
    });
}

/// Hundredths of a second that this process has used, in user and kernel.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

fn refused_headers_are_counted(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
        let mut config = config(engine, origin.address, BufferOptions::default());
        config.listen[0].proxied = true;
        config.proxy_trusted = vec!["127.0.0.1".parse::<IpAddr>().unwrap().into()];
        let server = Server::start(config).unwrap();
        let address = server.addresses()[0].internet().unwrap();
        let refused = || server.stats().totals().proxy_refused;
        let said = |header: &[u8]| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(header).unwrap();
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            // The whole answer; of a reset that is nothing.
            let _ = client.read(&mut [0; 64]);
        };
        said(b"PROXY UNKNOWN\r\n");
        assert_eq!(refused(), 0);
        said(b"");
        assert_eq!(refused(), 1);
        // Who leaves has done nothing wrong.
        drop(TcpStream::connect(address).unwrap());
        // Another address of the loopback is not trusted.
        let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::from(([127, 0, 0, 9], 0));
        stranger.bind(&from.into()).unwrap();
        // The reset may come before it is known to be connected.
        let _ = stranger.connect(&address.into());
        eventually("the stranger to be refused", || refused() == 2);
        drop(stranger);
        stop(server);
    });
}

fn what_limits_end_is_counted_by_reason(engine: EngineChoice) {
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
        let mut config = config(engine, origin.address, BufferOptions::default());
        config.clients = ClientLimits {
            body_bytes_max: Some(10),
            connections_max: Some(1),
            request_rate: Some("3/m".parse().unwrap()),
            ..ClientLimits::default()
        };
        config.timeouts.header = Some(Duration::from_millis(200));
        config.timeouts.body_idle = Some(Duration::from_millis(200));
        let server = Server::start(config).unwrap();
        let address = server.addresses()[0].internet().unwrap();
        let none = [0; Limit::COUNT];
        assert_eq!(server.stats().totals().limited, none);
        let mut expected = none;
        let long_field = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(20_000));
        let table = [
            (Limit::Head, long_field.as_str()),
            (
                Limit::Body,
                "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
            ),
            (Limit::HeadTime, "GET / HT"),
            (
                Limit::BodyTime,
                "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
            ),
        ];
        for (limit, request) in table {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            expected[limit as usize] += 1;
            eventually(&format!("{limit:?}"), || {
                server.stats().totals().limited == expected
            });
            drop(client);
            eventually("room", || server.stats().totals().active == 0);
        }
        let inside = TcpStream::connect(address).unwrap();
        eventually("the first", || server.stats().totals().active == 1);
        // The reset may come before it is known to be connected.
        let outside = TcpStream::connect(address);
        expected[Limit::Connections as usize] += 1;
        eventually("a refusal", || server.stats().totals().limited == expected);
        // Two requests of the table were understood.
        for _ in 0..2 {
            (&inside)
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
        }
        expected[Limit::Rate as usize] += 1;
        eventually("the rate", || server.stats().totals().limited == expected);
        drop((inside, outside));
        stop(server);
    });
}
