//! Asking a backend whether it is alive: a connection that is closed at once, or one request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{CheckFailure, News};
use crate::balance::Backend;
use crate::http1::head::{ResponseHead, Scan, field_store};
use crate::io::{Address, is_out_of_descriptors};
use crate::limits;
use crate::proxy_protocol::{self, Ends, Origin, Version, Written};

/// How a backend is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It takes a connection.
    Tcp,
    /// It answers a GET of this path with one of these statuses.
    Http {
        /// The path, from its slash on.
        path: String,
        /// The first and the last status that are well.
        statuses: (u16, u16),
    },
}

impl Check {
    /// Asks `backend`, for at most `limit`. Where its connections begin with a header of the PROXY
    /// protocol, this one does too.
    pub async fn ask(&self, backend: &Backend, limit: Duration, proxy: Option<Version>) -> News {
        let answer = timeout(limit, self.answer(backend, proxy)).await;
        answer.unwrap_or(News::CheckFailed(CheckFailure::Timeout))
    }

    async fn answer(&self, backend: &Backend, proxy: Option<Version>) -> News {
        let authority = &backend.authority;
        match &backend.address {
            Address::Internet(address) => {
                let connected = TcpStream::connect(address).await.inspect(|stream| {
                    // Ended by a reset: a close would leave a port in TIME_WAIT for each check.
                    let _ = stream.set_zero_linger();
                });
                let preface = |stream: &TcpStream| {
                    let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok());
                    let ends = local.zip(peer).map(|(local, peer)| Ends::new(local, peer));
                    proxy.map(|version| introduction(version, ends))
                };
                self.judge(connected, preface, authority).await
            }
            Address::Unix(path) => {
                let connected = UnixStream::connect(path.as_path()).await;
                let preface = |_: &UnixStream| proxy.map(|version| introduction(version, None));
                self.judge(connected, preface, authority).await
            }
        }
    }

    async fn judge<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connected: io::Result<S>,
        preface: impl FnOnce(&S) -> Option<Written>,
        authority: &str,
    ) -> News {
        let answer = match connected {
            Ok(stream) => {
                let preface = preface(&stream);
                self.converse(stream, preface, authority).await
            }
            // Not the backend's fault, and nothing that is learnt of it.
            Err(error) if is_out_of_descriptors(&error) => return News::Unknown,
            Err(error) => Err(refused(&error)),
        };
        answer.map_or_else(News::CheckFailed, |()| News::CheckPassed)
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        preface: Option<Written>,
        authority: &str,
    ) -> Result<(), CheckFailure> {
        if let Some(preface) = preface {
            let sent = stream.write_all(&preface).await;
            sent.map_err(|_| CheckFailure::Broken)?;
        }
        let Self::Http { path, statuses } = self else {
            return Ok(());
        };
        let status = get(&mut stream, path, authority).await?;
        let (first, last) = *statuses;
        if (first..=last).contains(&status) {
            Ok(())
        } else {
            Err(CheckFailure::Status(status))
        }
    }
}

/// What a check says of itself. Version 1 has no word for that: the specification wants the ends of
/// the check's own connection, because some servers refuse UNKNOWN.
fn introduction(version: Version, own: Option<Ends>) -> Written {
    let origin = match (version, own) {
        (Version::V1, Some(ends)) => Origin::Client(ends),
        (Version::V1, None) | (Version::V2, _) => Origin::Local,
    };
    proxy_protocol::write(version, origin)
}

