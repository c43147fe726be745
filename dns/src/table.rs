//! The compiled table: from a lower-case name to the bytes of its answers.
//!
//! Immutable; [`Table::apply`] makes the next one at a cost in proportion to what changed. Answers
//! nothing itself: `fast` reads it, and `slow` looks things up in the snapshot it was made from.

mod names;
mod places;
mod reverse;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use portolan_model::{Changes, Generation, Key, Place, Scope, ServiceKey, ServiceKind, Snapshot};

use crate::config::{DnsConfig, StaticRecord};
use crate::error::DnsError;
use crate::name::WireName;
use crate::node::{Compile, Node, Sets};
use crate::records::{self, Rdata, ServiceRecords};
use crate::wire::SoaRecord;
use crate::zone::{Fixed, Zones};

use names::Names;
use places::Places;
pub(crate) use reverse::{Reverse, between};

/// A persistent hash map.
type Map<K, V> = GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// Every name we answer, compiled. Cloning costs reference counts.
#[derive(Clone, Debug)]
pub struct Table {
    zones: Arc<Zones>,
    snapshot: Option<Snapshot>,
    names: Names,
    services: Map<ServiceKey, Arc<Contribution>>,
    reverse: Reverse,
    /// Where clients are, by their addresses; kept where answers depend on it.
    places: Arc<Places>,
    /// The SOA record of this generation.
    soa: Arc<SoaRecord>,
}

/// What a service put into the table, to take it out again.
#[derive(Debug, PartialEq, Eq)]
struct Contribution {
    names: Box<[WireName]>,
    pointers: BTreeSet<(IpAddr, WireName)>,
}

impl Table {
    /// A table before the first snapshot: every name of our zones is "not ready".
    ///
    /// # Errors
    /// [`DnsError`] when the zone or the ranges cannot be served.
    pub fn new(config: &DnsConfig) -> Result<Self, DnsError> {
        Self::with_hosts(config, &[])
    }

    /// The same with static records besides those of the config.
    ///
    /// # Errors
    /// [`DnsError`] when the zone, the ranges or a record cannot be served.
    pub(crate) fn with_hosts(config: &DnsConfig, hosts: &[StaticRecord]) -> Result<Self, DnsError> {
        Ok(Self::empty(Arc::new(Zones::new(config, hosts)?)))
    }

    fn empty(zones: Arc<Zones>) -> Self {
        let mut table = Self {
            soa: soa(&zones, Generation(0)),
            zones,
            snapshot: None,
            names: Names::default(),
            services: Map::with_hasher(RandomState::default()),
            reverse: Reverse::default(),
            places: Arc::default(),
        };
        let zones = table.zones.clone();
        for (owner, fixed) in zones.fixed() {
            table.names.insert(owner, table.compile_fixed(owner, fixed));
        }
        table
    }

    /// The table of `snapshot`, given what changed since the one this table was made of. Costs
    /// O(log names) for each record of each changed service, whatever the size of the cluster.
    #[must_use]
    pub fn apply(&self, snapshot: &Snapshot, changes: &Changes) -> Self {
        let mut next = match changes {
            Changes::Everything => Self::empty(self.zones.clone()),
            Changes::Keys(_) | Changes::Nothing => self.clone(),
        };
        match changes {
            Changes::Nothing => {}
            Changes::Keys(keys) => {
                for key in keys {
                    match key {
                        Key::Service(key) => next.replace(key, snapshot),
                        Key::Namespace(name) => {
                            next.keep_namespace(Scope::Cluster, name, snapshot);
                        }
                        // No name of ours depends on a node, nor, by itself, on a pod; routes are
                        // not for names.
                        Key::Node(_)
                        | Key::Pod(..)
                        | Key::Gateway(_)
                        | Key::Routes(_)
                        | Key::BackendTls(_)
                        | Key::Access(_) => {}
                    }
                }
            }
            Changes::Everything => {
                for (key, _) in snapshot.services() {
                    next.replace(key, snapshot);
                }
                for name in snapshot.namespaces() {
                    next.keep_namespace(Scope::Cluster, name, snapshot);
                }
            }
        }
        let nodes = match changes {
            Changes::Nothing => false,
            Changes::Keys(keys) => keys.iter().any(|key| matches!(key, Key::Node(_))),
            Changes::Everything => true,
        };
        if nodes && next.zones.topology.threshold.is_some() {
            next.places = Arc::new(Places::of(snapshot));
        }
        next.soa = soa(&next.zones, snapshot.generation());
        next.snapshot = Some(snapshot.clone());
        next
    }

