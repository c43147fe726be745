//! The zones we are the authority for, and which of them a name belongs to.
//!
//! Built once from the config; what stands in the zones is the table's business.

use std::collections::HashSet;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use portolan_model::Scope;

use crate::config::DnsConfig;
use crate::error::DnsError;
use crate::name::{WireName, label_starts};
use crate::records::{Rdata, Soa};

/// Most reverse zones the service ranges may split into.
pub(crate) const MAX_REVERSE_ZONES: usize = 256;

/// Zones, their fixed names, and the values every answer shares.
#[derive(Debug)]
pub(crate) struct Zones {
    /// The cluster's zone.
    pub(crate) cluster: WireName,
    /// `svc.<zone>`.
    svc: WireName,
    /// `svc.<cluster set's zone>`.
    cluster_set_svc: WireName,
    /// `ns.dns.<zone>`, the zone's name server.
    pub(crate) server: WireName,
    /// `hostmaster.<zone>`, the mailbox of the SOA.
    hostmaster: WireName,
    /// Names of the zone that no service brings: name and what stands there.
    pub(crate) fixed: Vec<(WireName, Vec<Rdata>)>,
    /// Addresses of the name server.
    pub(crate) server_data: Vec<Rdata>,
    /// Time to live of every record, in seconds.
    pub(crate) ttl_secs: u32,
    /// The UDP payload size we advertise and keep to, in octets.
    pub(crate) udp_limit: u16,
    apexes: HashSet<WireName, RandomState>,
    /// Bit n is set when some apex is n octets long: most suffixes need no hashing.
    lengths: [u64; 4],
}

impl Zones {
    /// Derives the zones.
    ///
    /// # Errors
    /// A zone too long, or ranges that split into too many zones.
    pub(crate) fn new(config: &DnsConfig) -> Result<Self, DnsError> {
        let cluster = WireName::of(&config.zone);
        let name = |labels: &[&str]| {
            cluster
                .below(labels.iter().map(|l| l.as_bytes()))
                .ok_or_else(|| DnsError::ZoneTooLong { zone: config.zone.to_string() })
        };
        let server_data: Vec<Rdata> = config.server_ips.iter().map(|ip| (*ip).into()).collect();
        let server = name(&["ns", "dns"])?;
        let svc = name(&["svc"])?;
        let cluster_set = WireName::of(&config.cluster_set_zone);
        if cluster_set == cluster {
            return Err(DnsError::SameZone { zone: config.zone.to_string() });
        }
        let cluster_set_svc = cluster_set
            .child("svc")
            .ok_or_else(|| DnsError::ZoneTooLong { zone: config.cluster_set_zone.to_string() })?;
        let fixed = vec![
            (svc.clone(), Vec::new()),
            (cluster_set_svc.clone(), Vec::new()),
            (name(&["dns"])?, Vec::new()),
            (server.clone(), server_data.clone()),
            // Kubernetes DNS-Based Service Discovery 1.1.0 §2.2
            (name(&["dns-version"])?, vec![Rdata::Txt("1.1.0".into())]),
        ];
        let mut apexes: HashSet<WireName, RandomState> = reverse_zones(&config.service_ranges)?;
        apexes.insert(cluster.clone());
        apexes.insert(cluster_set);
        let mut lengths = [0_u64; 4];
        for apex in &apexes {
            let length = apex.as_bytes().len();
            lengths[length / 64] |= 1 << (length % 64);
        }
        Ok(Self {
            svc,
            cluster_set_svc,
            server,
            hostmaster: name(&["hostmaster"])?,
            fixed,
            server_data,
            ttl_secs: config.ttl_secs,
            udp_limit: config.udp_limit(),
            apexes,
            lengths,
            cluster,
        })
    }

    /// `svc.<zone>`, below which the namespaces of a scope are.
    pub(crate) fn svc(&self, scope: Scope) -> &WireName {
        match scope {
            Scope::Cluster => &self.svc,
            Scope::ClusterSet => &self.cluster_set_svc,
        }
    }

