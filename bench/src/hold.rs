//! Opens keep-alive connections, asks once on each, and keeps them: for idle memory.
//!
//! Not a load generator: one connection after the other, nothing is timed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::head::{Framing, framing, with_response};
use crate::source::source;

/// Connections that share a source address, well below the kernel's 28 000 ephemeral ports.
const PER_SOURCE: usize = 10_000;
/// Longest wait for a connection or an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Opens `count` connections to `address` and gets a 200 with a whole body on each.
///
/// # Errors
/// The first connection that fails, or is answered with anything else.
pub fn open(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|index| {
            open_one(address, index).map_err(|error| {
                let text = format!("connection {} of {count}: {error}", index + 1);
                io::Error::new(error.kind(), text)
            })
        })
        .collect()
}

fn open_one(address: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let mut stream = connect(address, index)?;
    ask(&mut stream, address)?;
    Ok(stream)
}

/// Connects from the source address that the connection's number falls to. Closing resets the
/// connection, so that thousands of them leave no port in TIME_WAIT for the next run.
fn connect(address: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let group = u16::try_from(index / PER_SOURCE).unwrap_or(u16::MAX);
    if let Some(source) = source(address.ip(), group) {
        socket.bind(&source.into())?;
    }
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&address.into(), ANSWER_TIMEOUT)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket.into())
}

fn ask(stream: &mut TcpStream, address: SocketAddr) -> io::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut answer[filled..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        if let Some(length) = answer_length(&answer[..filled])? {
            return if length == filled {
                Ok(())
            } else {
                Err(unexpected(&answer[..filled]))
            };
        }
    }
}

/// The length of a whole 200; `None` while part of it is missing.
fn answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let parsed = with_response(bytes, |head, response| {
        Ok((head, response.code, framing(response.headers)?))
    });
    match parsed {
        Ok(None) => Ok(None),
        Ok(Some((head, Some(200), Framing::Length(body)))) => {
            let length = head.saturating_add(usize::try_from(body).unwrap_or(usize::MAX));
            Ok((bytes.len() >= length).then_some(length))
        }
        Ok(Some(_)) | Err(_) => Err(unexpected(bytes)),
    }
}

fn unexpected(answer: &[u8]) -> io::Error {
    let start = &answer[..answer.len().min(200)];
    io::Error::other(format!("unexpected answer: {}", start.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::answer_length;

    #[test]
    fn only_a_whole_200_will_do() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
        assert_eq!(answer_length(&answer[..answer.len() - 1]).unwrap(), None);
        assert_eq!(answer_length(answer).unwrap(), Some(answer.len()));
        assert!(answer_length(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
    }
}
