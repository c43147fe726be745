//! Departures first: splits a publish so that endpoints that leave are gone one generation before
//! others join. Pure.
//!
//! A service that the departures alone would leave with nothing ready, on one of its ports or in one
//! address family, moves in one step: its clients are to find somebody at all times.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{Endpoint, Key, Protocol, ServiceEntry, Snapshot};

/// A publish in two steps.
#[derive(Debug)]
pub struct Split {
    /// What was published before, less what leaves.
    pub first: Snapshot,
    /// What the first step changes.
    pub leaving: BTreeSet<Key>,
    /// What the second step changes.
    pub joining: BTreeSet<Key>,
}

/// The steps from `published` to `next`, which differ in `touched`; `None` when one step does.
#[must_use]
pub fn split(published: &Snapshot, next: &Snapshot, touched: &BTreeSet<Key>) -> Option<Split> {
    let mut split =
        Split { first: published.clone(), leaving: BTreeSet::new(), joining: BTreeSet::new() };
    let mut departures = false;
    for key in touched {
        let step = match key {
            Key::Namespace(_) | Key::Node(_) | Key::Pod(..) => Step::Now { leaves: false },
            // Routes and what they lead to go together: clients take clusters before routes, and give
            // them up after.
            Key::Gateway(_) | Key::Routes(_) | Key::BackendTls(_) | Key::Access(_) => return None,
            Key::Service(service) => {
                step(published.lookup(service).map(|e| &**e), next.lookup(service).map(|e| &**e))
            }
        };
        match step {
            Step::Now { leaves } => {
                split.first.take_over(key, next);
                split.leaving.insert(key.clone());
                departures |= leaves;
            }
            Step::Later => {
                split.joining.insert(key.clone());
            }
            Step::Both(entry) => {
                split.first.apply(Arc::new(entry));
                split.leaving.insert(key.clone());
                split.joining.insert(key.clone());
                departures = true;
            }
        }
    }
    (departures && !split.joining.is_empty()).then_some(split)
}

/// When the change of one service is published.
enum Step {
    Now {
        leaves: bool,
    },
    Later,
    /// This now, the rest later.
    Both(ServiceEntry),
}

fn step(old: Option<&ServiceEntry>, new: Option<&ServiceEntry>) -> Step {
    let (Some(old), Some(new)) = (old, new) else {
        return if new.is_none() { Step::Now { leaves: true } } else { Step::Later };
    };
    let (before, after) = (ready(old), ready(new));
    let leaves = before.iter().any(|member| !after.contains(member));
    let joins = after.iter().any(|member| !before.contains(member));
    match (leaves, joins) {
        (_, false) => Step::Now { leaves },
        (false, true) => Step::Later,
        (true, true) if is_emptied(&before, &after) => Step::Now { leaves },
        (true, true) => {
            let stays: BTreeSet<IpAddr> = before.iter().map(|member| member.address).collect();
            Step::Both(without(new, &stays))
        }
    }
}

/// A ready endpoint by what its clients find it by: port and family, then the address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    port: Option<(Arc<str>, Protocol)>,
    is_ipv4: bool,
    address: IpAddr,
}

impl Member {
    fn group(&self) -> (&Option<(Arc<str>, Protocol)>, bool) {
        (&self.port, self.is_ipv4)
    }
}

/// Whether clients of some port and family would find nobody between the departures and the
/// arrivals.
fn is_emptied(before: &BTreeSet<Member>, after: &BTreeSet<Member>) -> bool {
    let groups: BTreeSet<_> = after.iter().map(Member::group).collect();
    groups.into_iter().any(|group| {
        let mut of_group = before.iter().filter(|m| m.group() == group).peekable();
        of_group.peek().is_some() && of_group.all(|m| !after.contains(m))
    })
}

fn ready(entry: &ServiceEntry) -> BTreeSet<Member> {
    let slices = entry.slices.iter();
    slices
        .flat_map(|slice| {
            let named = slice.ports.iter().map(|p| Some((Arc::clone(&p.name), p.protocol)));
            // A slice without ports still has addresses in DNS.
            let ports: Vec<_> = named.chain([None]).collect();
            let members = slice.endpoints.iter().filter(|e| entry.is_ready(e));
            members.flat_map(move |endpoint| {
                let address = endpoint.address;
                let member = move |port| Member { port, is_ipv4: address.is_ipv4(), address };
                ports.clone().into_iter().map(member)
            })
        })
        .collect()
}

