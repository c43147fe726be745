//! The one writer of the snapshot: joins services with their slices, hands out cluster IPs.
//!
//! Apply and delete touch one service; [`Index::commit`] says which services were touched since
//! the last commit. A service whose entry ends up equal to what it was is not counted as touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portolan_model::{
    Endpoint, Key, Node, Pod, Scope, Service, ServiceEntry, ServiceKey, ServiceKind, Slice,
    Snapshot,
};

use crate::addresses::{AddressPool, Family, ServiceRanges};
use crate::convert::{AddressRequest, Draft, KindDraft, ServiceDraft, SliceDraft};
use crate::gateway::status::Status;
use crate::gateway::{GatewayApi, InForce};
use crate::loads::Loads;
use crate::object::Fault;
use crate::rejection::{Origin, Rejection};

/// The working copy behind the published snapshots.
#[derive(Debug)]
pub struct Index {
    /// Who holds which cluster IP; `None` where an API server has seen to that.
    pool: Option<AddressPool>,
    services: HashMap<ServiceKey, Arc<Service>>,
    slices: HashMap<ServiceKey, BTreeMap<Arc<str>, Arc<Slice>>>,
    /// Services with an endpoint that names its node and not its zone.
    unzoned: BTreeSet<ServiceKey>,
    gateway_api: GatewayApi,
    snapshot: Snapshot,
    touched: BTreeSet<Key>,
}

impl Index {
    /// An empty index that hands out cluster IPs itself.
    #[must_use]
    pub fn new(ranges: ServiceRanges) -> Self {
        Self { pool: Some(AddressPool::new(ranges)), ..Self::of_served() }
    }

    /// An empty index for objects of an API server, whose cluster IPs are taken as they come.
    #[must_use]
    pub fn of_served() -> Self {
        Self {
            pool: None,
            unzoned: BTreeSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            gateway_api: GatewayApi::default(),
            snapshot: Snapshot::default(),
            touched: BTreeSet::new(),
        }
    }

    /// Writes a draft in place of what its object was before.
    ///
    /// # Errors
    /// When an address cannot be had; what stood there stays.
    pub fn apply(&mut self, old: Option<&Draft>, new: &Draft) -> Result<(), Fault> {
        match new {
            Draft::Namespace(name, labels) => {
                self.gateway_api.set_labels(name, Some(labels));
                self.declare_namespace(name, true);
            }
            Draft::Node(node) => self.apply_node(node),
            Draft::Pod(pod) => self.apply_pod(pod),
            Draft::Service(service) => self.apply_service(service)?,
            Draft::Slice(slice) => {
                if let Some(Draft::Slice(old)) = old
                    && old.service != slice.service
                {
                    self.delete_slice(old);
                }
                self.apply_slice(slice);
            }
            Draft::GatewayApi(draft) => self.gateway_api.apply(draft),
        }
        Ok(())
    }

    /// Takes out what a draft brought in.
    pub fn delete(&mut self, draft: &Draft) {
        match draft {
            Draft::Namespace(name, _) => {
                self.gateway_api.set_labels(name, None);
                self.declare_namespace(name, false);
            }
            Draft::Node(node) => self.delete_node(&node.name),
            Draft::Pod(pod) => self.delete_pod(pod),
            Draft::Service(service) => self.delete_service(&service.key),
            Draft::Slice(slice) => self.delete_slice(slice),
            Draft::GatewayApi(draft) => self.gateway_api.delete(draft),
        }
    }

    /// Writes a service, finding its cluster IPs.
    ///
    /// # Errors
    /// When an address cannot be had; what stood under the key stays.
    pub fn apply_service(&mut self, draft: &ServiceDraft) -> Result<(), Fault> {
        let key = &draft.key;
        let held: Vec<IpAddr> =
            self.services.get(key).map(|s| s.cluster_ips().to_vec()).unwrap_or_default();
        let kind = match &draft.kind {
            KindDraft::Headless => ServiceKind::Headless,
            KindDraft::ExternalName(name) => ServiceKind::ExternalName(name.clone()),
            KindDraft::ClusterIp(request) => {
                ServiceKind::ClusterIp(self.addresses(key, request, &held)?)
            }
        };
        let service = Arc::new(Service {
            key: key.clone(),
            kind,
            ports: draft.ports.clone(),
            publish_not_ready: draft.publish_not_ready,
            traffic: draft.traffic.clone(),
            policy: draft.policy.clone(),
        });
        self.release(key, held.iter().filter(|a| !service.cluster_ips().contains(a)));
        let before = self.services.insert(key.clone(), Arc::clone(&service));
        if before.is_none_or(|before| before != service) {
            self.gateway_api.on_service(key);
        }
        self.join(key);
        Ok(())
    }

