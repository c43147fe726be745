//! Routes on services (GEP-1426) while they are put together: whose they are, and of which kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portolan_model::{Protocol, Service, ServiceKey, ServicePort, ServiceRoutes};

use super::draft::{ParentRef, RouteDraft};
use super::policies;
use super::site::{Ranked, in_order};
use crate::object::Kind;

/// A service, the namespace whose clients alone routes are for, and a port.
type At = (ServiceKey, Option<Arc<str>>, u16);

/// Routes on services, by whose clients they are for.
pub(super) struct Meshes<'a> {
    routes: BTreeMap<At, Vec<Ranked>>,
    /// Where GRPCRoutes with a rule in force attach: namespace, service and port.
    grpc: BTreeSet<(&'a str, ServiceKey, u16)>,
}

/// The ports of a service that a parent is about: by number, by name (`sectionName`), or all of them.
pub(super) fn ports(parent: &ParentRef, service: &Service) -> impl Iterator<Item = u16> {
    let is_meant = |known: &&ServicePort| {
        known.protocol == Protocol::Tcp
            && parent.port.is_none_or(|port| port == known.port)
            && policies::is_meant(parent.section.as_deref(), known)
    };
    service.ports.iter().filter(is_meant).map(|known| known.port)
}

impl<'a> Meshes<'a> {
    /// None yet, of those that are to come.
    pub(super) fn of(
        routes: &[&'a RouteDraft],
        services: &HashMap<ServiceKey, Arc<Service>>,
    ) -> Self {
        let in_force = |route: &&&RouteDraft| {
            route.kind == Kind::GrpcRoute
                && route.rules.iter().any(|rule| rule.unsupported.is_none())
        };
        let mut grpc = BTreeSet::new();
        for route in routes.iter().filter(in_force) {
            for parent in &route.parents {
                let Some(key) = parent.service() else { continue };
                let Some(service) = services.get(&key) else { continue };
                let at = |port| (&*route.meta.namespace, key.clone(), port);
                grpc.extend(ports(parent, service).map(at));
            }
        }
        Self { routes: BTreeMap::new(), grpc }
    }

    /// Whether a route has a place at a port: of two kinds the more specific one has it, by whose clients
    /// they are for (GEP-1426, "Route types").
    pub(super) fn takes(&self, route: &RouteDraft, service: &ServiceKey, port: u16) -> bool {
        let at = (&*route.meta.namespace, service.clone(), port);
        route.kind == Kind::GrpcRoute || !self.grpc.contains(&at)
    }

    /// Puts a route in.
    pub(super) fn put(
        &mut self,
        route: &RouteDraft,
        service: &ServiceKey,
        port: u16,
        ranked: Vec<Ranked>,
    ) {
        let namespace = &route.meta.namespace;
        let consumer = (namespace != service.namespace()).then(|| Arc::clone(namespace));
        self.routes.entry((service.clone(), consumer, port)).or_default().extend(ranked);
    }

    pub(super) fn finish(self) -> BTreeMap<ServiceKey, Arc<ServiceRoutes>> {
        let mut services: BTreeMap<ServiceKey, ServiceRoutes> = BTreeMap::new();
        for ((service, consumer, port), ranked) in self.routes {
            let own = services.entry(service.clone());
            let own = own.or_insert_with(|| ServiceRoutes::of(service));
            let ports = match consumer {
                Some(namespace) => own.consumers.entry(namespace).or_default(),
                None => &mut own.ports,
            };
            ports.insert(port, in_order(ranked));
        }
        services.into_iter().map(|(key, routes)| (key, Arc::new(routes))).collect()
    }
}
