//! What a balancer of connections counts, and that each pick has one end.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastlb::balance::{Ask, BackendId, Balancer, Outcome, RoundRobin, Snapshot};
use fastlb::config::BackendList;
use fastlb::io::{BufferOptions, EngineChoice};
use fastlb::server::Server;
use fastlb::worker::Mode;

use crate::server::{Origin, config, get, stop};
use crate::{eventually, leaves_nothing_open, on_both_engines};

on_both_engines!(choices: connections_are_counted_and_each_pick_ends_once);

/// Takes turns, and counts what it is asked and told.
#[derive(Default)]
struct Counting {
    turns: RoundRobin,
    picked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Balancer for Counting {
    fn pick(&self, fleet: &Snapshot, ask: &Ask<'_>) -> Option<BackendId> {
        self.picked.fetch_add(1, Ordering::Relaxed);
        self.turns.pick(fleet, ask)
    }

    fn done(&self, _id: BackendId, outcome: &Outcome) {
        let count = match outcome {
            Outcome::Answered { .. } => &self.answered,
            Outcome::Failed => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn connections_are_counted_and_each_pick_ends_once(engine: EngineChoice) {
    const CLIENTS: u64 = 8;
    leaves_nothing_open(|| {
        let origin = Origin::start(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
        let refusing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let refusing = refusing.unwrap();
        let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        refusing.bind(&any_port.into()).unwrap();
        let refuses = refusing.local_addr().unwrap().as_socket().unwrap();

        let mut config = config(engine, origin.address, BufferOptions::default());
        let list = format!("{refuses},{}", origin.address);
        config.backends = list.parse::<BackendList>().unwrap().resolve().unwrap();
        (config.mode, config.retries) = (Mode::Tcp, 1);
        config.timeouts.tcp_idle = Some(Duration::from_secs(60));
        let balancer = Arc::new(Counting::default());
        let server = Server::start_with(config, balancer.clone()).unwrap();
        for _ in 0..CLIENTS {
            let client = TcpStream::connect(server.addresses()[0].internet().unwrap()).unwrap();
            assert!(get(&client).ends_with("hello"));
            client.shutdown(Shutdown::Both).unwrap();
        }
        eventually("the connections to end", || {
            server.stats().totals().active == 0
        });

        let totals = server.stats().totals();
        let [refused, served] = totals.backends[..] else {
            panic!("two backends");
        };
        assert_eq!(
            (totals.accepted, totals.retries),
            (CLIENTS, refused.connect_failures)
        );
        assert!(refused.connect_failures > 0);
        assert_eq!((refused.requests, refused.connects), (0, 0));
        assert_eq!((served.requests, served.connects), (CLIENTS, CLIENTS));
        assert_eq!((served.reused, served.connect_failures), (0, 0));
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(count(&balancer.answered), CLIENTS);
        assert_eq!(count(&balancer.failed), refused.connect_failures);
        assert_eq!(
            count(&balancer.picked),
            count(&balancer.answered) + count(&balancer.failed)
        );
        stop(server);
        drop((origin, refusing));
    });
}
