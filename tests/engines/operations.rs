//! Each operation dropped while it is under way, chunks that run out, a task that panics.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use fastlb::io::{self, Address, BufferOptions, ChunkSize, Expect, Io, Parcel, Stopwatch, Usage};
use fastlb::limits;
use tokio::task::spawn_local;

use crate::{PATIENCE_MS, leaves_nothing_open, on_both_engines};

on_both_engines!(
    types:
    a_dropped_receive_gives_its_chunk_back,
    a_receive_dropped_after_its_completion_gives_its_chunk_back,
    a_dropped_accept_closes_what_it_accepted,
    a_dropped_connect_closes_its_socket,
    a_dropped_send_ends,
    a_dropped_sleep_ends,
    a_cancelled_accept_says_so,
    two_chunks_serve_a_hundred_connections,
    who_waits_for_a_chunk_gets_the_next_that_is_free,
    a_task_that_panics_takes_nothing_along,
    what_is_sent_in_two_pieces_arrives_as_one,
    the_end_of_a_stream_takes_no_chunk,
    what_has_come_already_is_received_without_a_wait,
);

/// Runs `main` on the engine and demands that nothing is left under way, held or open.
pub(crate) fn run<I: Io, F: Future<Output = ()>>(
    buffers: BufferOptions,
    main: impl FnOnce(I) -> F,
) {
    leaves_nothing_open(|| {
        let ((), left) = I::run(buffers, main).unwrap();
        assert!(!left.is_out(), "{left:?}");
    });
}

/// Both ends of a connection over loopback.
pub(crate) async fn pair<I: Io>(io: &I) -> (I::Socket, I::Socket) {
    let (listener, address) = listener(io);
    let (ours, theirs) = tokio::join!(io.connect(&address), io.accept(&listener));
    (ours.unwrap(), theirs.unwrap().0)
}

pub(crate) fn listener<I: Io>(io: &I) -> (I::Listener, Address) {
    let socket = io::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = io::local_address(&socket).unwrap();
    (io.listener(socket).unwrap(), address.into())
}

pub(crate) fn parcel(bytes: &[u8]) -> Parcel {
    let mut parcel = Parcel::default();
    parcel.lead.extend_from_slice(bytes);
    parcel
}

/// Polls once, so that the operation is under way, and demands that it has not ended.
pub(crate) async fn begin<F: Future + Unpin>(future: &mut F) {
    let ended = poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_ready())).await;
    assert!(!ended, "there is nothing to end it");
}

/// Lets the engine turn until `happens`.
pub(crate) async fn until<I: Io>(io: &I, mut happens: impl FnMut() -> bool) {
    let clock = Stopwatch::start();
    while !happens() {
        assert!(clock.elapsed_ms() < PATIENCE_MS, "{:?}", io.usage());
        // The ring is entered only when the thread has nothing else to do.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn a_dropped_receive_gives_its_chunk_back<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        for _ in 0..100 {
            let mut receive = io.recv(&theirs, ChunkSize::Large, Expect::Now);
            begin(&mut receive).await;
            drop(receive);
        }
        until(&io, || !io.usage().is_out()).await;
        drop((ours, theirs));
    });
}

fn a_receive_dropped_after_its_completion_gives_its_chunk_back<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        let mut receive = io.recv(&theirs, ChunkSize::Small, Expect::Later);
        begin(&mut receive).await;
        io.send(&ours, parcel(b"too late")).await.0.unwrap();
        // Its bytes are with the kernel, or in a chunk by now; nobody will ask for them.
        io.sleep(std::time::Duration::from_millis(20)).await;
        drop(receive);
        until(&io, || !io.usage().is_out()).await;
    });
}

fn a_dropped_accept_closes_what_it_accepted<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (listener, address) = listener(&io);
        let mut accept = io.accept(&listener);
        begin(&mut accept).await;
        let client = io.connect(&address).await.unwrap();
        io.sleep(std::time::Duration::from_millis(20)).await;
        drop(accept);
        until(&io, || !io.usage().is_out()).await;
        drop(client);
    });
}