    /// Takes a service out. Its slices stay and join it again should it come back.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        if let Some(service) = self.services.remove(key) {
            self.release(key, service.cluster_ips().iter());
            self.gateway_api.on_service(key);
            self.join(key);
        }
    }

    /// Writes a slice.
    pub fn apply_slice(&mut self, draft: &SliceDraft) {
        let slices = self.slices.entry(draft.service.clone()).or_default();
        slices.insert(draft.slice.name.clone(), draft.slice.clone());
        self.join(&draft.service);
    }

    /// Takes a slice out.
    pub fn delete_slice(&mut self, draft: &SliceDraft) {
        if let Some(slices) = self.slices.get_mut(&draft.service) {
            slices.remove(&draft.slice.name);
            if slices.is_empty() {
                self.slices.remove(&draft.service);
            }
            self.join(&draft.service);
        }
    }

    /// Notes that a namespace exists, or no longer does.
    pub fn declare_namespace(&mut self, name: &Arc<str>, declared: bool) {
        if self.snapshot.declare_namespace(name, declared) {
            self.touched.insert(Key::Namespace(Arc::clone(name)));
        }
    }

    /// Writes a node; endpoints that name it and no zone of their own are in its zone.
    pub fn apply_node(&mut self, node: &Arc<Node>) {
        let before = self.snapshot.node(&node.name).and_then(|old| old.zone.clone());
        if self.snapshot.apply_node(Arc::clone(node)) {
            self.touched.insert(Key::Node(Arc::clone(&node.name)));
        }
        if before != node.zone {
            self.join_unzoned();
        }
    }

    /// Takes a node out.
    pub fn delete_node(&mut self, name: &Arc<str>) {
        if self.snapshot.delete_node(name) {
            self.touched.insert(Key::Node(Arc::clone(name)));
            self.join_unzoned();
        }
    }

    /// Writes a pod; one without addresses is not in the snapshot.
    pub fn apply_pod(&mut self, pod: &Arc<Pod>) {
        if pod.addresses.is_empty() {
            self.delete_pod(pod);
        } else if self.snapshot.apply_pod(Arc::clone(pod)) {
            self.touched.insert(pod_key(pod));
        }
    }

    /// Takes a pod out.
    pub fn delete_pod(&mut self, pod: &Pod) {
        if self.snapshot.delete_pod(&pod.namespace, &pod.name) {
            self.touched.insert(pod_key(pod));
        }
    }

    /// Whether a service is in the index.
    #[must_use]
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// The content as it is now, and what was touched since the last commit.
    pub fn commit(&mut self) -> (Snapshot, BTreeSet<Key>) {
        self.settle();
        (self.snapshot.clone(), std::mem::take(&mut self.touched))
    }

    /// Brings what depends on many objects in line with all of them.
    pub fn settle(&mut self) {
        let compiled = self.gateway_api.compile(&self.services);
        let Some(compiled) = compiled else {
            return;
        };
        let InForce { gateways, routes, backend_tls, access } = compiled;
        let known = self.snapshot.gateways().map(|known| known.key.clone()).collect();
        self.replace(known, gateways, Snapshot::set_gateway, Key::Gateway);
        let known = self.snapshot.all_routes().map(|known| known.service.clone()).collect();
        self.replace(known, routes, Snapshot::set_routes, Key::Routes);
        let known = self.snapshot.all_backend_tls().map(|known| known.service.clone()).collect();
        self.replace(known, backend_tls, Snapshot::set_backend_tls, Key::BackendTls);
        let known = self.snapshot.all_access().map(|known| known.service.clone()).collect();
        self.replace(known, access, Snapshot::set_access, Key::Access);
    }

    /// Puts all of something in the place of what there was.
    fn replace<K: Ord + Clone, V>(
        &mut self,
        known: Vec<K>,
        mut now: BTreeMap<K, V>,
        set: fn(&mut Snapshot, &K, Option<V>) -> bool,
        changed: fn(K) -> Key,
    ) {
        let keys: BTreeSet<K> = known.into_iter().chain(now.keys().cloned()).collect();
        for key in keys {
            if set(&mut self.snapshot, &key, now.remove(&key)) {
                self.touched.insert(changed(key));
            }
        }
    }

    /// What became of the objects of the Gateway API, as of the last time that all was in line.
    #[must_use]
    pub fn statuses(&self) -> Arc<Vec<Status>> {
        self.gateway_api.statuses()
    }

    /// Backends of routes are compared by loads from now on.
    pub fn expect_loads(&mut self) {
        self.gateway_api.expect_loads();
    }

    /// Takes the loads of an interval that ends now.
    pub fn on_loads(&mut self, loads: Loads, now: Instant) {
        self.gateway_api.on_loads(loads, now);
    }

    /// Backends of routes that have lost their weight.
    #[must_use]
    pub fn rolled_back(&self, origin: &Origin) -> Vec<Rejection> {
        self.gateway_api.rolled_back(origin)
    }

    /// Whether anything may have been touched since the last commit.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty() || self.gateway_api.is_stale()
    }

    fn join_unzoned(&mut self) {
        for key in std::mem::take(&mut self.unzoned) {
            self.join(&key);
        }
    }

    /// Brings one service's entry in line with what is known of it.
    fn join(&mut self, key: &ServiceKey) {
        self.unzoned.remove(key);
        let Some(service) = self.services.get(key) else {
            if self.snapshot.delete(key) {
                self.touched.insert(Key::Service(key.clone()));
            }
            return;
        };
        let raw = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let mut unzoned = false;
        let slices = raw.map(|slice| zoned(slice, &self.snapshot, &mut unzoned)).collect();
        let entry = ServiceEntry { service: service.clone(), slices };
        if self.snapshot.lookup(key).is_none_or(|old| **old != entry) {
            self.snapshot.apply(Arc::new(entry));
            self.touched.insert(Key::Service(key.clone()));
        }
        if unzoned {
            self.unzoned.insert(key.clone());
        }
    }

    fn addresses(
        &mut self,
        key: &ServiceKey,
        request: &AddressRequest,
        held: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Fault> {
        let Some(pool) = self.pool.as_mut().filter(|_| key.scope() == Scope::Cluster) else {
            return Ok(match request {
                AddressRequest::Named(named) => named.clone(),
                _ => Vec::new(),
            });
        };
        let families = match request {
            AddressRequest::Named(named) => return claim_all(pool, key, named, held),
            AddressRequest::Families(families) => families.clone(),
            AddressRequest::Single => pool.families().take(1).collect(),
            AddressRequest::PreferDual => pool.families().collect(),
            AddressRequest::RequireDual => {
                let mut families: Vec<Family> = pool.families().collect();
                families.extend([Family::V4, Family::V6]);
                families.dedup();
                families.truncate(2);
                families
            }
        };
        let mut addresses = Vec::with_capacity(families.len());
        for family in families {
            // A service keeps the address it has, named or found, for as long as it fits.
            let kept = held.iter().copied().find(|a| Family::of(*a) == family);
            match kept.map_or_else(|| pool.allocate(family, key), Ok) {
                Ok(address) => addresses.push(address),
                Err(unavailable) => {
                    release_new(pool, key, &addresses, held);
                    return Err(Fault::rejected("spec.clusterIP", unavailable.to_string()));
                }
            }
        }
        Ok(addresses)
    }

    fn release<'a>(&mut self, key: &ServiceKey, addresses: impl Iterator<Item = &'a IpAddr>) {
        if let Some(pool) = &mut self.pool {
            addresses.for_each(|address| pool.release(*address, key));
        }
    }
}