/// The status of the final response to one request.
async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    authority: &str,
) -> Result<u16, CheckFailure> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: fastlb-check\r\n\
         Connection: close\r\n\r\n"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|_| CheckFailure::Broken)?;
    let mut bytes = Vec::with_capacity(limits::HEALTH_READ_BYTES);
    let mut scan = Scan::response();
    let mut interim = 0;
    loop {
        let received = stream.read_buf(&mut bytes).await;
        if received.map_err(|_| CheckFailure::Broken)? == 0 {
            return Err(CheckFailure::Broken);
        }
        while let Some(span) = scan.end(&bytes).map_err(|_| CheckFailure::Broken)? {
            let status = {
                let mut store = field_store();
                let head = ResponseHead::parse(span.of(&mut bytes), &mut store);
                head.map_err(|_| CheckFailure::Broken)?.status
            };
            if status >= 200 {
                return Ok(status);
            }
            // An interim response; the final one follows.
            interim += 1;
            if interim > limits::INTERIM_RESPONSES_MAX {
                return Err(CheckFailure::Broken);
            }
            bytes.drain(..span.end);
            scan = Scan::response();
        }
    }
}

fn refused(error: &io::Error) -> CheckFailure {
    // Without the number, which an operator does not need.
    let text = error.to_string().to_lowercase();
    let words = text.split(" (os error").next().unwrap_or(&text);
    CheckFailure::Connect(words.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::balance::{BackendId, Weight};
    use crate::io::UnixPath;

    /// Longer than any check here takes whose end is not this.
    const PATIENCE: Duration = Duration::from_secs(20);
    const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: web:80\r\nUser-Agent: fastlb-check\r\n\
                           Connection: close\r\n\r\n";

    fn http() -> Check {
        Check::Http {
            path: "/healthz".to_owned(),
            statuses: (200, 399),
        }
    }

    fn backend(address: Address) -> Backend {
        Backend {
            id: BackendId::new(0).unwrap(),
            address,
            authority: "web:80".into(),
            weight: Weight::default(),
        }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(work)
    }

    /// What is found out about a backend that does this with its connection, and what came of that.
    fn asked<F: Future>(
        check: &Check,
        limit: Duration,
        serve: impl FnOnce(TcpStream) -> F,
    ) -> (News, F::Output) {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let backend = backend(listener.local_addr().unwrap().into());
            let serving = async { serve(listener.accept().await.unwrap().0).await };
            tokio::join!(check.ask(&backend, limit, None), serving)
        })
    }

    /// Reads a request, answers and closes.
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
        let mut request = vec![0; REQUEST.len()];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(answer).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn the_final_status_decides() {
        let (passed, status) = (|| Ok(()), |status| Err(CheckFailure::Status(status)));
        let broken = || Err(CheckFailure::Broken);
        let table = [
            ("HTTP/1.1 200 OK\r\n\r\n", passed()),
            ("HTTP/1.0 399 Last\r\nA: b\r\n\r\nbody", passed()),
            // What is taken from a backend that serves a request is taken here as well.
            ("HTTP/1.2 200 OK\r\n\r\n", passed()),
            (
                "HTTP/1.9 103 Early Hints\r\n\r\nHTTP/1.9 204 No Content\r\n\r\n",
                passed(),
            ),
            ("HTTP/2.0 200 OK\r\n\r\n", broken()),
            // RFC 9110 section 15: no status that is well.
            ("HTTP/1.1 600 Odd\r\n\r\n", status(600)),
            ("HTTP/1.1 099 Odd\r\n\r\n", broken()),
            ("HTTP/1.1 404 Not Found\r\n\r\n", status(404)),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                passed(),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 500 Internal Server Error\r\n\r\n",
                status(500),
            ),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", broken()),
            ("HTTP/1.1 200 OK\r\nServer: x", broken()),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", broken()),
            ("", broken()),
        ];
        for (bytes, expected) in table {
            let serve = |stream| answer(stream, bytes.as_bytes());
            let (news, request) = asked(&http(), PATIENCE, serve);
            let expected = expected.map_or_else(News::CheckFailed, |()| News::CheckPassed);
            assert_eq!(news, expected, "{bytes:?}");
            assert_eq!(request, REQUEST);
        }
    }

    #[test]
    fn an_answer_in_pieces_is_one_answer() {
        let (news, ()) = asked(&http(), PATIENCE, async |mut stream| {
            for byte in b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            // The request is read, or closing would reset what was not.
            stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        });
        assert_eq!(news, News::CheckPassed);
    }

    #[test]
    fn a_head_without_an_end_is_not_read_for_ever() {
        let (news, ()) = asked(&http(), PATIENCE, async |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            // Until the check closes.
            while stream.write_all(b"And: another\r\n").await.is_ok() {}
        });
        assert_eq!(news, News::CheckFailed(CheckFailure::Broken));
    }

    #[test]
    fn interim_responses_without_an_end_are_not_read_for_ever() {
        let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let (news, ()) = asked(&http(), PATIENCE, async |mut stream| {
            // Until the check closes.
            while stream.write_all(interim).await.is_ok() {}
        });
        assert_eq!(news, News::CheckFailed(CheckFailure::Broken));
    }

    #[test]
    fn who_says_nothing_has_so_much_time() {
        let limit = Duration::from_millis(50);
        let (news, received) = asked(&http(), limit, async |mut stream| {
            let mut received = Vec::new();
            // Until the check closes, by a reset.
            let _ = stream.read_to_end(&mut received).await;
            received
        });
        assert_eq!(news, News::CheckFailed(CheckFailure::Timeout));
        assert!(REQUEST.as_bytes().starts_with(&received));
    }

    #[test]
    fn a_connection_is_enough_for_tcp_and_leaves_no_port_waiting() {
        let (news, read) = asked(&Check::Tcp, PATIENCE, async |mut stream| {
            stream.read(&mut [0]).await.map_err(|error| error.kind())
        });
        assert_eq!(news, News::CheckPassed);
        assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn a_refusal_is_named_as_the_kernel_names_it() {
        let refusing = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let refusing = refusing.unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        refusing.bind(&address.into()).unwrap();
        let address = refusing.local_addr().unwrap().as_socket().unwrap();
        let news = run(Check::Tcp.ask(&backend(address.into()), PATIENCE, None));
        let failure = CheckFailure::Connect("connection refused".to_owned());
        assert_eq!(news, News::CheckFailed(failure));
    }

    /// What a check by connection says of itself at a Unix socket, whose ends have no addresses.
    fn introduced(version: Version) -> Vec<u8> {
        let name = format!("fastlb-introduced-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let backend = backend(Address::Unix(
            UnixPath::new(path.to_str().unwrap()).unwrap(),
        ));
        let (news, said) = run(async {
            let listener = UnixListener::bind(&path).unwrap();
            let serving = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut said = Vec::new();
                stream.read_to_end(&mut said).await.unwrap();
                said
            };
            tokio::join!(Check::Tcp.ask(&backend, PATIENCE, Some(version)), serving)
        });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(news, News::CheckPassed);
        said
    }

    #[test]
    fn a_check_without_addresses_is_unknown_or_local() {
        assert_eq!(introduced(Version::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(introduced(Version::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }

    #[test]
    fn a_unix_socket_is_asked_alike() {
        let path = std::env::temp_dir().join(format!("fastlb-check-{}", std::process::id()));
        let backend = backend(Address::Unix(
            UnixPath::new(path.to_str().unwrap()).unwrap(),
        ));
        let gone = || CheckFailure::Connect("no such file or directory".to_owned());
        for check in [Check::Tcp, http()] {
            run(async {
                let listener = UnixListener::bind(&path).unwrap();
                let serving = async {
                    let (stream, _) = listener.accept().await.unwrap();
                    if check != Check::Tcp {
                        answer(stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
                    }
                };
                let (news, ()) = tokio::join!(check.ask(&backend, PATIENCE, None), serving);
                assert_eq!(news, News::CheckPassed);
                std::fs::remove_file(&path).unwrap();
                let news = check.ask(&backend, PATIENCE, None).await;
                assert_eq!(news, News::CheckFailed(gone()));
            });
        }
    }
}
