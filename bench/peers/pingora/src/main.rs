//! A minimal HTTP balancer on Pingora, to compare fastlb with: round robin, kept connections both
//! ways, `X-Forwarded-For`, nothing logged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use mimalloc::MiMalloc;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result, http::RequestHeader};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Idle connections to backends, all together.
const IDLE_UPSTREAM_CONNECTIONS_MAX: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A minimal HTTP balancer on Pingora.
#[derive(Parser)]
struct Flags {
    /// Where it listens.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Where the backends listen, with commas between them.
    #[arg(long, value_name = "ADDRS", value_delimiter = ',', required = true)]
    backends: Vec<SocketAddr>,
}

struct Balancer {
    backends: Vec<SocketAddr>,
    next: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None: not even the compression, switched off, that Pingora adds by itself.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, (): &mut ()) -> Result<()> {
        session.set_pipelining_enabled(true);
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let backend = self.backends[turn % self.backends.len()];
        let mut peer = HttpPeer::new(backend, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        (): &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|addr| addr.as_inet()) {
            request.append_header("X-Forwarded-For", client.ip().to_string())?;
        }
        Ok(())
    }

    /// The next backend is asked instead.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        (): &mut (),
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(true);
        error
    }
}

fn main() {
    let flags = Flags::parse();
    let conf = ServerConf {
        threads: 1,
        // One thread has nobody to steal from.
        work_stealing: false,
        upstream_keepalive_pool_size: IDLE_UPSTREAM_CONNECTIONS_MAX,
        max_retries: flags.backends.len(),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let balancer = Balancer {
        backends: flags.backends,
        next: AtomicUsize::new(0),
    };
    let mut service = http_proxy_service(&server.configuration, balancer);
    service.add_tcp(&flags.listen.to_string());
    server.add_service(service);
    server.run_forever();
}
