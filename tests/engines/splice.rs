//! Readiness and pipes: waits that are dropped, bytes that go past memory, turns for everybody.

use std::cell::Cell;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use fastlb::io::{BufferOptions, ChunkSize, Expect, Io};
use fastlb::limits;
use socket2::SockRef;
use tokio::task::spawn_local;

use crate::on_both_engines;
use crate::operations::{begin, listener, pair, parcel, run, until};

on_both_engines!(
    types:
    a_dropped_wait_for_readiness_ends,
    readiness_tells_of_bytes_and_of_the_end,
    room_comes_when_the_peer_reads,
    what_is_spliced_arrives,
    nothing_there_is_nothing_moved,
    urgent_data_is_not_taken_for_nothing,
    pipes_run_out_come_home_and_are_closed,
    a_pipe_dropped_with_bytes_in_it_is_closed,
    who_splices_lets_others_have_their_turn,
    a_send_right_after_a_splice_is_whole,
);

fn a_dropped_wait_for_readiness_ends<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        for _ in 0..100 {
            let mut waiting = io.readable(&theirs);
            begin(&mut waiting).await;
            drop(waiting);
        }
        until(&io, || !io.usage().is_out()).await;
        drop((ours, theirs));
    });
}

fn readiness_tells_of_bytes_and_of_the_end<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        io.writable(&ours).await.unwrap();
        let mut waiting = io.readable(&theirs);
        begin(&mut waiting).await;
        io.send(&ours, parcel(b"x")).await.0.unwrap();
        waiting.await.unwrap();
        io.readable(&theirs).await.unwrap();
        let chunk = io.recv(&theirs, ChunkSize::Small, Expect::Now).await;
        assert_eq!(chunk.unwrap().unwrap().bytes(), b"x");
        io.half_close(&ours);
        io.readable(&theirs).await.unwrap();
        let mut pipe = io.pipe().unwrap();
        assert_eq!(io.splice_in(&theirs, &mut pipe, 10).unwrap(), Some(0));
    });
}

fn room_comes_when_the_peer_reads<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let ((source, from), (to, sink)) = (pair(&io).await, pair(&io).await);
        // More than all the buffers on the way hold.
        let sending = {
            let (io, parcel) = (io.clone(), parcel(&vec![b'x'; 32 << 20]));
            spawn_local(async move { io.send(&source, parcel).await.0.is_ok() })
        };
        let mut pipe = io.pipe().unwrap();
        loop {
            if pipe.held() == 0 {
                io.readable(&from).await.unwrap();
                io.splice_in(&from, &mut pipe, usize::MAX).unwrap();
            } else if io.splice_out(&mut pipe, &to).unwrap().is_none() {
                break;
            }
        }
        let mut room = Box::pin(io.writable(&to));
        begin(&mut room).await;
        let reading = {
            let (io, sink) = (io.clone(), sink.clone());
            spawn_local(async move {
                for _ in 0..1_000 {
                    let chunk = io.recv(&sink, ChunkSize::Large, Expect::Now).await;
                    if chunk.unwrap().is_none() {
                        return;
                    }
                }
            })
        };
        room.await.unwrap();
        assert!(io.splice_out(&mut pipe, &to).unwrap().is_some());
        sending.abort();
        drop((pipe, to));
        reading.await.unwrap();
        until(&io, || !io.usage().is_out()).await;
    });
}

fn what_is_spliced_arrives<I: Io>() {
    const BYTES: usize = 5_000_000;
    run(BufferOptions::default(), async |io: I| {
        let (client, from) = pair(&io).await;
        let (to, backend) = pair(&io).await;
        let body: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        let sending = {
            let (io, parcel) = (io.clone(), parcel(&body));
            spawn_local(async move {
                io.send(&client, parcel).await.0.unwrap();
                io.half_close(&client);
            })
        };
        let receiving = {
            let io = io.clone();
            spawn_local(async move {
                let mut heard = Vec::new();
                while let Some(chunk) = io
                    .recv(&backend, ChunkSize::Large, Expect::Now)
                    .await
                    .unwrap()
                {
                    heard.extend_from_slice(chunk.bytes());
                }
                heard
            })
        };
        let most = 300_001;
        loop {
            io.readable(&from).await.unwrap();
            let mut pipe = io.pipe().unwrap();
            let moved = io.splice_in(&from, &mut pipe, most).unwrap();
            assert!(moved.is_none_or(|moved| moved <= most && moved == pipe.held()));
            if moved == Some(0) {
                break;
            }
            while pipe.held() > 0 {
                if io.splice_out(&mut pipe, &to).unwrap().is_none() {
                    io.writable(&to).await.unwrap();
                }
            }
        }
        io.half_close(&to);
        sending.await.unwrap();
        assert!(receiving.await.unwrap() == body);
        close_pipes(&io);
    });
}

