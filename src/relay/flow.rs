//! Two streams joined: bytes both ways, as they are, until both sides have said all they had to
//! say. A TCP session is one, and a tunnel behind a switch of protocols.
//!
//! The end of one direction is passed on and the other goes on. A reset ends both, and so does
//! standing still for too long.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::copy::{Half, RelayEnd, relay};
use super::pace::{ClientSide, Pace, Patience, Traffic, next_look};
use super::stream::Stream;
use crate::io::{Deadline, Io, Parcel, Wheel};
use crate::limits;

/// How long a flow may stand still: neither direction moves and no peer acknowledges anything.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// With both directions open; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// With one direction closed.
    pub half_closed_timeout: Duration,
    /// Once the program drains.
    pub drain_idle: Duration,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowEnd {
    /// Both sides have closed.
    Finished,
    /// It was idle when the program drained.
    Drained,
    /// The client's connection is lost.
    ClientLost,
    /// The backend's connection is lost.
    BackendLost,
    /// Nothing moved for too long.
    Idle,
    /// The time to drain was over.
    Cut,
}

impl FlowEnd {
    /// Whether the peers may take the end for that of everything that was to be said.
    pub(crate) fn is_clean(self) -> bool {
        matches!(self, Self::Finished | Self::Drained)
    }

    /// A short phrase for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Drained => "idle while draining",
            Self::ClientLost => "client lost",
            Self::BackendLost => "backend lost",
            Self::Idle => "idle for too long",
            Self::Cut => "cut",
        }
    }
}

/// A client and a backend that are to be joined.
pub(crate) struct Flow<'a, I: Io> {
    pub(crate) client: &'a mut Stream<I>,
    pub(crate) backend: &'a mut Stream<I>,
    /// What the client is sent before anything else.
    pub(crate) greeting: Parcel,
    /// Called whenever bytes of the backend have come.
    pub(crate) heard: &'a dyn Fn(),
    /// The one wait of the flow; nobody else uses it meanwhile.
    pub(crate) deadline: &'a Deadline,
    pub(crate) wheel: &'a Wheel,
    pub(crate) options: &'a FlowOptions,
}

impl<I: Io> Flow<'_, I> {
    /// Relays until both directions are done, or the flow is. Where the end is not clean, the close
    /// of both sockets is a reset.
    pub(crate) async fn run(self, is_draining: impl Fn() -> bool) -> FlowEnd {
        let Self {
            client,
            backend,
            mut greeting,
            heard,
            deadline,
            wheel,
            options,
        } = self;
        let io = client.io.clone();
        let (downlink, uplink) = (client.socket.clone(), backend.socket.clone());
        let traffic = Traffic::new(Patience::Watched, None);
        traffic.came(greeting.len());
        traffic.came(client.inbox.bytes().len());
        traffic.came(backend.inbox.bytes().len());
        // The vigil below knows when to give up; this only ends when everything does.
        let unlimited = wheel.deadline();
        let pace = Pace {
            deadline: &unlimited,
            client: ClientSide::Neither,
            traffic: &traffic,
        };
        if !backend.inbox.is_empty() {
            heard();
        }
        let (mut up, mut down) = (Half::raw(), Half::raw());
        // What came behind the greeting goes along, so that no chunk waits until that is sent.
        down.load(&mut backend.inbox, &mut greeting)
            .expect("nothing is wrong with bytes as they are");
        let mut request = Parcel::default();
        let upload = pin!(relay(&mut up, client, &uplink, &mut request, pace));
        let download = pin!(relay(&mut down, backend, &downlink, &mut greeting, pace));
        let acknowledged = || {
            io.acknowledged(&downlink)
                .wrapping_add(io.acknowledged(&uplink))
        };
        let vigil = Vigil::new(deadline, || traffic.moved().wrapping_add(acknowledged()));
        let directions = Directions {
            upload: Direction::new(upload),
            download: Direction::new(download),
            traffic: &traffic,
            heard,
            options,
        };
        let links = (&downlink, &uplink);
        let lookout = Lookout::new(wheel.deadline());
        let ending = directions.run(&io, links, vigil, lookout, is_draining);
        let (end, answered) = ending.await;
        let end = if wheel.is_cut() { FlowEnd::Cut } else { end };
        if !end.is_clean() {
            io.abort(&uplink);
            if answered && end == FlowEnd::BackendLost {
                // All that the backend had to say may still be on its way to the client.
                io.half_close(&downlink);
            } else {
                io.abort(&downlink);
            }
        }
        end
    }
}

