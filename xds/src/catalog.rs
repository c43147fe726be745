//! All resources of one generation, encoded, and what changed lately.
//!
//! A catalog is made from the one before and the services that changed: the rest is shared. Every
//! stream reads the same catalog; nothing here depends on who asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use portolan_model::{
    Changes, Generation, History, Key, Place, Protocol, Service, ServiceEntry, ServiceKey,
    ServiceKind, ServicePort, Snapshot,
};

use crate::config::ResourceConfig;
use crate::resource::{
    Encoded, ResourceType, cluster, cluster_name, endpoints, generation, listener, route,
    target_name,
};

/// Name of a resource.
pub type Name = Arc<str>;

/// The resources of one generation. Cloning costs reference counts.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    generation: Generation,
    types: [OrdMap<Name, Encoded>; ResourceType::ALL.len()],
    /// Sent only to clients that ask for them by name, never for a wildcard: the API listeners
    /// that proxyless gRPC asks for. Envoy has no use for them.
    by_name_only: OrdMap<Name, Encoded>,
    /// Endpoint sets that clients in different places get differently: the service and its port.
    placed: OrdMap<Name, (ServiceKey, u16)>,
    /// Encoded virtual hosts of the HTTP route table.
    hosts: OrdMap<Name, Bytes>,
    snapshot: Arc<Snapshot>,
    history: History<(ResourceType, Name)>,
}

/// Collects what a change writes.
struct Edit<'a> {
    catalog: &'a mut Catalog,
    changed: BTreeSet<(ResourceType, Name)>,
    hosts_changed: bool,
}

impl Catalog {
    /// The generation the resources were made from; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// One resource.
    #[must_use]
    pub fn lookup(&self, kind: ResourceType, name: &str) -> Option<&Encoded> {
        let hidden = || (kind == ResourceType::Listener).then(|| self.by_name_only.get(name))?;
        self.types[kind.index()].get(name).or_else(hidden)
    }

    /// One resource as a client in this place gets it. Endpoint sets that depend on the place are
    /// encoded for whoever asks; all else is shared.
    #[must_use]
    pub fn lookup_at(&self, kind: ResourceType, name: &str, place: &Place) -> Option<Encoded> {
        let placed = (kind == ResourceType::Endpoints).then(|| self.placed.get(name)).flatten();
        if let Some((key, port)) = placed
            && *place != Place::default()
            && let Some(entry) = self.snapshot.lookup(key)
            && let Some(port) = entry.service.tcp_port(*port)
        {
            return Some(endpoints::encode_at(entry, port, &self.completed(place)));
        }
        self.lookup(kind, name).cloned()
    }

    /// The place with the zone of its node, if it names none itself.
    fn completed(&self, place: &Place) -> Place {
        let mut place = place.clone();
        if place.zone.is_none() {
            let node = place.node.as_deref().and_then(|name| self.snapshot.node(name));
            place.zone = node.and_then(|node| node.zone.clone());
        }
        place
    }

    /// The resources of a type that a wildcard subscription gets.
    #[must_use]
    pub fn wildcard(&self, kind: ResourceType) -> &OrdMap<Name, Encoded> {
        &self.types[kind.index()]
    }

    /// What was written or taken out since a generation.
    #[must_use]
    pub fn changes_since(&self, seen: Generation) -> Changes<(ResourceType, Name)> {
        self.history.changes_between(seen, self.generation)
    }

    /// The catalog of a newer snapshot. Work is in proportion to the services that changed, plus
    /// the join of the HTTP route table where a service's ports changed.
    #[must_use]
    pub fn next(
        &self,
        snapshot: &Arc<Snapshot>,
        changes: &Changes,
        config: &ResourceConfig,
    ) -> Self {
        let mut catalog = self.clone();
        let mut nodes_changed = false;
        let keys: BTreeSet<ServiceKey> = match changes {
            Changes::Nothing => BTreeSet::new(),
            Changes::Keys(keys) => {
                nodes_changed = keys.iter().any(|key| matches!(key, Key::Node(_)));
                let services = keys.iter().filter_map(|key| match key {
                    Key::Service(key) => Some(key.clone()),
                    Key::Namespace(_) | Key::Node(_) | Key::Pod(..) => None,
                });
                services.collect()
            }
            Changes::Everything => {
                let both = self.snapshot.services().chain(snapshot.services());
                both.map(|(key, _)| key.clone()).collect()
            }
        };
        let first = self.generation == Generation(0);
        let mut edit =
            Edit { catalog: &mut catalog, changed: BTreeSet::new(), hosts_changed: first };
        for key in &keys {
            let old = self.snapshot.lookup(key);
            edit.service(old.map(|e| &**e), snapshot.lookup(key).map(|e| &**e), config);
        }
        if nodes_changed {
            // The zone of a client may be that of its node.
            let placed = edit.catalog.placed.keys().cloned();
            edit.changed.extend(placed.map(|name| (ResourceType::Endpoints, name)));
        }
        if first {
            for spec in &config.listeners {
                let encoded = listener::encode_socket(spec);
                edit.put(ResourceType::Listener, spec.name.clone(), encoded);
            }
        }
        edit.finish(snapshot);
        catalog
    }
}

