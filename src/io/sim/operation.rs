//! What is under way: polled by whoever waits for it, or going on by itself.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::wire::End;
use super::world::World;
use crate::io::Parcel;
use crate::io::buffer::{Chunk, ChunkSize};

/// An operation of the worker.
pub(crate) struct Operation<T> {
    world: Rc<World>,
    socket: Option<Rc<End>>,
    form: Form<T>,
}

enum Form<T> {
    Attended(Pin<Box<dyn Future<Output = T>>>),
    /// A task of its own has it.
    Unattended(Rc<Flight<T>>),
    Over,
}

struct Flight<T> {
    output: RefCell<Option<T>>,
    waiter: Cell<Option<Waker>>,
    abandoned: Cell<bool>,
    task: Cell<Option<Waker>>,
}

impl<T: 'static> Operation<T> {
    pub(super) fn attended(
        world: &Rc<World>,
        socket: Option<&Rc<End>>,
        work: impl Future<Output = T> + 'static,
    ) -> Self {
        let under_way = UnderWay::begin(world);
        let work = async move {
            let _under_way = under_way;
            work.await
        };
        Self {
            world: world.clone(),
            socket: socket.cloned(),
            form: Form::Attended(Box::pin(work)),
        }
    }

    pub(super) fn unattended(
        world: &Rc<World>,
        socket: Option<&Rc<End>>,
        work: impl Future<Output = T> + 'static,
    ) -> Self {
        let flight = Rc::new(Flight {
            output: RefCell::default(),
            waiter: Cell::default(),
            abandoned: Cell::new(false),
            task: Cell::default(),
        });
        let under_way = UnderWay::begin(world);
        let (shared, luck) = (flight.clone(), world.clone());
        let task = world.executor.spawn(async move {
            let mut work = Box::pin(work);
            let output = poll_fn(|cx| {
                // Its cancellation may come late: it does some more, and that is lost.
                if shared.abandoned.get() && luck.happens(500) {
                    return Poll::Ready(None);
                }
                match work.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending if shared.abandoned.get() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            drop(work);
            drop(under_way);
            if let Some(output) = output.filter(|_| !shared.abandoned.get()) {
                *shared.output.borrow_mut() = Some(output);
                shared.waiter.take().into_iter().for_each(Waker::wake);
            }
        });
        flight.task.set(Some(task));
        Self {
            world: world.clone(),
            socket: socket.cloned(),
            form: Form::Unattended(flight),
        }
    }
}

impl<T> Future for Operation<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let output = match &mut self.form {
            Form::Attended(work) => ready!(work.as_mut().poll(cx)),
            Form::Unattended(flight) => {
                let output = flight.output.borrow_mut().take();
                let Some(output) = output else {
                    flight.waiter.set(Some(cx.waker().clone()));
                    return Poll::Pending;
                };
                output
            }
            Form::Over => panic!("polled after its end"),
        };
        self.form = Form::Over;
        self.socket = None;
        Poll::Ready(output)
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        let incomplete = match &self.form {
            Form::Attended(_) => true,
            Form::Unattended(flight) => {
                flight.abandoned.set(true);
                flight.task.take().into_iter().for_each(Waker::wake);
                flight.output.borrow().is_none()
            }
            Form::Over => false,
        };
        if let Some(socket) = self.socket.take().filter(|_| incomplete)
            && self.world.happens(500)
        {
            self.world.count("operations cancelled with a dropped one");
            socket.cancel();
        }
    }
}

/// Counts an operation for as long as it is under way.
struct UnderWay(Rc<World>);

impl UnderWay {
    fn begin(world: &Rc<World>) -> Self {
        world.operations.set(world.operations.get() + 1);
        Self(world.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.operations.set(self.0.operations.get() - 1);
    }
}

/// Counts a chunk for as long as a send has it.
struct Carried(Rc<Cell<usize>>);

impl Carried {
    fn begin(world: &World, parcel: &Parcel) -> Option<Self> {
        let carried = &world.carried;
        parcel.has_body().then(|| {
            carried.set(carried.get() + 1);
            Self(carried.clone())
        })
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(crate) type RecvOutput = io::Result<Option<Chunk>>;

pub(super) fn recv(
    socket: &Rc<End>,
    size: ChunkSize,
) -> impl Future<Output = RecvOutput> + 'static {
    let socket = socket.clone();
    let begun = socket.cancels.get();
    async move {
        poll_fn(|cx| poll_until_cancelled(&socket, begun, cx)).await?;
        let mut chunk = chunk(&socket.world, size).await;
        if socket.cancels.get() != begun {
            return Err(cancelled());
        }
        let received = socket.read_some(chunk.bytes_mut())?;
        chunk.truncate(received);
        Ok((received > 0).then_some(chunk))
    }
}

pub(super) fn readable(socket: &Rc<End>) -> impl Future<Output = io::Result<()>> + 'static {
    let socket = socket.clone();
    let begun = socket.cancels.get();
    poll_fn(move |cx| poll_until_cancelled(&socket, begun, cx))
}

fn poll_until_cancelled(socket: &End, begun: u32, cx: &Context<'_>) -> Poll<io::Result<()>> {
    if socket.cancels.get() != begun {
        return Poll::Ready(Err(cancelled()));
    }
    socket.poll_readable(cx).map(Ok)
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// A chunk of the size asked for, else a small one, else a place in the queue for a small one.
async fn chunk(world: &World, mut size: ChunkSize) -> Chunk {
    loop {
        let (small, large) = (&world.small, &world.large);
        let wanted = match size {
            ChunkSize::Large => large.take(large.chunk_bytes()),
            ChunkSize::Small => None,
        };
        if let Some(chunk) = wanted.or_else(|| small.take(small.chunk_bytes())) {
            return chunk;
        }
        world.chunk_waits.set(world.chunk_waits.get() + 1);
        world.count("receive without a chunk");
        let turn = small.wait();
        poll_fn(|cx| turn.poll(cx)).await;
        size = ChunkSize::Small;
    }
}

pub(super) fn send(
    socket: &Rc<End>,
    parcel: Parcel,
    attended: bool,
) -> impl Future<Output = (io::Result<()>, Parcel)> + 'static {
    let socket = socket.clone();
    let begun = socket.cancels.get();
    let carried = Carried::begin(&socket.world, &parcel);
    async move {
        let _carried = carried;
        let mut sent = 0;
        let result = poll_fn(|cx| {
            while sent < parcel.len() {
                if socket.cancels.get() != begun {
                    return Poll::Ready(Err(cancelled()));
                }
                let from_lead = sent.min(parcel.lead.len());
                let rest = match &parcel.lead[from_lead..] {
                    [] => &parcel.body()[sent - parcel.lead.len()..],
                    lead => lead,
                };
                match ready!(socket.poll_write(cx, rest)) {
                    Ok(bytes) => sent += bytes,
                    Err(error) => return Poll::Ready(Err(end_of_send(error, sent, attended))),
                }
            }
            Poll::Ready(Ok(()))
        });
        let result = result.await;
        (result, parcel)
    }
}

/// What either engine makes of an error, of which io_uring hears nothing behind a count.
fn end_of_send(error: io::Error, sent: usize, attended: bool) -> io::Error {
    match (sent, attended, error.kind()) {
        (0, _, _) => error,
        (_, false, _) => io::ErrorKind::ConnectionReset.into(),
        (_, true, io::ErrorKind::BrokenPipe) => io::ErrorKind::WriteZero.into(),
        (_, true, _) => error,
    }
}
