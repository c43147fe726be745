//! Search paths of pods: which questions only they bring, and what a path comes to.
//!
//! With `ndots:5` a pod that wants `www.example.com` asks for `www.example.com.<ns>.svc.<zone>`
//! first, then for it in each further domain of its path, and for the bare name last.

use std::collections::HashMap;
use std::sync::Arc;

use portolan_model::{Scope, ServiceKey, Snapshot};

use crate::config::{DnsConfig, SearchMode};
use crate::name::{WireName, labels, suffix_start};
use crate::zone::Zones;

/// What is done about search paths.
#[derive(Debug, Default)]
pub(crate) struct Search {
    otherwise: SearchMode,
    namespaces: HashMap<Arc<str>, SearchMode>,
    domains: Vec<WireName>,
}

/// A name that looks like the first candidate of a search path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    /// What the pod is after.
    pub(crate) bare: &'a [u8],
    /// The pod's namespace.
    pub(crate) namespace: &'a [u8],
    /// Which of the cluster's zones it is in.
    pub(crate) zone: usize,
}

impl Search {
    pub(crate) fn new(config: &DnsConfig) -> Self {
        let pairs = config.search_namespaces.iter().map(|n| (n.namespace.clone(), n.mode));
        Self {
            otherwise: config.search,
            namespaces: pairs.collect(),
            domains: config.search_domains.iter().map(WireName::of).collect(),
        }
    }

    /// What is done about paths of a namespace.
    pub(crate) fn mode(&self, namespace: &[u8]) -> SearchMode {
        if self.namespaces.is_empty() {
            return self.otherwise;
        }
        let named = std::str::from_utf8(namespace).ok().and_then(|n| self.namespaces.get(n));
        named.copied().unwrap_or(self.otherwise)
    }

    /// The candidates of the path after the first, in its order.
    pub(crate) fn further(&self, candidate: &Candidate<'_>, zones: &Zones) -> Vec<WireName> {
        let svc = &zones.svc(Scope::Cluster)[candidate.zone];
        let bare: Vec<&[u8]> = labels(candidate.bare).collect();
        let suffixes = [Some(svc.clone()), svc.parent()].into_iter().flatten();
        suffixes
            .chain(self.domains.iter().cloned())
            .chain([WireName::root()])
            .filter_map(|suffix| suffix.below(bare.iter().copied()))
            .collect()
    }
}

/// Reads a lower-case wire name that does not exist as the first candidate of a path: something
/// with a dot, in a namespace that there is, and not the name of an endpoint or port of a service.
pub(crate) fn candidate<'a>(
    name: &'a [u8],
    zones: &Zones,
    snapshot: &Snapshot,
) -> Option<Candidate<'a>> {
    let (zone, end) = zones
        .svc(Scope::Cluster)
        .iter()
        .enumerate()
        .find_map(|(n, svc)| suffix_start(name, svc.as_bytes()).map(|start| (n, start)))?;
    let labels: Vec<&[u8]> = labels(&name[..end]).collect();
    let [bare @ .., last, namespace] = labels.as_slice() else { return None };
    // A name with a `_` in front is that of a port, and asked for in full.
    if bare.first().is_none_or(|first| first.starts_with(b"_")) {
        return None;
    }
    let text = std::str::from_utf8(namespace).ok()?;
    if !snapshot.has_namespace(Scope::Cluster, text) {
        return None;
    }
    let service = std::str::from_utf8(last).ok().and_then(|s| ServiceKey::new(text, s).ok());
    if service.is_some_and(|key| snapshot.lookup(&key).is_some()) {
        return None;
    }
    Some(Candidate { bare: &name[..end - namespace.len() - 1], namespace, zone })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::kit::{cluster_ip, service, snapshot};
    use portolan_model::DnsName;

    fn name(text: &str) -> WireName {
        let labels = text.split('.').map(str::as_bytes);
        WireName::root().below(labels).expect("valid")
    }

    #[test]
    fn a_first_candidate_is_told_from_the_names_of_services() {
        let config = DnsConfig {
            extra_zones: vec![DnsName::parse("cluster.example").expect("valid")],
            search_domains: vec![DnsName::parse("corp.example").expect("valid")],
            ..DnsConfig::default()
        };
        let zones = Zones::new(&config, &[]).expect("valid");
        let snapshot = snapshot(vec![service("shop/web", cluster_ip(&[]), &[], vec![])]);
        for (text, expected) in [
            ("www.example.com.shop.svc.cluster.local", Some(("www.example.com", 0))),
            ("a.b.shop.svc.cluster.example", Some(("a.b", 1))),
            ("web2.shop.svc.cluster.local", None),
            ("db-0.web.shop.svc.cluster.local", None),
            ("_a._tcp.example.com.shop.svc.cluster.local", None),
            ("www.example.com.idle.svc.cluster.local", None),
            ("www.example.com.svc.cluster.local", None),
            ("www.example.com", None),
        ] {
            let name = name(text);
            let found = candidate(name.as_bytes(), &zones, &snapshot);
            let shown =
                found.as_ref().map(|c| (labels(c.bare).collect::<Vec<_>>().join(&b'.'), c.zone));
            let expected = expected.map(|(bare, zone)| (bare.as_bytes().to_vec(), zone));
            assert_eq!(shown, expected, "{text}");
        }
        let first = name("a.b.shop.svc.cluster.example");
        let first = candidate(first.as_bytes(), &zones, &snapshot).expect("one");
        let further = Search::new(&config).further(&first, &zones);
        let further: Vec<String> = further.iter().map(ToString::to_string).collect();
        let expected =
            ["a.b.svc.cluster.example.", "a.b.cluster.example.", "a.b.corp.example.", "a.b."];
        assert_eq!(further, expected);
    }
}