fn a_dropped_connect_closes_its_socket<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let full = FullListener::new();
        let mut connect = io.connect(&full.address);
        begin(&mut connect).await;
        drop(connect);
        until(&io, || !io.usage().is_out()).await;
    });
}

fn a_dropped_send_ends<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        // More than both socket buffers hold, and nobody reads.
        let mut send = io.send(&ours, parcel(&vec![b'x'; 32 << 20]));
        begin(&mut send).await;
        io.sleep(std::time::Duration::from_millis(20)).await;
        begin(&mut send).await;
        drop(send);
        io.abort(&ours);
        until(&io, || !io.usage().is_out()).await;
        drop((ours, theirs));
    });
}

fn a_dropped_sleep_ends<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let mut sleep = io.sleep(std::time::Duration::from_millis(50));
        begin(&mut sleep).await;
        drop(sleep);
        until(&io, || !io.usage().is_out()).await;
    });
}

fn a_cancelled_accept_says_so<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (listener, _) = listener(&io);
        let mut accept = io.accept(&listener);
        begin(&mut accept).await;
        io.cancel_accept(&listener);
        let refused = accept.await.err().unwrap();
        // ECANCELED, which the standard library has no name for.
        assert_eq!(refused.raw_os_error(), Some(125));
        assert!(io.accept_queued(&listener).unwrap().is_none());
    });
}

/// All of them receive at once; each holds its chunk for a moment before the next one has it.
fn two_chunks_serve_a_hundred_connections<I: Io>() {
    let buffers = BufferOptions {
        small_chunks_max: 2,
        large_chunks_max: 0,
    };
    run(buffers, async |io: I| {
        let mut pairs = Vec::new();
        for _ in 0..100 {
            pairs.push(pair(&io).await);
        }
        let received = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for (ours, theirs) in &pairs {
            let (handle, theirs, received) = (io.clone(), theirs.clone(), received.clone());
            tasks.push(spawn_local(async move {
                let chunk = handle.recv(&theirs, ChunkSize::Large, Expect::Now).await;
                tokio::task::yield_now().await;
                assert_eq!(chunk.unwrap().unwrap().bytes(), b"hello");
                received.set(received.get() + 1);
            }));
            io.send(ours, parcel(b"hello")).await.0.unwrap();
        }
        until(&io, || {
            io.tick();
            received.get() == 100
        })
        .await;
        for task in tasks {
            task.await.unwrap();
        }
        assert!(
            io.usage().chunk_waits > 0,
            "the test did not run out of chunks"
        );
    });
}

/// Both chunks are free at once, and one of those who wait is let in. The other one is next when he
/// is done, also where he could have had the large chunk, which is not what they wait for.
fn who_waits_for_a_chunk_gets_the_next_that_is_free<I: Io>() {
    let buffers = BufferOptions {
        small_chunks_max: 1,
        large_chunks_max: 1,
    };
    run(buffers, async |io: I| {
        let mut pairs = Vec::new();
        for _ in 0..4 {
            let (ours, theirs) = pair(&io).await;
            io.send(&ours, parcel(b"hello")).await.0.unwrap();
            pairs.push((ours, theirs));
        }
        let receive = |place: usize| {
            let receiving = io.recv(&pairs[place].1, ChunkSize::Large, Expect::Now);
            async { receiving.await.unwrap().unwrap() }
        };
        io.readable(&pairs[0].1).await.unwrap();
        let large = io.recv_queued(&pairs[0].1).unwrap().unwrap();
        let small = receive(1).await;
        let served = Rc::new(Cell::new(0));
        let [third, fourth] = [2, 3].map(|place| {
            let (receiving, served) = (receive(place), served.clone());
            spawn_local(async move {
                assert_eq!(receiving.await.bytes(), b"hello");
                served.set(served.get() + 1);
            })
        });
        until(&io, || io.usage().chunk_waits >= 2).await;
        drop((large, small));
        until(&io, || served.get() == 2).await;
        third.await.unwrap();
        fourth.await.unwrap();
    });
}

