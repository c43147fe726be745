//! The zones we are the authority for, and which of them a name belongs to.
//!
//! Built once from the config and the static records; what else stands in the zones is the table's
//! business.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use portolan_model::{DnsName, Scope};

use crate::config::{DnsConfig, EndpointNames, LargeAnswers, PodMode, StaticRecord, Topology};
use crate::error::DnsError;
use crate::name::{WireName, label_starts, suffix_start};
use crate::records::{Naming, Rdata, Soa};
use crate::table::between;

/// Most reverse zones the service ranges may split into.
pub(crate) const MAX_REVERSE_ZONES: usize = 256;
/// Most zones of names that the cluster may have.
pub(crate) const MAX_ZONES: usize = 8;

/// Zones, their fixed names, and the values every answer shares.
#[derive(Debug)]
pub(crate) struct Zones {
    /// The cluster's zone.
    pub(crate) cluster: WireName,
    /// `svc.<zone>` of each scope; the cluster's own zone first, then its further ones.
    svc: [Vec<WireName>; 2],
    /// `pod.<zone>` of each zone of the cluster.
    pub(crate) pod: Vec<WireName>,
    /// How names below it are answered.
    pub(crate) pods: PodMode,
    /// `ns.dns.<zone>`, the zone's name server.
    pub(crate) server: WireName,
    /// `hostmaster.<zone>`, the mailbox of the SOA.
    hostmaster: WireName,
    /// Names that no service brings, and what stands there.
    fixed: HashMap<WireName, Fixed, RandomState>,
    /// Addresses of the name server.
    pub(crate) server_data: Vec<Rdata>,
    /// Time to live of every record that is not static, in seconds.
    pub(crate) ttl_secs: u32,
    /// The UDP payload size we advertise and keep to, in octets.
    pub(crate) udp_limit: u16,
    /// Names outside our zones are forwarded.
    pub(crate) forwards: bool,
    /// What becomes of addresses too many for a datagram.
    pub(crate) large_answers: LargeAnswers,
    /// How endpoints are named and chosen.
    pub(crate) naming: Naming,
    /// When headless answers are cut to near endpoints.
    pub(crate) topology: Topology,
    apexes: HashMap<WireName, ZoneId, RandomState>,
    /// Bit n is set when some apex is n octets long: most suffixes need no hashing.
    lengths: [u64; 4],
    /// Names of the zones by their number, as metrics show them.
    names: Vec<Box<str>>,
}

/// Number of a zone in metrics; all reverse zones of a family are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZoneId(u8);

/// What stands at a fixed name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) data: Vec<Rdata>,
    pub(crate) ttl_secs: u32,
}

impl ZoneId {
    /// Names in none of our zones.
    pub(crate) const OUTSIDE: Self = Self(0);
    /// How many numbers there can be: the outside, the cluster's zones, the cluster set's, and the
    /// reverse zones of two families.
    pub(crate) const COUNT: usize = MAX_ZONES + 4;

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Zones {
    /// Derives the zones; `hosts` are static records besides those of the config.
    ///
    /// # Errors
    /// A zone too long, zones that are one, or ranges that split into too many zones.
    pub(crate) fn new(config: &DnsConfig, hosts: &[StaticRecord]) -> Result<Self, DnsError> {
        let apexes = Apexes::new(config)?;
        let main = Below::new(&config.zone);
        let extra: Vec<Below<'_>> = config.extra_zones.iter().map(Below::new).collect();
        let cluster_set = Below::new(&config.cluster_set_zone);
        let server_data: Vec<Rdata> = config.server_ips.iter().map(|ip| (*ip).into()).collect();
        let mut zones = Self {
            svc: [Vec::new(), vec![cluster_set.child(&["svc"])?]],
            pod: Vec::new(),
            pods: config.pods,
            server: main.child(&["ns", "dns"])?,
            hostmaster: main.child(&["hostmaster"])?,
            fixed: HashMap::default(),
            server_data,
            ttl_secs: config.ttl_secs,
            udp_limit: config.udp_limit(),
            forwards: !config.forward.rules.is_empty(),
            large_answers: config.large_answers,
            naming: Naming {
                pods: config.endpoint_names == EndpointNames::Pod,
                terminating: config.terminating_fallback,
            },
            topology: config.topology.clone(),
            lengths: apexes.lengths(),
            apexes: apexes.ids,
            names: apexes.names,
            cluster: main.apex.clone(),
        };
        zones.fix(cluster_set.child(&["svc"])?, Vec::new());
        for zone in std::iter::once(&main).chain(&extra) {
            let svc = zone.child(&["svc"])?;
            zones.fix(svc.clone(), Vec::new());
            zones.svc[0].push(svc);
            let pod = zone.child(&["pod"])?;
            zones.fix(pod.clone(), Vec::new());
            zones.pod.push(pod);
            zones.fix(zone.child(&["dns"])?, Vec::new());
            zones.fix(zone.child(&["ns", "dns"])?, zones.server_data.clone());
            // Kubernetes DNS-Based Service Discovery 1.1.0 §2.2
            zones.fix(zone.child(&["dns-version"])?, vec![Rdata::Txt("1.1.0".into())]);
        }
        zones.add_static(config.records.iter().chain(hosts))?;
        Ok(zones)
    }

    fn fix(&mut self, owner: WireName, data: Vec<Rdata>) {
        self.fixed.insert(owner, Fixed { data, ttl_secs: self.ttl_secs });
    }

    /// Static records stand where services cannot, so that neither hides the other.
    fn add_static<'a>(
        &mut self,
        records: impl Iterator<Item = &'a StaticRecord>,
    ) -> Result<(), DnsError> {
        let mut sets: BTreeMap<&WireName, Fixed> = BTreeMap::new();
        for record in records {
            let refuse = |reason| DnsError::Static { name: record.name.to_string(), reason };
            if let Some(reason) = self.refuses_static(&record.name) {
                return Err(refuse(reason));
            }
            let set = sets
                .entry(&record.name)
                .or_insert_with(|| Fixed { data: Vec::new(), ttl_secs: record.ttl_secs });
            set.data.push(record.data.clone());
            // RFC 2181 §5.2: records of a set have one time to live.
            set.ttl_secs = set.ttl_secs.min(record.ttl_secs);
            let alias = |data: &Rdata| matches!(data, Rdata::Cname(_));
            if set.data.len() > 1 && set.data.iter().any(alias) {
                return Err(refuse("with a CNAME no other record can stand at a name"));
            }
        }
        for (owner, mut set) in sets {
            set.data.sort();
            set.data.dedup();
            if let Some(apex) = self.apex_start(owner.as_bytes()) {
                // RFC 8020: the names above one that exists exist.
                for above in between(owner, apex) {
                    self.fixed.entry(above).or_default();
                }
            }
            self.fixed.insert(owner.clone(), set);
        }
        Ok(())
    }

