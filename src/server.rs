//! The whole balancer: starts the workers, watches over them, drains and stops them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::balance::Balancer;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::http1;
use crate::io::{self as engine, EngineChoice, Epoll, ProbeError, Uring};
use crate::limits;
use crate::listener::ConnectionLimit;
use crate::stats::Stats;
use crate::upstream;
use crate::worker::{self, Phase};

/// Why the balancer could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}{}", listen_cure(.error))]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
    /// io_uring was asked for by name and does not work here.
    #[error("io_uring cannot be used: {0}; or use `--io epoll`")]
    Engine(ProbeError),
    /// There are too few descriptors for a single connection.
    #[error(
        "the limit of {limit} open files leaves none for connections: raise it with \
         `ulimit -n`, or LimitNOFILE= in systemd"
    )]
    TooFewDescriptors {
        /// The hard limit of the process.
        limit: usize,
    },
    /// A worker could not start or ended by itself.
    #[error("worker {index} failed: {error}")]
    Worker {
        /// Which worker.
        index: usize,
        /// What it said.
        error: io::Error,
    },
    /// The process could not be set up.
    #[error("{step} failed: {error}")]
    Setup {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// How the balancer ended: the sum of its workers' reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report(worker::Report);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker::Report {
            finished,
            cut,
            left,
        } = self.0;
        write!(
            f,
            "stopped: {finished} connections finished, {cut} cut, {} chunks held, {} operations \
             in flight",
            left.chunks_held, left.operations
        )
    }
}

/// Runs the balancer until TERM or INT has drained it; a second signal stops it at once.
///
/// # Errors
/// What kept it from starting, or which worker failed.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(setup("building the control runtime"))?;
    runtime.block_on(async {
        let installing = setup("installing the signal handlers");
        let mut terminate = signal(SignalKind::terminate()).map_err(installing)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(installing)?;
        let server = Server::start(config)?;
        let phase = server.phase.clone();
        let mut joined = tokio::task::spawn_blocking(move || server.join());
        loop {
            tokio::select! {
                report = &mut joined => {
                    let report = report.map_err(io::Error::other);
                    info!("{}", report.map_err(setup("waiting for the workers"))??);
                    return Ok(());
                }
                _ = terminate.recv() => next_phase(&phase),
                _ = interrupt.recv() => next_phase(&phase),
            }
        }
    })
}

fn next_phase(phase: &watch::Sender<Phase>) {
    phase.send_modify(|phase| {
        *phase = if *phase == Phase::Serve {
            Phase::Drain
        } else {
            Phase::Stop
        };
        match phase {
            Phase::Stop => info!("stopping at once"),
            _ => info!("draining; a second signal stops at once"),
        }
    });
}

/// A balancer that is running.
pub struct Server {
    addresses: Vec<SocketAddr>,
    engine: &'static str,
    stats: Stats,
    phase: watch::Sender<Phase>,
    workers: Vec<JoinHandle<io::Result<worker::Report>>>,
    /// The watcher stops when this is dropped.
    _watching: mpsc::Sender<()>,
}

impl Server {
    /// Starts the workers and returns once all of them accept.
    ///
    /// # Errors
    /// What kept it from starting; nothing of it runs then.
    pub fn start(config: Config) -> Result<Self, Error> {
        let balancer = config.balance.build();
        Self::start_with(config, balancer)
    }

