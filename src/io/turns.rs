//! Turns of bulk: how much of it a worker moves before it looks at everything else.
//!
//! Splicing a mebibyte takes a third of a millisecond, and whoever is ready meanwhile waits. So all
//! flows of a worker share one measure; when it is full they wait, in order, until the kernel was
//! asked what else there is.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::queue::{Queue, Turn};
use crate::limits;

/// The bulk of a worker.
#[derive(Default)]
pub(super) struct Turns {
    queue: Rc<Queue>,
    /// Bytes since the last pause.
    moved: Cell<usize>,
    /// Of the one who lets them in.
    keeper: RefCell<Option<Waker>>,
}

impl Turns {
    /// Counts what was moved, and passes it on.
    pub(super) fn counted(&self, moved: io::Result<Option<usize>>) -> io::Result<Option<usize>> {
        if let Ok(Some(bytes)) = moved {
            self.moved.set(self.moved.get() + bytes);
        }
        moved
    }

    fn is_over(&self) -> bool {
        self.moved.get() >= limits::RELAY_TURN_BYTES_MAX
    }

    /// Lets in one after the other, with a pause whenever the measure is full; does not return.
    /// `pause` lasts until the kernel was asked for what is ready.
    pub(super) async fn keep(self: Rc<Self>, pause: impl AsyncFn()) {
        loop {
            std::future::poll_fn(|cx| self.poll_waiting(cx)).await;
            if self.is_over() {
                pause().await;
                self.moved.set(0);
            }
            self.queue.grant_one();
            // Behind the one who was let in.
            pass().await;
        }
    }

    fn poll_waiting(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.queue.is_empty() {
            return Poll::Ready(());
        }
        *self.keeper.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A wait for a turn.
#[derive(Default)]
pub struct BulkTurn {
    turns: Rc<Turns>,
    place: Option<Turn>,
}

impl BulkTurn {
    pub(super) fn new(turns: &Rc<Turns>) -> Self {
        Self {
            turns: turns.clone(),
            place: None,
        }
    }
}

impl Future for BulkTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { turns, place } = &mut *self;
        if place.is_none() && turns.queue.is_empty() && !turns.is_over() {
            return Poll::Ready(());
        }
        let place = place.get_or_insert_with(|| {
            if let Some(keeper) = turns.keeper.take() {
                keeper.wake();
            }
            turns.queue.wait()
        });
        place.poll(cx)
    }
}

/// Lets everybody run who is ready to.
async fn pass() {
    let mut passed = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    /// Has flows of that many pieces move a measure with each of them, and returns who moved when,
    /// by the pauses that were over.
    fn moved(pieces: &'static [usize]) -> Vec<(usize, usize)> {
        let (turns, pauses, log) = (
            Rc::<Turns>::default(),
            Rc::<Cell<_>>::default(),
            Rc::default(),
        );
        let running = async {
            let counted = pauses.clone();
            let pause = async move || {
                counted.set(counted.get() + 1);
                yield_now().await;
            };
            let keeper = spawn_local(turns.clone().keep(pause));
            let flow = |flow: usize, pieces: usize| {
                let log: Rc<RefCell<Vec<_>>> = Rc::clone(&log);
                let (turns, pauses) = (turns.clone(), pauses.clone());
                spawn_local(async move {
                    for _ in 0..pieces {
                        BulkTurn::new(&turns).await;
                        log.borrow_mut().push((flow, pauses.get()));
                        let _ = turns.counted(Ok(Some(limits::RELAY_TURN_BYTES_MAX)));
                    }
                })
            };
            let flows = pieces.iter().enumerate();
            let flows: Vec<_> = flows.map(|(index, &pieces)| flow(index, pieces)).collect();
            for flow in flows {
                flow.await.unwrap();
            }
            keeper.abort();
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        LocalSet::new().block_on(&runtime, running);
        Rc::try_unwrap(log).unwrap().into_inner()
    }

    #[test]
    fn one_measure_is_moved_between_two_pauses_by_one_flow_after_the_other() {
        assert_eq!(moved(&[3]), [(0, 0), (0, 1), (0, 2)]);
        // The first is back in the queue before the others have come.
        let expected = [(0, 0), (0, 1), (1, 2), (2, 3), (1, 4), (2, 5)];
        assert_eq!(moved(&[2, 2, 2]), expected);
    }

    #[test]
    fn a_flow_that_is_gone_is_passed_over() {
        let turns = Rc::<Turns>::default();
        let mut cx = Context::from_waker(Waker::noop());
        let _ = turns.counted(Ok(Some(limits::RELAY_TURN_BYTES_MAX)));
        let mut places: Vec<_> = (0..3).map(|_| BulkTurn::new(&turns)).collect();
        for place in &mut places {
            assert!(Pin::new(place).poll(&mut cx).is_pending());
        }
        drop(places.remove(0));
        assert!(turns.queue.grant_one());
        assert!(Pin::new(&mut places[0]).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut places[1]).poll(&mut cx).is_pending());
    }
}
