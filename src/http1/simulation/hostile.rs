//! Any bytes in any pieces: a client, or a backend, that sends them, with a strict reader on either
//! side that tells whether both sides were told of the same messages, and of the same tunnels.
//!
//! What is sent comes from a fuzzer, or from the corpus that it left behind. What is right stands
//! in `verdict`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::fleet::Control;
use super::scenario::{PROXIED, Scenario};
use super::verdict::{
    Transcript, answer_bytes, judge_answers, judge_requests, next_request, speaks_on,
};
use super::{Run, front};
use crate::io::sim::{End, Host, World};
use crate::proxy_protocol::{Version, parse};

/// Bytes that are sent at most: reading them again with each piece costs quadratic time.
const SENT_BYTES_MAX: usize = 2048;
/// Most bytes that a client keeps for its tunnel.
const WORDS_BYTES_MAX: u8 = 63;
/// Bytes that an actor asks for at a time.
const READ_BYTES: usize = 4096;
/// What an honest backend answers with.
pub(super) const ANSWER: &[u8] = b"an answer";
/// Milliseconds that somebody is waited for. All bytes of a run come in less, and most runs end
/// by such a wait, so that a longer one costs their time.
const PATIENCE_MS: u64 = 1_000;
/// Most milliseconds that a hostile backend takes its time, before it answers or behind that.
const HESITATION_MS_MAX: u64 = 30;
/// Milliseconds that a connection is kept without a request.
const IDLE_MS: u64 = 300;

/// Runs a worker between one client and its backends, of which one side sends the bytes of
/// `input`, whose first four decide the rest.
///
/// # Panics
/// Where the two sides are told of different messages, or something hangs or is left over.
pub fn session(input: &[u8]) {
    let Some((&[manner, choice, high, low], bytes)) = input.split_first_chunk() else {
        return;
    };
    let seed = u64::from(u16::from_be_bytes([high, low]));
    let plot = Plot::new(manner, choice, &bytes[..bytes.len().min(SENT_BYTES_MAX)]);
    match manner & 2 {
        0 => play::<true>(seed, plot),
        _ => play::<false>(seed, plot),
    }
}

/// What the two sides do.
pub(super) struct Plot {
    /// The backends send the bytes, not the client.
    pub(super) hostile_backend: bool,
    /// Who sends them closes its sending side behind them.
    pub(super) closes: bool,
    /// Each connection of the client has to begin with a header of the PROXY protocol: one that
    /// is right, unless the bytes are the client's.
    pub(super) proxied: bool,
    /// What backends are told of the client.
    pub(super) tells: Option<Version>,
    /// Protocols are switched: an honest client asks for it, and an honest backend does it.
    pub(super) switches: bool,
    /// What is balanced are connections.
    pub(super) tcp: bool,
    /// Which requests are answered by a hostile backend.
    choice: u8,
    pub(super) bytes: Vec<u8>,
    /// What a hostile client says once its connection is a tunnel.
    pub(super) words: Vec<u8>,
}

impl Plot {
    fn new(manner: u8, choice: u8, bytes: &[u8]) -> Self {
        let is = |bit: u8| manner & 1 << bit != 0;
        let (hostile_backend, switches, tcp) = (is(0), is(5), is(6));
        let kept = match switches && !hostile_backend && !tcp {
            true => usize::from(choice & WORDS_BYTES_MAX).min(bytes.len()),
            false => 0,
        };
        let (bytes, words) = bytes.split_at(bytes.len() - kept);
        let version = if is(7) { Version::V2 } else { Version::V1 };
        Self {
            hostile_backend,
            closes: is(2),
            proxied: is(3),
            tells: is(4).then_some(version),
            switches,
            tcp,
            choice,
            bytes: bytes.to_vec(),
            words: words.to_vec(),
        }
    }

    /// What the client of a hostile backend asks: each request has its number for its target.
    pub(super) fn requests(&self) -> [&'static [u8]; 3] {
        const FIRST: [&[u8]; 6] = [
            b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HEAD /0 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET /0 HTTP/1.0\r\n\r\n",
            b"GET /0 HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
            b"POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        ];
        const SWITCH: &[u8] =
            b"GET /0 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let first = match self.switches {
            true => SWITCH,
            false => FIRST[usize::from(self.choice) % FIRST.len()],
        };
        let second = b"HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n";
        let third = b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
        [first, second, third]
    }

    /// What the client says at once, and what it says once it is answered.
    fn speech(&self) -> (Vec<u8>, Vec<u8>) {
        if !self.hostile_backend {
            return (self.bytes.clone(), self.words.clone());
        }
        let header = match self.proxied {
            true => format!("PROXY TCP4 {PROXIED} 10.0.0.1 1 80\r\n"),
            false => String::new(),
        };
        let requests = self.requests();
        // Behind an offer to switch, more requests would be in its way.
        let at_once = if self.switches { 1 } else { requests.len() };
        let (now, then) = requests.split_at(at_once);
        ([header.as_bytes(), &now.concat()].concat(), then.concat())
    }
}