fn a_task_that_panics_takes_nothing_along<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        io.send(&ours, parcel(b"held")).await.0.unwrap();
        let task = {
            let (io, theirs) = (io.clone(), theirs.clone());
            spawn_local(async move {
                let held = io
                    .recv(&theirs, ChunkSize::Large, Expect::Now)
                    .await
                    .unwrap();
                let mut pending = io.recv(&theirs, ChunkSize::Small, Expect::Later);
                begin(&mut pending).await;
                assert!(held.is_none(), "on purpose");
            })
        };
        assert!(task.await.unwrap_err().is_panic());
        until(&io, || !io.usage().is_out()).await;
        // The engine goes on with everything else.
        let (ours, theirs) = pair(&io).await;
        io.send(&ours, parcel(b"alive")).await.0.unwrap();
        let chunk = io
            .recv(&theirs, ChunkSize::Small, Expect::Now)
            .await
            .unwrap();
        assert_eq!(chunk.unwrap().bytes(), b"alive");
    });
}

fn what_is_sent_in_two_pieces_arrives_as_one<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        let body: Vec<u8> = (0..50_000).map(|i| (i % 251) as u8).collect();
        io.send(&ours, parcel(&body)).await.0.unwrap();
        // What comes back: a lead, and the body in the chunks that it came in.
        let mut echoed = Vec::new();
        let mut relayed = 0;
        while relayed < body.len() {
            let chunk = io
                .recv(&theirs, ChunkSize::Large, Expect::Now)
                .await
                .unwrap()
                .unwrap();
            relayed += chunk.len();
            let mut both = parcel(b"lead:");
            both.attach(chunk);
            let expected = both.len();
            let (sent, both) = io.send(&theirs, both).await;
            sent.unwrap();
            drop(both);
            let mut got = Vec::new();
            while got.len() < expected {
                let chunk = io
                    .recv(&ours, ChunkSize::Large, Expect::Now)
                    .await
                    .unwrap()
                    .unwrap();
                got.extend_from_slice(chunk.bytes());
            }
            echoed.extend_from_slice(got.strip_prefix(b"lead:").unwrap());
        }
        assert_eq!(echoed, body);
    });
}

fn the_end_of_a_stream_takes_no_chunk<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        io.half_close(&ours);
        let end = io
            .recv(&theirs, ChunkSize::Large, Expect::Now)
            .await
            .unwrap();
        assert!(end.is_none());
        assert_eq!(io.usage().chunks_held, 0);
        // The other direction is open still.
        io.send(&theirs, parcel(b"answer")).await.0.unwrap();
        let chunk = io.recv(&ours, ChunkSize::Small, Expect::Now).await.unwrap();
        assert_eq!(chunk.unwrap().bytes(), b"answer");
        assert_eq!(io.usage().chunk_waits, Usage::default().chunk_waits);
    });
}

/// A listener whose queue is full, so that connecting to it stays under way.
struct FullListener {
    address: Address,
    _listener: TcpListener,
    _queued: Vec<socket2::Socket>,
}

impl FullListener {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = listener.unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let listener: TcpListener = listener.into();
        let address = listener.local_addr().unwrap();
        let queued = (0..4).map(|_| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let client = client.unwrap();
            client.set_nonblocking(true).unwrap();
            // Under way at best; it only has to take a place in the queue.
            let _ = client.connect(&address.into());
            client
        });
        Self {
            address: address.into(),
            _queued: queued.collect(),
            _listener: listener,
        }
    }
}

fn what_has_come_already_is_received_without_a_wait<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        assert!(io.recv_queued(&theirs).unwrap().is_none(), "nothing has");
        let sent = [b'x'; limits::SMALL_CHUNK_BYTES + 1];
        io.send(&ours, parcel(&sent)).await.0.unwrap();
        io.readable(&theirs).await.unwrap();
        let held = io.recv_queued(&theirs).unwrap().unwrap();
        assert_eq!(held.bytes(), sent);
        drop((held, ours));
        io.readable(&theirs).await.unwrap();
        assert!(io.recv_queued(&theirs).unwrap().is_none(), "the end");

        let (ours, theirs) = pair(&io).await;
        io.abort(&ours);
        drop(ours);
        io.readable(&theirs).await.unwrap();
        let error = io.recv_queued(&theirs).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}
