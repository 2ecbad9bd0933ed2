//! Streams that carry no HTTP: read to their end, whichever end that is.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

/// Hands everything to `sink` until a clean end; a reset is a failure.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut TcpStream, mut sink: impl FnMut(&[u8])) {
    let mut piece = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => sink(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no clean end: {error}"),
        }
    }
}

/// Reads until a reset; a clean end is a failure.
#[track_caller]
pub(crate) fn expect_reset(stream: &mut TcpStream) {
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("a clean end instead of a reset"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("the socket is open");
    drop(stream);
}
