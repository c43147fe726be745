//! The one writer of the snapshot: joins services with their slices, hands out cluster IPs.
//!
//! Apply and delete touch one service; [`Index::commit`] says which services were touched since
//! the last commit. A service whose entry ends up equal to what it was is not counted as touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{Service, ServiceEntry, ServiceKey, ServiceKind, Slice, Snapshot};

use crate::addresses::{AddressPool, Family, ServiceRanges};
use crate::convert::{AddressRequest, KindDraft, ServiceDraft, SliceDraft};
use crate::object::Fault;

/// The working copy behind the published snapshots.
#[derive(Debug)]
pub struct Index {
    pool: AddressPool,
    services: HashMap<ServiceKey, Arc<Service>>,
    slices: HashMap<ServiceKey, BTreeMap<Arc<str>, Arc<Slice>>>,
    snapshot: Snapshot,
    touched: BTreeSet<ServiceKey>,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(ranges: ServiceRanges) -> Self {
        Self {
            pool: AddressPool::new(ranges),
            services: HashMap::new(),
            slices: HashMap::new(),
            snapshot: Snapshot::default(),
            touched: BTreeSet::new(),
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
            balancer: draft.balancer,
        });
        for address in held.iter().filter(|a| !service.cluster_ips().contains(a)) {
            self.pool.release(*address, key);
        }
        self.services.insert(key.clone(), service);
        self.join(key);
        Ok(())
    }

    /// Takes a service out. Its slices stay and join it again should it come back.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        if let Some(service) = self.services.remove(key) {
            for address in service.cluster_ips() {
                self.pool.release(*address, key);
            }
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

    /// Whether a service is in the index.
    #[must_use]
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// The content as it is now, and the services touched since the last commit.
    pub fn commit(&mut self) -> (Snapshot, BTreeSet<ServiceKey>) {
        (self.snapshot.clone(), std::mem::take(&mut self.touched))
    }

    /// Brings one service's entry in line with what is known of it.
    fn join(&mut self, key: &ServiceKey) {
        let Some(service) = self.services.get(key) else {
            if self.snapshot.delete(key) {
                self.touched.insert(key.clone());
            }
            return;
        };
        let slices = self.slices.get(key).map(|s| s.values().cloned().collect());
        let entry = ServiceEntry { service: service.clone(), slices: slices.unwrap_or_default() };
        if self.snapshot.lookup(key).is_none_or(|old| **old != entry) {
            self.snapshot.apply(Arc::new(entry));
            self.touched.insert(key.clone());
        }
    }

    fn addresses(
        &mut self,
        key: &ServiceKey,
        request: &AddressRequest,
        held: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Fault> {
        let families = match request {
            AddressRequest::Named(named) => return self.claim_all(key, named, held),
            AddressRequest::Families(families) => families.clone(),
            AddressRequest::Single => self.pool.families().take(1).collect(),
            AddressRequest::PreferDual => self.pool.families().collect(),
            AddressRequest::RequireDual => {
                let mut families: Vec<Family> = self.pool.families().collect();
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
            match kept.map_or_else(|| self.pool.allocate(family, key), Ok) {
                Ok(address) => addresses.push(address),
                Err(unavailable) => {
                    self.release_new(key, &addresses, held);
                    return Err(Fault::rejected("spec.clusterIP", unavailable.to_string()));
                }
            }
        }
        Ok(addresses)
    }

    fn claim_all(
        &mut self,
        key: &ServiceKey,
        named: &[IpAddr],
        held: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Fault> {
        for (i, address) in named.iter().enumerate() {
            if let Err(taken) = self.pool.claim(*address, key) {
                self.release_new(key, &named[..i], held);
                return Err(Fault::rejected("spec.clusterIP", taken.to_string()));
            }
        }
        Ok(named.to_vec())
    }

    fn release_new(&mut self, key: &ServiceKey, claimed: &[IpAddr], held: &[IpAddr]) {
        for address in claimed.iter().filter(|a| !held.contains(a)) {
            self.pool.release(*address, key);
        }
    }
}