    /// Where in `name` the apex of the closest of our zones starts; `None` outside them all.
    pub(crate) fn apex_start(&self, name: &[u8]) -> Option<usize> {
        label_starts(name).find(|at| {
            let suffix = &name[*at..];
            let length = suffix.len();
            self.lengths[length / 64] & (1 << (length % 64)) != 0 && self.apexes.contains(suffix)
        })
    }

    /// The SOA all our zones share, for a generation of the snapshot.
    pub(crate) fn soa(&self, generation: u64) -> Soa {
        Soa {
            mname: self.server.clone(),
            rname: self.hostmaster.clone(),
            serial: u32::try_from(generation & u64::from(u32::MAX)).expect("masked to 32 bits"),
            refresh_secs: 7200,
            retry_secs: 1800,
            expire_secs: 86_400,
            minimum_secs: self.ttl_secs,
        }
    }
}

/// The reverse zones of the ranges. A prefix that ends inside an octet (RFC 1035 §3.5) or nibble
/// (RFC 3596 §2.5) is covered by the zones of the next longer boundary.
fn reverse_zones(ranges: &[IpNet]) -> Result<HashSet<WireName, RandomState>, DnsError> {
    let mut zones = HashSet::default();
    for range in ranges {
        let step: u8 = match range {
            IpNet::V4(_) => 8,
            IpNet::V6(_) => 4,
        };
        // A zone of all addresses would be `in-addr.arpa` itself: that is never ours.
        let length = range.prefix_len().next_multiple_of(step).max(step);
        let subnets = range
            .subnets(length)
            .map_err(|_| DnsError::TooManyReverseZones { limit: MAX_REVERSE_ZONES })?;
        for subnet in subnets {
            let address: IpAddr = subnet.network();
            zones.insert(WireName::reverse_prefix(address, length));
            if zones.len() > MAX_REVERSE_ZONES {
                return Err(DnsError::TooManyReverseZones { limit: MAX_REVERSE_ZONES });
            }
        }
    }
    Ok(zones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apexes(ranges: &[&str]) -> Vec<String> {
        let ranges: Vec<IpNet> = ranges.iter().map(|r| r.parse().expect("valid")).collect();
        let mut names: Vec<String> =
            reverse_zones(&ranges).expect("few").iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn ranges_are_rounded_up_to_octets_and_nibbles() {
        assert_eq!(apexes(&["10.96.0.0/16"]), ["96.10.in-addr.arpa."]);
        assert_eq!(apexes(&["10.96.0.0/12"]).len(), 16);
        assert_eq!(apexes(&["10.96.0.0/15"]), ["96.10.in-addr.arpa.", "97.10.in-addr.arpa."]);
        assert_eq!(apexes(&["fd00::/7"]), ["c.f.ip6.arpa.", "d.f.ip6.arpa."]);
        assert_eq!(apexes(&["0.0.0.0/0"]).len(), 256);
    }

    #[test]
    fn too_many_reverse_zones_are_refused() {
        let ranges: Vec<IpNet> =
            ["10.0.0.0/9", "11.0.0.0/9", "12.0.0.0/9"].map(|r| r.parse().expect("valid")).into();
        assert!(matches!(reverse_zones(&ranges), Err(DnsError::TooManyReverseZones { .. })));
    }

    #[test]
    fn a_name_belongs_to_the_closest_zone() {
        let config = DnsConfig {
            service_ranges: vec!["10.0.0.0/8".parse().expect("valid")],
            ..DnsConfig::default()
        };
        let zones = Zones::new(&config).expect("valid");
        let name = WireName::reverse("10.1.2.3".parse().expect("valid"));
        assert_eq!(zones.apex_start(name.as_bytes()), Some("3.2.1.".len()));
        assert_eq!(zones.apex_start(zones.cluster.as_bytes()), Some(0));
        let other = WireName::reverse("11.1.2.3".parse().expect("valid"));
        assert_eq!(zones.apex_start(other.as_bytes()), None);
    }
}
