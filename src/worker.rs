//! One worker: a thread on one core with its own engine, listeners, pool, deadlines and counters.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use crate::balance::{Balancer, Snapshot};
use crate::http1::{self, Gateway, Sessions};
use crate::io::{BufferOptions, Io, Stopwatch, Usage, wall_clock_s};
use crate::limits;
use crate::listener::{Arrival, ConnectionLimit, Door};
use crate::stats::WorkerCounters;
use crate::tcp;
use crate::upstream::{self, Backends, Reports};

/// What a worker is built from.
pub(crate) struct Options {
    pub(crate) mode: Mode,
    /// Sockets to accept on, each with whether it demands a header of the PROXY protocol.
    pub(crate) listeners: Vec<(OwnedFd, bool)>,
    pub(crate) buffers: BufferOptions,
    pub(crate) fleet: Arc<ArcSwap<Snapshot>>,
    /// Where failures of backends are reported.
    pub(crate) reports: Reports,
    pub(crate) balancer: Arc<dyn Balancer>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) limit: Arc<ConnectionLimit>,
    pub(crate) http: http1::Options,
    pub(crate) upstream: upstream::Options,
    pub(crate) drain_timeout: Duration,
    pub(crate) stage: watch::Receiver<Stage>,
    /// Grows once a tick for as long as the worker's engine completes operations.
    pub(crate) pulse: Arc<AtomicU64>,
}

/// What is balanced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Requests of HTTP/1.x.
    #[default]
    Http,
    /// Connections, whatever they carry.
    Tcp,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "http" => Ok(Self::Http),
            "tcp" => Ok(Self::Tcp),
            _ => Err("there are http and tcp".to_owned()),
        }
    }
}

/// How far the program is, as its workers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Serve,
    /// Finish what is under way, then stop.
    Drain,
    /// Stop at once.
    Stop,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections that came to their own end.
    pub finished: u64,
    /// Connections that were cut because the time to drain was over.
    pub cut: u64,
    /// What had not come back at the end; all zero unless fastlb has a fault.
    pub left: Usage,
}

/// Runs a worker on the calling thread until it has drained. `ready` is called once it accepts.
///
/// # Errors
/// Where its engine cannot be built: what the kernel said.
pub(crate) fn run<I: Io>(options: Options, ready: impl FnOnce()) -> io::Result<Report> {
    let (report, left) = I::run(options.buffers, |io| serve(io, options, ready))?;
    Ok(Report { left, ..report? })
}

async fn serve<I: Io>(io: I, options: Options, ready: impl FnOnce()) -> io::Result<Report> {
    let Options {
        fleet,
        reports,
        balancer,
        counters,
        limit,
        http,
        upstream,
        mut stage,
        ..
    } = options;
    let backends = Backends::new(
        io.clone(),
        fleet,
        balancer,
        upstream,
        counters.clone(),
        reports,
    );
    let gateway = Rc::new(Gateway::new(io.clone(), backends, counters.clone(), http));
    gateway.set_date(wall_clock_s());
    let door = Door::new(limit, counters.clone());
    let listeners = options
        .listeners
        .into_iter()
        .map(|(listener, proxied)| Ok((io.listener(listener)?, proxied)));
    let listeners: Vec<(I::Listener, bool)> = listeners.collect::<io::Result<_>>()?;
    let stopped = Rc::new(Cell::new(false));
    let sessions = Sessions::new(gateway.clone());
    let ticking = spawn_local(tick(
        gateway.clone(),
        sessions.clone(),
        door.clone(),
        options.pulse,
        stopped.clone(),
    ));
    let keeping = spawn_local(keep_pool(gateway.clone()));
    let accepting = accept(options.mode, &gateway, &sessions, &door, &listeners);
    ready();

    // An error means that whoever drives us is gone, which is a reason to stop as well.
    let _ = stage.wait_for(|&stage| stage >= Stage::Drain).await;
    gateway.drain();
    door.close();
    listeners
        .iter()
        .for_each(|(listener, _)| io.cancel_accept(listener));
    for acceptor in accepting {
        acceptor.await.map_err(io::Error::other)?;
    }
    drop(listeners);
    let cut = drain(&gateway, &door, options.drain_timeout, &stage).await;
    keeping.abort();
    gateway.backends.pool.clear();
    stopped.set(true);
    ticking.await.map_err(io::Error::other)?;
    Ok(Report {
        finished: counters.accepted.read() - cut,
        cut,
        left: Usage::default(),
    })
}

/// Lets busy sessions finish, cuts those that take too long, and returns how many that were.
async fn drain<I: Io>(
    gateway: &Gateway<I>,
    door: &Door,
    timeout: Duration,
    stage: &watch::Receiver<Stage>,
) -> u64 {
    let clock = Stopwatch::start();
    while door.guests() > 0 {
        let over = clock.elapsed_ms() >= timeout.as_millis() as u64;
        if over || *stage.borrow() == Stage::Stop {
            break;
        }
        door.change().await;
    }
    let cut = door.guests();
    gateway.wheel.cut();
    while door.guests() > 0 {
        door.change().await;
    }
    cut
}

fn accept<I: Io>(
    mode: Mode,
    gateway: &Rc<Gateway<I>>,
    sessions: &Rc<Sessions<I>>,
    door: &Rc<Door>,
    listeners: &[(I::Listener, bool)],
) -> Vec<JoinHandle<()>> {
    let accept_on = |&(ref listener, proxied): &(I::Listener, bool)| {
        let (sessions, gateway_of_tcp) = (sessions.clone(), gateway.clone());
        // A session that panics ends alone: its task is the boundary.
        let serve = move |socket, peer, guest| {
            let arrival = Arrival { peer, proxied };
            match mode {
                Mode::Http => drop(spawn_local(sessions.clone().open(socket, arrival, guest))),
                Mode::Tcp => {
                    let session = tcp::open(gateway_of_tcp.clone(), socket, arrival, guest);
                    drop(spawn_local(session));
                }
            }
        };
        let shed = {
            let gateway = gateway.clone();
            move || gateway.backends.pool.shed()
        };
        let io = gateway.io.clone();
        spawn_local(door.clone().accept(io, listener.clone(), serve, shed))
    };
    listeners.iter().map(accept_on).collect()
}

async fn keep_pool<I: Io>(gateway: Rc<Gateway<I>>) {
    gateway.backends.pool.keep().await;
}

/// The worker's clock: everything that happens once a tick.
async fn tick<I: Io>(
    gateway: Rc<Gateway<I>>,
    sessions: Rc<Sessions<I>>,
    door: Rc<Door>,
    pulse: Arc<AtomicU64>,
    stopped: Rc<Cell<bool>>,
) {
    let clock = Stopwatch::start();
    let (mut ticked_ms, mut more) = (0, false);
    while !stopped.get() {
        let io = &gateway.io;
        match more {
            true => io.pause().await,
            false => io.sleep(Duration::from_millis(limits::TICK_MS)).await,
        }
        let now_ms = clock.elapsed_ms();
        gateway.wheel.set_now(now_ms);
        more = gateway.wheel.expire(limits::EXPIRIES_PER_TURN);
        if now_ms - ticked_ms < limits::TICK_MS {
            continue;
        }
        ticked_ms = now_ms;
        gateway.set_date(wall_clock_s());
        gateway.backends.tick(now_ms);
        gateway.io.tick();
        sessions.tick();
        door.tick();
        let waits = gateway.io.usage().chunk_waits;
        gateway
            .counters
            .chunk_waits
            .add(waits - gateway.counters.chunk_waits.read());
        pulse.store(pulse.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}