/// The entry less the endpoints that were not ready before.
fn without(entry: &ServiceEntry, before: &BTreeSet<IpAddr>) -> ServiceEntry {
    let stays = |e: &Endpoint| !entry.is_ready(e) || before.contains(&e.address);
    let slices = entry.slices.iter().map(|slice| {
        if slice.endpoints.iter().all(stays) {
            return Arc::clone(slice);
        }
        let mut slice = (**slice).clone();
        slice.endpoints.retain(stays);
        Arc::new(slice)
    });
    ServiceEntry { service: Arc::clone(&entry.service), slices: slices.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::snapshot;
    use portolan_model::ServiceKey;

    fn key(name: &str) -> Key {
        Key::Service(ServiceKey::new("ns", name).expect("valid"))
    }

    /// Endpoints of each service, as text.
    fn shown(snapshot: &Snapshot) -> Vec<String> {
        let show = |entry: &ServiceEntry| {
            let octets: Vec<String> = ready(entry)
                .iter()
                .filter(|member| member.port.is_none())
                .map(|member| {
                    member.address.to_string().rsplit('.').next().unwrap_or_default().to_owned()
                })
                .collect();
            format!("{}:{}", entry.service.key.name(), octets.join(","))
        };
        snapshot.services().map(|(_, entry)| show(entry)).collect()
    }

    #[test]
    fn endpoints_leave_before_others_join() {
        let old =
            snapshot(&[("ns/a", &[1, 2]), ("ns/b", &[3]), ("ns/gone", &[4]), ("ns/same", &[9])]);
        let new =
            snapshot(&[("ns/a", &[2, 5]), ("ns/b", &[3, 6]), ("ns/new", &[7]), ("ns/same", &[9])]);
        let touched = ["a", "b", "gone", "new"].map(key).into();
        let split = split(&old, &new, &touched).expect("two steps");
        assert_eq!(shown(&split.first), ["a:2", "b:3", "same:9"]);
        assert_eq!(split.leaving, [key("a"), key("gone")].into());
        assert_eq!(split.joining, [key("a"), key("b"), key("new")].into());
    }

    #[test]
    fn a_service_that_would_be_empty_moves_in_one_step() {
        let old = snapshot(&[("ns/a", &[1]), ("ns/b", &[3])]);
        let new = snapshot(&[("ns/a", &[2]), ("ns/b", &[3, 4])]);
        let split = split(&old, &new, &[key("a"), key("b")].into()).expect("two steps");
        assert_eq!(shown(&split.first), ["a:2", "b:3"]);
        assert_eq!((split.leaving, split.joining), ([key("a")].into(), [key("b")].into()));
    }

    #[test]
    fn a_port_that_would_be_empty_moves_the_service_in_one_step() {
        let with_ports = |services: &[(&str, &[u8])], admin: u8| {
            let mut entry = (**snapshot(services).services().next().expect("one").1).clone();
            let mut slice = (*entry.slices[0]).clone();
            slice.name = "admin".into();
            let (name, protocol) = ("admin".into(), Protocol::Tcp);
            slice.ports = vec![portolan_model::SlicePort { name, protocol, port: 9000 }];
            slice.endpoints = vec![Endpoint::at(IpAddr::from([10, 0, 1, admin]))];
            entry.slices.push(Arc::new(slice));
            let mut snapshot = Snapshot::default();
            snapshot.apply(Arc::new(entry));
            snapshot
        };
        let old = with_ports(&[("ns/a", &[1, 2])], 1);
        let touched = [key("a")].into();
        let same_admin = with_ports(&[("ns/a", &[2, 3])], 1);
        assert!(split(&old, &same_admin, &touched).is_some());
        let other_admin = with_ports(&[("ns/a", &[1, 2])], 2);
        assert!(split(&old, &other_admin, &touched).is_none(), "admin has one endpoint, replaced");
    }

    #[test]
    fn one_step_does_where_nothing_leaves_or_nothing_joins() {
        let old = snapshot(&[("ns/a", &[1, 2]), ("ns/b", &[3])]);
        for new in [
            &[("ns/a", &[1u8][..]), ("ns/b", &[3])][..],
            &[("ns/a", &[1, 2, 4]), ("ns/b", &[3])],
            &[],
        ] {
            let new = snapshot(new);
            assert!(split(&old, &new, &[key("a"), key("b")].into()).is_none());
        }
    }
}
