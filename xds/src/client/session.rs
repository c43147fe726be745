//! The client's side of one state-of-the-world ADS stream, as a pure state machine: responses in,
//! requests and a configuration out.
//!
//! A response with a bad resource is refused with the reason, and its good resources are taken
//! all the same (gRFC A46); a resource that was good before stays as it was.

mod warming;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use portolan_model::Generation;
use portolan_model::traffic::{ResourceName, RouteTable, Secret, TrafficConfig};
use portolan_proto::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::rpc::Status;

use super::OwnSecrets;
use super::decode::{self, Decoded, cluster, endpoints, generation, listener, route, secret};
use crate::issuer::{AUTHORITIES, OWN, is_own};
use crate::resource::ResourceType;
use crate::resource::inbound::PREFIX as INBOUND;

/// Longest reason sent with a refusal, in bytes.
const MAX_REASON: usize = 4096;
/// `INVALID_ARGUMENT` (gRPC status codes).
const INVALID_ARGUMENT: i32 = 3;

/// State of the client, kept across streams.
#[derive(Debug, Default)]
pub struct Session {
    types: [TypeState; ResourceType::ALL.len()],
    config: TrafficConfig,
    /// Route tables and endpoint sets that listeners and clusters carry in themselves, by the name
    /// of these.
    inline_routes: BTreeMap<ResourceName, ResourceName>,
    inline_endpoints: BTreeMap<ResourceName, ResourceName>,
    /// Where listeners in front of endpoints are, if not at all addresses.
    inbound_address: Option<IpAddr>,
    /// What the proxy proves itself with does not come from here.
    has_own: bool,
    /// The generation last received; it is in force once the configuration is complete.
    generation: Option<Generation>,
}

#[derive(Debug, Default)]
struct TypeState {
    version: String,
    nonce: String,
    names: BTreeSet<ResourceName>,
    /// Whether a response came, on whichever stream.
    answered: bool,
}

/// What a response led to.
#[derive(Debug, Default)]
pub struct Step {
    /// Its type, if it is one we know.
    pub kind: Option<ResourceType>,
    /// Requests to send, in order.
    pub requests: Vec<DiscoveryRequest>,
    /// Why resources were refused.
    pub errors: Vec<String>,
}

impl Session {
    /// The first requests of a new stream.
    pub fn start(&mut self) -> Vec<DiscoveryRequest> {
        for state in &mut self.types {
            state.nonce.clear();
        }
        ResourceType::ALL
            .into_iter()
            .filter(|kind| self.is_wildcard(*kind) || !self.types[kind.index()].names.is_empty())
            .map(|kind| self.request(kind, None))
            .collect()
    }

    /// The configuration as received so far.
    #[must_use]
    pub fn config(&self) -> &TrafficConfig {
        &self.config
    }

    /// A session whose listeners in front of endpoints are at this address.
    #[must_use]
    pub fn listening_at(inbound_address: Option<IpAddr>) -> Self {
        Self { inbound_address, ..Self::default() }
    }

    /// The proxy's certificate comes from elsewhere: this is what there is of it.
    pub fn set_own(&mut self, own: &OwnSecrets) {
        let secrets = &mut self.config.secrets;
        let mut put = |name: &str, secret: Option<&Arc<Secret>>| match secret {
            Some(secret) => {
                secrets.insert(name.into(), Arc::clone(secret));
            }
            None => {
                secrets.remove(name);
            }
        };
        put(OWN, own.certificate.as_ref());
        put(AUTHORITIES, own.authorities.as_ref());
        self.has_own = true;
    }

    /// Which secrets come from elsewhere.
    fn is_own(&self) -> impl Fn(&str) -> bool + use<> {
        let has_own = self.has_own;
        move |name| has_own && is_own(ResourceType::Secret, name)
    }

