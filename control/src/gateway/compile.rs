//! All objects of the Gateway API together -> what is in force, and the status of each. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use portolan_model::traffic::Route;
use portolan_model::{
    BackendTls, Gateway, GatewayKey, Service, ServiceAccess, ServiceKey, ServiceRoutes,
};

use super::api::GROUP;
use super::attach::{self, NamespaceLabels};
use super::draft::{
    AccessDraft, AuthoritiesDraft, BackendTlsDraft, ClassDraft, GatewayDraft, GrantDraft, Meta,
    ParentRef, Rank, RouteDraft, SecretDraft,
};
use super::mesh::{self, Meshes};
use super::resolve::{Looked, Resolver};
use super::rollback::{Judge, Split};
use super::rules::{self, At, Rules};
use super::site::{Ranked, Site};
use super::status::{CONTROLLER, Condition, Of, ParentStatus, RouteStatus, Status};
use super::{Name, access, backends};
use crate::object::Kind;

/// The class that is there without a GatewayClass of its name.
const OWN_CLASS: &str = "portolan";

/// Everything that is known.
pub(super) struct Known<'a> {
    pub(super) classes: Vec<&'a ClassDraft>,
    pub(super) gateways: Vec<&'a GatewayDraft>,
    pub(super) routes: Vec<&'a RouteDraft>,
    pub(super) grants: Vec<&'a GrantDraft>,
    pub(super) secrets: &'a BTreeMap<Name, SecretDraft>,
    pub(super) policies: Vec<&'a BackendTlsDraft>,
    pub(super) authorities: &'a BTreeMap<Name, AuthoritiesDraft>,
    pub(super) access: Vec<&'a AccessDraft>,
    pub(super) namespaces: &'a NamespaceLabels,
    pub(super) services: &'a HashMap<ServiceKey, Arc<Service>>,
    pub(super) judge: &'a Judge,
}

/// What it comes to.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) gateways: BTreeMap<GatewayKey, Arc<Gateway>>,
    pub(super) routes: BTreeMap<ServiceKey, Arc<ServiceRoutes>>,
    pub(super) backend_tls: BTreeMap<ServiceKey, Arc<BackendTls>>,
    pub(super) access: BTreeMap<ServiceKey, Arc<ServiceAccess>>,
    pub(super) statuses: Vec<Status>,
    /// Rules whose backends are compared.
    pub(super) splits: Vec<Split>,
    /// What this depends on.
    pub(super) asked: Looked,
}

/// Compiles it all.
pub(super) fn compile(known: &Known<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    let mut ours: BTreeMap<&str, bool> = [(OWN_CLASS, true)].into();
    for class in &known.classes {
        let is_ours = *class.controller == *CONTROLLER;
        ours.insert(&class.meta.name, is_ours);
        if is_ours {
            let accepted = Of::Class(vec![Condition::yes("Accepted", "Accepted")]);
            compiled.statuses.push(Status::new(Kind::GatewayClass, &class.meta, accepted));
        }
    }
    let mut resolver = Resolver::new(known);
    let all: HashSet<GatewayKey> = known.gateways.iter().map(|draft| key(&draft.meta)).collect();
    let mut sites: BTreeMap<GatewayKey, Site<'_>> = (known.gateways.iter())
        .filter(|gateway| ours.get(&*gateway.class).is_some_and(|ours| *ours))
        .map(|draft| (key(&draft.meta), Site::of(draft, &mut resolver)))
        .collect();
    let mut routes = known.routes.clone();
    routes.sort_by(|one, other| (&one.meta, one.kind).cmp(&(&other.meta, other.kind)));
    let mut meshes = Meshes::of(&routes, known.services);
    for (age, route) in routes.iter().enumerate() {
        let mut parents = Vec::with_capacity(route.parents.len());
        for parent in &route.parents {
            let place = Place { route, parent, age };
            let status = match (&*parent.group, &*parent.kind) {
                (GROUP, "Gateway") => {
                    let key = GatewayKey::new(parent.namespace.clone(), parent.name.clone());
                    let site = sites.get_mut(&key);
                    match (site, all.contains(&key)) {
                        (Some(site), _) => place.at_gateway(site, known.namespaces, &mut resolver),
                        // Another controller's.
                        (None, true) => continue,
                        (None, false) => place.nowhere(format!("Gateway {key}: there is none")),
                    }
                }
                _ if parent.is_service() => place.at_service(&mut meshes, &mut resolver),
                _ => place.nowhere(format!("{}: nothing of this kind takes routes", parent.kind)),
            };
            parents.push(status);
        }
        if let Some(condition) = known.judge.condition(route) {
            let ours = parents.iter_mut().filter(|parent| parent.is_ours);
            ours.for_each(|parent| parent.conditions.push(condition.clone()));
        }
        let of = Of::Route(RouteStatus { hostnames: route.hostnames.clone(), parents });
        compiled.statuses.push(Status::new(route.kind, &route.meta, of));
    }
    for (key, site) in sites {
        let (gateway, status) = site.finish(&key);
        if let Some(gateway) = gateway {
            compiled.gateways.insert(key, Arc::new(gateway));
        }
        compiled.statuses.push(status);
    }
    compiled.routes = meshes.finish();
    let (backend_tls, statuses) = backends::compile(&known.policies, &mut resolver);
    compiled.backend_tls = backend_tls;
    compiled.statuses.extend(statuses);
    let (access, statuses) = access::compile(&known.access, &mut resolver);
    compiled.access = access;
    compiled.statuses.extend(statuses);
    compiled.statuses.sort_by(|one, other| one.id.cmp(&other.id));
    compiled.splits = routes.iter().flat_map(|route| rules::splits(route, &mut resolver)).collect();
    compiled.asked = resolver.looked;
    compiled
}

