//! What can go wrong with a request or a connection, by kind. errno is translated here only.

use std::io::{self, ErrorKind};

use nix::errno::Errno;

/// The kinds, in the order of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there.
    ConnectRefused,
    /// No answer to the connect in time.
    ConnectTimeout,
    /// Reset while connecting.
    ConnectReset,
    /// No route.
    ConnectUnreachable,
    /// This machine has no address or port left.
    ConnectNoPort,
    /// This process has no descriptor left.
    ConnectNoDescriptor,
    /// Another error of the connect.
    ConnectOther,
    /// The open loop found no free connection for it before the end.
    Unsent,
    /// Not a byte of an answer within the time limit.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the response began.
    Closed,
    /// The connection was closed inside the response.
    Cut,
    /// No HTTP/1 response.
    Malformed,
    /// Bytes came that no request had asked for.
    Unasked,
    /// Not the status that was expected.
    Status,
    /// Not the length that was expected.
    Length,
    /// Not the content that was expected.
    Checksum,
    /// Another error of the socket.
    Other,
}

impl Failure {
    /// All kinds; a kind's place is its number.
    pub(super) const ALL: [Self; 18] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectReset,
        Self::ConnectUnreachable,
        Self::ConnectNoPort,
        Self::ConnectNoDescriptor,
        Self::ConnectOther,
        Self::Unsent,
        Self::Timeout,
        Self::Reset,
        Self::Closed,
        Self::Cut,
        Self::Malformed,
        Self::Unasked,
        Self::Status,
        Self::Length,
        Self::Checksum,
        Self::Other,
    ];

    /// What a failed connect says.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::ConnectRefused,
            ErrorKind::TimedOut => Self::ConnectTimeout,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::ConnectReset,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::ConnectUnreachable,
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => Self::ConnectNoPort,
            _ => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EMFILE | Errno::ENFILE) => Self::ConnectNoDescriptor,
                _ => Self::ConnectOther,
            },
        }
    }

    /// What a failed read or write says.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other,
        }
    }

    /// Its name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectReset => "connect_reset",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::ConnectNoPort => "connect_no_port",
            Self::ConnectNoDescriptor => "connect_no_descriptor",
            Self::ConnectOther => "connect_other",
            Self::Unsent => "unsent",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::Unasked => "unasked",
            Self::Status => "status",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::Other => "other",
        }
    }

    /// What it means and what to do, for the summary.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::ConnectRefused => "nobody listens at the target; start it, or mend its address",
            Self::ConnectTimeout => "no answer to a connect within --timeout",
            Self::ConnectReset => "reset while connecting; is the target's backlog full?",
            Self::ConnectUnreachable => "no route to the target; look at the address",
            Self::ConnectNoPort => "no free port towards the target; fewer connections, or targets",
            Self::ConnectNoDescriptor => "no descriptor left; raise the limit (ulimit -n)",
            Self::ConnectOther => "another error of the connect",
            Self::Unsent => "no connection was free for it; more --connections, or a lower --rate",
            Self::Timeout => "not a byte of an answer within --timeout",
            Self::Reset => "the target reset the connection",
            Self::Closed => "the target closed before it answered",
            Self::Cut => "the target closed inside a response",
            Self::Malformed => "no HTTP/1 response, or one whose end is not certain",
            Self::Unasked => "bytes came that nobody had asked for",
            Self::Status => "not 2xx, or not the status of --expect-status",
            Self::Length => "not the length of --expect-length",
            Self::Checksum => "not the content of --checksum",
            Self::Other => "another error of the socket",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io;

    use nix::errno::Errno;

    use super::Failure;

    #[test]
    fn every_kind_stands_at_its_number_under_its_own_key() {
        for (number, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, number);
        }
        let keys: HashSet<_> = Failure::ALL.map(Failure::key).into();
        assert_eq!(keys.len(), Failure::ALL.len());
    }

    #[test]
    fn errno_says_which_kind() {
        let table = [
            (Errno::ECONNREFUSED, Failure::ConnectRefused),
            (Errno::ETIMEDOUT, Failure::ConnectTimeout),
            (Errno::EADDRNOTAVAIL, Failure::ConnectNoPort),
            (Errno::ENETUNREACH, Failure::ConnectUnreachable),
            (Errno::EMFILE, Failure::ConnectNoDescriptor),
            (Errno::EPERM, Failure::ConnectOther),
        ];
        for (errno, failure) in table {
            assert_eq!(Failure::of_connect(&io::Error::from(errno)), failure);
        }
        assert_eq!(Failure::of(&Errno::EPIPE.into()), Failure::Reset);
        assert_eq!(Failure::of(&Errno::ECONNRESET.into()), Failure::Reset);
    }
}
