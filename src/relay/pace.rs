//! How fast a direction has to be, and what the two of an exchange know of each other.

use std::cell::Cell;
use std::time::Duration;

use super::copy::RelayEnd;
use super::rate::{Meter, MinRate};
use super::stream::Stop;
use crate::io::Deadline;
use crate::limits;

/// How fast a direction has to be, and who is told that it moves.
///
/// Two joined directions stand still when neither of them moves: an upload may wait for as long as
/// its response goes on, and the other way round, as behind HAProxy without `independent-streams`.
/// One that waits alone would otherwise end what is well: a backend that reads on only when it has
/// answered, a client that sends on only when it has read.
#[derive(Clone, Copy)]
pub(crate) struct Pace<'a> {
    /// That of this direction alone.
    pub(crate) deadline: &'a Deadline,
    pub(crate) client: ClientSide,
    /// What the directions know of each other.
    pub(crate) traffic: &'a Traffic,
}

/// Where the client is, who must not be too slow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientSide {
    Source,
    Sink,
    /// He is not waited for, or may take his time.
    Neither,
}

/// Who gives up on two directions that stand still.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// Each direction itself, after so long, for ever without; meanwhile it looks whether its sink
    /// is still there.
    Within(Option<Duration>),
    /// Somebody who watches both, and may wait for hours.
    Watched,
}

impl Pace<'_> {
    /// The source sent so much, for which it was waited since [`Pace::begins`].
    pub(super) fn came(self, bytes: usize) -> Result<(), RelayEnd> {
        self.traffic.came(bytes);
        self.moved();
        let Some(least) = self.least_of(ClientSide::Source) else {
            return Ok(());
        };
        let waited_ms = self.deadline.now_ms() - self.traffic.waits_since_ms.get();
        let is_fast = self.traffic.uploaded.note(bytes as u64, waited_ms, least);
        // A client may say little for as long as it is answered meanwhile.
        match is_fast || self.traffic.answering.get() {
            true => Ok(()),
            false => Err(RelayEnd::SourceSlow),
        }
    }

    /// The sink took so much, in such a time in which it was waited for.
    pub(super) fn took(self, bytes: u64, waited_ms: u64) -> Result<(), RelayEnd> {
        match self.least_of(ClientSide::Sink) {
            Some(least) if !self.traffic.downloaded.note(bytes, waited_ms, least) => {
                Err(RelayEnd::SinkSlow)
            }
            _ => Ok(()),
        }
    }

    /// What is asked of a client that is there.
    fn least_of(self, client: ClientSide) -> Option<MinRate> {
        self.traffic.least.filter(|_| self.client == client)
    }

    /// The client is told something that it may have waited for: its time begins anew.
    pub(crate) fn tells(self) {
        self.traffic.waits_since_ms.set(self.deadline.now_ms());
        self.moved();
    }

    pub(super) fn went(self, bytes: usize) {
        let went = &self.traffic.went;
        went.set(went.get() + bytes as u64);
        self.moved();
    }

    /// Something moved now, on whatever way.
    pub(crate) fn moved(self) {
        self.traffic.moved_ms.set(self.deadline.now_ms());
    }

    /// How long it may go on like this; `None` where both directions have stood still for too
    /// long, or everything is over.
    pub(super) fn left(self) -> Option<Duration> {
        let idle = match self.traffic.patience {
            Patience::Within(idle) => idle.unwrap_or(FOR_EVER),
            Patience::Watched => return None,
        };
        self.deadline.left(self.traffic.moved_ms.get(), idle)
    }

    /// Begins a wait for the source.
    pub(super) fn begins(self) {
        if self.client == ClientSide::Source {
            self.traffic.waits_since_ms.set(self.deadline.now_ms());
        }
        self.deadline.set(match self.traffic.patience {
            Patience::Within(idle) => Some(next_look(idle)),
            Patience::Watched => None,
        });
    }

    /// Has a wait for the source go on that was in vain only because of its own deadline. Nothing
    /// is sent meanwhile, so nothing but a look tells whether the sink `is_lost`.
    pub(super) fn goes_on(
        self,
        stop: Stop,
        is_lost: impl FnOnce() -> bool,
    ) -> Result<(), RelayEnd> {
        match (stop, self.left()) {
            (Stop::Lost, _) => Err(RelayEnd::SourceLost),
            (Stop::Expired, _) if is_lost() => Err(RelayEnd::SinkLost),
            (Stop::Expired, None) => Err(RelayEnd::SourceStalled),
            (Stop::Expired, left) => {
                self.deadline.set(Some(next_look(left)));
                Ok(())
            }
        }
    }

    /// Time between two looks whether a sink that takes nothing has acknowledged anything.
    pub(super) fn sink_look(self) -> Option<Duration> {
        match self.traffic.patience {
            Patience::Within(idle) => {
                let window = self.least_of(ClientSide::Sink).map(|least| least.window);
                idle.or(window).map(|time| time / limits::BODY_IDLE_LOOKS)
            }
            Patience::Watched => None,
        }
    }
}

/// More than anybody waits.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Time to the next look whether somebody is still there who is neither sent nor asked anything,
/// where there is so much time left, or no end to it.
pub(crate) fn next_look(left: Option<Duration>) -> Duration {
    let look = Duration::from_millis(limits::LOST_LOOK_MS);
    left.map_or(look, |left| left.min(look))
}

/// What both directions of two joined connections know of each other.
pub(crate) struct Traffic {
    pub(super) patience: Patience,
    /// Bytes of both together.
    came: Cell<u64>,
    went: Cell<u64>,
    /// When either moved last.
    moved_ms: Cell<u64>,
    /// A send to the backend was told that the connection is lost. The kernel tells of that once,
    /// so the end that a receive finds then is no end of a body.
    pub(super) backend_lost: Cell<bool>,
    /// What is asked of the client, and what he does: while he sends, and while he is sent.
    least: Option<MinRate>,
    uploaded: Meter,
    downloaded: Meter,
    /// When the wait for the source of the request began.
    waits_since_ms: Cell<u64>,
    /// A response is on its way to the client.
    answering: Cell<bool>,
}

impl Traffic {
    /// Nothing has moved yet; the client must not be slower than that.
    pub(crate) fn new(patience: Patience, least: Option<MinRate>) -> Self {
        Self {
            patience,
            came: Cell::default(),
            went: Cell::default(),
            moved_ms: Cell::default(),
            backend_lost: Cell::default(),
            least,
            uploaded: Meter::default(),
            downloaded: Meter::default(),
            waits_since_ms: Cell::default(),
            answering: Cell::default(),
        }
    }

    /// A response begins, or is complete.
    pub(crate) fn set_answering(&self, answering: bool) {
        self.answering.set(answering);
    }

    pub(super) fn came(&self, bytes: usize) {
        self.came.set(self.came.get() + bytes as u64);
    }

    /// Bytes that have come from either side.
    pub(super) fn came_bytes(&self) -> u64 {
        self.came.get()
    }

    /// A number that changes whenever anything moves.
    pub(super) fn moved(&self) -> u64 {
        self.came.get() + self.went.get()
    }

    /// Whether everything that came has gone on.
    pub(super) fn is_settled(&self) -> bool {
        self.came.get() == self.went.get()
    }

    /// A send to the backend told whether the connection is lost.
    pub(crate) fn set_backend_lost(&self, lost: bool) {
        self.backend_lost.set(lost);
    }
}
