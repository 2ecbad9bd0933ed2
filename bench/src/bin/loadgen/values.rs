//! What the flags of `loadgen` may say, each from its text.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use fastlb_bench::loadgen::{Checksum, Target};

/// Longest time that a flag takes: a day.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest wait for one of several addresses of a name.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// `http://HOST[:PORT][/PATH]`, with the first address of the name that can be connected to.
pub(crate) fn target(url: &str) -> Result<Target, String> {
    if url.starts_with("https:") {
        return Err("TLS is not spoken here; write http://".to_owned());
    }
    if url.starts_with("unix:") {
        return Err("only TCP is driven; write http://HOST[:PORT][/PATH]".to_owned());
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = match rest.find(['/', '?']) {
        Some(index) if rest[index..].starts_with('?') => {
            (&rest[..index], format!("/{}", &rest[index..]))
        }
        Some(index) => (&rest[..index], rest[index..].to_owned()),
        None => (rest, "/".to_owned()),
    };
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || host.contains('@') || !is_visible(host) || !is_visible(&path) {
        return Err("write http://HOST[:PORT][/PATH], in visible ASCII characters".to_owned());
    }
    let path = path.split('#').next().unwrap_or_default().to_owned();
    Ok(Target {
        address: resolve(host)?,
        host: host.to_owned(),
        path,
    })
}

fn resolve(host: &str) -> Result<SocketAddr, String> {
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        !port.ends_with(']') && (!name.contains(':') || name.ends_with(']'))
    });
    let full = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let addresses = full
        .to_socket_addrs()
        .map_err(|error| format!("{full} cannot be resolved ({error}); look at its spelling"))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    reachable(&addresses).ok_or_else(|| format!("{full} has no address"))
}

/// The first address that can be connected to, where there are several: `localhost` is often that
/// of IPv6 first, and the target only at that of IPv4. The first if none can be.
fn reachable(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let answers =
        |address: &&SocketAddr| TcpStream::connect_timeout(address, PROBE_TIMEOUT).is_ok();
    let found = match addresses {
        [_, _, ..] => addresses.iter().find(answers),
        _ => None,
    };
    found.or_else(|| addresses.first()).copied()
}

/// A whole number with its unit.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: Option<u64> = digits.parse().ok();
    let time = number.and_then(|number| match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    });
    time.filter(|time| *time <= TIME_MAX)
        .ok_or_else(|| "write a whole number with ms, s or m, at most a day: 500ms".to_owned())
}

/// A token (RFC 9110 section 5.6.2).
pub(crate) fn method(name: &str) -> Result<String, String> {
    if is_token(name) && name != "CONNECT" {
        Ok(name.to_owned())
    } else {
        Err("write a method such as GET; CONNECT is not possible".to_owned())
    }
}

/// `Name: value`, unless the name is one that decides the framing.
pub(crate) fn field(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(':').unwrap_or(("", text));
    let is_value = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    if !is_token(name) || !value.bytes().all(is_value) {
        return Err("write 'Name: value' in visible ASCII characters".to_owned());
    }
    let set_elsewhere = ["content-length", "transfer-encoding", "connection", "host"];
    if set_elsewhere.contains(&&*name.to_ascii_lowercase()) {
        return Err(format!(
            "{name} is set by --body-bytes, --no-keep-alive or the URL"
        ));
    }
    Ok(text.to_owned())
}

fn is_token(text: &str) -> bool {
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

pub(crate) fn checksum(text: &str) -> Result<Checksum, String> {
    match text {
        "first" => Ok(Checksum::First),
        "sent" => Ok(Checksum::Sent),
        digits => u32::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))
            .map(Checksum::Value)
            .ok_or_else(|| "write first, sent, or eight hexadecimal digits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{field, reachable, target, time};

    #[test]
    fn urls_are_taken_apart() {
        let table = [
            ("http://127.0.0.1:3030/a?b=c#d", "127.0.0.1:3030", "/a?b=c"),
            ("http://127.0.0.1", "127.0.0.1:80", "/"),
            ("127.0.0.1:1", "127.0.0.1:1", "/"),
            ("http://127.0.0.1?x", "127.0.0.1:80", "/?x"),
            ("http://[::1]:8/", "[::1]:8", "/"),
            ("http://[::1]", "[::1]:80", "/"),
        ];
        for (url, address, path) in table {
            let target = target(url).unwrap();
            assert_eq!(target.address, address.parse().unwrap(), "{url}");
            assert_eq!(target.path, path, "{url}");
        }
        for url in [
            "https://a/",
            "unix:/a.sock",
            "http://",
            "http:///x",
            "http://u@127.0.0.1/",
            "http://1 2/",
        ] {
            assert!(target(url).is_err(), "{url}");
        }
    }

    #[test]
    fn of_several_addresses_one_that_answers_is_taken() {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, closed) = (bind(), bind());
        let [there, gone] = [&open, &closed].map(|socket| socket.local_addr().unwrap());
        drop(closed);
        assert_eq!(reachable(&[gone, there]), Some(there));
        assert_eq!(reachable(&[gone, gone]), Some(gone));
        assert_eq!(reachable(&[gone]), Some(gone));
        assert_eq!(reachable(&[]), None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for text in ["", "5", "s", "1.5s", "-1s", "5h", "1441m"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_have_names_and_fit_on_a_line() {
        assert_eq!(field("X-A:b"), Ok("X-A:b".to_owned()));
        for text in [
            "no value",
            ": b",
            "A b: c",
            "A: \r\nB: c",
            "Host: a",
            "Content-Length: 1",
        ] {
            assert!(field(text).is_err(), "{text}");
        }
    }
}