    /// As [`Server::start`], with a balancer of the caller's own.
    ///
    /// # Errors
    /// As those of [`Server::start`].
    pub fn start_with(config: Config, balancer: Arc<dyn Balancer>) -> Result<Self, Error> {
        let engine = choose_engine(config.io)?;
        let limit = Arc::new(ConnectionLimit::new(connection_max(config.cores.workers)?));
        let (listeners, addresses) = listen(&config.listen, config.cores.workers)?;
        let fleet = Fleet::new(&config.backends);
        let stats = Stats::new(config.cores.workers, config.backends.len());
        let (phase, phases) = watch::channel(Phase::Serve);
        let (ready, readiness) = mpsc::channel();
        let mut workers = Vec::new();
        let mut pulses = Vec::new();
        for (index, listeners) in listeners.into_iter().enumerate() {
            let pulse = Arc::<AtomicU64>::default();
            pulses.push(pulse.clone());
            let options = worker::Options {
                listeners,
                buffers: config.buffers,
                fleet: fleet.published(),
                balancer: balancer.clone(),
                counters: stats.worker(index),
                limit: limit.clone(),
                http: http_options(&config),
                upstream: upstream_options(&config),
                drain_timeout: config.timeouts.drain,
                phase: phases.clone(),
                pulse,
            };
            let processor = config.cores.processors[index % config.cores.processors.len()];
            workers.push(start_worker(
                index,
                processor,
                engine,
                options,
                ready.clone(),
            )?);
        }
        drop(ready);
        let _watching = start_watcher(pulses, phases)?;
        let server = Self {
            addresses,
            engine: engine.name(),
            stats,
            phase,
            workers,
            _watching,
        };
        let server = server.wait_until_ready(&readiness)?;
        for address in &server.addresses {
            info!("listening on {address}");
        }
        Ok(server)
    }

    /// The addresses that are listened on, with the ports that were free where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The engine that runs: `io_uring` or `epoll`.
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// The counters of all workers.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Asks the workers to finish what is under way and to stop.
    pub fn drain(&self) {
        self.phase
            .send_modify(|phase| *phase = (*phase).max(Phase::Drain));
    }

    /// Waits until every worker has stopped.
    ///
    /// # Errors
    /// The first worker that failed.
    pub fn join(self) -> Result<Report, Error> {
        let mut sum = worker::Report::default();
        for (index, worker) in self.workers.into_iter().enumerate() {
            let ended = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            let report = ended.map_err(|error| {
                // The others must not wait for a signal that nobody sends any more.
                self.phase.send_replace(Phase::Stop);
                Error::Worker { index, error }
            })?;
            sum.finished += report.finished;
            sum.cut += report.cut;
            sum.left.chunks_held += report.left.chunks_held;
            sum.left.operations += report.left.operations;
        }
        Ok(Report(sum))
    }

    fn wait_until_ready(self, readiness: &mpsc::Receiver<()>) -> Result<Self, Error> {
        // The channel closes early where a worker ends before it is ready.
        if readiness.iter().take(self.workers.len()).count() == self.workers.len() {
            return Ok(self);
        }
        self.phase.send_replace(Phase::Stop);
        self.join()?;
        let error = io::Error::other("a worker ended before it accepted connections");
        Err(setup("starting the workers")(error))
    }
}

