//! What a change of a service writes into the catalog and takes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use portolan_model::{Gateway, Generation, ServiceEntry, ServiceKey, Snapshot};

use super::had::{Had, is_served, served_ports};
use super::placed::Placed;
use super::{Catalog, Changed, Name, OVERSIZED, Socket, SocketOf};
use crate::capability::Dialect;
use crate::config::ResourceConfig;
use crate::resource::gateway::Made;
use crate::resource::{
    Encoded, ResourceType, cluster, cluster_name, endpoints, gateway, generation, inbound,
    listener, route, server, target_name,
};

/// Services that are gone of which it is known when they went.
const MAX_GONE: usize = 4096;

/// Collects what a publish changes.
pub(super) struct Edit<'a> {
    catalog: &'a mut Catalog,
    config: &'a ResourceConfig,
    generation: Generation,
    changed: Changed,
    hosts_changed: bool,
}

impl<'a> Edit<'a> {
    /// An edit that leads to this generation.
    pub(super) fn of(
        catalog: &'a mut Catalog,
        config: &'a ResourceConfig,
        generation: Generation,
        first: bool,
    ) -> Self {
        Self { catalog, config, generation, changed: Changed::new(), hosts_changed: first }
    }

    /// Replaces what the old entry of a service made by what the new one makes.
    pub(super) fn service(&mut self, key: &ServiceKey, before: Had<'_>, after: Had<'_>) {
        let (old, new) = (before.entry, after.entry);
        if before.guards() != after.guards() {
            // Its servers have listeners of names that only they know: those look again that have one.
            self.changed.insert((ResourceType::Listener, server::PREFIX.into()));
        }
        if old != new || !before.is_set_up_as(&after) {
            self.catalog.changed_at.insert(key.clone(), self.generation);
        }
        // Most changes are of endpoints: all else is made from the service alone.
        if !before.is_set_up_as(&after) {
            let mut stale = old.map(|e| names(e, self.config)).unwrap_or_default();
            if let Some(entry) = new {
                for name in names(entry, self.config) {
                    stale.remove(&name);
                }
                self.write(entry, after);
            }
            for (kind, name) in stale {
                self.take_out(kind, name);
            }
            self.hosts(before, after);
            self.consumers(before, after);
        }
        if let Some(entry) = new {
            self.endpoints(entry, after);
        }
    }

    /// The zone of a client may be that of its node: whatever depends on zones is looked at again.
    pub(super) fn nodes(&mut self) {
        let placed = self.catalog.placed.keys().cloned();
        self.changed.extend(placed.map(|name| (ResourceType::Endpoints, name)));
    }

    /// Replaces what a Gateway made before by what it makes now.
    pub(super) fn gateway(&mut self, old: Option<&Arc<Gateway>>, new: Option<&Arc<Gateway>>) {
        let default = self.config.gateway_address;
        let mut stale = old.map(|gateway| gateway::names(gateway, default)).unwrap_or_default();
        if let Some(gateway) = new {
            for Made { kind, name, encoded, tls } in gateway::encode(gateway, default) {
                stale.remove(&(kind, name.clone()));
                if kind == ResourceType::Listener {
                    let socket = Socket { tls, of: SocketOf::Gateway(gateway.key.clone()) };
                    self.catalog.sockets.insert(name.clone(), socket);
                }
                self.put(kind, name, encoded);
            }
        }
        for (kind, name) in stale {
            self.take_out(kind, name);
        }
    }

    /// The sockets that proxies open.
    pub(super) fn listeners(&mut self) {
        for spec in &self.config.listeners {
            let socket = Socket { tls: spec.tls.is_some(), of: SocketOf::Everybody };
            self.catalog.sockets.insert(spec.name.clone(), socket);
            self.put(ResourceType::Listener, spec.name.clone(), listener::encode_socket(spec));
        }
    }