fn play<const ATTENDED: bool>(seed: u64, plot: Plot) {
    let (run, control) = Run::<ATTENDED>::of(seed, scenario(seed, &plot));
    let world = run.world.clone();
    let (plot, transcript) = (Rc::new(plot), Rc::<Transcript>::default());
    let ended = world
        .executor
        .block_on(live(run, control, plot.clone(), transcript.clone()));
    ended.unwrap_or_else(|hang| panic!("{hang:?}"));
    match plot.hostile_backend {
        true => judge_answers(&world, &plot, &transcript),
        false => judge_requests(&plot, &transcript),
    }
}

/// The scenario of a seed without what its actors do by themselves.
fn scenario(seed: u64, plot: &Plot) -> Scenario {
    let mut scenario = Scenario::of(seed);
    scenario.tcp = plot.tcp;
    scenario.moody = false;
    scenario.proxied = plot.proxied;
    scenario.http.proxy.send = plot.tells;
    scenario.network.shortages_per_mille = 0;
    scenario.connections_max = 1;
    scenario.http.clients.limits.keep_alive_requests = None;
    scenario.http.min_rate = None;
    scenario.judge.checks_per_mille = 0;
    scenario.judge.eject.after = 0;
    scenario.drain_ms = None;
    scenario.drain_timeout_ms = super::SETTLE_MS_MAX;
    let (patience, idle) = (
        Some(Duration::from_millis(PATIENCE_MS)),
        Some(Duration::from_millis(IDLE_MS)),
    );
    scenario.http.header_timeout = patience;
    scenario.http.response_timeout = patience;
    scenario.http.body_idle_timeout = patience;
    scenario.http.flow.idle_timeout = patience;
    scenario.http.idle_timeout = idle;
    scenario
}

async fn live<const ATTENDED: bool>(
    run: Run<ATTENDED>,
    control: Control,
    plot: Rc<Plot>,
    transcript: Rc<Transcript>,
) {
    let world = run.world.clone();
    let bind = |index| {
        let host = world.bind(super::fleet::at(index));
        let (plot, transcript) = (plot.clone(), transcript.clone());
        let serving = serve(world.clone(), host.clone(), plot, transcript);
        world.executor.spawn(serving);
        host
    };
    let hosts = (0..run.scenario.backends).map(bind).collect();
    let listener = run.open(control, hosts);
    let pause_ms_max = run.scenario.read_pause_ms_max;
    ask(&world, &plot, &transcript.received, pause_ms_max).await;
    run.close(listener).await;
}

/// The client: says what it has to say, and hears all, in its own time.
async fn ask(world: &Rc<World>, plot: &Plot, received: &RefCell<Vec<u8>>, pause_ms_max: u64) {
    let client = world.clone().visit(front()).await;
    let client = client.expect("the worker listens");
    let (now, mut then) = plot.speech();
    let closes = plot.closes && !plot.hostile_backend;
    let closes_now = closes && then.is_empty();
    world.executor.spawn(send(client.clone(), now, closes_now));
    loop {
        let read = client.read_slowly(READ_BYTES, pause_ms_max).await;
        let Ok(bytes @ [_, ..]) = read.as_deref() else {
            return;
        };
        received.borrow_mut().extend_from_slice(bytes);
        if !then.is_empty() && speaks_on(plot, &received.borrow()) {
            let then = std::mem::take(&mut then);
            world.executor.spawn(send(client.clone(), then, closes));
        }
    }
}

/// Sends all, unless the other side closes before.
async fn send(end: Rc<End>, bytes: Vec<u8>, closes: bool) {
    if end.write(&bytes).await.is_ok() && closes {
        end.half_close();
    }
}

async fn serve(world: Rc<World>, host: Rc<Host>, plot: Rc<Plot>, transcript: Rc<Transcript>) {
    while let Some(end) = host.next().await {
        let connection = transcript.heard.borrow().len();
        transcript.heard.borrow_mut().push(Vec::new());
        let (plot, transcript) = (plot.clone(), transcript.clone());
        let backend = Backend {
            end,
            connection,
            plot,
            transcript,
        };
        world.executor.spawn(backend.serve());
    }
}

/// One connection of a backend.
struct Backend {
    end: Rc<End>,
    connection: usize,
    plot: Rc<Plot>,
    transcript: Rc<Transcript>,
}

