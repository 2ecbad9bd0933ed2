//! The whole balancer: starts the workers, watches over them, drains and stops them.

mod descriptors;
mod listeners;
mod options;
mod watcher;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc as channel, watch};
use tracing::{info, warn};

use crate::balance::{Balancer, Snapshot};
use crate::config::Config;
use crate::fleet::{Control, Published};
use crate::io::{self as engine, Address, EngineChoice, Epoll, ProbeError, SocketFile, Uring};
use crate::limits;
use crate::listener::ConnectionLimit;
use crate::signals::Signals;
use crate::stats::Stats;
use crate::upstream::Reports;
use crate::worker::{self, Stage};
use descriptors::Descriptors;
pub use listeners::check_listen;
use listeners::{Listeners, listen_cure};

/// Why the balancer could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}{}", listen_cure(.address, .error))]
    Listen {
        /// The address asked for.
        address: Address,
        /// What the kernel said.
        error: io::Error,
    },
    /// io_uring was asked for by name and does not work here.
    #[error("io_uring cannot be used: {0}; or use `--io epoll`")]
    Engine(ProbeError),
    /// A backend is the balancer itself.
    #[error("backend {backend} is where fastlb itself listens: requests would go round in circles")]
    Loop {
        /// The backend's address.
        backend: Address,
    },
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
        let mut signals = Signals::new().map_err(installing)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(installing)?;
        let server = Server::start(config)?;
        let stage = server.stage.clone();
        let mut joined = tokio::task::spawn_blocking(move || server.join());
        loop {
            tokio::select! {
                report = &mut joined => {
                    let report = report.map_err(io::Error::other);
                    info!("{}", report.map_err(setup("waiting for the workers"))??);
                    return Ok(());
                }
                () = signals.recv() => next_stage(&stage),
                _ = hangup.recv() => warn!("HUP is passed over: reloading does not exist yet"),
            }
        }
    })
}

fn next_stage(stage: &watch::Sender<Stage>) {
    stage.send_modify(|stage| {
        *stage = if *stage == Stage::Serve {
            Stage::Drain
        } else {
            Stage::Stop
        };
        match stage {
            Stage::Stop => info!("stopping at once"),
            _ => info!("draining; a second signal stops at once"),
        }
    });
}

