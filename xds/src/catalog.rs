//! All resources of one generation, encoded.
//!
//! A catalog is made from the one before and the services that changed: the rest is shared. Every
//! stream reads the same catalog; who asks matters for few resources, and those are encoded once
//! for all who get the same.

mod consumer;
mod edit;
mod had;
mod owner;
mod placed;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use portolan_model::{Changes, GatewayKey, Generation, Key, ServiceKey, Snapshot};

use crate::capability::{Dialect, Feature};
use crate::config::ResourceConfig;
use crate::issuer;
use crate::resource::{Encoded, ResourceType, gateway, server};
use crate::viewer::Viewer;
use consumer::Consumer;
use edit::Edit;
use had::Had;
pub use owner::{Owner, owner};
use placed::Placed;

/// Name of a resource.
pub type Name = Arc<str>;

/// Resources that were written or taken out.
pub type Changed = BTreeSet<(ResourceType, Name)>;

/// The resources of one generation. Cloning costs reference counts.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    generation: Generation,
    types: [OrdMap<Name, Encoded>; ResourceType::ALL.len()],
    /// Sent only to clients that ask for them by name, never for a wildcard: the API listeners
    /// that proxyless gRPC asks for. Envoy has no use for them.
    by_name_only: OrdMap<Name, Encoded>,
    /// Clusters that gRPC is told in other words than Envoy.
    of_grpc: OrdMap<Name, Encoded>,
    /// The same where both sides are to prove who they are, for clients that can.
    of_grpc_mutual: OrdMap<Name, Encoded>,
    /// Clusters as clients get them that cannot prove who they are, where others are to.
    in_the_clear: OrdMap<Name, Encoded>,
    /// Clusters of applications behind a proxy, by whose they are.
    apps: OrdMap<Name, ServiceKey>,
    /// Listeners that are sockets.
    sockets: OrdMap<Name, Socket>,
    /// Endpoint sets that clients in different places get differently.
    placed: OrdMap<Name, Placed>,
    /// Encoded virtual hosts of the HTTP route table.
    hosts: OrdMap<Name, Bytes>,
    /// Routes that clients of a namespace get in place of those that others get.
    consumers: OrdMap<Name, Consumer>,
    /// Resources that no service makes, by hand or from files; one of a name that a service makes
    /// stands in front of it.
    extra: [OrdMap<Name, Encoded>; ResourceType::ALL.len()],
    /// Both, for the types that have some of both.
    merged: [Option<OrdMap<Name, Encoded>>; ResourceType::ALL.len()],
    /// Resources near the limit of what some clients take in one message.
    oversized: OrdMap<(ResourceType, Name), usize>,
    /// When each service last changed.
    changed_at: OrdMap<ServiceKey, Generation>,
    snapshot: Arc<Snapshot>,
    /// Of the SPIFFE ids in policies.
    trust_domain: Arc<str>,
}

/// A listener that is a socket: who has a use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    /// Whether TLS is spoken on it.
    tls: bool,
    /// Which proxies open it.
    of: SocketOf,
}

/// Which proxies open a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SocketOf {
    /// All.
    Everybody,
    /// Those that serve a Gateway.
    Gateway(GatewayKey),
    /// Those in front of endpoints of a service.
    Service(ServiceKey),
}

/// From this size on a resource is reported: gRPC in C++ and Node take messages of 4 MiB.
pub const OVERSIZED: usize = 3 * 1024 * 1024;
/// No resource is this large.
const ANY_SIZE: usize = 128 * 1024 * 1024;

impl Catalog {
    /// The generation the resources were made from; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// When a service last changed; `None` if it was never there.
    #[must_use]
    pub fn changed_at(&self, service: &ServiceKey) -> Option<Generation> {
        self.changed_at.get(service).copied()
    }

    /// Resources near the limit of what some clients take, with their size in bytes.
    #[must_use]
    pub fn oversized(&self) -> &OrdMap<(ResourceType, Name), usize> {
        &self.oversized
    }

    /// One resource, for nobody in particular.
    #[must_use]
    pub fn lookup(&self, kind: ResourceType, name: &str) -> Option<&Encoded> {
        let hidden = || (kind == ResourceType::Listener).then(|| self.by_name_only.get(name))?;
        let extra = self.extra[kind.index()].get(name);
        extra.or_else(|| self.types[kind.index()].get(name)).or_else(hidden)
    }

