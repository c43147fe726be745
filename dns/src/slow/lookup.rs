//! A question answered from the snapshot itself: labels taken apart, records built on demand.
//!
//! Shares `records` with the table and nothing else, so that each can be checked by the other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use portolan_model::{Endpoint, Place, Scope, ServiceKey, ServiceKind, Snapshot};

use super::{Pointers, View, meta};
use crate::config::PodMode;
use crate::edns::{Reason, ede};
use crate::fast::MAX_LINKS;
use crate::name::{WireName, parse_reverse, suffix_start, texts};
use crate::rcode;
use crate::reason;
use crate::records::{self, Rdata, rtype};

/// Records of a section.
pub(crate) type Section = Vec<(WireName, Rdata)>;

/// What there is to say.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    pub(crate) rcode: u8,
    pub(crate) authoritative: bool,
    /// Extended error (RFC 8914).
    pub(crate) reason: Option<Reason>,
    pub(crate) answers: Section,
    pub(crate) authorities: Section,
    pub(crate) additionals: Section,
    /// Type ANY found something: one made-up record stands for it.
    pub(crate) minimal: bool,
    /// The name that is none of ours and that the rest of the answer depends on.
    pub(crate) next: Option<WireName>,
}

impl Resolution {
    fn failure(rcode: u8, code: Option<u16>) -> Self {
        Self { rcode, reason: code.map(Reason::of), ..Self::default() }
    }

    /// A name in none of our zones.
    fn outside(name: WireName) -> Self {
        let next = Some(name);
        Self { next, ..Self::failure(rcode::REFUSED, Some(ede::NOT_AUTHORITATIVE)) }
    }
}

