//! The Gateway API: Gateways, routes, grants and policies, resolved against the services there are, and
//! the status of each object.
//!
//! Pure. It keeps the drafts and compiles them all together when one of them, a namespace's labels or
//! a service that a route asked for has changed. Who writes the statuses down is not its concern.

mod access;
pub mod api;
mod attach;
mod backends;
mod compile;
pub mod convert;
pub mod draft;
mod host;
mod listeners;
mod mesh;
mod policies;
mod resolve;
mod rollback;
mod rules;
mod selector;
mod site;
pub mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use portolan_model::{
    BackendTls, Gateway, GatewayKey, Service, ServiceAccess, ServiceKey, ServiceRoutes,
};

use compile::{Compiled, Known};
use draft::{
    AccessDraft, AuthoritiesDraft, BackendTlsDraft, ClassDraft, GatewayApiDraft, GatewayDraft,
    GrantDraft, RouteDraft, SecretDraft,
};
use rollback::Judge;
use status::Status;

use crate::loads::Loads;
use crate::object::{Kind, ObjectId};
use crate::rejection::{Origin, Rejection, Severity, Subject};

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// What is known of the Gateway API.
#[derive(Debug, Default)]
pub struct GatewayApi {
    classes: BTreeMap<Name, ClassDraft>,
    gateways: BTreeMap<Name, GatewayDraft>,
    routes: BTreeMap<(Kind, Name), RouteDraft>,
    grants: BTreeMap<Name, GrantDraft>,
    secrets: BTreeMap<Name, SecretDraft>,
    policies: BTreeMap<Name, BackendTlsDraft>,
    authorities: BTreeMap<Name, AuthoritiesDraft>,
    access: BTreeMap<Name, AccessDraft>,
    namespaces: attach::NamespaceLabels,
    /// Services that routes refer to, whether they are there or not.
    asked: HashSet<ServiceKey>,
    /// Secrets that listeners refer to, the same.
    asked_secrets: HashSet<Name>,
    /// ConfigMaps that policies refer to, the same.
    asked_authorities: HashSet<Name>,
    /// Backends that are compared, and those that fell behind.
    judge: Judge,
    statuses: Arc<Vec<Status>>,
    is_stale: bool,
}

/// What is in force.
#[derive(Debug, Default)]
pub struct InForce {
    /// Gateways.
    pub gateways: BTreeMap<GatewayKey, Arc<Gateway>>,
    /// Routes of services.
    pub routes: BTreeMap<ServiceKey, Arc<ServiceRoutes>>,
    /// TLS to the endpoints of services.
    pub backend_tls: BTreeMap<ServiceKey, Arc<BackendTls>>,
    /// Who may do what at the endpoints of services.
    pub access: BTreeMap<ServiceKey, Arc<ServiceAccess>>,
}

impl GatewayApi {
    /// Writes an object in place of what stood under its name.
    pub fn apply(&mut self, draft: &GatewayApiDraft) {
        let name = name(draft);
        self.is_stale |= self.concerns(draft, &name);
        match draft.clone() {
            GatewayApiDraft::Class(class) => _ = self.classes.insert(name, class),
            GatewayApiDraft::Gateway(gateway) => _ = self.gateways.insert(name, gateway),
            GatewayApiDraft::Route(route) => _ = self.routes.insert((route.kind, name), route),
            GatewayApiDraft::Grant(grant) => _ = self.grants.insert(name, grant),
            GatewayApiDraft::Secret(secret) => _ = self.secrets.insert(name, secret),
            GatewayApiDraft::BackendTls(policy) => _ = self.policies.insert(name, policy),
            GatewayApiDraft::Authorities(held) => _ = self.authorities.insert(name, held),
            GatewayApiDraft::Access(policy) => _ = self.access.insert(name, policy),
        }
    }

    /// Takes an object out.
    pub fn delete(&mut self, draft: &GatewayApiDraft) {
        let name = name(draft);
        self.is_stale |= self.concerns(draft, &name);
        match draft {
            GatewayApiDraft::Class(_) => _ = self.classes.remove(&name),
            GatewayApiDraft::Gateway(_) => _ = self.gateways.remove(&name),
            GatewayApiDraft::Route(route) => _ = self.routes.remove(&(route.kind, name)),
            GatewayApiDraft::Grant(_) => _ = self.grants.remove(&name),
            GatewayApiDraft::Secret(_) => _ = self.secrets.remove(&name),
            GatewayApiDraft::BackendTls(_) => _ = self.policies.remove(&name),
            GatewayApiDraft::Authorities(_) => _ = self.authorities.remove(&name),
            GatewayApiDraft::Access(_) => _ = self.access.remove(&name),
        }
    }