fn nothing_there_is_nothing_moved<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        let mut pipe = io.pipe().unwrap();
        assert_eq!(io.splice_in(&theirs, &mut pipe, 10).unwrap(), None);
        io.send(&ours, parcel(b"12345")).await.0.unwrap();
        io.readable(&theirs).await.unwrap();
        assert_eq!(io.splice_in(&theirs, &mut pipe, 3).unwrap(), Some(3));
        assert_eq!(pipe.held(), 3);
    });
}

/// Nobody sends more, so who waits for that waits for ever.
fn urgent_data_is_not_taken_for_nothing<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (listener, address) = listener(&io);
        let mut client = TcpStream::connect(address.internet().unwrap()).unwrap();
        let theirs = io.accept(&listener).await.unwrap().0;
        client.write_all(b"before").unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"behind").unwrap();
        io.readable(&theirs).await.unwrap();
        let mut pipe = io.pipe().unwrap();
        assert_eq!(io.splice_in(&theirs, &mut pipe, 100).unwrap(), Some(6));
        io.readable(&theirs).await.unwrap();
        let mut pipe = io.pipe().unwrap();
        let error = io.splice_in(&theirs, &mut pipe, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let chunk = io.recv(&theirs, ChunkSize::Small, Expect::Now).await;
        assert_eq!(chunk.unwrap().unwrap().bytes(), b"behind");
        // It goes through a pipe again behind that.
        client.write_all(b"more").unwrap();
        io.readable(&theirs).await.unwrap();
        assert_eq!(io.splice_in(&theirs, &mut pipe, 100).unwrap(), Some(4));
    });
}

fn pipes_run_out_come_home_and_are_closed<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let lent: Vec<_> = std::iter::from_fn(|| io.pipe()).collect();
        assert!(!lent.is_empty() && lent.len() <= limits::PIPES_MAX);
        drop(lent);
        let before = crate::descriptors();
        close_pipes(&io);
        assert!(crate::descriptors() < before);
        assert!(io.pipe().is_some());
    });
}

fn a_pipe_dropped_with_bytes_in_it_is_closed<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        for byte in [b"1", b"2"] {
            io.send(&ours, parcel(byte)).await.0.unwrap();
            io.readable(&theirs).await.unwrap();
            let mut pipe = io.pipe().unwrap();
            // Whoever has it next finds none of the bytes of the one before.
            assert_eq!(pipe.held(), 0);
            assert_eq!(io.splice_in(&theirs, &mut pipe, 10).unwrap(), Some(1));
        }
    });
}

/// Bytes are always there, so only the wait itself can let anybody else run: on the ring nothing is
/// even submitted before the loop goes round.
fn who_splices_lets_others_have_their_turn<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let (ours, theirs) = pair(&io).await;
        io.send(&ours, parcel(b"x")).await.0.unwrap();
        io.readable(&theirs).await.unwrap();
        let slept = Rc::new(Cell::new(false));
        let sleeping = {
            let (io, slept) = (io.clone(), slept.clone());
            spawn_local(async move {
                io.sleep(Duration::from_millis(5)).await;
                slept.set(true);
            })
        };
        let mut rounds = 0_u32;
        while !slept.get() {
            io.readable(&theirs).await.unwrap();
            rounds += 1;
            assert!(rounds < 10_000_000, "the other task never had its turn");
        }
        sleeping.await.unwrap();
    });
}

/// Lets as many ticks pass as idle pipes are kept for.
fn close_pipes<I: Io>(io: &I) {
    (0..2 * limits::PIPE_IDLE_TICKS).for_each(|_| io.tick());
}

/// It may go at once, as far as there is room, and the rest of it later.
fn a_send_right_after_a_splice_is_whole<I: Io>() {
    run(BufferOptions::default(), async |io: I| {
        let ((ours, theirs), (from, _source)) = (pair(&io).await, pair(&io).await);
        for bytes in [1, 100_000, 16 << 20] {
            let body: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let mut pipe = io.pipe().unwrap();
            assert!(io.splice_in(&from, &mut pipe, 1).unwrap().is_none());
            let sending = async { io.send(&ours, parcel(&body)).await.0.unwrap() };
            let receiving = async {
                let mut heard = Vec::new();
                while heard.len() < bytes {
                    let chunk = io.recv(&theirs, ChunkSize::Large, Expect::Now).await;
                    heard.extend_from_slice(chunk.unwrap().unwrap().bytes());
                }
                heard
            };
            let ((), heard) = tokio::join!(sending, receiving);
            assert!(heard == body, "{bytes} bytes");
        }
    });
}