    /// Why no static record can stand at a name, if so: the cluster has it.
    pub(crate) fn refuses_static(&self, name: &WireName) -> Option<&'static str> {
        let bytes = name.as_bytes();
        let mut taken = self.svc.iter().flatten().chain(&self.pod);
        if taken.any(|above| suffix_start(bytes, above.as_bytes()).is_some()) {
            return Some("names below svc and pod are those of the cluster");
        }
        let zone = self.zone_of(bytes).map_or("", |(_, id)| &self.names[id.index()]);
        if zone.ends_with(".arpa.") {
            return Some("the addresses of services lead to names of the cluster");
        }
        let own = self.fixed.contains_key(name) || self.apexes.contains_key(name);
        own.then_some("that name has records of its own")
    }

    /// `svc.<zone>` in each zone of a scope, below which its namespaces are.
    pub(crate) fn svc(&self, scope: Scope) -> &[WireName] {
        match scope {
            Scope::Cluster => &self.svc[0],
            Scope::ClusterSet => &self.svc[1],
        }
    }

    /// Every `svc.<zone>` with its scope.
    pub(crate) fn all_svc(&self) -> impl Iterator<Item = (Scope, &WireName)> {
        [Scope::Cluster, Scope::ClusterSet]
            .into_iter()
            .flat_map(|scope| self.svc(scope).iter().map(move |svc| (scope, svc)))
    }

    /// Names that no service brings, and what stands there.
    pub(crate) fn fixed(&self) -> impl Iterator<Item = (&WireName, &Fixed)> {
        self.fixed.iter()
    }

    /// What stands at a fixed name.
    pub(crate) fn fixed_at(&self, name: &WireName) -> Option<&Fixed> {
        self.fixed.get(name)
    }

    /// Time to live of the records of a name, in seconds.
    pub(crate) fn ttl_secs_of(&self, name: &WireName) -> u32 {
        self.fixed_at(name).map_or(self.ttl_secs, |fixed| fixed.ttl_secs)
    }

    /// Where in `name` the apex of the closest of our zones starts; `None` outside them all, and in
    /// a zone within ours that is forwarded.
    pub(crate) fn apex_start(&self, name: &[u8]) -> Option<usize> {
        self.zone_of(name).map(|(at, _)| at)
    }

    /// The same with the zone's number.
    pub(crate) fn zone_of(&self, name: &[u8]) -> Option<(usize, ZoneId)> {
        let (at, id) = label_starts(name).find_map(|at| {
            let suffix = &name[at..];
            let length = suffix.len();
            if self.lengths[length / 64] & (1 << (length % 64)) == 0 {
                return None;
            }
            self.apexes.get(suffix).map(|id| (at, *id))
        })?;
        (id != ZoneId::OUTSIDE).then_some((at, id))
    }

    /// Whether a name is below `pod.<zone>`, and such names are answered.
    pub(crate) fn in_pods(&self, name: &[u8]) -> bool {
        let below = |pod: &WireName| suffix_start(name, pod.as_bytes()).is_some_and(|at| at > 0);
        self.pods != PodMode::Disabled && self.pod.iter().any(below)
    }

    /// Names of the zones as metrics show them, by number.
    pub(crate) fn zone_names(&self) -> &[Box<str>] {
        &self.names
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

/// A zone whose names are being made.
struct Below<'a> {
    zone: &'a DnsName,
    apex: WireName,
}