    /// Whether the full sets came: before, a configuration without listeners says nothing.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        let mut full_sets = ResourceType::ALL.into_iter().filter(|kind| kind.is_full_set());
        full_sets.all(|kind| self.types[kind.index()].answered)
    }

    /// Takes in a response.
    pub fn on_response(&mut self, response: DiscoveryResponse) -> Step {
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            return Step::default();
        };
        let errors = match kind {
            ResourceType::Cluster => self.take_clusters(&response.resources),
            ResourceType::Endpoints => self.take_endpoints(&response.resources),
            ResourceType::Listener => self.take_listeners(&response.resources),
            ResourceType::Route => self.take_routes(&response.resources),
            ResourceType::Secret => self.take_secrets(&response.resources),
            ResourceType::Generation => self.take_generation(&response.resources),
            // Never asked for.
            _ => return Step::default(),
        };
        let state = &mut self.types[kind.index()];
        state.nonce = response.nonce;
        state.answered = true;
        if errors.is_empty() {
            state.version = response.version_info;
        }
        let mut requests = vec![self.request(kind, refusal(&errors))];
        requests.extend(self.follow_up(kind));
        if matches!(kind, ResourceType::Listener | ResourceType::Cluster) {
            requests.extend(self.secrets());
        }
        if self.is_complete() {
            self.config.generation = self.generation;
        }
        Step { kind: Some(kind), requests, errors }
    }

    /// LDS and CDS are subscribed to as a whole, and so is our own type, whose servers take its
    /// one name and others ignore.
    fn is_wildcard(&self, kind: ResourceType) -> bool {
        kind.is_full_set() || kind == ResourceType::Generation
    }

    fn request(&self, kind: ResourceType, error: Option<Status>) -> DiscoveryRequest {
        let state = &self.types[kind.index()];
        let names = match kind {
            ResourceType::Generation => vec![crate::resource::generation::NAME.to_owned()],
            _ => state.names.iter().map(ToString::to_string).collect(),
        };
        DiscoveryRequest {
            version_info: state.version.clone(),
            response_nonce: state.nonce.clone(),
            type_url: kind.type_url().to_owned(),
            resource_names: names,
            error_detail: error,
            ..DiscoveryRequest::default()
        }
    }

    /// Subscribes to the endpoints of the clusters, or the route tables of the listeners, if the
    /// set of them changed.
    fn follow_up(&mut self, kind: ResourceType) -> Option<DiscoveryRequest> {
        let (kind, names): (_, BTreeSet<ResourceName>) = match kind {
            ResourceType::Cluster => {
                let inline: BTreeSet<_> = self.inline_endpoints.values().collect();
                let sets = self.config.clusters.values().map(|c| c.endpoints.clone());
                (ResourceType::Endpoints, sets.filter(|n| !inline.contains(n)).collect())
            }
            ResourceType::Listener => {
                let listeners = self.config.listeners.values();
                let named = listeners.flat_map(|l| l.route_tables().cloned());
                let inline: BTreeSet<_> = self.inline_routes.values().collect();
                (ResourceType::Route, named.filter(|n| !inline.contains(n)).collect())
            }
            _ => return None,
        };
        let state = &mut self.types[kind.index()];
        if state.names == names {
            return None;
        }
        state.names = names;
        // What nothing refers to any more is dropped with the reference.
        let names = &self.types[kind.index()].names;
        match kind {
            ResourceType::Endpoints => {
                let inline: BTreeSet<_> = self.inline_endpoints.values().collect();
                retain(&mut self.config.endpoints, |n| names.contains(n) || inline.contains(n));
            }
            _ => {
                let inline: BTreeSet<_> = self.inline_routes.values().collect();
                retain(&mut self.config.routes, |n| names.contains(n) || inline.contains(n));
            }
        }
        Some(self.request(kind, None))
    }

    fn take_clusters(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, cluster::decode);
        let mut kept = decoded.kept(&self.config.clusters);
        let stays = |name: &_| kept.contains_key(name) && !decoded.named.contains(name);
        self.inline_endpoints.retain(|cluster, _| stays(cluster));
        for (cluster, assignment) in decoded.good {
            if let Some(set) = assignment {
                self.inline_endpoints.insert(cluster.name.clone(), set.name.clone());
                self.config.endpoints.insert(set.name.clone(), Arc::new(set));
            }
            insert_changed(&mut kept, cluster.name.clone(), cluster);
        }
        self.config.clusters = kept;
        decoded.errors
    }

    fn take_listeners(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, listener::decode);
        let mut kept = decoded.kept(&self.config.listeners);
        let stays = |name: &_| kept.contains_key(name) && !decoded.named.contains(name);
        self.inline_routes.retain(|listener, _| stays(listener));
        for decoded_listener in decoded.good {
            let Some((mut listener, table)) = decoded_listener else { continue };
            if let Some(address) = self.inbound_address
                && listener.name.starts_with(INBOUND)
                && listener.address.ip().is_unspecified()
            {
                listener.address.set_ip(address);
            }
            if let Some(table) = table {
                self.inline_routes.insert(listener.name.clone(), table.name.clone());
                let table = self.with_buckets(table);
                insert_changed(&mut self.config.routes, table.name.clone(), table);
            }
            insert_changed(&mut kept, listener.name.clone(), listener);
        }
        self.config.listeners = kept;
        decoded.errors
    }

    fn take_routes(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, route::decode);
        for table in decoded.good {
            if self.types[ResourceType::Route.index()].names.contains(&table.name) {
                let table = self.with_buckets(table);
                insert_changed(&mut self.config.routes, table.name.clone(), table);
            }
        }
        decoded.errors
    }

    /// A table whose limits of rate go on where they are.
    fn with_buckets(&self, table: RouteTable) -> RouteTable {
        match self.config.routes.get(&table.name) {
            Some(before) => table.with_buckets_of(before),
            None => table,
        }
    }

    fn take_endpoints(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, endpoints::decode);
        for set in decoded.good {
            if self.types[ResourceType::Endpoints.index()].names.contains(&set.name) {
                insert_changed(&mut self.config.endpoints, set.name.clone(), set);
            }
        }
        decoded.errors
    }

    /// Subscribes to the secrets of listeners and clusters, if the set of them changed.
    fn secrets(&mut self) -> Option<DiscoveryRequest> {
        let kind = ResourceType::Secret;
        let is_own = self.is_own();
        let named = self.config.named_secrets().filter(|name| !is_own(name));
        let names: BTreeSet<ResourceName> = named.cloned().collect();
        if self.types[kind.index()].names == names {
            return None;
        }
        retain(&mut self.config.secrets, |name| names.contains(name) || is_own(name));
        self.types[kind.index()].names = names;
        Some(self.request(kind, None))
    }

    fn take_secrets(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, secret::decode);
        for (name, secret) in decoded.good {
            if self.types[ResourceType::Secret.index()].names.contains(&name) {
                insert_changed(&mut self.config.secrets, name, secret);
            }
        }
        decoded.errors
    }

    fn take_generation(&mut self, resources: &[Any]) -> Vec<String> {
        let decoded = decode::all(resources, generation::decode);
        self.generation = decoded.good.last().copied().or(self.generation);
        decoded.errors
    }
}