    /// Of Secrets and ConfigMaps there are many that nobody refers to.
    fn concerns(&self, draft: &GatewayApiDraft, name: &Name) -> bool {
        match draft {
            GatewayApiDraft::Secret(_) => self.asked_secrets.contains(name),
            GatewayApiDraft::Authorities(_) => self.asked_authorities.contains(name),
            _ => true,
        }
    }

    /// Notes the labels of a namespace; `None`: it is gone.
    pub fn set_labels(&mut self, namespace: &Arc<str>, labels: Option<&BTreeMap<String, String>>) {
        let before = match labels {
            Some(labels) => self.namespaces.insert(Arc::clone(namespace), labels.clone()),
            None => self.namespaces.remove(namespace),
        };
        self.is_stale |= before.as_ref() != labels;
    }

    /// Notes that a service has changed.
    pub fn on_service(&mut self, key: &ServiceKey) {
        self.is_stale |= self.asked.contains(key);
    }

    /// Whether anything has changed since it was last compiled.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// What is in force now, if that may have changed.
    pub fn compile(&mut self, services: &HashMap<ServiceKey, Arc<Service>>) -> Option<InForce> {
        if !std::mem::take(&mut self.is_stale) {
            return None;
        }
        let known = Known {
            classes: self.classes.values().collect(),
            gateways: self.gateways.values().collect(),
            routes: self.routes.values().collect(),
            grants: self.grants.values().collect(),
            secrets: &self.secrets,
            policies: self.policies.values().collect(),
            authorities: &self.authorities,
            access: self.access.values().collect(),
            namespaces: &self.namespaces,
            services,
            judge: &self.judge,
        };
        let Compiled { gateways, routes, backend_tls, access, statuses, splits, asked } =
            compile::compile(&known);
        self.is_stale |= self.judge.watch(splits);
        self.asked = asked.services;
        self.asked_secrets = asked.secrets;
        self.asked_authorities = asked.authorities;
        if *self.statuses != statuses {
            self.statuses = Arc::new(statuses);
        }
        Some(InForce { gateways, routes, backend_tls, access })
    }

    /// Backends are compared by loads from now on.
    pub fn expect_loads(&mut self) {
        self.judge.is_told = true;
        self.is_stale = true;
    }

    /// Takes the loads of an interval that ends now.
    pub fn on_loads(&mut self, loads: Loads, now: Instant) {
        self.is_stale |= self.judge.on_loads(loads, now);
    }

    /// Backends that have lost their weight, as what is said of their routes.
    #[must_use]
    pub fn rolled_back(&self, origin: &Origin) -> Vec<Rejection> {
        let said = |(id, rolled): (&rollback::RuleId, &rollback::RolledBack)| {
            let (kind, (namespace, name), _) = id;
            let route = self.routes.get(&(*kind, (Arc::clone(namespace), Arc::clone(name))))?;
            let uid = route.meta.uid.as_deref().map(str::to_owned);
            let (namespace, name) = (namespace.to_string(), name.to_string());
            let id = ObjectId { kind: *kind, namespace, name };
            Some(Rejection {
                origin: origin.clone(),
                object: Some(id.to_string()),
                field: None,
                reason: rolled.text.clone(),
                severity: Severity::RolledBack,
                subject: Some(Subject { id, uid }),
            })
        };
        self.judge.all().filter_map(said).collect()
    }

    /// What became of each object, as of the last time it was compiled.
    #[must_use]
    pub fn statuses(&self) -> Arc<Vec<Status>> {
        Arc::clone(&self.statuses)
    }
}

fn name(draft: &GatewayApiDraft) -> Name {
    let meta = match draft {
        GatewayApiDraft::Class(class) => &class.meta,
        GatewayApiDraft::Gateway(gateway) => &gateway.meta,
        GatewayApiDraft::Route(route) => &route.meta,
        GatewayApiDraft::Grant(grant) => &grant.meta,
        GatewayApiDraft::Secret(secret) => &secret.meta,
        GatewayApiDraft::BackendTls(policy) => &policy.meta,
        GatewayApiDraft::Authorities(held) => &held.meta,
        GatewayApiDraft::Access(policy) => &policy.meta,
    };
    (Arc::clone(&meta.namespace), Arc::clone(&meta.name))
}