/// Resolves a question of class IN.
pub(crate) fn resolve(view: &View<'_>, name: &WireName, qtype: u16) -> Resolution {
    let empty = Snapshot::default();
    let snapshot = match view.snapshot {
        Some(snapshot) => snapshot,
        None => match view.zones.apex_start(name.as_bytes()) {
            Some(_) => return Resolution::failure(rcode::SERV_FAIL, Some(ede::NOT_READY)),
            // Static names do not wait for the cluster.
            None if view.zones.fixed_at(name).is_some() => &empty,
            None => return Resolution::outside(name.clone()),
        },
    };
    let mut resolution = Resolution { authoritative: true, ..Resolution::default() };
    let mut current = name.clone();
    loop {
        let data = find(view, snapshot, &current);
        let Some([Rdata::Cname(target)]) = data.as_deref() else {
            return conclude(view, snapshot, &current, data, qtype, resolution);
        };
        if resolution.answers.len() == MAX_LINKS {
            return Resolution::failure(rcode::SERV_FAIL, None);
        }
        resolution.answers.push((current, Rdata::Cname(target.clone())));
        if matches!(qtype, rtype::CNAME | meta::ANY) {
            return resolution;
        }
        let ours = view.zones.apex_start(target.as_bytes()).is_some();
        if ours && view.snapshot.is_none() {
            return Resolution::failure(rcode::SERV_FAIL, Some(ede::NOT_READY));
        }
        if !ours && view.zones.fixed_at(target).is_none() {
            resolution.next = Some(target.clone());
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
    let mut wanted: Vec<Rdata> = data.into_iter().filter(|d| d.rtype() == qtype).collect();
    if let Some(place) = &view.place {
        wanted = near(view, snapshot, name, wanted, place);
    }
    if !wanted.is_empty() {
        resolution.additionals = additionals(view, snapshot, &wanted);
        resolution.answers.extend(wanted.into_iter().map(|d| (name.clone(), d)));
        return resolution;
    }
    let Some(apex) = apex(view, name) else {
        // A static name outside our zones exists; others are somebody else's.
        return if exists && view.zones.fixed_at(name).is_some() {
            resolution
        } else {
            Resolution::outside(name.clone())
        };
    };
    // RFC 2308 §2
    resolution.rcode = if exists { rcode::NO_ERROR } else { rcode::NX_DOMAIN };
    resolution.authorities.push((apex, soa(view, snapshot)));
    resolution.reason = Some(reason::of_negative(view.zones, snapshot, name.as_bytes(), exists));
    resolution
}

/// The addresses of a headless service that are near a client, where that is wanted.
fn near(
    view: &View<'_>,
    snapshot: &Snapshot,
    name: &WireName,
    wanted: Vec<Rdata>,
    place: &Place,
) -> Vec<Rdata> {
    let zones = view.zones;
    let Some(threshold) = zones.topology.threshold else { return wanted };
    let Some((scope, start)) = in_services(view, name) else { return wanted };
    let Some(labels) = texts(&name.as_bytes()[..start]) else { return wanted };
    let [.., service, namespace] = labels.as_slice() else { return wanted };
    let key = ServiceKey::new(namespace, service).ok().map(|key| key.within(scope));
    let Some(entry) = key.and_then(|key| snapshot.lookup(&key)) else { return wanted };
    if entry.service.kind != ServiceKind::Headless {
        return wanted;
    }
    let endpoints = records::answering(entry, zones.naming);
    let those = |is_near: &dyn Fn(&Endpoint) -> bool| -> Vec<Rdata> {
        let near: BTreeSet<IpAddr> =
            endpoints.iter().filter(|e| is_near(e)).map(|e| e.address).collect();
        let is_one = |data: &&Rdata| match data {
            Rdata::A(address) => near.contains(&IpAddr::from(*address)),
            Rdata::Aaaa(address) => near.contains(&IpAddr::from(*address)),
            _ => true,
        };
        wanted.iter().filter(is_one).cloned().collect()
    };
    let enough = |set: &Vec<Rdata>| set.len() >= threshold.max(1);
    let on_node = place.node.as_ref().map(|node| those(&|e| e.node.as_ref() == Some(node)));
    let in_zone = || place.zone.as_ref().map(|zone| those(&|e| e.zone.as_ref() == Some(zone)));
    on_node.filter(enough).or_else(|| in_zone().filter(enough)).unwrap_or(wanted)
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
    if let Some((scope, start)) = in_services(view, name).filter(|(_, start)| *start > 0) {
        return match texts(&name.as_bytes()[..start])?.as_slice() {
            [namespace] => snapshot.has_namespace(scope, namespace).then(Vec::new),
            [.., service, namespace] => {
                let key = ServiceKey::new(namespace, service).ok()?.within(scope);
                in_service(view, snapshot, &key, name)
            }
            [] => None,
        };
    }
    if view.zones.in_pods(name.as_bytes()) {
        return pod(view, snapshot, name);
    }
    let fixed = || view.zones.fixed_at(name).map(|fixed| fixed.data.clone());
    reverse(view, snapshot, name).or_else(fixed)
}

/// The scope whose services a name is among, and where in it `svc.<zone>` starts.
fn in_services(view: &View<'_>, name: &WireName) -> Option<(Scope, usize)> {
    view.zones.all_svc().find_map(|(scope, svc)| {
        suffix_start(name.as_bytes(), svc.as_bytes()).map(|start| (scope, start))
    })
}

/// `10-0-0-1.<namespace>.pod.<zone>`: the address that the name spells, if it may be answered.
fn pod(view: &View<'_>, snapshot: &Snapshot, name: &WireName) -> Option<Vec<Rdata>> {
    let zones = view.zones;
    let start = zones.pod.iter().find_map(|p| suffix_start(name.as_bytes(), p.as_bytes()))?;
    let labels = texts(&name.as_bytes()[..start])?;
    let (namespace, rest) = labels.split_last()?;
    if !snapshot.has_namespace(Scope::Cluster, namespace) {
        return None;
    }
    match rest {
        [] => Some(Vec::new()),
        [spelled] => {
            let v4 = spelled.replace('-', ".").parse().map(IpAddr::V4).ok();
            let address = v4.or_else(|| spelled.replace('-', ":").parse().map(IpAddr::V6).ok())?;
            // One spelling alone is the name.
            (records::dashed(address) == *spelled).then_some(())?;
            let verified =
                zones.pods != PodMode::Verified || snapshot.has_pod_address(namespace, address);
            verified.then(|| vec![address.into()])
        }
        _ => None,
    }
}

fn in_service(
    view: &View<'_>,
    snapshot: &Snapshot,
    key: &ServiceKey,
    name: &WireName,
) -> Option<Vec<Rdata>> {
    let entry = snapshot.lookup(key)?;
    let zones = view.zones;
    let is_above = |svc: &&WireName| suffix_start(name.as_bytes(), svc.as_bytes()).is_some();
    let svc = zones.svc(key.scope()).iter().find(is_above)?;
    let mut records = records::of_service(svc, entry, zones.naming);
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
    snapshot.services().flat_map(move |(key, entry)| {
        records::of_service(&zones.svc(key.scope())[0], entry, zones.naming).pointers
    })
}

fn apex(view: &View<'_>, name: &WireName) -> Option<WireName> {
    let start = view.zones.apex_start(name.as_bytes())?;
    WireName::from_wire(&name.as_bytes()[start..])
}

fn soa(view: &View<'_>, snapshot: &Snapshot) -> Rdata {
    Rdata::Soa(Box::new(view.zones.soa(snapshot.generation().0)))
}
