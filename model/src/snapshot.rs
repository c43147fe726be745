//! The snapshot: everything known at one generation, immutable, shared by all roles.
//!
//! A snapshot is a handle on persistent maps. Cloning it costs a few reference counts, and
//! writing one service copies the path to that service, never the cluster
//! (`benches/snapshot.rs` shows the curve).

mod key;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize, Serializer};

use crate::access::ServiceAccess;
use crate::entry::ServiceEntry;
use crate::gateway::{BackendTls, Gateway, GatewayKey, ServiceRoutes};
use crate::name::{Scope, ServiceKey};
use crate::node::Node;
use crate::pod::Pods;
pub use key::Key;

/// Number of a snapshot. Starts at 1 with the first publish and grows by one per publish.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// All services and their endpoints at one generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    generation: Generation,
    services: OrdMap<ServiceKey, Arc<ServiceEntry>>,
    namespaces: OrdMap<Arc<str>, Namespace>,
    /// Namespaces that have a service of the cluster set.
    imported: OrdMap<Arc<str>, Namespace>,
    nodes: OrdMap<Arc<str>, Arc<Node>>,
    pub(crate) pods: Pods,
    gateways: OrdMap<GatewayKey, Arc<Gateway>>,
    routes: OrdMap<ServiceKey, Arc<ServiceRoutes>>,
    backend_tls: OrdMap<ServiceKey, Arc<BackendTls>>,
    access: OrdMap<ServiceKey, Arc<ServiceAccess>>,
}

/// Why a namespace exists: it was declared, or it has a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Namespace {
    declared: bool,
    services: usize,
}

impl Generation {
    /// The generation that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Snapshot {
    /// Its number; 0 only before the first publish.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The entry of one service.
    #[must_use]
    pub fn lookup(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// Every service in order of its key.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Arc<ServiceEntry>)> {
        self.services.iter()
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Whether a namespace exists: it was declared, or has a service.
    #[must_use]
    pub fn has_namespace(&self, scope: Scope, namespace: &str) -> bool {
        self.namespaces_in(scope).contains_key(namespace)
    }

    /// Every namespace of the cluster that exists, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// Every node in order of its name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// How many endpoint addresses all slices list together. Linear in the number of slices.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.services.values().flat_map(|e| &e.slices).map(|s| s.endpoints.len()).sum()
    }

    /// Puts a service in place of what stood under its key.
    /// Costs O(log services), whatever the size of the cluster.
    pub fn apply(&mut self, entry: Arc<ServiceEntry>) {
        let key = entry.service.key.clone();
        if self.services.insert(key.clone(), entry).is_none() {
            self.change_namespace(key.scope(), key.namespace(), |n| n.services += 1);
        }
    }

    /// Takes a service out; returns whether it was there. Costs O(log services).
    pub fn delete(&mut self, key: &ServiceKey) -> bool {
        if self.services.remove(key).is_none() {
            return false;
        }
        let fewer = |n: &mut Namespace| n.services = n.services.saturating_sub(1);
        self.change_namespace(key.scope(), key.namespace(), fewer);
        true
    }

    /// Notes that a namespace of the cluster exists, with or without services, or no longer does;
    /// returns whether that is new.
    pub fn declare_namespace(&mut self, name: &Arc<str>, declared: bool) -> bool {
        if self.namespaces.get(name).is_some_and(|n| n.declared) == declared {
            return false;
        }
        self.change_namespace(Scope::Cluster, name, |n| n.declared = declared);
        true
    }

    /// Puts a node in place of what stood under its name; returns whether that differs.
    pub fn apply_node(&mut self, node: Arc<Node>) -> bool {
        let differs = self.nodes.get(&node.name).is_none_or(|old| *old != node);
        if differs {
            self.nodes.insert(Arc::clone(&node.name), node);
        }
        differs
    }

    /// Takes a node out; returns whether it was there.
    pub fn delete_node(&mut self, name: &str) -> bool {
        self.nodes.remove(name).is_some()
    }

    /// One Gateway.
    #[must_use]
    pub fn gateway(&self, key: &GatewayKey) -> Option<&Arc<Gateway>> {
        self.gateways.get(key)
    }

