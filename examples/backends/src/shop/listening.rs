//! Sockets for the shop. All endpoints of an EndpointSlice share its port, so a port that is taken
//! on one address is replaced on every address that uses it: the outcome is a table from port to
//! port, whatever the slices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};

use portolan_runtime::bind::{self, BindError, Sharing};

/// How often a port that is free on one address may turn out to be taken on another.
const ATTEMPTS: usize = 32;

/// Which ports to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Those of the manifests, and any other if they are taken.
    CanonicalFirst,
    /// Any but those of the manifests.
    FreePorts,
}

/// Bound sockets.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Port in the manifests -> port in use.
    pub(super) ports: BTreeMap<u16, u16>,
    /// In the order of the addresses asked for, with the address in use.
    pub(super) sockets: Vec<(SocketAddr, TcpListener)>,
}

/// Binds every address once; they must be distinct and sorted.
pub(super) fn bind(
    canonical: impl Iterator<Item = SocketAddr>,
    choice: Choice,
) -> Result<Listeners, BindError> {
    let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for address in canonical {
        by_port.entry(address.port()).or_default().insert(address.ip());
    }
    let mut ports = BTreeMap::new();
    let mut sockets = BTreeMap::new();
    for (canonical, addresses) in by_port {
        let (port, bound) = bind_group(&addresses, canonical, choice)?;
        ports.insert(canonical, port);
        for (ip, listener) in addresses.into_iter().zip(bound) {
            let in_use = SocketAddr::new(ip, port);
            sockets.insert(SocketAddr::new(ip, canonical), (in_use, listener));
        }
    }
    Ok(Listeners { ports, sockets: sockets.into_values().collect() })
}

fn bind_group(
    addresses: &BTreeSet<IpAddr>,
    canonical: u16,
    choice: Choice,
) -> Result<(u16, Vec<TcpListener>), BindError> {
    if choice == Choice::CanonicalFirst {
        match bind_all(addresses, canonical) {
            Ok(bound) => return Ok(bound),
            Err(error) => tracing::info!(%error, "using another port for all of its endpoints"),
        }
    }
    let mut attempt = 1;
    loop {
        match bind_all(addresses, 0) {
            Ok((port, _)) if port == canonical && attempt < ATTEMPTS => {}
            Err(_) if attempt < ATTEMPTS => {}
            result => return result,
        }
        attempt += 1;
    }
}

/// Binds one port on all addresses; port 0 stands for whichever is free on the first.
fn bind_all(
    addresses: &BTreeSet<IpAddr>,
    mut port: u16,
) -> Result<(u16, Vec<TcpListener>), BindError> {
    let mut bound = Vec::with_capacity(addresses.len());
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        let listener = bind::tcp(address, "a backend", Sharing::Exclusive)?;
        let in_use = listener.local_addr().map_err(|source| BindError {
            purpose: "a backend".to_owned(),
            address,
            source,
        })?;
        port = in_use.port();
        bound.push(listener);
    }
    Ok((port, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_taken_on_one_address_is_replaced_on_all_that_use_it_and_nowhere_else() {
        let taken = TcpListener::bind("127.10.9.2:0").expect("loopback");
        let taken_port = taken.local_addr().expect("bound").port();
        // A port that was free a moment ago, for the group that is to keep its own.
        let probe = || {
            let probe = TcpListener::bind("127.10.9.3:0").expect("loopback");
            probe.local_addr().expect("bound").port()
        };
        let free_port = std::iter::repeat_with(probe)
            .find(|port| *port != taken_port)
            .expect("it repeats until there is one");
        let mut wanted: Vec<SocketAddr> =
            [("127.10.9.1", taken_port), ("127.10.9.2", taken_port), ("127.10.9.3", free_port)]
                .into_iter()
                .map(|(ip, port)| SocketAddr::new(ip.parse().expect("an address"), port))
                .collect();
        wanted.sort();

        let listeners = bind(wanted.iter().copied(), Choice::CanonicalFirst).expect("bound");
        assert_ne!(listeners.ports[&taken_port], taken_port);
        assert_eq!(listeners.ports[&free_port], free_port);
        for (asked, (in_use, listener)) in wanted.iter().zip(&listeners.sockets) {
            assert_eq!(asked.ip(), in_use.ip());
            assert_eq!(listeners.ports[&asked.port()], in_use.port());
            assert_eq!(listener.local_addr().expect("bound"), *in_use);
        }
    }
}