/// The engine that the workers run on, decided.
#[derive(Clone, Copy)]
enum Engine {
    IoUring,
    Epoll,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

fn choose_engine(choice: EngineChoice) -> Result<Engine, Error> {
    let engine = match choice {
        EngineChoice::Epoll => Engine::Epoll,
        EngineChoice::IoUring => engine::probe()
            .map(|()| Engine::IoUring)
            .map_err(Error::Engine)?,
        EngineChoice::Auto => match engine::probe() {
            Ok(()) => Engine::IoUring,
            Err(error) => {
                warn!("engine epoll, because io_uring cannot be used: {error}");
                return Ok(Engine::Epoll);
            }
        },
    };
    info!("engine {}", engine.name());
    Ok(engine)
}

/// Half of the descriptors that sessions may have: each needs one downstream and one upstream.
fn connection_max(workers: usize) -> Result<usize, Error> {
    let limit =
        engine::raise_descriptor_limit().map_err(setup("raising the limit of open files"))?;
    let reserve = limits::DESCRIPTORS_RESERVED + workers * limits::DESCRIPTORS_RESERVED_PER_WORKER;
    match limit.saturating_sub(reserve) / 2 {
        0 => Err(Error::TooFewDescriptors { limit }),
        max => {
            info!("at most {max} connections, by the limit of {limit} open files");
            Ok(max)
        }
    }
}

/// Sockets for every worker and the addresses they are bound to.
fn listen(
    addresses: &[SocketAddr],
    workers: usize,
) -> Result<(Vec<Vec<OwnedFd>>, Vec<SocketAddr>), Error> {
    let mut listeners: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for &asked in addresses {
        let failed = |error| Error::Listen {
            address: asked,
            error,
        };
        engine::check_port_free(asked).map_err(failed)?;
        let mut address = asked;
        for listeners in &mut listeners {
            let socket = engine::listen(address).map_err(failed)?;
            // The first one chooses where any port will do; the others share it.
            address = engine::local_address(&socket).map_err(failed)?;
            listeners.push(socket);
        }
        bound.push(address);
    }
    Ok((listeners, bound))
}

fn listen_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has it: stop that, or choose another port",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one, or \
             `setcap cap_net_bind_service=+ep` the binary"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

fn start_worker(
    index: usize,
    processor: usize,
    engine: Engine,
    options: worker::Options,
    ready: mpsc::Sender<()>,
) -> Result<JoinHandle<io::Result<worker::Report>>, Error> {
    let body = move || {
        if let Err(error) = engine::pin_to_processor(processor) {
            warn!("worker {index} cannot be pinned to processor {processor}: {error}");
        }
        let ready = move || {
            // Nobody listens any more where another worker failed first.
            let _ = ready.send(());
        };
        match engine {
            Engine::IoUring => worker::run::<Uring>(options, ready),
            Engine::Epoll => worker::run::<Epoll>(options, ready),
        }
    };
    let thread = thread::Builder::new().name(format!("worker-{index}"));
    thread
        .spawn(body)
        .map_err(setup("starting a worker thread"))
}

/// Counts the beats in which a worker's engine has completed nothing, and ends the process when
/// they are too many: a worker that hangs holds connections that nobody else can serve.
fn start_watcher(
    pulses: Vec<Arc<AtomicU64>>,
    phases: watch::Receiver<Phase>,
) -> Result<mpsc::Sender<()>, Error> {
    let (watching, stop) = mpsc::channel::<()>();
    let beat = Duration::from_millis(limits::BEAT_MS);
    let body = move || {
        let mut seen = vec![(0, 0); pulses.len()];
        // Beats are counted, not time: a machine that is paused pauses them too.
        while stop.recv_timeout(beat) == Err(mpsc::RecvTimeoutError::Timeout) {
            if *phases.borrow() != Phase::Serve {
                continue;
            }
            for (index, (pulse, (last, missed))) in pulses.iter().zip(&mut seen).enumerate() {
                let now = pulse.load(Ordering::Relaxed);
                *missed = if now == *last { *missed + 1 } else { 0 };
                *last = now;
                if *missed >= limits::BEATS_MISSED_MAX {
                    error!("worker {index} has been stuck for {missed} seconds; giving up");
                    process::exit(1);
                }
            }
        }
    };
    let thread = thread::Builder::new().name("watcher".to_owned());
    thread
        .spawn(body)
        .map_err(setup("starting the watcher thread"))?;
    Ok(watching)
}

fn http_options(config: &Config) -> http1::Options {
    http1::Options {
        header_timeout: config.timeouts.header,
        idle_timeout: config.timeouts.idle,
        response_timeout: config.timeouts.response,
        body_idle_timeout: config.timeouts.body_idle,
        trusted: config.trusted.clone(),
    }
}

fn upstream_options(config: &Config) -> upstream::Options {
    upstream::Options {
        connect_timeout: config.timeouts.connect,
        retries: config.retries,
        pool_idle_max: limits::POOL_IDLE_MAX,
        pool_idle_timeout: Duration::from_millis(limits::POOL_IDLE_TIMEOUT_MS),
    }
}

fn setup(step: &'static str) -> impl Fn(io::Error) -> Error + Copy {
    move |error| Error::Setup { step, error }
}