    /// The generation served; `None` before the first.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.snapshot.as_ref().map(Snapshot::generation)
    }

    /// How many names the table holds, empty non-terminals included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the table holds no name at all; it always has a few of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.len() == 0
    }

    /// Where a client is, if answers are to depend on it.
    pub(crate) fn place_of(&self, client: IpAddr) -> Option<Place> {
        self.zones.topology.threshold?;
        Some(match &self.zones.topology.node {
            Some(name) => {
                let zone = self.snapshot.as_ref()?.node(name).and_then(|node| node.zone.clone());
                Place { node: Some(name.clone()), zone }
            }
            None => self.places.place_of(client),
        })
    }

    pub(crate) fn zones(&self) -> &Zones {
        &self.zones
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    pub(crate) fn reverse(&self) -> &Reverse {
        &self.reverse
    }

    pub(crate) fn lookup(&self, name: &[u8]) -> Option<&Node> {
        self.names.lookup(name)
    }

    pub(crate) fn soa_record(&self) -> &SoaRecord {
        &self.soa
    }

    /// Takes a service out and puts in what the snapshot says of it now.
    fn replace(&mut self, key: &ServiceKey, snapshot: &Snapshot) {
        let old = self.services.remove(key);
        let zones = self.zones.clone();
        let entry = snapshot.lookup(key);
        let headless = entry.is_some_and(|e| e.service.kind == ServiceKind::Headless);
        let mut new = ServiceRecords::default();
        for svc in zones.svc(key.scope()) {
            let Some(entry) = entry else { break };
            let records = records::of_service(svc, entry, zones.naming);
            new.names.extend(records.names);
            // An address leads to the name in the cluster's first zone.
            if new.pointers.is_empty() {
                new.pointers = records.pointers;
            }
        }
        let near = headless && zones.topology.threshold.is_some();
        if let Some(old) = &old {
            for name in old.names.iter().filter(|name| !new.names.contains_key(*name)) {
                self.names.remove(name);
            }
        }
        for (owner, data) in &new.names {
            self.insert(owner, data, &new, near);
        }
        self.replace_pointers(key, old.as_ref().map(|old| &old.pointers), &new.pointers);
        if !new.names.is_empty() {
            let names = new.names.into_keys().collect();
            let contribution = Contribution { names, pointers: new.pointers };
            self.services.insert(key.clone(), Arc::new(contribution));
        }
        self.keep_namespace(key.scope(), key.namespace(), snapshot);
    }

    fn insert(&mut self, owner: &WireName, data: &[Rdata], with: &ServiceRecords, near: bool) {
        let zones = &self.zones;
        let with = Compile {
            names: &with.names,
            zone: &zones.cluster,
            ttl_secs: zones.ttl_secs,
            fixed: false,
            near,
        };
        self.names.insert(owner, Node::compile(owner, data, &with));
    }

    fn compile_fixed(&self, owner: &WireName, fixed: &Fixed) -> Node {
        let with = Compile {
            names: &BTreeMap::new(),
            zone: &self.zones.cluster,
            ttl_secs: fixed.ttl_secs,
            fixed: true,
            near: false,
        };
        Node::compile(owner, &fixed.data, &with)
    }

    /// A namespace is an empty non-terminal while it exists.
    fn keep_namespace(&mut self, scope: Scope, namespace: &str, snapshot: &Snapshot) {
        for svc in self.zones.clone().svc(scope) {
            let Some(name) = svc.child(namespace) else { continue };
            if !snapshot.has_namespace(scope, namespace) {
                self.names.remove(&name);
            } else if !self.names.contains(&name) {
                self.names.insert(&name, Node::Sets(Sets::default()));
            }
        }
    }

    fn replace_pointers(
        &mut self,
        key: &ServiceKey,
        old: Option<&BTreeSet<(IpAddr, WireName)>>,
        new: &BTreeSet<(IpAddr, WireName)>,
    ) {
        let mut touched = BTreeSet::new();
        for pointer in old.into_iter().flatten().filter(|p| !new.contains(*p)) {
            self.reverse.remove(pointer.0, key, &pointer.1);
            touched.insert(pointer.0);
        }
        for pointer in new.iter().filter(|p| !old.is_some_and(|old| old.contains(*p))) {
            self.reverse.insert(pointer.0, key, &pointer.1);
            touched.insert(pointer.0);
        }
        for address in touched {
            self.rebuild_pointer(address);
        }
    }

    /// Rebuilds the PTR set of one address, and the empty non-terminals above it.
    fn rebuild_pointer(&mut self, address: IpAddr) {
        let owner = WireName::reverse(address);
        let data: Vec<Rdata> = self.reverse.names(address).into_iter().map(Rdata::Ptr).collect();
        let above = self.zones.apex_start(owner.as_bytes());
        let stood = self.names.contains(&owner);
        match (data.is_empty(), self.zones.fixed_at(&owner)) {
            (false, _) => self.insert(&owner, &data, &ServiceRecords::default(), false),
            (true, Some(fixed)) => {
                self.names.insert(&owner, self.compile_fixed(&owner, fixed));
            }
            (true, None) => {
                self.names.remove(&owner);
            }
        }
        // Outside our zones there is nothing we could say of the names above it.
        let Some(apex) = above else { return };
        if stood && data.is_empty() {
            for gone in self.reverse.close(&owner, apex) {
                self.names.remove(&gone);
            }
        } else if !stood && !data.is_empty() {
            for new in self.reverse.open(&owner, apex) {
                self.names.insert(&new, Node::Sets(Sets::default()));
            }
        }
    }
}

/// Equal content, however it came about.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.generation() == other.generation()
            && self.soa == other.soa
            && self.names == other.names
            && self.services == other.services
            && self.reverse == other.reverse
    }
}

fn soa(zones: &Zones, generation: Generation) -> Arc<SoaRecord> {
    Arc::new(SoaRecord::new(&zones.soa(generation.0), zones.ttl_secs, &zones.cluster))
}
