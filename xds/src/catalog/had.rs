//! What a snapshot has of a service, and what of it its resources depend on.

use std::sync::Arc;

use portolan_model::policy::TlsMode;
use portolan_model::{
    BackendTls, Protocol, Service, ServiceAccess, ServiceEntry, ServiceKey, ServiceKind,
    ServicePort, ServiceRoutes, SlicePort, Snapshot,
};

use super::Name;
use crate::config::ResourceConfig;
use crate::resource::cluster;
use crate::resource::route::Around;

/// What a snapshot has of a service.
#[derive(Clone, Copy)]
pub(super) struct Had<'a> {
    pub(super) entry: Option<&'a Arc<ServiceEntry>>,
    routes: Option<&'a Arc<ServiceRoutes>>,
    tls: Option<&'a Arc<BackendTls>>,
    pub(super) access: Option<&'a Arc<ServiceAccess>>,
}

/// What the listeners of a service's gRPC servers depend on.
#[derive(PartialEq)]
pub(super) struct Guards<'a> {
    access: Option<&'a Arc<ServiceAccess>>,
    mutual: Option<TlsMode>,
    /// The ports of the service and of its endpoints, where policies are about them.
    ports: Option<(&'a Vec<ServicePort>, Vec<&'a SlicePort>)>,
}

impl<'a> Had<'a> {
    pub(super) fn by(snapshot: &'a Snapshot, key: &ServiceKey) -> Self {
        let (routes, tls) = (snapshot.routes(key), snapshot.backend_tls(key));
        let access = snapshot.access(key);
        Self { entry: snapshot.lookup(key), routes, tls, access }
    }

    pub(super) fn service(&self) -> Option<&'a Arc<Service>> {
        self.entry.map(|entry| &entry.service)
    }

    /// What connections to the endpoints of a port begin with.
    pub(super) fn way(&self, port: u16) -> cluster::Way<'a> {
        let told = self.tls.and_then(|tls| tls.ports.get(&port)?.as_ref());
        let mutual = self.service().and_then(|service| service.policy.mutual_tls.as_ref());
        match (told, mutual) {
            (Some(tls), _) => cluster::Way::Tls(tls),
            (None, Some(mutual)) => cluster::Way::Mutual(mutual),
            (None, None) => cluster::Way::Plain,
        }
    }

    /// Whether nothing may go to a port.
    pub(super) fn is_shut(&self, port: u16) -> bool {
        self.tls.is_some_and(|tls| tls.ports.get(&port).is_some_and(Option::is_none))
    }

    /// What shapes the routes of its service for clients in a namespace.
    pub(super) fn around(
        &self,
        service: &Service,
        client: Option<&'a str>,
        config: &'a ResourceConfig,
    ) -> Around<'a> {
        Around {
            routes: self.routes.map(|routes| &**routes),
            client,
            default: config.balancer,
            zone: config.zone(service.key.scope()),
        }
    }

    /// The namespaces that have routes of their own to it.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &'a Name> {
        self.routes.into_iter().flat_map(|routes| routes.consumers.keys())
    }

    /// The ports of which a namespace has routes of its own.
    pub(super) fn consumed(&self, namespace: &str) -> impl Iterator<Item = &'a ServicePort> {
        let routes = self.routes.and_then(|routes| routes.consumers.get(namespace));
        let has = move |port: &&ServicePort| routes.is_some_and(|own| own.contains_key(&port.port));
        self.entry.into_iter().flat_map(|entry| served_ports(entry)).filter(has)
    }

    /// What the listeners of its gRPC servers depend on.
    pub(super) fn guards(&self) -> Option<Guards<'a>> {
        let entry = self.entry?;
        let mutual = entry.service.policy.mutual_tls.as_ref().map(|mutual| mutual.mode);
        let ports = self.access.map(|_| {
            let ports = entry.slices.iter().flat_map(|slice| &slice.ports);
            (&entry.service.ports, ports.collect::<Vec<_>>())
        });
        Some(Guards { access: self.access, mutual, ports })
    }

    /// Whether all is the same, but perhaps for endpoints.
    pub(super) fn is_set_up_as(&self, other: &Self) -> bool {
        self.service() == other.service()
            && self.routes == other.routes
            && self.tls == other.tls
            && self.access == other.access
    }
}

/// Whether a service gets clusters: it has endpoints of its own, and no other proxy is to serve it.
pub(super) fn is_served(service: &Service) -> bool {
    !matches!(service.kind, ServiceKind::ExternalName(_)) && service.traffic.proxy_name.is_none()
}

/// The ports that get a cluster: TCP ports of services that are served.
pub(super) fn served_ports(entry: &ServiceEntry) -> impl Iterator<Item = &ServicePort> {
    let served = is_served(&entry.service);
    entry.service.ports.iter().filter(move |p| p.protocol == Protocol::Tcp && served)
}
