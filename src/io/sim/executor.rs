//! Tasks, polled one at a time in an order that the seed decides, and a clock that moves only when
//! none of them can.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The task that [`Executor::block_on`] was called for.
const MAIN: usize = usize::MAX;
/// Most milliseconds of a run; nothing in fastlb waits for as long.
const RUN_MS_MAX: u64 = 10 * 60 * 1000;
/// Most polls of a run.
const POLLS_MAX: u64 = 3_000_000;

/// Why a run did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hang {
    /// Nobody can go on, and no time that passes changes that.
    Deadlock,
    /// Time passes and nothing ends.
    TooLong,
    /// Somebody asks again and again.
    TooBusy,
}

/// Each world has been there for an hour: time that is counted from the start of a worker and not
/// from that of a wait shows.
const BEGIN_MS: u64 = 3_600_000;

pub(crate) struct Executor {
    rng: RefCell<fastrand::Rng>,
    tasks: RefCell<Vec<Option<Task>>>,
    live: Cell<usize>,
    ready: Arc<Ready>,
    now_ms: Cell<u64>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timers_made: Cell<u64>,
    polls: Cell<u64>,
    /// Called when nobody can go on but by time.
    at_rest: RefCell<Option<Box<dyn Fn()>>>,
}

struct Task {
    work: Pin<Box<dyn Future<Output = ()>>>,
    flag: Arc<Flag>,
}

#[derive(Default)]
struct Ready(Mutex<Vec<usize>>);

struct Flag {
    task: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().push(self.task);
        }
    }
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            tasks: RefCell::default(),
            live: Cell::new(0),
            ready: Arc::default(),
            now_ms: Cell::new(BEGIN_MS),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
            polls: Cell::new(0),
            at_rest: RefCell::default(),
        }
    }

    /// Has `check` called whenever nobody can go on but by time.
    pub(crate) fn at_rest(&self, check: impl Fn() + 'static) {
        *self.at_rest.borrow_mut() = Some(Box::new(check));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Milliseconds since the run began.
    pub(crate) fn run_ms(&self) -> u64 {
        self.now_ms() - BEGIN_MS
    }

    /// Polls so far: two runs of a seed that are the same have the same number.
    pub(crate) fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Tasks that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + 'static) -> Waker {
        let mut tasks = self.tasks.borrow_mut();
        let flag = self.flag(tasks.len());
        let waker = Waker::from(flag.clone());
        let work = Box::pin(work);
        tasks.push(Some(Task { work, flag }));
        self.live.set(self.live.get() + 1);
        waker.wake_by_ref();
        waker
    }

    /// Runs `main` to its end, and everything else as far as it comes meanwhile.
    pub(crate) fn block_on<F: Future>(&self, main: F) -> Result<F::Output, Hang> {
        let mut main = pin!(main);
        let flag = self.flag(MAIN);
        flag.wake_by_ref();
        let waker = Waker::from(flag.clone());
        loop {
            let Some(task) = self.next_ready() else {
                self.pass_time()?;
                continue;
            };
            self.polls.set(self.polls.get() + 1);
            if self.polls.get() > POLLS_MAX {
                return Err(Hang::TooBusy);
            }
            if task != MAIN {
                self.poll_task(task);
                continue;
            }
            flag.queued.store(false, Ordering::Relaxed);
            if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(output);
            }
        }
    }

    pub(crate) fn sleep(&self, milliseconds: u64) -> impl Future<Output = ()> + Unpin + '_ {
        let due_ms = self.now_ms() + milliseconds;
        std::future::poll_fn(move |cx| {
            if self.now_ms() >= due_ms {
                return Poll::Ready(());
            }
            self.wake_at(due_ms, cx.waker());
            Poll::Pending
        })
    }

    pub(crate) fn wake_at(&self, due_ms: u64, waker: &Waker) {
        let serial = self.timers_made.replace(self.timers_made.get() + 1);
        self.timers
            .borrow_mut()
            .insert((due_ms, serial), waker.clone());
    }

    fn flag(&self, task: usize) -> Arc<Flag> {
        Arc::new(Flag {
            task,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        })
    }

    fn next_ready(&self) -> Option<usize> {
        let mut ready = self.ready.lock();
        if ready.is_empty() {
            return None;
        }
        let place = self.rng.borrow_mut().usize(..ready.len());
        Some(ready.swap_remove(place))
    }

    fn poll_task(&self, index: usize) {
        let Some(mut task) = self.tasks.borrow_mut()[index].take() else {
            return;
        };
        task.flag.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(task.flag.clone());
        match task.work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => self.live.set(self.live.get() - 1),
            Poll::Pending => self.tasks.borrow_mut()[index] = Some(task),
        }
    }

    /// Moves the clock to the next timer and wakes all that are due by then.
    fn pass_time(&self) -> Result<(), Hang> {
        if let Some(check) = &*self.at_rest.borrow() {
            check();
        }
        let mut timers = self.timers.borrow_mut();
        let Some((&(due_ms, _), _)) = timers.first_key_value() else {
            return Err(Hang::Deadlock);
        };
        if due_ms > BEGIN_MS + RUN_MS_MAX {
            return Err(Hang::TooLong);
        }
        self.now_ms.set(due_ms.max(self.now_ms.get()));
        let later = timers.split_off(&(due_ms + 1, 0));
        let due = std::mem::replace(&mut *timers, later);
        drop(timers);
        due.into_values().for_each(Waker::wake);
        Ok(())
    }
}
