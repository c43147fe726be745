//! BackendTLSPolicies -> TLS to the endpoints of each port of a service, and the status of each policy.
//!
//! A policy is about the service, whoever goes there: Gateways, proxies and clients alike. So what it
//! comes to is said of its target, and not of each Gateway on the way.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use portolan_model::{BackendTls, PortTls, ServiceKey};

use super::draft::{BackendTlsDraft, PolicyTargetDraft, TrustDraft};
use super::policies;
use super::resolve::Resolver;
use super::status::{Condition, ParentStatus, Status};
use crate::object::Kind;

/// What comes first at the ports of services.
type Ports = BTreeMap<ServiceKey, BTreeMap<u16, Option<PortTls>>>;

/// Compiles all policies: of those at a port one that names it counts before one for the whole service,
/// then the oldest.
pub(super) fn compile(
    policies: &[&BackendTlsDraft],
    resolver: &mut Resolver<'_>,
) -> (BTreeMap<ServiceKey, Arc<BackendTls>>, Vec<Status>) {
    let mut oldest_first = policies.to_vec();
    oldest_first.sort_by(|one, other| one.meta.cmp(&other.meta));
    let trust: Vec<Trust> = oldest_first.iter().map(|policy| Trust::of(policy, resolver)).collect();
    let mut ports = Ports::new();
    let mut placed: Vec<Vec<Option<Condition>>> =
        oldest_first.iter().map(|policy| vec![None; policy.targets.len()]).collect();
    for sections in [true, false] {
        for (i, policy) in oldest_first.iter().enumerate() {
            for (at, target) in policy.targets.iter().enumerate() {
                if target.section.is_some() == sections {
                    let own = trust[i].port(policy);
                    placed[i][at] = Some(place(policy, target, own.as_ref(), &mut ports, resolver));
                }
            }
        }
    }
    let statuses = oldest_first.iter().zip(trust).zip(placed).map(|((policy, trust), placed)| {
        let parents = policy.targets.iter().zip(placed.into_iter().flatten());
        status(policy, &trust, parents)
    });
    let statuses = statuses.collect();
    let tls = ports
        .into_iter()
        .map(|(service, ports)| (service.clone(), Arc::new(BackendTls { service, ports })));
    (tls.collect(), statuses)
}

/// What a policy's authorities come to.
struct Trust {
    /// Their PEM; `None` inside: the system's. Without any nothing may go to the target.
    authorities: Option<Option<Arc<str>>>,
    resolved: Condition,
}

impl Trust {
    fn of(policy: &BackendTlsDraft, resolver: &mut Resolver<'_>) -> Self {
        let yes = || Condition::yes("ResolvedRefs", "ResolvedRefs");
        let TrustDraft::Named(named) = &policy.trusted else {
            return Self { authorities: Some(None), resolved: yes() };
        };
        let (mut pem, mut wrong) = (String::new(), Vec::new());
        for target in named {
            match resolver.authorities(target) {
                Ok(more) => {
                    pem.push_str(&more);
                    pem.push('\n');
                }
                Err(why) => wrong.push(why),
            }
        }
        let resolved = match wrong.first() {
            None => yes(),
            Some(first) => {
                let texts: Vec<&str> = wrong.iter().map(|why| &*why.message).collect();
                Condition::no("ResolvedRefs", first.reason, texts.join("; "))
            }
        };
        let authorities = (!pem.is_empty()).then(|| Some(pem.into()));
        Self { authorities, resolved }
    }

    fn port(&self, policy: &BackendTlsDraft) -> Option<PortTls> {
        self.authorities.clone().map(|authorities| PortTls {
            server_name: Arc::clone(&policy.server_name),
            names: policy.names.clone(),
            authorities,
        })
    }
}

/// Puts a policy in force at a target, and says whether it is.
fn place(
    policy: &BackendTlsDraft,
    target: &PolicyTargetDraft,
    own: Option<&PortTls>,
    ports: &mut Ports,
    resolver: &mut Resolver<'_>,
) -> Condition {
    let refuse = |reason, text: String| Condition::no("Accepted", reason, text);
    let (service, wanted) = match policies::place(&policy.meta, target, resolver) {
        Ok(place) => place,
        Err(refused) => return refused,
    };
    let known = ports.entry(service.key.clone()).or_default();
    let mut placed = false;
    for port in wanted {
        if let Entry::Vacant(free) = known.entry(port.port) {
            free.insert(own.cloned());
            placed = true;
        }
    }
    if !placed {
        return refuse("Conflicted", "another policy is for all of these ports".to_owned());
    }
    if own.is_none() {
        let text = "it has no authority that can be used: nothing goes to its target";
        return refuse("NoValidCACertificate", text.to_owned());
    }
    Condition::yes("Accepted", "Accepted")
}

fn status<'a>(
    policy: &BackendTlsDraft,
    trust: &Trust,
    targets: impl Iterator<Item = (&'a PolicyTargetDraft, Condition)>,
) -> Status {
    let parents = targets.map(|(target, accepted)| ParentStatus {
        parent: policies::parent(&policy.meta, target),
        is_ours: true,
        conditions: vec![accepted, trust.resolved.clone()],
    });
    let hostnames = vec![Arc::clone(&policy.server_name)];
    policies::status(Kind::BackendTlsPolicy, &policy.meta, hostnames, parents.collect())
}
