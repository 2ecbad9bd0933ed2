//! Headers of the PROXY protocol, written and read by hand.

use std::io::Read;

use super::Conversation;

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2: its command, its family with its transport, and what is behind.
pub(crate) fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("it has to fit");
    let fixed = [command, kind, (length >> 8) as u8, length as u8];
    [SIGNATURE, &fixed, rest].concat()
}

/// Reads the header that a connection begins with, and not a byte more.
#[track_caller]
pub(crate) fn preface(conversation: &mut Conversation<'_>) -> Option<Vec<u8>> {
    let mut stream = conversation.wire().writer();
    let mut header = Vec::new();
    let is_whole = |header: &[u8]| match header {
        [b'P', .., b'\r', b'\n'] => true,
        [b'\r', ..] if header.len() >= 16 => {
            header.len() == 16 + usize::from(header[14]) * 256 + usize::from(header[15])
        }
        _ => false,
    };
    while !is_whole(&header) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => header.push(byte[0]),
            // Nobody has said anything, which is what the end of a test looks like.
            _ if header.is_empty() => return None,
            end => panic!("{end:?} inside a header: {}", header.escape_ascii()),
        }
        assert!(header.len() <= 216, "no header: {}", header.escape_ascii());
    }
    Some(header)
}
