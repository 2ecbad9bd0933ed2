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
    /// Asks `backend`, for at most `limit`.
    pub async fn ask(&self, backend: &Backend, limit: Duration) -> News {
        let answer = timeout(limit, self.answer(backend)).await;
        answer.unwrap_or(News::CheckFailed(CheckFailure::Timeout))
    }

    async fn answer(&self, backend: &Backend) -> News {
        let authority = &backend.authority;
        match &backend.address {
            Address::Internet(address) => {
                let connected = TcpStream::connect(address).await.inspect(|stream| {
                    // Ended by a reset: a close would leave a port in TIME_WAIT for each check.
                    let _ = stream.set_zero_linger();
                });
                self.judge(connected, authority).await
            }
            Address::Unix(path) => {
                let connected = UnixStream::connect(path.as_path()).await;
                self.judge(connected, authority).await
            }
        }
    }

    async fn judge(
        &self,
        connected: io::Result<impl AsyncRead + AsyncWrite + Unpin>,
        authority: &str,
    ) -> News {
        let answer = match connected {
            Ok(stream) => self.converse(stream, authority).await,
            // Not the backend's fault, and nothing that is learnt of it.
            Err(error) if is_out_of_descriptors(&error) => return News::Unknown,
            Err(error) => Err(refused(&error)),
        };
        answer.map_or_else(News::CheckFailed, |()| News::CheckPassed)
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        authority: &str,
    ) -> Result<(), CheckFailure> {
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
    loop {
        let received = stream.read_buf(&mut bytes).await;
        if received.map_err(|_| CheckFailure::Broken)? == 0 {
            return Err(CheckFailure::Broken);
        }
        while let Some(span) = scan.end(&bytes).map_err(|_| CheckFailure::Broken)? {
            let status = {
                let mut store = field_store();
                let head = ResponseHead::parse(&bytes[span.start..span.end], &mut store);
                head.map_err(|_| CheckFailure::Broken)?.status
            };
            if status >= 200 {
                return Ok(status);
            }
            // An interim response; the final one follows.
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
