//! A question answered from the snapshot itself: labels taken apart, records built on demand.
//!
//! Shares `records` with the table and nothing else, so that each can be checked by the other.

use std::collections::BTreeSet;

use portolan_model::{Scope, ServiceKey, Snapshot};

use super::{Pointers, View, meta};
use crate::edns;
use crate::fast::{MAX_LINKS, rcode};
use crate::name::{WireName, parse_reverse, suffix_start};
use crate::question::Question;
use crate::records::{self, Rdata, rtype};

/// Records of a section.
pub(super) type Section = Vec<(WireName, Rdata)>;

/// What there is to say.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    pub(super) rcode: u8,
    pub(super) authoritative: bool,
    /// Extended error (RFC 8914).
    pub(super) error: Option<u16>,
    pub(super) answers: Section,
    pub(super) authorities: Section,
    pub(super) additionals: Section,
    /// Type ANY found something: one made-up record stands for it.
    pub(super) minimal: bool,
}

impl Resolution {
    fn failure(rcode: u8, error: Option<u16>) -> Self {
        Self { rcode, error, ..Self::default() }
    }

    /// A name in none of our zones.
    fn outside() -> Self {
        Self::failure(rcode::REFUSED, Some(edns::NOT_AUTHORITATIVE))
    }
}

/// Resolves a question of class IN.
pub(super) fn resolve(view: &View<'_>, question: &Question) -> Resolution {
    let Some(name) = wire_name(question.name()) else {
        return Resolution::failure(rcode::SERV_FAIL, None);
    };
    let Some(snapshot) = view.snapshot else {
        return match view.zones.apex_start(name.as_bytes()) {
            Some(_) => Resolution::failure(rcode::SERV_FAIL, Some(edns::NOT_READY)),
            None => Resolution::outside(),
        };
    };
    let mut resolution = Resolution { authoritative: true, ..Resolution::default() };
    let mut current = name;
    loop {
        let data = find(view, snapshot, &current);
        let Some([Rdata::Cname(target)]) = data.as_deref() else {
            return conclude(view, snapshot, &current, data, question.qtype, resolution);
        };
        if resolution.answers.len() == MAX_LINKS {
            return Resolution::failure(rcode::SERV_FAIL, None);
        }
        resolution.answers.push((current, Rdata::Cname(target.clone())));
        let last = matches!(question.qtype, rtype::CNAME | meta::ANY);
        if last || suffix_start(target.as_bytes(), view.zones.cluster.as_bytes()).is_none() {
            return resolution;
        }
        current = target.clone();
    }
}

/// The end of a chain: what stands at the name itself.
fn conclude(
    view: &View<'_>,
    snapshot: &Snapshot,
    name: &WireName,
    data: Option<Vec<Rdata>>,
    qtype: u16,
    mut resolution: Resolution,
) -> Resolution {
    let exists = data.is_some();
    let data = data.unwrap_or_default();
    if qtype == meta::ANY && !data.is_empty() {
        resolution.minimal = true;
        return resolution;
    }
    let wanted: Vec<Rdata> = data.into_iter().filter(|d| d.rtype() == qtype).collect();
    if !wanted.is_empty() {
        resolution.additionals = additionals(view, snapshot, &wanted);
        resolution.answers.extend(wanted.into_iter().map(|d| (name.clone(), d)));
        return resolution;
    }
    let Some(apex) = apex(view, name) else { return Resolution::outside() };
    // RFC 2308 §2
    resolution.rcode = if exists { rcode::NO_ERROR } else { rcode::NX_DOMAIN };
    resolution.authorities.push((apex, soa(view, snapshot)));
    resolution
}

fn additionals(view: &View<'_>, snapshot: &Snapshot, answers: &[Rdata]) -> Section {
    let targets: BTreeSet<&WireName> = answers
        .iter()
        .filter_map(|data| match data {
            Rdata::Srv { target, .. } | Rdata::Ns(target) => Some(target),
            _ => None,
        })
        .collect();
    targets
        .into_iter()
        .flat_map(|target| {
            let data = find(view, snapshot, target).unwrap_or_default();
            data.into_iter().filter(Rdata::is_address).map(|d| (target.clone(), d))
        })
        .collect()
}