    pub(super) fn finish(mut self, snapshot: &Arc<Snapshot>) -> Changed {
        if self.hosts_changed {
            let table = route::encode_http(&self.catalog.hosts);
            self.put(ResourceType::Route, route::HTTP_ROUTES.into(), table);
            let consumers = &mut self.catalog.consumers;
            *consumers =
                consumers.iter().map(|(name, own)| (name.clone(), own.renewed())).collect();
        }
        let number = snapshot.generation();
        self.put(ResourceType::Generation, generation::NAME.into(), generation::encode(number));
        self.catalog.merge();
        self.catalog.generation = number;
        let known = &mut self.catalog.changed_at;
        if known.len() > snapshot.service_count() + MAX_GONE {
            let there = known.iter().filter(|(key, _)| snapshot.lookup(key).is_some());
            *known = there.map(|(key, at)| (key.clone(), *at)).collect();
        }
        self.catalog.snapshot = snapshot.clone();
        self.changed
    }

    /// What a service makes, but for its endpoints.
    fn write(&mut self, entry: &ServiceEntry, had: Had<'_>) {
        let (service, config) = (&entry.service, self.config);
        for port in served_ports(entry) {
            let name = cluster_name(&service.key, port.port);
            let zone = config.zone(service.key.scope());
            let plain =
                |dialect| cluster::encode(service, port, cluster::Way::Plain, config, dialect);
            let way = had.way(port.port);
            let envoy = cluster::encode(service, port, way, config, Dialect::Envoy);
            let clear = matches!(way, cluster::Way::Mutual(_)).then(|| plain(Dialect::Envoy));
            self.other(|catalog| &mut catalog.in_the_clear, &name, clear);
            let mutual = matches!(way, cluster::Way::Mutual(_))
                .then(|| cluster::encode(service, port, way, config, Dialect::Grpc));
            self.other(|catalog| &mut catalog.of_grpc_mutual, &name, mutual);
            self.dialect(name, envoy, plain(Dialect::Grpc));
            let target = target_name(&service.key, port.port, zone);
            let api = listener::encode_api(&service.key, port.port, zone);
            if write(&mut self.catalog.by_name_only, &target, api) {
                self.changed.insert((ResourceType::Listener, target.clone()));
            }
            let routes = route::encode_target(service, port, had.around(service, None, config));
            self.put(ResourceType::Route, target, routes);
        }
        for (name, listener, app) in inbound::encode(entry, had.access, config) {
            let of = SocketOf::Service(service.key.clone());
            self.catalog.sockets.insert(name.clone(), Socket { tls: true, of });
            self.catalog.apps.insert(name.clone(), service.key.clone());
            self.put(ResourceType::Listener, name.clone(), listener);
            self.put(ResourceType::Cluster, name, app);
        }
    }

    /// A cluster as some clients get it, if they get another than the rest.
    fn other(
        &mut self,
        of: fn(&mut Catalog) -> &mut OrdMap<Name, Encoded>,
        name: &Name,
        other: Option<Encoded>,
    ) {
        let map = of(self.catalog);
        let changed = match other {
            Some(other) => write(map, name, other),
            None => map.remove(name).is_some(),
        };
        if changed {
            self.changed.insert((ResourceType::Cluster, name.clone()));
        }
    }

    fn endpoints(&mut self, entry: &ServiceEntry, had: Had<'_>) {
        for port in served_ports(entry) {
            let name = cluster_name(&entry.service.key, port.port);
            if had.is_shut(port.port) {
                self.catalog.placed.remove(&name);
                let none = endpoints::encode_none(&name);
                self.put(ResourceType::Endpoints, name, none);
                continue;
            }
            let set = endpoints::encode(entry, port).with_ttl(self.config.endpoints_ttl_secs);
            self.put(ResourceType::Endpoints, name.clone(), set);
            self.place(entry, port.port, name);
        }
    }

    /// A cluster in Envoy's words and, where they differ, in gRPC's.
    fn dialect(&mut self, name: Name, envoy: Encoded, grpc: Encoded) {
        let of_grpc = &mut self.catalog.of_grpc;
        let changed = if grpc.version == envoy.version {
            of_grpc.remove(&name).is_some()
        } else {
            write(of_grpc, &name, grpc)
        };
        if changed {
            self.changed.insert((ResourceType::Cluster, name.clone()));
        }
        self.put(ResourceType::Cluster, name, envoy);
    }