impl Backend {
    async fn serve(self) {
        let mut bytes = Vec::new();
        if self.plot.tells.is_some() && !self.is_told(&mut bytes).await {
            return;
        }
        self.hear(&bytes);
        match self.plot.tcp {
            true => self.flow().await,
            false => self.converse(bytes).await,
        }
    }

    /// Reads more; `false` at the end.
    async fn read(&self, bytes: &mut Vec<u8>) -> bool {
        match self.end.read(READ_BYTES).await {
            Ok(more) if !more.is_empty() => {
                bytes.extend_from_slice(&more);
                true
            }
            _ => false,
        }
    }

    /// Enters what came behind the header of the PROXY protocol.
    fn hear(&self, bytes: &[u8]) {
        self.transcript.heard.borrow_mut()[self.connection].extend_from_slice(bytes);
    }

    /// Reads whom the connection is for.
    async fn is_told(&self, bytes: &mut Vec<u8>) -> bool {
        loop {
            if let Some(header) = parse(bytes).expect("fastlb writes good headers") {
                bytes.drain(..header.length);
                self.transcript.told.borrow_mut().push(header.origin);
                return true;
            }
            if !self.read(bytes).await {
                return false;
            }
        }
    }

    /// Reads strictly, and answers as it should, or anything.
    async fn converse(&self, mut bytes: Vec<u8>) {
        let mut asked = false;
        loop {
            while let Some((got, length)) = next_request(&bytes, self.connection) {
                bytes.drain(..length);
                let offer = got.offers.clone().filter(|_| self.plot.switches);
                let (serial, is_head) = (self.transcript.got.borrow().len(), got.method == b"HEAD");
                let hesitates_at = answer_bytes(&self.plot.bytes, &got.method);
                self.transcript.got.borrow_mut().push(got);
                if self.plot.hostile_backend {
                    if !std::mem::replace(&mut asked, true) {
                        self.speak(hesitates_at);
                    }
                } else if let Some(offer) = offer {
                    let is_early = !bytes.is_empty() || self.end.has_unread();
                    assert!(!is_early, "bytes before the switch of protocols");
                    self.transcript.heard.borrow_mut()[self.connection].clear();
                    let _ = self.end.write(&switch(serial, &offer)).await;
                    return self.flow().await;
                } else {
                    let sent = self.end.write(&answer(serial, is_head)).await;
                    sent.expect("who asked waits for the answer");
                }
            }
            let known = bytes.len();
            if !self.read(&mut bytes).await {
                return;
            }
            self.hear(&bytes[known..]);
        }
    }

    /// Says what is no protocol that is known, and hears all.
    async fn flow(&self) {
        match self.plot.hostile_backend {
            true => self.speak(0),
            false => drop(self.end.write(ANSWER).await),
        }
        let mut bytes = Vec::new();
        while self.read(&mut bytes).await {
            self.hear(&bytes);
            bytes.clear();
        }
    }

    /// Sends the hostile bytes, whatever comes meanwhile, after some time: all, or those behind so
    /// many that go at once.
    fn speak(&self, answer_bytes: usize) {
        let (end, plot) = (self.end.clone(), self.plot.clone());
        self.end.world.executor.spawn(async move {
            let world = &end.world;
            let (mut first, mut rest) = plot.bytes.split_at(answer_bytes);
            if world.happens(500) {
                (first, rest) = (&[], &plot.bytes);
            }
            if end.write(first).await.is_ok() {
                let pause_ms = world.between(0, HESITATION_MS_MAX);
                world.executor.sleep(pause_ms).await;
                send(end.clone(), rest.to_vec(), plot.closes).await;
            }
        });
    }
}

fn answer(serial: usize, is_head: bool) -> Vec<u8> {
    let length = ANSWER.len();
    let head = format!("HTTP/1.1 200 OK\r\nX-Serial: {serial}\r\nContent-Length: {length}\r\n\r\n");
    let body = if is_head { b"" } else { ANSWER };
    [head.as_bytes(), body].concat()
}

fn switch(serial: usize, offer: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 101 Fine\r\nX-Serial: {serial}\r\nConnection: upgrade\r\n");
    [head.as_bytes(), b"Upgrade: ", offer, b"\r\n\r\n"].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::session;

    /// Most files of the corpus, as of the other targets (`tests/corpus.rs`).
    const FILES_MAX: usize = 300;

    #[test]
    fn the_kept_corpus_is_read_the_same_way_on_both_sides() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/session");
        let mut inputs = 0;
        for entry in fs::read_dir(folder).expect("the target has a corpus") {
            let path = entry.expect("the folder can be read").path();
            println!("{}", path.display());
            session(&fs::read(&path).expect("the file can be read"));
            inputs += 1;
        }
        assert!((1..=FILES_MAX).contains(&inputs), "{inputs} files");
    }
}
