//! A whole balancer in this process, with what no flag can give it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastlb::balance::{Algorithm, Ask, BackendId, Balancer, RoundRobin, Snapshot};
use fastlb::config::{BackendList, Config, Cores, HealthConfig, Timeouts};
use fastlb::io::{BufferOptions, EngineChoice};
use fastlb::server::{Report, Server};
use fastlb::upstream::RetryOn;
use fastlb::worker::Mode;

use crate::{leaves_nothing_open, on_both_engines, pause};

on_both_engines!(
    choices:
    a_session_that_panics_ends_alone,
    idle_connections_cost_no_time,
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
    Config {
        mode: Mode::Http,
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        backends: origin
            .to_string()
            .parse::<BackendList>()
            .unwrap()
            .resolve()
            .unwrap(),
        balance: Algorithm::RoundRobin,
        cores: Cores::of_this_process(Some(1)).unwrap(),
        io: engine,
        timeouts: Timeouts::default(),
        retries: 0,
        retry_on: RetryOn::default(),
        health: HealthConfig::default(),
        trusted: Vec::new(),
        buffers,
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