/// One direction, and how it ended.
struct Direction<'a, F> {
    future: Pin<&'a mut F>,
    end: Option<Result<(), RelayEnd>>,
}

impl<'a, F: Future<Output = Result<(), RelayEnd>>> Direction<'a, F> {
    fn new(future: Pin<&'a mut F>) -> Self {
        Self { future, end: None }
    }

    /// Polls it, and tells whether it has just come to a good end.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.is_none()
            && let Poll::Ready(end) = self.future.as_mut().poll(cx)
        {
            self.end = Some(end);
            return end.is_ok();
        }
        false
    }
}

struct Directions<'a, U, D> {
    upload: Direction<'a, U>,
    download: Direction<'a, D>,
    traffic: &'a Traffic,
    heard: &'a dyn Fn(),
    options: &'a FlowOptions,
}

impl<U, D> Directions<'_, U, D>
where
    U: Future<Output = Result<(), RelayEnd>>,
    D: Future<Output = Result<(), RelayEnd>>,
{
    async fn run<I: Io>(
        mut self,
        io: &I,
        (downlink, uplink): (&I::Socket, &I::Socket),
        mut vigil: Vigil<'_, impl Fn() -> u64>,
        mut lookout: Lookout,
        is_draining: impl Fn() -> bool,
    ) -> (FlowEnd, bool) {
        let mut answered = false;
        let end = poll_fn(|cx| {
            // A close is passed on, unless the other direction is lost: then there is a reset. The
            // kernel tells of one once, so a send may have heard of it and a receive finds an end.
            let (sent_all, of_client) = (self.upload.poll(cx), self.traffic.came_bytes());
            let answered_all = self.download.poll(cx);
            if self.traffic.came_bytes() > of_client {
                (self.heard)();
            }
            answered |= answered_all && self.upload.end != Some(Err(RelayEnd::SinkReset));
            if sent_all && !is_lost(self.download.end) {
                io.half_close(uplink);
            }
            if answered_all && !is_lost(self.upload.end) {
                io.half_close(downlink);
            }
            if let Some(end) = self.end() {
                return Poll::Ready(end);
            }
            if lookout.sees(cx, self.may_be_stuck(), || io.is_lost(downlink)) {
                return Poll::Ready(FlowEnd::ClientLost);
            }
            let draining = is_draining();
            ready!(vigil.poll(cx, self.limit(draining)));
            // Who stands still with bytes in hand has not said all that he had to say.
            let at_rest = !self.is_half_closed() && self.traffic.is_settled();
            Poll::Ready(match draining && at_rest {
                true => FlowEnd::Drained,
                false => FlowEnd::Idle,
            })
        });
        (end.await, answered)
    }

    fn is_half_closed(&self) -> bool {
        self.upload.end.is_some() || self.download.end.is_some()
    }

    /// Whether bytes wait for somebody to take them, so that nothing may be received from the one
    /// who sent them. After a FIN to the client its own would look like a loss.
    fn may_be_stuck(&self) -> bool {
        !self.is_half_closed() && !self.traffic.is_settled()
    }

    /// How long it may stand still as it is now.
    fn limit(&self, draining: bool) -> Option<Duration> {
        let options = self.options;
        let half_closed = Some(options.half_closed_timeout).filter(|_| self.is_half_closed());
        let drain = Some(options.drain_idle).filter(|_| draining);
        [options.idle_timeout, half_closed, drain]
            .into_iter()
            .flatten()
            .min()
    }

    /// How the flow ended, where it has. A sink that is lost ends its direction alone: what its
    /// peer said before may still be on its way.
    fn end(&self) -> Option<FlowEnd> {
        use RelayEnd::{SinkLost, SinkReset, SourceLost};
        match (self.upload.end, self.download.end) {
            (Some(Err(SourceLost)), _) => Some(FlowEnd::ClientLost),
            (_, Some(Err(SourceLost))) => Some(FlowEnd::BackendLost),
            (Some(Ok(())), Some(Ok(()))) => Some(FlowEnd::Finished),
            (Some(Err(SinkLost | SinkReset)), Some(_)) => Some(FlowEnd::BackendLost),
            (Some(_), Some(Err(SinkLost | SinkReset))) => Some(FlowEnd::ClientLost),
            (Some(Err(SinkLost | SinkReset)) | Some(Ok(())) | None, None)
            | (None, Some(Err(SinkLost | SinkReset)) | Some(Ok(()))) => None,
            // Neither has a limit of its own, so all time is over.
            _ => Some(FlowEnd::Cut),
        }
    }
}