/// A balancer that is running.
pub struct Server {
    addresses: Vec<Address>,
    engine: &'static str,
    stats: Stats,
    stage: watch::Sender<Stage>,
    /// Those that have not ended yet.
    workers: Vec<Option<JoinHandle<io::Result<worker::Report>>>>,
    /// Which worker has ended; closed once all have.
    ended: mpsc::Receiver<usize>,
    published: Published,
    /// Ends when it is dropped; begins once the workers are ready.
    control: Control,
    /// The watcher stops when this is dropped.
    _watching: mpsc::Sender<()>,
    /// The files of Unix sockets go with it.
    _files: Vec<SocketFile>,
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
        let descriptors = descriptors(&config)?;
        match Self::start_on(engine, &config, &balancer, descriptors) {
            // One ring could be had, but not as many as there are workers.
            Err(Error::Worker { error, .. })
                if config.io == EngineChoice::Auto && engine == Engine::IoUring =>
            {
                warn!("engine epoll, because io_uring cannot be used: {error}");
                Self::start_on(Engine::Epoll, &config, &balancer, descriptors)
            }
            started => started,
        }
    }

    fn start_on(
        engine: Engine,
        config: &Config,
        balancer: &Arc<dyn Balancer>,
        descriptors: Descriptors,
    ) -> Result<Self, Error> {
        let limit = Arc::new(ConnectionLimit::new(descriptors.connections_max));
        let listeners = Listeners::open(&config.listen, config.cores.workers)?;
        listeners.refuse_loops(&config.backends)?;
        let Listeners {
            sockets,
            addresses,
            files: _files,
        } = listeners;
        let (fleet, http) = (options::fleet(config), options::http(config));
        let (line, reported) = channel::channel(limits::REPORTS_MAX);
        let reports = Reports::new(line, config.backends.len());
        let (stage, stages) = watch::channel(Stage::Serve);
        let (ready, readiness) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let not_running = || Arc::new(AtomicU64::new(watcher::NOT_RUNNING));
        let pulses: Vec<_> = sockets.iter().map(|_| not_running()).collect();
        // What may fail comes before the first worker runs, as far as it can.
        let published = fleet.published();
        let (checks, judging) = (config.health.checks.clone(), not_running());
        let (checks_max, send) = (descriptors.checks_max, config.send_proxy);
        let control = Control::prepare(fleet, checks, checks_max, send, reported, judging.clone());
        let mut server = Self {
            addresses,
            engine: engine.name(),
            stats: Stats::new(config.cores.workers, config.backends.len()),
            stage,
            workers: Vec::new(),
            ended,
            published,
            control: control.map_err(setup("starting the control thread"))?,
            _watching: watcher::start(pulses.clone(), judging)?,
            _files,
        };
        for (index, (listeners, pulse)) in sockets.into_iter().zip(pulses).enumerate() {
            let end = WorkerEnd {
                index,
                ending: ending.clone(),
                pulse: pulse.clone(),
            };
            let options = worker::Options {
                mode: config.mode,
                listeners,
                buffers: config.buffers,
                fleet: server.published.clone(),
                reports: reports.clone(),
                balancer: balancer.clone(),
                counters: server.stats.worker(index),
                limit: limit.clone(),
                http: http.clone(),
                upstream: options::upstream(config),
                drain_timeout: config.timeouts.drain,
                stage: stages.clone(),
                pulse,
            };
            let processor = config.cores.processors[index % config.cores.processors.len()];
            match start_worker(end, processor, engine, options, ready.clone()) {
                Ok(worker) => server.workers.push(Some(worker)),
                Err(error) => {
                    drop(ending);
                    return Err(server.give_up(error));
                }
            }
        }
        drop((ready, ending));
        let mut server = server.wait_until_ready(&readiness)?;
        server.control.begin();
        info!("engine {}", server.engine);
        for address in &server.addresses {
            info!("listening on {address}");
        }
        Ok(server)
    }

    /// The addresses that are listened on, with the ports that were free where 0 was asked for.
    pub fn addresses(&self) -> &[Address] {
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

    /// The backends and their health at this moment.
    pub fn fleet(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Asks the workers to finish what is under way and to stop.
    pub fn drain(&self) {
        self.stage
            .send_modify(|stage| *stage = (*stage).max(Stage::Drain));
    }

    /// Waits until every worker has stopped. Where one fails, the others are stopped too.
    ///
    /// # Errors
    /// The first worker that failed.
    pub fn join(mut self) -> Result<Report, Error> {
        let mut sum = worker::Report::default();
        let mut failed = None;
        for index in &self.ended {
            let worker = self.workers[index].take().expect("a worker ends once");
            let ended = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            match ended {
                Ok(report) => {
                    sum.finished += report.finished;
                    sum.cut += report.cut;
                    sum.left.chunks_held += report.left.chunks_held;
                    sum.left.operations += report.left.operations;
                }
                Err(error) => {
                    self.stage.send_replace(Stage::Stop);
                    failed.get_or_insert(Error::Worker { index, error });
                }
            }
        }
        failed.map_or(Ok(Report(sum)), Err)
    }

    fn wait_until_ready(self, readiness: &mpsc::Receiver<()>) -> Result<Self, Error> {
        // The channel closes early where a worker ends before it is ready.
        if readiness.iter().take(self.workers.len()).count() == self.workers.len() {
            return Ok(self);
        }
        let error = io::Error::other("a worker ended before it accepted connections");
        Err(self.give_up(setup("starting the workers")(error)))
    }

    /// Stops the workers that run and waits for them. Where one of them failed that is the error,
    /// otherwise `error` is.
    fn give_up(self, error: Error) -> Error {
        self.stage.send_replace(Stage::Stop);
        self.join().err().unwrap_or(error)
    }
}

/// The engine that the workers run on, decided.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    match choice {
        EngineChoice::Epoll => Ok(Engine::Epoll),
        EngineChoice::IoUring => engine::probe()
            .map(|()| Engine::IoUring)
            .map_err(Error::Engine),
        EngineChoice::Auto => Ok(engine::probe().map_or_else(
            |error| {
                warn!("engine epoll, because io_uring cannot be used: {error}");
                Engine::Epoll
            },
            |()| Engine::IoUring,
        )),
    }
}

/// As many descriptors as the process can get, shared out.
fn descriptors(config: &Config) -> Result<Descriptors, Error> {
    let limit =
        engine::raise_descriptor_limit().map_err(setup("raising the limit of open files"))?;
    let is_checked = config.health.checks.is_some();
    let checked = if is_checked { config.backends.len() } else { 0 };
    let shared = Descriptors::share(limit, config.cores.workers, checked);
    let shared = shared.ok_or(Error::TooFewDescriptors { limit })?;
    let max = shared.connections_max;
    info!("at most {max} connections, by the limit of {limit} open files");
    Ok(shared)
}

fn start_worker(
    end: WorkerEnd,
    processor: usize,
    engine: Engine,
    options: worker::Options,
    ready: mpsc::Sender<()>,
) -> Result<JoinHandle<io::Result<worker::Report>>, Error> {
    let index = end.index;
    let body = move || {
        let _end = end;
        _end.pulse.store(0, Ordering::Relaxed);
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

/// Says that a worker has ended, in whatever way, when it is dropped.
struct WorkerEnd {
    index: usize,
    ending: mpsc::Sender<usize>,
    pulse: Arc<AtomicU64>,
}

impl Drop for WorkerEnd {
    fn drop(&mut self) {
        self.pulse.store(watcher::NOT_RUNNING, Ordering::Relaxed);
        // Nobody listens any more where the server was dropped without a join.
        let _ = self.ending.send(self.index);
    }
}

fn setup(step: &'static str) -> impl Fn(io::Error) -> Error + Copy {
    move |error| Error::Setup { step, error }
}