    /// One resource as this client gets it; `None` too where it may not see it.
    #[must_use]
    pub fn lookup_for(&self, kind: ResourceType, name: &str, viewer: &Viewer) -> Option<Encoded> {
        if !viewer.may_see(kind, name) || !self.is_for(kind, name, viewer) {
            return None;
        }
        let found = if let Some(extra) = self.extra[kind.index()].get(name) {
            Some(extra.clone())
        } else {
            match kind {
                ResourceType::Secret if issuer::is_own(kind, name) => {
                    viewer.own.0.as_ref().and_then(|own| own.secret(name))
                }
                ResourceType::Endpoints => self.endpoints_at(name, viewer),
                ResourceType::Cluster if viewer.dialect() == Dialect::Grpc => {
                    let mutual = viewer.has_other.then(|| self.of_grpc_mutual.get(name)).flatten();
                    let told = mutual.or_else(|| self.of_grpc.get(name));
                    told.or_else(|| self.lookup(kind, name)).cloned()
                }
                ResourceType::Cluster if !viewer.has_identity() && self.is_mutual(name) => {
                    self.in_the_clear.get(name).cloned()
                }
                ResourceType::Listener => {
                    self.lookup(kind, name).cloned().or_else(|| self.server(name, viewer))
                }
                ResourceType::Route => self.routes_for(name, viewer),
                _ => self.lookup(kind, name).cloned(),
            }
        };
        found.filter(|encoded| encoded.any.len() <= viewer.max_resource_bytes())
    }

    /// Whether every client of this kind gets the wildcard set just as it is.
    #[must_use]
    pub fn is_same_for_all(&self, kind: ResourceType, viewer: &Viewer) -> bool {
        let as_is = match kind {
            ResourceType::Cluster => {
                (viewer.dialect() == Dialect::Envoy
                    || (self.of_grpc.is_empty() && self.of_grpc_mutual.is_empty()))
                    && (viewer.has_identity() || self.in_the_clear.is_empty())
                    && self.apps.values().all(|service| viewer.serves.contains(service))
            }
            ResourceType::Endpoints => self.placed.is_empty(),
            ResourceType::Route => self.consumer(viewer).is_none(),
            ResourceType::Listener => {
                self.sockets.keys().all(|name| self.is_for(kind, name, viewer))
            }
            ResourceType::Secret => {
                let names = &mut self.types[kind.index()].keys();
                viewer.secrets && names.all(|name| self.is_for(kind, name, viewer))
            }
            _ => true,
        };
        // Of Envoy and our own proxy; what others take in one message is looked at.
        as_is && !viewer.is_restricted() && viewer.max_resource_bytes() > ANY_SIZE
    }

    /// Whether a client of this kind has a use for a listener.
    fn is_for(&self, kind: ResourceType, name: &str, viewer: &Viewer) -> bool {
        if kind == ResourceType::Secret
            && let Some(key) = gateway::key_of(name)
        {
            return viewer.gateways.has(&key);
        }
        if kind == ResourceType::Cluster
            && let Some(service) = self.apps.get(name)
        {
            return viewer.serves.contains(service);
        }
        let socket = (kind == ResourceType::Listener).then(|| self.sockets.get(name)).flatten();
        let Some(Socket { tls, of }) = socket else { return true };
        let feature = if *tls { Feature::TlsSocket } else { Feature::SocketListener };
        viewer.takes(feature)
            && match of {
                SocketOf::Everybody => true,
                SocketOf::Gateway(key) => viewer.gateways.has(key),
                SocketOf::Service(service) => viewer.serves.contains(service),
            }
    }

    /// Whether a cluster's endpoints are spoken to otherwise by clients that can prove who they are.
    fn is_mutual(&self, name: &str) -> bool {
        self.in_the_clear.contains_key(name)
    }

    /// The resources of a type that a wildcard subscription gets.
    #[must_use]
    pub fn wildcard(&self, kind: ResourceType) -> &OrdMap<Name, Encoded> {
        self.merged[kind.index()].as_ref().unwrap_or(&self.types[kind.index()])
    }

    /// The listener of a gRPC server.
    fn server(&self, name: &str, viewer: &Viewer) -> Option<Encoded> {
        let address = server::address(name)?;
        let seen = |key: &ServiceKey| {
            viewer.namespaces.as_ref().is_none_or(|seen| seen.contains(key.namespace()))
        };
        // What it says that cannot be read may be what it is to be guarded by.
        if viewer.serves_more || !viewer.serves.iter().all(seen) {
            return None;
        }
        let guard = server::guard(&self.snapshot, &viewer.serves, address.port())?;
        server::encode(name, &guard, viewer.has_other, &self.trust_domain)
    }

    /// Endpoint sets that depend on the place are encoded once for all clients that get the same.
    fn endpoints_at(&self, name: &str, viewer: &Viewer) -> Option<Encoded> {
        let shared = || self.types[ResourceType::Endpoints.index()].get(name).cloned();
        let Some(placed) = self.placed.get(name) else { return shared() };
        placed.lookup(&self.snapshot, &viewer.place).or_else(shared)
    }