fn key(meta: &Meta) -> GatewayKey {
    GatewayKey { namespace: meta.namespace.clone(), name: meta.name.clone() }
}

/// A route at one of its parents.
pub(super) struct Place<'a> {
    pub(super) route: &'a RouteDraft,
    parent: &'a ParentRef,
    age: usize,
}

impl Place<'_> {
    fn at_gateway(
        &self,
        site: &mut Site<'_>,
        namespaces: &NamespaceLabels,
        resolver: &mut Resolver<'_>,
    ) -> ParentStatus {
        let found = attach::attach(self.route, self.parent, site.draft, namespaces);
        let attached = match found {
            Ok(attached) => attached,
            Err(refused) => {
                let rules = rules::compile(self.route, At::default(), resolver);
                return self.refused(refused, &rules);
            }
        };
        let mut rules = Rules::default();
        let mut taken = 0;
        for attached in &attached {
            let listener = &site.draft.listeners[attached.listener];
            let at = At { port: listener.port, secure: listener.ends_tls(), mesh: false };
            rules = rules::compile(self.route, at, resolver);
            let place = (attached.listener, self.route.kind, self.age);
            if site.taken.contains(&place) {
                // By another of its parentRefs, which says the same in other words.
                taken += 1;
            } else if rules.is_any && site.put(attached, self, &rules) {
                site.taken.insert(place);
                site.listeners[attached.listener].status.routes += 1;
                taken += 1;
            }
        }
        if taken == 0 && rules.is_any {
            let text = "routes of another kind have its hostnames, or its port".to_owned();
            return self.refused(Condition::no("Accepted", "Conflicted", text), &rules);
        }
        self.judged(&rules)
    }

    /// Routes on a service of the same namespace are for all of its clients, those on one of another for
    /// clients in their own (GEP-1426, "Namespace boundaries").
    fn at_service(&self, meshes: &mut Meshes<'_>, resolver: &mut Resolver<'_>) -> ParentStatus {
        let ParentRef { kind, namespace, name, .. } = self.parent;
        let found = self.parent.service().and_then(|key| Some((resolver.service(&key)?, key)));
        let Some((service, key)) = found else {
            return self.nowhere(format!("{kind} {namespace}/{name}: there is none"));
        };
        let at = |port| At { port, secure: false, mesh: true };
        let refuse = |reason, text: String, resolver: &mut Resolver<'_>| {
            let rules = rules::compile(self.route, at(0), resolver);
            self.refused(Condition::no("Accepted", reason, text), &rules)
        };
        if !self.route.is_http() {
            let text = format!("no {} on a {kind}", self.route.kind.as_str());
            return refuse("UnsupportedValue", text, resolver);
        }
        let ports: Vec<u16> = mesh::ports(self.parent, service).collect();
        if ports.is_empty() {
            let text = format!("{kind} {namespace}/{name} has no such TCP port");
            return refuse("NoMatchingParent", text, resolver);
        }
        let free: Vec<u16> =
            ports.into_iter().filter(|port| meshes.takes(self.route, &key, *port)).collect();
        if free.is_empty() {
            let text = format!("GRPCRoutes have the ports of {kind} {namespace}/{name}");
            return refuse("Conflicted", text, resolver);
        }
        let mut rules = Rules::default();
        for port in free {
            rules = rules::compile(self.route, at(port), resolver);
            if rules.is_any {
                meshes.put(self.route, &key, port, self.ranked(&rules));
            }
        }
        self.judged(&rules)
    }

    pub(super) fn ranked(&self, rules: &Rules) -> Vec<Ranked> {
        let one = |(rank, routes): &(Rank, Vec<Route>)| Ranked {
            rank: *rank,
            age: self.age,
            routes: routes.clone(),
        };
        rules.ranked.iter().map(one).collect()
    }

    /// At a parent that is not there.
    fn nowhere(&self, text: String) -> ParentStatus {
        let conditions = vec![Condition::no("Accepted", "NoMatchingParent", text)];
        ParentStatus { parent: self.parent.clone(), is_ours: false, conditions }
    }

    fn refused(&self, accepted: Condition, rules: &Rules) -> ParentStatus {
        let conditions = vec![accepted, resolved(rules)];
        ParentStatus { parent: self.parent.clone(), is_ours: true, conditions }
    }

    fn judged(&self, rules: &Rules) -> ParentStatus {
        let dropped = rules.dropped.join("; ");
        if !rules.is_any && !rules.dropped.is_empty() {
            return self.refused(Condition::no("Accepted", "UnsupportedValue", dropped), rules);
        }
        let mut conditions = vec![Condition::yes("Accepted", "Accepted"), resolved(rules)];
        if !dropped.is_empty() {
            let text = format!("Dropped Rule: {dropped}");
            let partly = Condition::no("PartiallyInvalid", "UnsupportedValue", text);
            conditions.push(Condition { holds: true, ..partly });
        }
        ParentStatus { parent: self.parent.clone(), is_ours: true, conditions }
    }
}

fn resolved(rules: &Rules) -> Condition {
    let Some(first) = rules.unresolved.first() else {
        return Condition::yes("ResolvedRefs", "ResolvedRefs");
    };
    let mut texts: Vec<&str> = rules.unresolved.iter().map(|why| &*why.message).collect();
    texts.dedup();
    Condition::no("ResolvedRefs", first.reason, texts.join("; "))
}