    fn take_out(&mut self, kind: ResourceType, name: Name) {
        let known = self.catalog.types[kind.index()].remove(&name).is_some();
        match kind {
            ResourceType::Endpoints => drop(self.catalog.placed.remove(&name)),
            ResourceType::Cluster => {
                self.catalog.of_grpc.remove(&name);
                self.catalog.of_grpc_mutual.remove(&name);
                self.catalog.in_the_clear.remove(&name);
                self.catalog.apps.remove(&name);
            }
            ResourceType::Listener => drop(self.catalog.sockets.remove(&name)),
            _ => {}
        }
        let hidden =
            kind == ResourceType::Listener && self.catalog.by_name_only.remove(&name).is_some();
        if known || hidden {
            self.catalog.oversized.remove(&(kind, name.clone()));
            self.changed.insert((kind, name));
        }
    }

    /// Notes whether the endpoint set depends on the place. What does may look the same to all and
    /// differ for one: then each stream has to compare.
    fn place(&mut self, entry: &ServiceEntry, port: u16, name: Name) {
        let depends = entry.depends_on_place();
        let before = if depends {
            let placed = Placed::new(entry.service.key.clone(), port);
            self.catalog.placed.insert(name.clone(), placed)
        } else {
            self.catalog.placed.remove(&name)
        };
        if depends || before.is_some() {
            self.changed.insert((ResourceType::Endpoints, name));
        }
    }

    fn hosts(&mut self, before: Had<'_>, after: Had<'_>) {
        let made = |had: Had<'_>| {
            let Some(service) = had.service().filter(|service| is_served(service)) else {
                return Vec::new();
            };
            route::virtual_hosts(service, had.around(service, None, self.config))
        };
        let (before, after) = (made(before), made(after));
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

    /// What clients of namespaces get otherwise that have routes of their own.
    fn consumers(&mut self, before: Had<'_>, after: Had<'_>) {
        let config = self.config;
        let target = |key: &ServiceKey, port| target_name(key, port, config.zone(key.scope()));
        let namespaces: BTreeSet<&Name> = before.consumers().chain(after.consumers()).collect();
        for namespace in namespaces {
            let mut own =
                self.catalog.consumers.get(namespace).cloned().unwrap_or_default().renewed();
            if let Some(service) = before.service() {
                for port in before.consumed(namespace) {
                    own.hosts.remove(&cluster_name(&service.key, port.port));
                    let target = target(&service.key, port.port);
                    own.targets.remove(&target);
                    self.changed.insert((ResourceType::Route, target));
                }
            }
            if let Some(service) = after.service() {
                let around = after.around(service, Some(namespace), config);
                let mut hosts: BTreeMap<Name, Bytes> =
                    route::virtual_hosts(service, around).into_iter().collect();
                for port in after.consumed(namespace) {
                    let host = hosts.remove_entry(&cluster_name(&service.key, port.port));
                    own.hosts.extend(host);
                    let target = target(&service.key, port.port);
                    let table = route::encode_target(service, port, around);
                    own.targets.insert(target.clone(), table);
                    self.changed.insert((ResourceType::Route, target));
                }
            }
            self.changed.insert((ResourceType::Route, route::HTTP_ROUTES.into()));
            // Of a port that does not carry HTTP there is no host, but a gRPC target.
            if own.targets.is_empty() {
                self.catalog.consumers.remove(namespace);
            } else {
                self.catalog.consumers.insert(namespace.clone(), own);
            }
        }
    }

    fn put(&mut self, kind: ResourceType, name: Name, encoded: Encoded) {
        let size = encoded.any.len();
        if !write(&mut self.catalog.types[kind.index()], &name, encoded) {
            return;
        }
        let key = (kind, name);
        let before = self.catalog.oversized.remove(&key);
        if size >= OVERSIZED {
            if before.is_none() {
                let name = &*key.1;
                tracing::error!(kind = kind.name(), name, size, "too large for some clients");
            }
            self.catalog.oversized.insert(key.clone(), size);
        }
        self.changed.insert(key);
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
        .chain(inbound::names(entry))
        .collect()
}
