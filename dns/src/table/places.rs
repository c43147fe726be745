//! Where a client is, by its address: on the node that has it, or whose range of pods it is in.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use portolan_model::{Node, Place, Snapshot};

/// Networks and who is in them.
#[derive(Debug, Default)]
pub(crate) struct Places {
    networks: HashMap<IpNet, Place, RandomState>,
    /// Lengths of prefixes there are, so that a look-up tries no others.
    lengths: BTreeSet<u8>,
}

impl Places {
    /// The places of all nodes. Linear in their number.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let mut places = Self::default();
        for node in snapshot.nodes() {
            for network in networks(node) {
                let place = Place { node: Some(node.name.clone()), zone: node.zone.clone() };
                places.lengths.insert(network.prefix_len());
                places.networks.insert(network, place);
            }
        }
        places
    }

    /// Where an address is: in the smallest network it is in; nowhere in particular when in none.
    pub(crate) fn place_of(&self, address: IpAddr) -> Place {
        let address = address.to_canonical();
        let found = self.lengths.iter().rev().find_map(|length| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.networks.get(&network)
        });
        found.cloned().unwrap_or_default()
    }
}

fn networks(node: &Node) -> impl Iterator<Item = IpNet> + '_ {
    let own = node.addresses.iter().map(|address| IpNet::from(*address));
    node.pod_ranges.iter().map(IpNet::trunc).chain(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_address_is_on_its_node_or_in_its_range() {
        let node = |name: &str, zone: &str, address: &str, range: &str| {
            Arc::new(Node {
                name: name.into(),
                zone: Some(zone.into()),
                region: None,
                addresses: vec![address.parse().expect("valid")],
                pod_ranges: vec![range.parse().expect("valid")],
            })
        };
        let mut snapshot = Snapshot::default();
        snapshot.apply_node(node("n1", "a", "192.0.2.1", "10.0.1.0/24"));
        snapshot.apply_node(node("n2", "b", "192.0.2.2", "fd00:2::/64"));
        snapshot.apply_node(node("n3", "c", "10.0.1.77", "10.0.0.0/16"));
        let places = Places::of(&snapshot);
        for (address, expected) in [
            ("10.0.1.9", Some("n1")),
            ("::ffff:10.0.1.9", Some("n1")),
            ("192.0.2.2", Some("n2")),
            ("fd00:2::7", Some("n2")),
            ("10.0.1.77", Some("n3")),
            ("10.0.9.9", Some("n3")),
            ("10.1.0.1", None),
            ("fd00:3::7", None),
        ] {
            let place = places.place_of(address.parse().expect("valid"));
            assert_eq!(place.node.as_deref(), expected, "{address}");
            assert_eq!(place.zone.is_some(), expected.is_some(), "{address}");
        }
    }
}
