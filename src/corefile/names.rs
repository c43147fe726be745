//! Zones: how they are written in a Corefile, networks as reverse zones, and which is in which.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_model::DnsName;

/// The root, as we write it.
pub(super) const ROOT: &str = ".";

/// The zones that one word stands for: one, or several when it is a network that ends within a
/// label of its reverse names.
///
/// # Errors
/// When it is neither a name nor a network.
pub(super) fn zones(text: &str) -> Result<Vec<String>, String> {
    match text.parse::<IpNet>() {
        Ok(network) => Ok(reverse_zones(network)),
        Err(_) => name(text).map(|zone| vec![zone]),
    }
}

/// A name in lower case, without the dot at its end; the root is `.`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text == ROOT {
        return Ok(text.to_owned());
    }
    DnsName::parse(text)
        .map(|name| name.as_str().to_owned())
        .map_err(|e| format!("{text:?} is not a zone: {e}"))
}

/// The name that has the PTR records of an address.
pub(super) fn reverse_name(address: IpAddr) -> String {
    reverse(address, if address.is_ipv4() { 4 } else { 32 })
}

/// Whether a zone is one of addresses.
pub(super) fn is_reverse(zone: &str) -> bool {
    ["in-addr.arpa", "ip6.arpa"].iter().any(|parent| is_within(zone, parent))
}

/// Whether a name is the zone or below it.
pub(super) fn is_within(name: &str, zone: &str) -> bool {
    let below = || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    zone == ROOT || name == zone || below()
}

/// The part of a zone that is in one of these.
pub(super) fn narrowed(zone: &str, scope: &[String]) -> Vec<String> {
    if scope.iter().any(|s| is_within(zone, s)) {
        return vec![zone.to_owned()];
    }
    scope.iter().filter(|s| is_within(s, zone)).cloned().collect()
}

/// Labels of a zone: the more, the narrower it is.
pub(super) fn depth(zone: &str) -> usize {
    if zone == ROOT { 0 } else { zone.split('.').count() }
}

/// RFC 1035 §3.5 and RFC 3596 §2.5: a label per octet and per half octet.
fn reverse_zones(network: IpNet) -> Vec<String> {
    let bits: u8 = if network.addr().is_ipv4() { 8 } else { 4 };
    let labels = network.prefix_len().div_ceil(bits);
    let subnets = network.subnets(labels * bits).map(|subnets| match subnets {
        ipnet::IpSubnets::V4(nets) => nets.map(|n| IpAddr::V4(n.network())).collect::<Vec<_>>(),
        ipnet::IpSubnets::V6(nets) => nets.map(|n| IpAddr::V6(n.network())).collect(),
    });
    let subnets = subnets.unwrap_or_default();
    subnets.into_iter().map(|address| reverse(address, usize::from(labels))).collect()
}

/// The reverse name of the first labels of an address.
fn reverse(address: IpAddr, labels: usize) -> String {
    let (labels, parent): (Vec<String>, _) = match address {
        IpAddr::V4(a) => {
            (a.octets().iter().take(labels).map(u8::to_string).collect(), "in-addr.arpa")
        }
        IpAddr::V6(a) => {
            let halves = a.octets().into_iter().flat_map(|o| [o >> 4, o & 15]);
            (halves.take(labels).map(|h| format!("{h:x}")).collect(), "ip6.arpa")
        }
    };
    let labels = labels.iter().rev().map(|l| format!("{l}.")).collect::<String>();
    labels + parent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_stands_for_its_reverse_zones() {
        for (text, expected) in [
            ("10.0.0.0/8", &["10.in-addr.arpa"][..]),
            ("10.1.2.0/24", &["2.1.10.in-addr.arpa"]),
            ("10.1.2.0/23", &["2.1.10.in-addr.arpa", "3.1.10.in-addr.arpa"]),
            ("10.1.2.3/32", &["3.2.1.10.in-addr.arpa"]),
            ("2001:db8::/32", &["8.b.d.0.1.0.0.2.ip6.arpa"]),
            ("2001:db8::/31", &["8.b.d.0.1.0.0.2.ip6.arpa", "9.b.d.0.1.0.0.2.ip6.arpa"]),
            ("0.0.0.0/0", &["in-addr.arpa"]),
            ("Corp.Example.", &["corp.example"]),
            (".", &["."]),
        ] {
            assert_eq!(zones(text).expect("valid"), expected, "{text}");
        }
        assert!(zones("a b").is_err() && zones("").is_err() && zones("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_zone_is_narrowed_to_the_block_it_stands_in() {
        let scope = |zones: &[&str]| zones.iter().map(|z| (*z).to_owned()).collect::<Vec<_>>();
        for (zone, within, expected) in [
            (".", &["."][..], &["."][..]),
            (".", &["a.b", "c"], &["a.b", "c"]),
            ("a.b", &["."], &["a.b"]),
            ("x.a.b", &["a.b"], &["x.a.b"]),
            ("b", &["a.b", "c"], &["a.b"]),
            ("d", &["a.b"], &[]),
            ("xa.b", &["a.b"], &[]),
        ] {
            assert_eq!(narrowed(zone, &scope(within)), expected, "{zone} in {within:?}");
        }
    }
}