    /// Every Gateway in order of its key.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.values()
    }

    /// The routes of one service; `None`: all to its endpoints.
    #[must_use]
    pub fn routes(&self, service: &ServiceKey) -> Option<&Arc<ServiceRoutes>> {
        self.routes.get(service)
    }

    /// The routes of every service that has some, in order of the service's key.
    pub fn all_routes(&self) -> impl Iterator<Item = &Arc<ServiceRoutes>> {
        self.routes.values()
    }

    /// TLS to the endpoints of one service; `None`: they are spoken to in the clear.
    #[must_use]
    pub fn backend_tls(&self, service: &ServiceKey) -> Option<&Arc<BackendTls>> {
        self.backend_tls.get(service)
    }

    /// The same of every service that has some, in order of the service's key.
    pub fn all_backend_tls(&self) -> impl Iterator<Item = &Arc<BackendTls>> {
        self.backend_tls.values()
    }

    /// Who may do what at the endpoints of one service; `None`: whoever gets there may do anything.
    #[must_use]
    pub fn access(&self, service: &ServiceKey) -> Option<&Arc<ServiceAccess>> {
        self.access.get(service)
    }

    /// The same of every service of which something is said, in order of the service's key.
    pub fn all_access(&self) -> impl Iterator<Item = &Arc<ServiceAccess>> {
        self.access.values()
    }

    /// Puts a Gateway in place of what stood under its key, or takes that out; returns whether
    /// anything differs.
    pub fn set_gateway(&mut self, key: &GatewayKey, gateway: Option<Arc<Gateway>>) -> bool {
        set(&mut self.gateways, key, gateway)
    }

    /// The same for the routes of a service.
    pub fn set_routes(&mut self, key: &ServiceKey, routes: Option<Arc<ServiceRoutes>>) -> bool {
        set(&mut self.routes, key, routes)
    }

    /// The same for TLS to the endpoints of a service.
    pub fn set_backend_tls(&mut self, key: &ServiceKey, tls: Option<Arc<BackendTls>>) -> bool {
        set(&mut self.backend_tls, key, tls)
    }

    /// The same for who may do what at the endpoints of a service.
    pub fn set_access(&mut self, key: &ServiceKey, access: Option<Arc<ServiceAccess>>) -> bool {
        set(&mut self.access, key, access)
    }

    /// What stands under a key, taken over from another snapshot.
    pub fn take_over(&mut self, key: &Key, from: &Self) {
        let _differs = match key {
            Key::Namespace(name) => {
                let declared = from.namespaces.get(name).is_some_and(|n| n.declared);
                self.declare_namespace(name, declared)
            }
            Key::Node(name) => match from.nodes.get(name) {
                Some(node) => self.apply_node(Arc::clone(node)),
                None => self.delete_node(name),
            },
            Key::Pod(namespace, name) => match from.pod(namespace, name) {
                Some(pod) => self.apply_pod(Arc::clone(pod)),
                None => self.delete_pod(namespace, name),
            },
            Key::Service(key) => match from.lookup(key) {
                Some(entry) => {
                    self.apply(Arc::clone(entry));
                    true
                }
                None => self.delete(key),
            },
            Key::Gateway(key) => self.set_gateway(key, from.gateway(key).cloned()),
            Key::Routes(key) => self.set_routes(key, from.routes(key).cloned()),
            Key::BackendTls(key) => self.set_backend_tls(key, from.backend_tls(key).cloned()),
            Key::Access(key) => self.set_access(key, from.access(key).cloned()),
        };
    }

    /// Whether what belongs to a service is another in another snapshot; of other keys nothing is said.
    #[must_use]
    pub fn differs_in(&self, other: &Self, key: &Key) -> bool {
        match key {
            Key::Routes(key) => self.routes(key) != other.routes(key),
            Key::BackendTls(key) => self.backend_tls(key) != other.backend_tls(key),
            Key::Access(key) => self.access(key) != other.access(key),
            _ => false,
        }
    }

    /// What differs between this snapshot and another. Costs O(size) where the two were not made
    /// from one another, and O(differences) where they were.
    #[must_use]
    pub fn differences(&self, other: &Self) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> =
            differing(&self.services, &other.services).cloned().map(Key::Service).collect();
        keys.extend(differing(&self.nodes, &other.nodes).cloned().map(Key::Node));
        keys.extend(self.pods.differences(&other.pods));
        let namespaces = differing(&self.namespaces, &other.namespaces);
        keys.extend(namespaces.cloned().map(Key::Namespace));
        keys.extend(differing(&self.gateways, &other.gateways).cloned().map(Key::Gateway));
        keys.extend(differing(&self.routes, &other.routes).cloned().map(Key::Routes));
        let backends = differing(&self.backend_tls, &other.backend_tls);
        keys.extend(backends.cloned().map(Key::BackendTls));
        keys.extend(differing(&self.access, &other.access).cloned().map(Key::Access));
        keys
    }

    /// Names of the namespaces that exist by declaration.
    pub fn declared_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter().filter(|(_, n)| n.declared).map(|(name, _)| name)
    }

    fn namespaces_in(&self, scope: Scope) -> &OrdMap<Arc<str>, Namespace> {
        match scope {
            Scope::Cluster => &self.namespaces,
            Scope::ClusterSet => &self.imported,
        }
    }

    fn change_namespace(
        &mut self,
        scope: Scope,
        name: &Arc<str>,
        change: impl FnOnce(&mut Namespace),
    ) {
        let mut namespace = self.namespaces_in(scope).get(name).copied().unwrap_or_default();
        change(&mut namespace);
        let namespaces = match scope {
            Scope::Cluster => &mut self.namespaces,
            Scope::ClusterSet => &mut self.imported,
        };
        if namespace == Namespace::default() {
            namespaces.remove(name);
        } else {
            namespaces.insert(Arc::clone(name), namespace);
        }
    }

    /// The same content under another generation.
    #[must_use]
    pub fn at(&self, generation: Generation) -> Self {
        Self { generation, ..self.clone() }
    }
}

