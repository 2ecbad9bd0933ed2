//! Everything that one run of the simulation shares: its network, its memory, what was injected.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use super::executor::Executor;
use super::host::Host;
use crate::io::buffer::Group;
use crate::io::{BufferOptions, ChunkSize, Wheel};
use crate::limits;

thread_local! {
    /// Groups never give their memory back, so the runs of a thread share those of one size.
    static GROUPS: RefCell<BTreeMap<(usize, usize), Rc<Group>>> = RefCell::default();
}

/// How the network of a run behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// Most bytes that one read brings, or one write takes.
    pub(crate) piece_bytes_max: usize,
    /// Most bytes that a connection holds in each direction.
    pub(crate) capacity_bytes: usize,
    /// Of a thousand reads, those that have to wait although something is there.
    pub(crate) delays_per_mille: u32,
    pub(crate) delay_ms_max: u64,
    /// Of a thousand connects and accepts, those that fail for want of something.
    pub(crate) shortages_per_mille: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            piece_bytes_max: usize::MAX,
            capacity_bytes: 64 * 1024,
            delays_per_mille: 0,
            delay_ms_max: 1,
            shortages_per_mille: 0,
        }
    }
}

/// What was done to the worker, to be counted by kind.
pub(crate) type Fault = &'static str;

/// A send that the worker began.
pub(crate) struct Sent {
    pub(crate) connection: u64,
    /// Its first bytes.
    pub(crate) begin: Vec<u8>,
    /// There was something to read on the connection, of which the worker could have known.
    pub(crate) neglects: bool,
}

pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) rng: RefCell<fastrand::Rng>,
    pub(crate) network: Network,
    loud: bool,
    pub(crate) operations: Cell<usize>,
    pub(crate) chunk_waits: Cell<u64>,
    /// Each send over a connection that the worker made, in order.
    pub(crate) sends: RefCell<Vec<Sent>>,
    pub(crate) faults: RefCell<BTreeMap<Fault, u64>>,
    /// Connections that a reset ended for one of its sides, and no FIN.
    pub(crate) resets: RefCell<BTreeSet<u64>>,
    pub(super) hosts: RefCell<BTreeMap<SocketAddr, Rc<Host>>>,
    pub(super) small: Rc<Group>,
    pub(super) large: Rc<Group>,
    /// Sends under way that carry a chunk.
    pub(super) carried: Rc<Cell<usize>>,
    pub(super) ends_open: Cell<usize>,
    pub(super) connections: Cell<u64>,
}

impl World {
    /// Has the clock of `wheel` go with the time of the run, in ticks as a worker's does.
    pub(crate) fn turn(self: &Rc<Self>, wheel: &Wheel) {
        let (world, wheel) = (self.clone(), wheel.clone());
        wheel.advance(world.executor.now_ms());
        self.executor.spawn(async move {
            loop {
                world.executor.sleep(limits::TICK_MS).await;
                wheel.advance(world.executor.now_ms());
            }
        });
    }

    pub(crate) fn new(seed: u64, network: Network, buffers: BufferOptions) -> Rc<Self> {
        let small = group(ChunkSize::Small, buffers.small_chunks_max);
        let executor = Executor::new(seed);
        let large = group(ChunkSize::Large, buffers.large_chunks_max);
        let carried = Rc::<Cell<usize>>::default();
        let rest = (small.clone(), large.clone(), carried.clone());
        executor.at_rest(move || {
            let (small, large, carried) = &rest;
            assert_eq!(small.held(), 0, "a wait holds a small chunk");
            assert_eq!(large.held(), carried.get(), "a wait holds a large chunk");
        });
        Rc::new(Self {
            executor,
            rng: RefCell::new(fastrand::Rng::with_seed(!seed)),
            network,
            loud: std::env::var_os("FASTLB_SIM_TRACE").is_some(),
            operations: Cell::new(0),
            chunk_waits: Cell::new(0),
            sends: RefCell::default(),
            faults: RefCell::default(),
            resets: RefCell::default(),
            hosts: RefCell::default(),
            small,
            large,
            carried,
            ends_open: Cell::new(0),
            connections: Cell::new(0),
        })
    }

    /// Ends of connections that are open, on any side.
    pub(crate) fn ends_open(&self) -> usize {
        self.ends_open.get()
    }

    /// Whether it happens, that happens so often in a thousand times.
    pub(crate) fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.borrow_mut().u32(..1000) < per_mille
    }

    /// A number from `low` to `high`.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.rng.borrow_mut().u64(low..=high)
    }

    /// One of them.
    pub(crate) fn any<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.rng.borrow_mut().usize(..choices.len())]
    }

    /// What `work` comes to, or `None` where it takes longer than that.
    pub(crate) async fn within<T>(
        &self,
        milliseconds: u64,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut over = self.executor.sleep(milliseconds);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Pin::new(&mut over).poll(cx).map(|()| None),
        })
        .await
    }

    /// Tells what happens, where somebody wants to know it of this run.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>7} ms  {}", self.executor.run_ms(), what());
        }
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.tell(|| fault.to_owned());
        *self.faults.borrow_mut().entry(fault).or_default() += 1;
    }
}

fn group(size: ChunkSize, chunks_max: usize) -> Rc<Group> {
    GROUPS.with_borrow_mut(|groups| {
        let key = (size as usize, chunks_max);
        let group = groups
            .entry(key)
            .or_insert_with(|| Group::new(size, chunks_max));
        group.clone()
    })
}