    /// The catalog of a newer snapshot, and what it changes. Work is in proportion to the services
    /// that changed, plus the join of the HTTP route table where a service's ports changed.
    #[must_use]
    pub fn next(
        &self,
        snapshot: &Arc<Snapshot>,
        changes: &Changes,
        config: &ResourceConfig,
    ) -> (Self, Changed) {
        let mut catalog = self.clone();
        catalog.trust_domain = config.trust_domain.as_str().into();
        let mut nodes_changed = false;
        let mut gateways: BTreeSet<GatewayKey> = BTreeSet::new();
        let keys: BTreeSet<ServiceKey> = match changes {
            Changes::Nothing => BTreeSet::new(),
            Changes::Keys(keys) => {
                nodes_changed = keys.iter().any(|key| matches!(key, Key::Node(_)));
                let services = keys.iter().filter_map(|key| match key {
                    Key::Service(key)
                    | Key::Routes(key)
                    | Key::BackendTls(key)
                    | Key::Access(key) => Some(key.clone()),
                    Key::Gateway(key) => {
                        gateways.insert(key.clone());
                        None
                    }
                    Key::Namespace(_) | Key::Node(_) | Key::Pod(..) => None,
                });
                services.collect()
            }
            Changes::Everything => {
                let both = self.snapshot.gateways().chain(snapshot.gateways());
                gateways.extend(both.map(|gateway| gateway.key.clone()));
                let both = self.snapshot.services().chain(snapshot.services());
                both.map(|(key, _)| key.clone()).collect()
            }
        };
        let first = self.generation == Generation(0);
        let mut edit = Edit::of(&mut catalog, config, snapshot.generation(), first);
        for key in keys {
            edit.service(&key, Had::by(&self.snapshot, &key), Had::by(snapshot, &key));
        }
        for key in gateways {
            edit.gateway(self.snapshot.gateway(&key), snapshot.gateway(&key));
        }
        if nodes_changed {
            edit.nodes();
        }
        if first {
            edit.listeners();
        }
        let changed = edit.finish(snapshot);
        (catalog, changed)
    }

    /// The same with these resources besides those of services, and what that changes. `None`
    /// takes one out.
    #[must_use]
    pub fn with_extra(
        &self,
        extra: impl IntoIterator<Item = (ResourceType, Name, Option<Encoded>)>,
    ) -> (Self, Changed) {
        let (mut catalog, mut changed) = (self.clone(), Changed::new());
        for (kind, name, encoded) in extra {
            let map = &mut catalog.extra[kind.index()];
            match encoded {
                Some(encoded) => drop(map.insert(name.clone(), encoded)),
                None => drop(map.remove(&name)),
            }
            changed.insert((kind, name));
        }
        catalog.merge();
        (catalog, changed)
    }

    /// The same with these secrets in place of those before, and what that changes.
    #[must_use]
    pub fn with_secrets(&self, secrets: OrdMap<Name, Encoded>) -> (Self, Changed) {
        let kind = ResourceType::Secret;
        let mut catalog = self.clone();
        let mut secrets = secrets;
        // Those of Gateways come with them.
        let of_gateways = catalog.types[kind.index()].iter();
        for (name, secret) in of_gateways.filter(|(name, _)| gateway::key_of(name).is_some()) {
            secrets.insert(name.clone(), secret.clone());
        }
        let old = std::mem::replace(&mut catalog.types[kind.index()], secrets);
        let new = &catalog.types[kind.index()];
        let names = old.keys().chain(new.keys());
        let differs = names.filter(|name| old.get(*name) != new.get(*name));
        let changed = differs.map(|name| (kind, name.clone())).collect();
        catalog.merge();
        (catalog, changed)
    }

    /// The resources besides those of services.
    pub fn extra(&self) -> impl Iterator<Item = (ResourceType, &Name, &Encoded)> {
        let by_type = ResourceType::ALL.into_iter().zip(&self.extra);
        by_type.flat_map(|(kind, map)| map.iter().map(move |(name, e)| (kind, name, e)))
    }

    /// Those of a type.
    #[must_use]
    pub fn extra_of(&self, kind: ResourceType) -> &OrdMap<Name, Encoded> {
        &self.extra[kind.index()]
    }

    fn merge(&mut self) {
        for (i, extra) in self.extra.iter().enumerate() {
            self.merged[i] = (!extra.is_empty()).then(|| {
                let mut merged = self.types[i].clone();
                for (name, encoded) in extra {
                    merged.insert(name.clone(), encoded.clone());
                }
                merged
            });
        }
    }
}