fn set<K: Ord + Clone, V: PartialEq + Clone>(
    map: &mut OrdMap<K, V>,
    key: &K,
    value: Option<V>,
) -> bool {
    if map.get(key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => _ = map.insert(key.clone(), value),
        None => _ = map.remove(key),
    }
    true
}

pub(crate) fn differing<'a, K, V>(
    one: &'a OrdMap<K, V>,
    other: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K>
where
    K: Ord + Clone,
    V: PartialEq + Clone,
{
    one.diff(other).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    })
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        struct Entries<'a>(&'a Snapshot);
        impl Serialize for Entries<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.services.values().map(|e| &**e))
            }
        }
        let mut s = serializer.serialize_struct("Snapshot", 7)?;
        s.serialize_field("generation", &self.generation)?;
        s.serialize_field("services", &Entries(self))?;
        s.serialize_field("namespaces", &self.namespaces().collect::<Vec<_>>())?;
        s.serialize_field("nodes", &self.nodes().collect::<Vec<_>>())?;
        s.serialize_field("pods", &self.pods().collect::<Vec<_>>())?;
        s.serialize_field("gateways", &self.gateways().collect::<Vec<_>>())?;
        s.serialize_field("routes", &self.all_routes().collect::<Vec<_>>())?;
        s.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Protocol, Service, ServiceKind, ServicePort};

    fn entry(name: &str) -> Arc<ServiceEntry> {
        let port = ServicePort::new("main", Protocol::Tcp, 80);
        let key = ServiceKey::parse(name).expect("valid");
        let service = Service::new(key, ServiceKind::Headless, vec![port]);
        Arc::new(ServiceEntry { service: Arc::new(service), slices: Vec::new() })
    }

    #[test]
    fn a_namespace_exists_while_it_has_a_service() {
        let mut snapshot = Snapshot::default();
        for name in ["a/x", "a/y", "b/z", "a/x"] {
            snapshot.apply(entry(name));
        }
        let before = snapshot.clone();
        let key = |text| ServiceKey::parse(text).expect("valid");
        assert!(snapshot.delete(&key("a/x")) && !snapshot.delete(&key("a/x")));
        let has = |snapshot: &Snapshot, name| snapshot.has_namespace(Scope::Cluster, name);
        assert!(has(&snapshot, "a"));
        assert!(snapshot.delete(&key("a/y")));
        assert!(!has(&snapshot, "a") && has(&snapshot, "b"));
        assert_eq!((before.service_count(), snapshot.service_count()), (3, 1));
        assert!(has(&before, "a"), "what was published stays as it was");
    }

    #[test]
    fn a_declared_namespace_exists_without_a_service_and_scopes_are_apart() {
        let mut snapshot = Snapshot::default();
        let name = Arc::from("a");
        assert!(
            snapshot.declare_namespace(&name, true) && !snapshot.declare_namespace(&name, true)
        );
        snapshot.apply(entry("clusterset/b/x"));
        assert!(snapshot.has_namespace(Scope::Cluster, "a"));
        assert!(!snapshot.has_namespace(Scope::ClusterSet, "a"));
        assert!(snapshot.has_namespace(Scope::ClusterSet, "b"));
        assert!(!snapshot.has_namespace(Scope::Cluster, "b"));
        snapshot.apply(entry("a/x"));
        assert!(snapshot.declare_namespace(&name, false));
        assert!(snapshot.has_namespace(Scope::Cluster, "a"), "it has a service still");
    }
}