fn is_lost(end: Option<Result<(), RelayEnd>>) -> bool {
    matches!(end, Some(Err(_)))
}

/// Sees whether the client is still there while nothing is received from him, by looking now and
/// then.
struct Lookout {
    deadline: Deadline,
    looking: bool,
}

impl Lookout {
    fn new(deadline: Deadline) -> Self {
        let looking = false;
        Self { deadline, looking }
    }

    /// Whether a look found that somebody `is_lost`. The looks go on for as long as there is
    /// `need`.
    fn sees(&mut self, cx: &mut Context<'_>, need: bool, is_lost: impl Fn() -> bool) -> bool {
        if need != self.looking {
            self.looking = need;
            self.deadline.set(need.then(|| next_look(None)));
        }
        let mut look = self.deadline.guard(pending::<()>());
        while need && Pin::new(&mut look).poll(cx).is_ready() {
            if self.deadline.is_cut() || is_lost() {
                return !self.deadline.is_cut();
            }
            self.deadline.set(Some(next_look(None)));
        }
        false
    }
}

/// Sees whether a flow stands still, by looking now and then whether anything moved.
struct Vigil<'a, P> {
    deadline: &'a Deadline,
    progress: P,
    limit: Option<Duration>,
    /// The progress that no look has found to have changed.
    seen: u64,
    /// When it was first seen.
    since_ms: u64,
}

impl<'a, P: Fn() -> u64> Vigil<'a, P> {
    fn new(deadline: &'a Deadline, progress: P) -> Self {
        deadline.set_interruptible(None);
        Self {
            deadline,
            progress,
            limit: None,
            seen: 0,
            since_ms: 0,
        }
    }

