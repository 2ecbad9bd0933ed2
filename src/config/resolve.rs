//! From names to addresses, once at the start. Following names that change is not done here.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use super::backends::{BackendName, Host, Place};
use super::{BackendConfig, BackendList};
use crate::io::Address;
use crate::limits;

/// The backends of the list cannot be used together.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A name has no address.
    #[error(
        "the name of backend {position} (`{name}`) does not resolve: {cause}; check its spelling \
         and the resolver, or write an address"
    )]
    Name {
        /// Which item of the list, counted from 1.
        position: usize,
        /// The name that failed.
        name: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// Two items lead to one address.
    #[error(
        "`{first}` and `{second}` are both the backend {address}; name it once, with a weight \
         (@N) if it should have more"
    )]
    Duplicate {
        /// The earlier item.
        first: String,
        /// The later item.
        second: String,
        /// The address of both.
        address: Address,
    },
    /// There are more addresses than a fleet may have.
    #[error("{0} backends are more than the {max} that are possible", max = limits::BACKENDS_MAX)]
    TooMany(usize),
}

impl BackendList {
    /// One backend for each address of each item. Asks the system's resolver and waits for it.
    ///
    /// # Errors
    ///
    /// Where a name does not resolve, an address comes up twice, or there are too many.
    pub fn resolve(&self) -> Result<Vec<BackendConfig>, ResolveError> {
        let mut backends = Vec::new();
        for (index, name) in self.0.iter().enumerate() {
            let addresses = addresses(name).map_err(|cause| ResolveError::Name {
                position: index + 1,
                name: name.authority(),
                cause,
            })?;
            backends.extend(addresses.into_iter().map(|address| BackendConfig {
                address,
                authority: name.authority(),
                weight: name.weight,
            }));
        }
        refuse_duplicates(&backends)?;
        if backends.len() > limits::BACKENDS_MAX {
            return Err(ResolveError::TooMany(backends.len()));
        }
        Ok(backends)
    }
}

/// The addresses of one item, each once.
fn addresses(name: &BackendName) -> io::Result<Vec<Address>> {
    let internet = |address: SocketAddr| Ok(vec![address.into()]);
    let port = name.port().get();
    let host = match &name.place {
        Place::Internet(Host::V4(address), _) => return internet((*address, port).into()),
        Place::Internet(Host::V6(address), _) => return internet((*address, port).into()),
        Place::Internet(Host::Name(host), _) => host.as_str(),
        Place::Unix(path) => return Ok(vec![path.clone().into()]),
    };
    let mut addresses = Vec::new();
    for address in (host, port).to_socket_addrs()?.map(Address::from) {
        // A hosts file may name the same address twice; that is no mistake of this list.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(addresses)
}

fn refuse_duplicates(backends: &[BackendConfig]) -> Result<(), ResolveError> {
    let mut first_of = HashMap::new();
    for backend in backends {
        if let Some(first) = first_of.insert(&backend.address, backend) {
            return Err(ResolveError::Duplicate {
                first: written(first),
                second: written(backend),
                address: backend.address.clone(),
            });
        }
    }
    Ok(())
}

/// As the user named it, but for the weight.
fn written(backend: &BackendConfig) -> String {
    match &backend.address {
        Address::Internet(_) => backend.authority.clone(),
        Address::Unix(path) => path.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(list: &str) -> Result<Vec<BackendConfig>, ResolveError> {
        list.parse::<BackendList>().unwrap().resolve()
    }

    #[test]
    fn an_address_is_one_backend() {
        let backends = resolve("127.0.0.1:8080@3,[::1]").unwrap();
        let addresses: Vec<String> = backends.iter().map(|b| b.address.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1:8080", "[::1]:80"]);
        assert_eq!(backends[0].weight.share(), 3);
        assert_eq!(backends[1].authority, "[::1]:80");
    }

    #[test]
    fn a_name_keeps_its_name() {
        let backends = resolve("localhost:8080").unwrap();
        assert!(
            backends
                .iter()
                .filter_map(|backend| backend.address.internet())
                .all(|address| address.ip().is_loopback())
        );
        assert!(
            backends
                .iter()
                .all(|backend| backend.authority == "localhost:8080")
        );
    }

    #[test]
    fn an_address_may_come_up_once() {
        let error = resolve("127.0.0.1,127.0.0.1:80").unwrap_err().to_string();
        assert!(
            error.contains("are both the backend 127.0.0.1:80"),
            "{error}"
        );
        let error = resolve("unix:/a/b,unix:/a//b@2").unwrap_err().to_string();
        assert!(error.contains("are both the backend unix:/a/"), "{error}");
    }

    #[test]
    fn a_unix_socket_is_one_backend() {
        let backends = resolve("unix:/run/web.sock@3").unwrap();
        assert_eq!(backends[0].address.to_string(), "unix:/run/web.sock");
        assert_eq!(backends[0].authority, "localhost");
        assert_eq!(backends[0].weight.share(), 3);
    }

    #[test]
    fn a_name_that_fails_is_named() {
        // RFC 6761 reserves `.invalid`, and an empty label is refused without asking anybody.
        let error = resolve("127.0.0.1,nowhere..invalid")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the name of backend 2 (`nowhere..invalid:80`)"),
            "{error}"
        );
    }

    #[test]
    fn a_fleet_has_a_limit() {
        let item = |index: usize| format!("10.0.{}.{}", index / 256, index % 256);
        let list: Vec<String> = (0..=limits::BACKENDS_MAX).map(item).collect();
        let error = resolve(&list.join(",")).unwrap_err();
        assert!(matches!(error, ResolveError::TooMany(count) if count == list.len()));
    }
}