impl<'a> Below<'a> {
    fn new(zone: &'a DnsName) -> Self {
        Self { zone, apex: WireName::of(zone) }
    }

    fn child(&self, labels: &[&str]) -> Result<WireName, DnsError> {
        self.apex
            .below(labels.iter().map(|l| l.as_bytes()))
            .ok_or_else(|| DnsError::ZoneTooLong { zone: self.zone.to_string() })
    }
}

/// Where zones begin, and zones within ours that are not.
struct Apexes {
    ids: HashMap<WireName, ZoneId, RandomState>,
    names: Vec<Box<str>>,
}

impl Apexes {
    fn new(config: &DnsConfig) -> Result<Self, DnsError> {
        let mut apexes = Self { ids: HashMap::default(), names: vec![".".into()] };
        if config.extra_zones.len() >= MAX_ZONES {
            return Err(DnsError::TooManyZones { limit: MAX_ZONES });
        }
        let zones = std::iter::once(&config.zone).chain(&config.extra_zones);
        for zone in zones.chain([&config.cluster_set_zone]) {
            let id = apexes.name(&format!("{zone}."));
            if apexes.ids.insert(WireName::of(zone), id).is_some() {
                return Err(DnsError::SameZone { zone: zone.to_string() });
            }
        }
        let families = [("in-addr.arpa.", true), ("ip6.arpa.", false)];
        let [v4, v6] = families.map(|(name, is_v4)| {
            let some = config.service_ranges.iter().any(|r| matches!(r, IpNet::V4(_)) == is_v4);
            if some { apexes.name(name) } else { ZoneId::OUTSIDE }
        });
        for zone in reverse_zones(&config.service_ranges)? {
            let is_v4 = zone.labels().any(|label| label == b"in-addr");
            apexes.ids.insert(zone, if is_v4 { v4 } else { v6 });
        }
        for rule in &config.forward.rules {
            // A zone of our own stays ours; one within it may be somebody else's.
            if let Some(zone) = &rule.zone {
                apexes.ids.entry(WireName::of(zone)).or_insert(ZoneId::OUTSIDE);
            }
        }
        Ok(apexes)
    }

    fn name(&mut self, name: &str) -> ZoneId {
        let id = ZoneId(u8::try_from(self.names.len()).expect("at most ZoneId::COUNT"));
        self.names.push(name.into());
        id
    }

    fn lengths(&self) -> [u64; 4] {
        let mut lengths = [0_u64; 4];
        for apex in self.ids.keys() {
            let length = apex.as_bytes().len();
            lengths[length / 64] |= 1 << (length % 64);
        }
        lengths
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
        let zones = Zones::new(&config, &[]).expect("valid");
        let name = WireName::reverse("10.1.2.3".parse().expect("valid"));
        assert_eq!(zones.apex_start(name.as_bytes()), Some("3.2.1.".len()));
        assert_eq!(zones.apex_start(zones.cluster.as_bytes()), Some(0));
        let other = WireName::reverse("11.1.2.3".parse().expect("valid"));
        assert_eq!(zones.apex_start(other.as_bytes()), None);
    }

    #[test]
    fn a_forwarded_zone_within_ours_is_not_ours_and_one_of_ours_stays_so() {
        let config = DnsConfig {
            forward: crate::config::ForwardConfig {
                rules: ["corp.cluster.local 10.0.0.1", "cluster.local 10.0.0.1"]
                    .map(|rule| rule.parse().expect("valid"))
                    .into(),
                ..crate::config::ForwardConfig::default()
            },
            ..DnsConfig::default()
        };
        let zones = Zones::new(&config, &[]).expect("valid");
        let name = |labels: &[&str]| {
            zones.cluster.below(labels.iter().map(|l| l.as_bytes())).expect("fits")
        };
        assert_eq!(zones.apex_start(name(&["db", "corp"]).as_bytes()), None);
        assert_eq!(
            zones.apex_start(name(&["db", "svc"]).as_bytes()),
            Some(2 + "db".len() + "svc".len())
        );
    }

    #[test]
    fn static_records_stand_where_services_cannot() {
        let with = |records: &[&str]| {
            let records = records.iter().map(|r| r.parse().expect("valid")).collect();
            Zones::new(&DnsConfig { records, ..DnsConfig::default() }, &[])
        };
        let zones = with(&["a.b.cluster.local 9 A 10.0.0.1", "a.b.cluster.local 7 A 10.0.0.2"])
            .expect("valid");
        let name = zones.cluster.below([&b"a"[..], b"b"]).expect("fits");
        assert_eq!(zones.fixed_at(&name).map(|f| (f.data.len(), f.ttl_secs)), Some((2, 7)));
        let above = name.parent().expect("a parent");
        assert_eq!(zones.fixed_at(&above), Some(&Fixed::default()));
        for (records, reason) in [
            (&["a.svc.cluster.local 1 A 10.0.0.1"][..], "those of the cluster"),
            (&["cluster.local 1 A 10.0.0.1"], "records of its own"),
            (&["a.b 1 A 10.0.0.1", "a.b 1 CNAME c.d"], "no other record"),
        ] {
            let error = with(records).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
