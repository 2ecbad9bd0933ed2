//! Source addresses of the clients: 127.0.0.0/8 has enough of them that ports never run out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the connections of `group` to `target` come from: group 0 from the kernel's choice, then
/// 127.1.0.1, 127.1.0.2 and so on. `None` where the kernel chooses, as it does for every target
/// that is not on the loopback of IPv4.
pub(crate) fn source(target: IpAddr, group: u16) -> Option<SocketAddr> {
    let is_local = matches!(target, IpAddr::V4(target) if target.is_loopback());
    let [high, low] = group.to_be_bytes();
    (is_local && group > 0).then(|| SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)))
}

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn sources_spread_only_on_the_loopback() {
        let local = "127.0.0.1".parse().unwrap();
        assert_eq!(source(local, 0), None);
        assert_eq!(source(local, 1), "127.1.0.1:0".parse().ok());
        assert_eq!(source(local, 256), "127.1.1.0:0".parse().ok());
        assert_eq!(source("10.0.0.1".parse().unwrap(), 1), None);
        assert_eq!(source("::1".parse().unwrap(), 1), None);
    }
}