fn pod_key(pod: &Pod) -> Key {
    Key::Pod(Arc::clone(&pod.namespace), Arc::clone(&pod.name))
}

fn claim_all(
    pool: &mut AddressPool,
    key: &ServiceKey,
    named: &[IpAddr],
    held: &[IpAddr],
) -> Result<Vec<IpAddr>, Fault> {
    for (i, address) in named.iter().enumerate() {
        if let Err(taken) = pool.claim(*address, key) {
            release_new(pool, key, &named[..i], held);
            return Err(Fault::rejected("spec.clusterIP", taken.to_string()));
        }
    }
    Ok(named.to_vec())
}

fn release_new(pool: &mut AddressPool, key: &ServiceKey, claimed: &[IpAddr], held: &[IpAddr]) {
    for address in claimed.iter().filter(|a| !held.contains(a)) {
        pool.release(*address, key);
    }
}

/// The slice with the zones of its nodes where endpoints name none themselves; notes whether any
/// does so.
fn zoned(slice: &Arc<Slice>, snapshot: &Snapshot, unzoned: &mut bool) -> Arc<Slice> {
    let lacks = |endpoint: &Endpoint| endpoint.zone.is_none() && endpoint.node.is_some();
    if !slice.endpoints.iter().any(lacks) {
        return Arc::clone(slice);
    }
    *unzoned = true;
    let mut slice = Slice::clone(slice);
    for endpoint in slice.endpoints.iter_mut().filter(|e| lacks(e)) {
        let node = endpoint.node.as_deref().and_then(|name| snapshot.node(name));
        endpoint.zone = node.and_then(|node| node.zone.clone());
    }
    Arc::new(slice)
}