impl Edit<'_> {
    /// Replaces what the old entry made by what the new one makes.
    fn service(
        &mut self,
        old: Option<&ServiceEntry>,
        new: Option<&ServiceEntry>,
        config: &ResourceConfig,
    ) {
        let mut stale = old.map(|e| names(e, config)).unwrap_or_default();
        if let Some(entry) = new {
            for name in names(entry, config) {
                stale.remove(&name);
            }
            self.write(entry, config);
        }
        for (kind, name) in stale {
            let known = self.catalog.types[kind.index()].remove(&name).is_some();
            if kind == ResourceType::Endpoints {
                self.catalog.placed.remove(&name);
            }
            let hidden =
                kind == ResourceType::Listener && self.catalog.by_name_only.remove(&name).is_some();
            if known || hidden {
                self.changed.insert((kind, name));
            }
        }
        if old.map(|e| &e.service) != new.map(|e| &e.service) {
            self.hosts(old, new, config);
        }
    }

    fn write(&mut self, entry: &ServiceEntry, config: &ResourceConfig) {
        let service = &entry.service;
        for port in served_ports(entry) {
            let name = cluster_name(&service.key, port.port);
            let zone = config.zone(service.key.scope());
            let cluster = cluster::encode(service, port, config.balancer, zone);
            self.put(ResourceType::Cluster, name.clone(), cluster);
            self.put(ResourceType::Endpoints, name.clone(), endpoints::encode(entry, port));
            self.place(entry, port.port, name);
            let target = target_name(&service.key, port.port, zone);
            let api = listener::encode_api(&service.key, port.port, zone);
            if write(&mut self.catalog.by_name_only, &target, api) {
                self.changed.insert((ResourceType::Listener, target.clone()));
            }
            let routes = route::encode_target(service, port, zone);
            self.put(ResourceType::Route, target, routes);
        }
    }

    /// Notes whether the endpoint set depends on the place. What does may look the same to all and
    /// differ for one: then each stream has to compare.
    fn place(&mut self, entry: &ServiceEntry, port: u16, name: Name) {
        let depends = entry.depends_on_place();
        let before = if depends {
            self.catalog.placed.insert(name.clone(), (entry.service.key.clone(), port))
        } else {
            self.catalog.placed.remove(&name)
        };
        if depends || before.is_some() {
            self.changed.insert((ResourceType::Endpoints, name));
        }
    }

    fn hosts(
        &mut self,
        old: Option<&ServiceEntry>,
        new: Option<&ServiceEntry>,
        config: &ResourceConfig,
    ) {
        let made = |entry: Option<&ServiceEntry>| {
            entry
                .filter(|e| is_served(&e.service))
                .map(|e| route::virtual_hosts(&e.service, config.zone(e.service.key.scope())))
                .unwrap_or_default()
        };
        let (before, after) = (made(old), made(new));
        if before == after {
            return;
        }
        self.hosts_changed = true;
        for (name, _) in &before {
            self.catalog.hosts.remove(name);
        }
        for (name, host) in after {
            self.catalog.hosts.insert(name, host);
        }
    }

    fn put(&mut self, kind: ResourceType, name: Name, encoded: Encoded) {
        if write(&mut self.catalog.types[kind.index()], &name, encoded) {
            self.changed.insert((kind, name));
        }
    }

    fn finish(mut self, snapshot: &Arc<Snapshot>) {
        if self.hosts_changed {
            let table = route::encode_http(&self.catalog.hosts);
            self.put(ResourceType::Route, route::HTTP_ROUTES.into(), table);
        }
        let number = snapshot.generation();
        self.put(ResourceType::Generation, generation::NAME.into(), generation::encode(number));
        let missed = number.0.saturating_sub(self.catalog.generation.0);
        if missed != 1 {
            // The history counts one entry per generation; a leap starts it anew.
            self.catalog.history.clear();
        }
        self.catalog.history.push(self.changed);
        self.catalog.generation = number;
        self.catalog.snapshot = snapshot.clone();
    }
}

/// Puts a resource in place; whether it differs from what stood there.
fn write(map: &mut OrdMap<Name, Encoded>, name: &Name, encoded: Encoded) -> bool {
    let differs = map.get(name).is_none_or(|old| old.version != encoded.version);
    if differs {
        map.insert(name.clone(), encoded);
    }
    differs
}

/// Whether a service gets clusters: it has endpoints of its own, and no other proxy is to serve it.
fn is_served(service: &Service) -> bool {
    !matches!(service.kind, ServiceKind::ExternalName(_)) && service.traffic.proxy_name.is_none()
}

/// The ports that get a cluster: TCP ports of services that are served.
fn served_ports(entry: &ServiceEntry) -> impl Iterator<Item = &ServicePort> {
    let served = is_served(&entry.service);
    entry.service.ports.iter().filter(move |p| p.protocol == Protocol::Tcp && served)
}

/// The names of all resources an entry makes.
fn names(entry: &ServiceEntry, config: &ResourceConfig) -> BTreeSet<(ResourceType, Name)> {
    let key = &entry.service.key;
    served_ports(entry)
        .flat_map(|port| {
            let cluster = cluster_name(key, port.port);
            let target = target_name(key, port.port, config.zone(key.scope()));
            [
                (ResourceType::Cluster, cluster.clone()),
                (ResourceType::Endpoints, cluster),
                (ResourceType::Listener, target.clone()),
                (ResourceType::Route, target),
            ]
        })
        .collect()
}