/// What stands at a name; `None` when there is no such name.
fn find(view: &View<'_>, snapshot: &Snapshot, name: &WireName) -> Option<Vec<Rdata>> {
    let zones = view.zones;
    if let Some((_, data)) = zones.fixed.iter().find(|(owner, _)| owner == name) {
        return Some(data.clone());
    }
    for scope in [Scope::Cluster, Scope::ClusterSet] {
        let svc = zones.svc(scope);
        if suffix_start(name.as_bytes(), svc.as_bytes()).is_none() {
            continue;
        }
        let labels: Vec<&str> =
            name.labels().map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
        return match &labels[..labels.len() - svc.labels().count()] {
            [namespace] => snapshot.has_namespace(scope, namespace).then(Vec::new),
            [.., service, namespace] => {
                let key = ServiceKey::new(namespace, service).ok()?.within(scope);
                in_service(view, snapshot, &key, name)
            }
            [] => None,
        };
    }
    reverse(view, snapshot, name)
}

fn in_service(
    view: &View<'_>,
    snapshot: &Snapshot,
    key: &ServiceKey,
    name: &WireName,
) -> Option<Vec<Rdata>> {
    let entry = snapshot.lookup(key)?;
    let mut records = records::of_service(view.zones.svc(key.scope()), entry);
    let data = records.names.remove(name);
    // RFC 8020: a name exists when something exists below it.
    let below = || {
        let is_below = |owner: &WireName| suffix_start(owner.as_bytes(), name.as_bytes());
        records.names.keys().any(|owner| is_below(owner).is_some())
    };
    data.or_else(|| below().then(Vec::new))
}

/// Apexes (the cluster's as well), PTR owners and what is between them.
fn reverse(view: &View<'_>, snapshot: &Snapshot, name: &WireName) -> Option<Vec<Rdata>> {
    let mut data = Vec::new();
    let zone_start = view.zones.apex_start(name.as_bytes());
    if zone_start == Some(0) {
        data.push(soa(view, snapshot));
        data.push(Rdata::Ns(view.zones.server.clone()));
    }
    if let Some(address) = parse_reverse(name) {
        let names = match view.pointers {
            Pointers::Index(reverse) => reverse.names(address),
            Pointers::Scan => all_pointers(view, snapshot)
                .filter(|(a, _)| *a == address)
                .map(|(_, name)| name)
                .collect(),
        };
        data.extend(names.into_iter().map(Rdata::Ptr));
    }
    let between = || match view.pointers {
        Pointers::Index(reverse) => reverse.is_above(name),
        Pointers::Scan => all_pointers(view, snapshot).any(|(address, _)| {
            let owner = WireName::reverse(address);
            suffix_start(owner.as_bytes(), name.as_bytes()).is_some_and(|at| at > 0)
        }),
    };
    (!data.is_empty() || (zone_start.is_some() && between())).then_some(data)
}

fn all_pointers<'a>(
    view: &View<'a>,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (std::net::IpAddr, WireName)> + 'a {
    let zones = view.zones;
    snapshot
        .services()
        .flat_map(move |(key, entry)| records::of_service(zones.svc(key.scope()), entry).pointers)
}

fn apex(view: &View<'_>, name: &WireName) -> Option<WireName> {
    let start = view.zones.apex_start(name.as_bytes())?;
    wire_name(&name.as_bytes()[start..])
}

fn soa(view: &View<'_>, snapshot: &Snapshot) -> Rdata {
    Rdata::Soa(Box::new(view.zones.soa(snapshot.generation().0)))
}

/// A checked wire name as a value.
fn wire_name(bytes: &[u8]) -> Option<WireName> {
    let labels = crate::name::label_starts(bytes);
    WireName::root().below(labels.map(|at| &bytes[at + 1..at + 1 + usize::from(bytes[at])]))
}
