//! The worker of a run: what `worker` does on a real engine, beat for beat.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::scenario::Scenario;
use crate::http1::{Gateway, Sessions};
use crate::io::Io;
use crate::io::sim::{Host, Sim, World};
use crate::limits;
use crate::listener::{Arrival, Door};
use crate::tcp;

#[derive(Clone)]
pub(super) struct Worker<const ATTENDED: bool> {
    pub(super) world: Rc<World>,
    pub(super) scenario: Rc<Scenario>,
    pub(super) gateway: Rc<Gateway<Sim<ATTENDED>>>,
    pub(super) sessions: Rc<Sessions<Sim<ATTENDED>>>,
    pub(super) door: Rc<Door>,
    pub(super) stopped: Rc<Cell<bool>>,
}

impl<const ATTENDED: bool> Worker<ATTENDED> {
    pub(super) fn start(&self, listener: &Rc<Host>) {
        let executor = &self.world.executor;
        self.gateway.wheel.advance(executor.now_ms());
        self.gateway.set_date(executor.now_ms() / 1_000);
        let worker = self.clone();
        let serve = move |socket, peer, guest| {
            let (executor, gateway) = (&worker.world.executor, worker.gateway.clone());
            let proxied = worker.scenario.proxied;
            let arrival = Arrival { peer, proxied };
            match worker.scenario.tcp {
                true => drop(executor.spawn(tcp::open(gateway, socket, arrival, guest))),
                false => drop(executor.spawn(worker.sessions.clone().open(socket, arrival, guest))),
            }
        };
        let gateway = self.gateway.clone();
        let shed = move || gateway.backends.pool.shed();
        let io = self.gateway.io.clone();
        executor.spawn(self.door.clone().accept(io, listener.clone(), serve, shed));
        executor.spawn(self.clone().keep_pool());
        executor.spawn(self.clone().tick());
    }

    async fn keep_pool(self) {
        let gateway = &self.gateway;
        let mut keeping = pin!(gateway.backends.pool.keep());
        let mut pause = gateway.io.sleep(TICK);
        poll_fn(|cx| {
            let never = keeping.as_mut().poll(cx);
            debug_assert!(never.is_pending());
            while !self.stopped.get() && pin!(&mut pause).poll(cx).is_ready() {
                pause = gateway.io.sleep(TICK);
            }
            if self.stopped.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    async fn tick(self) {
        let Self { world, gateway, .. } = &self;
        while !self.stopped.get() {
            gateway.io.sleep(TICK).await;
            if world.happens(self.scenario.late_ticks_per_mille) {
                // The thread was busy, or the machine paused: several ticks pass in one.
                world.count("tick comes late");
                let late_ms = world.between(1, LATE_MS_MAX);
                world.executor.sleep(late_ms).await;
            }
            let now_ms = world.executor.now_ms();
            gateway.wheel.advance(now_ms);
            gateway.set_date(now_ms / 1_000);
            gateway.backends.tick(now_ms);
            gateway.io.tick();
            self.sessions.tick();
            self.door.tick();
        }
    }
}

const TICK: Duration = Duration::from_millis(limits::TICK_MS);
/// Most milliseconds that a tick is late.
pub(super) const LATE_MS_MAX: u64 = 350;