/// Puts a value in place unless an equal one is there, so that what did not change stays the same
/// value to whoever compares pointers.
fn insert_changed<T: PartialEq>(
    map: &mut OrdMap<ResourceName, Arc<T>>,
    name: ResourceName,
    value: T,
) {
    if map.get(&name).is_none_or(|old| **old != value) {
        map.insert(name, Arc::new(value));
    }
}

fn retain<T>(map: &mut OrdMap<ResourceName, Arc<T>>, keep: impl Fn(&ResourceName) -> bool) {
    let gone: Vec<ResourceName> = map.keys().filter(|n| !keep(n)).cloned().collect();
    for name in gone {
        map.remove(&name);
    }
}

/// What a control plane is told of what is refused, if anything is.
pub(super) fn refusal(errors: &[String]) -> Option<Status> {
    if errors.is_empty() {
        return None;
    }
    let mut text = errors.join("; ");
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(Status { code: INVALID_ARGUMENT, message: text, ..Status::default() })
}

impl<T> Decoded<T> {
    /// What of a full set stays as it was: the old values of what could not be read; everything,
    /// if one of these did not say its name.
    fn kept<V: Clone>(&self, old: &OrdMap<ResourceName, V>) -> OrdMap<ResourceName, V> {
        if self.unread.iter().any(|name| name.is_empty()) {
            return old.clone();
        }
        let mut kept: OrdMap<ResourceName, V> =
            self.unread.iter().filter_map(|n| Some((n.clone(), old.get(n)?.clone()))).collect();
        // Values that will be written again are put in as they were, to compare against.
        for (name, value) in old {
            if self.named.contains(name) {
                kept.insert(name.clone(), value.clone());
            }
        }
        kept
    }
}