    /// Ready once nothing has moved for as long as `limit`, or everything is over. Another limit
    /// than before counts from now.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>) -> Poll<()> {
        if limit != self.limit {
            self.limit = limit;
            self.begin();
        }
        loop {
            let mut look = self.deadline.guard(pending::<()>());
            let _ = ready!(Pin::new(&mut look).poll(cx));
            if (self.progress)() != self.seen {
                self.begin();
                continue;
            }
            let is_open = |limit| self.deadline.left(self.since_ms, limit).is_some();
            if self.deadline.is_cut() || limit.is_some_and(|limit| !is_open(limit)) {
                return Poll::Ready(());
            }
            self.wait();
        }
    }

    fn begin(&mut self) {
        self.seen = (self.progress)();
        self.since_ms = self.deadline.now_ms();
        self.wait();
    }

    /// Waits for the next look. Each counts from the first, or all of them were late by a tick.
    fn wait(&self) {
        let next = self.limit.map(|limit| {
            let mut looks = (1..limits::TCP_IDLE_LOOKS).map(|n| limit * n / limits::TCP_IDLE_LOOKS);
            let is_to_come = |look: &_| self.deadline.left(self.since_ms, *look).is_some();
            looks.find(is_to_come).unwrap_or(limit)
        });
        self.deadline.set_interruptible_since(self.since_ms, next);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;

    use super::*;
    use crate::relay::flow::FlowEnd::{BackendLost, ClientLost, Cut, Finished};

    use crate::io::BufferOptions;
    use crate::io::sim::{Network, Sim, World};

    type End = Option<Result<(), RelayEnd>>;
    type Socket = <Sim<true> as Io>::Socket;

    const OPTIONS: FlowOptions = FlowOptions {
        idle_timeout: Some(Duration::from_secs(600)),
        half_closed_timeout: Duration::from_secs(30),
        drain_idle: Duration::from_secs(2),
    };
    const DONE: End = Some(Ok(()));
    const SOURCE: End = Some(Err(RelayEnd::SourceLost));
    const SINK: End = Some(Err(RelayEnd::SinkLost));
    const RESET: End = Some(Err(RelayEnd::SinkReset));
    const STALLED: End = Some(Err(RelayEnd::SinkStalled));

    /// What a flow says of itself whose directions ended like this.
    fn with_ends<T>(
        options: FlowOptions,
        (up, down): (End, End),
        say: impl FnOnce(&dyn Fn() -> Option<FlowEnd>, &dyn Fn(bool) -> Option<Duration>) -> T,
    ) -> T {
        let mut upload = pin!(pending());
        let mut download = pin!(pending());
        let traffic = Traffic::new(Patience::Watched, None);
        let directions = Directions {
            upload: Direction {
                future: upload.as_mut(),
                end: up,
            },
            download: Direction {
                future: download.as_mut(),
                end: down,
            },
            traffic: &traffic,
            heard: &|| (),
            options: &options,
        };
        say(&|| directions.end(), &|draining| directions.limit(draining))
    }

    #[test]
    fn a_close_waits_for_the_other_side_and_a_reset_for_nobody() {
        let table = [
            (None, None, None),
            (DONE, None, None),
            (None, DONE, None),
            (SINK, None, None),
            (None, SINK, None),
            (DONE, DONE, Some(Finished)),
            (SOURCE, None, Some(ClientLost)),
            (SOURCE, DONE, Some(ClientLost)),
            (None, SOURCE, Some(BackendLost)),
            (DONE, SOURCE, Some(BackendLost)),
            (SINK, DONE, Some(BackendLost)),
            (RESET, None, None),
            (None, RESET, None),
            (RESET, DONE, Some(BackendLost)),
            (DONE, RESET, Some(ClientLost)),
            (DONE, SINK, Some(ClientLost)),
            (STALLED, None, Some(Cut)),
            (None, STALLED, Some(Cut)),
        ];
        for (up, down, end) in table {
            let said = with_ends(OPTIONS, (up, down), |end, _| end());
            assert_eq!(said, end, "{up:?}, {down:?}");
        }
    }

    /// A client, both ends of a flow, and a backend: each connected to the next but in the middle.
    async fn joined(world: &Rc<World>, io: &Sim<true>) -> [Socket; 4] {
        let addresses = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 80)));
        let [front, back] = addresses.map(|address| world.bind(address));
        let client = world.clone().visit(addresses[0]).await.unwrap();
        let uplink = io.connect(&addresses[1].into()).await.unwrap();
        let (downlink, backend) = (front.next().await.unwrap(), back.next().await.unwrap());
        [client, downlink, uplink, backend]
    }

    /// How a flow between these ends, which nobody listens to.
    async fn end_of(
        io: &Sim<true>,
        (downlink, uplink): (Socket, Socket),
        wheel: &Wheel,
        options: &FlowOptions,
        draining: bool,
    ) -> FlowEnd {
        let flow = Flow {
            client: &mut Stream::new(io.clone(), downlink),
            backend: &mut Stream::new(io.clone(), uplink),
            greeting: Parcel::default(),
            heard: &|| (),
            deadline: &wheel.deadline(),
            wheel,
            options,
        };
        flow.run(|| draining).await
    }

    /// Whether a client sees a reset whose bytes meet a backend that is reset, where that has
    /// `closed` before or not.
    fn client_is_reset(closed: bool) -> bool {
        let world = World::new(0, Network::default(), BufferOptions::default());
        let io = Sim::<true>(world.clone());
        let joining = async {
            let [client, downlink, uplink, backend] = joined(&world, &io).await;
            let flow = async {
                let (links, wheel) = ((downlink, uplink), Wheel::default());
                let end = end_of(&io, links, &wheel, &OPTIONS, false).await;
                assert_eq!(end, BackendLost);
            };
            let peers = async {
                backend.write(b"half").await.unwrap();
                assert_eq!(client.read(64).await.unwrap(), b"half");
                if closed {
                    backend.half_close();
                }
                // Both at once: the send is what hears of it.
                client.write(b"more").await.unwrap();
                backend.reset_on_close();
                drop(backend);
                let rest = client.read(64).await;
                assert!(rest.as_ref().is_ok_and(Vec::is_empty) || rest.is_err());
                rest.is_err()
            };
            tokio::join!(flow, peers).1
        };
        world.executor.block_on(joining).unwrap()
    }

    #[test]
    fn a_reset_is_passed_on_also_where_a_send_is_told_of_it() {
        assert!(client_is_reset(false), "half an answer looks whole");
        assert!(!client_is_reset(true), "a whole answer looks cut");
    }

    /// How a flow ends in which nobody says a word, and after how many milliseconds.
    fn silent(options: FlowOptions, draining: bool) -> (FlowEnd, u64) {
        let world = World::new(0, Network::default(), BufferOptions::default());
        let io = Sim::<true>(world.clone());
        let wheel = Wheel::default();
        world.turn(&wheel);
        let joining = async {
            let [_client, downlink, uplink, _backend] = joined(&world, &io).await;
            // Between two ticks.
            world.executor.sleep(limits::TICK_MS * 3 / 2).await;
            let begin_ms = world.executor.now_ms();
            let end = end_of(&io, (downlink, uplink), &wheel, &options, draining).await;
            (end, world.executor.now_ms() - begin_ms)
        };
        world.executor.block_on(joining).unwrap()
    }

    #[test]
    fn a_silent_flow_ends_in_time() {
        // The first is what an idle flow has of a drain time-out of one second.
        for (limit_ms, draining) in [(500, true), (1_000, false), (100, false), (0, true)] {
            let limit = Duration::from_millis(limit_ms);
            let options = FlowOptions {
                idle_timeout: Some(limit),
                drain_idle: limit,
                ..OPTIONS
            };
            let expected = if draining {
                FlowEnd::Drained
            } else {
                FlowEnd::Idle
            };
            let (end, took_ms) = silent(options, draining);
            assert_eq!(end, expected, "{limit:?}");
            // The clock is late by up to a tick, and the wheel by another.
            let in_time = limit_ms..=limit_ms + 2 * limits::TICK_MS;
            assert!(in_time.contains(&took_ms), "{limit:?}: {took_ms} ms");
        }
    }

    #[test]
    fn who_reads_slowly_moves() {
        const BYTES: usize = 4096;
        let network = Network {
            capacity_bytes: BYTES,
            ..Network::default()
        };
        let world = World::new(0, network, BufferOptions::default());
        let (io, wheel) = (Sim::<true>(world.clone()), Wheel::default());
        world.turn(&wheel);
        let options = FlowOptions {
            idle_timeout: Some(Duration::from_secs(1)),
            ..OPTIONS
        };
        let joining = async {
            let [client, downlink, uplink, backend] = joined(&world, &io).await;
            let flow = end_of(&io, (downlink, uplink), &wheel, &options, false);
            let says = async {
                client.write(&[0; 4 * BYTES]).await.unwrap();
                client.half_close();
            };
            let hears = async {
                let mut heard = 0;
                while let bytes @ [_, ..] = &backend.read(64).await.unwrap()[..] {
                    heard += bytes.len();
                    // A send is under way meanwhile, for many times the limit.
                    if heard < 2 * BYTES {
                        world.executor.sleep(200).await;
                    }
                }
                backend.half_close();
                heard
            };
            let (end, (), heard) = tokio::join!(flow, says, hears);
            (end, heard)
        };
        let ended = world.executor.block_on(joining).unwrap();
        assert_eq!(ended, (Finished, 4 * BYTES));
    }

    #[test]
    fn the_shortest_limit_that_holds_counts() {
        let endless = FlowOptions {
            idle_timeout: None,
            ..OPTIONS
        };
        let table = [
            (OPTIONS, None, false, Some(600)),
            (OPTIONS, DONE, false, Some(30)),
            (OPTIONS, SINK, false, Some(30)),
            (OPTIONS, None, true, Some(2)),
            (OPTIONS, DONE, true, Some(2)),
            (endless, None, false, None),
            (endless, DONE, false, Some(30)),
        ];
        for (options, down, draining, seconds) in table {
            let limit = with_ends(options, (None, down), |_, limit| limit(draining));
            assert_eq!(
                limit,
                seconds.map(Duration::from_secs),
                "{down:?} {draining}"
            );
        }
    }

    #[test]
    fn standing_still_is_found_out_and_moving_is_not_forgotten() {
        let wheel = Wheel::default();
        let (deadline, moved) = (wheel.deadline(), std::cell::Cell::new(0));
        let mut vigil = Vigil::new(&deadline, || moved.get());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let limit = Some(Duration::from_secs(4));
        let mut now_ms = 0;
        let mut passes = |ms: u64, vigil: &mut Vigil<'_, _>, limit| {
            let mut over = vigil.poll(&mut cx, limit).is_ready();
            for _ in 0..ms / limits::TICK_MS {
                now_ms += limits::TICK_MS;
                wheel.advance(now_ms);
                over |= vigil.poll(&mut cx, limit).is_ready();
            }
            over
        };
        assert!(!passes(3_900, &mut vigil, limit));
        moved.set(1);
        assert!(!passes(3_900, &mut vigil, limit));
        // A shorter limit counts from when it came.
        assert!(!passes(900, &mut vigil, Some(Duration::from_secs(1))));
        assert!(passes(1_000, &mut vigil, Some(Duration::from_secs(1))));
        assert!(!passes(100_000, &mut vigil, None));
        wheel.cut();
        assert!(passes(0, &mut vigil, None));
    }
}
