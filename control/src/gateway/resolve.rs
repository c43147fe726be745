//! What references point at, and whether they may (Gateway API, "Cross namespace references").

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use portolan_model::traffic::Secret;
use portolan_model::{Protocol, Scope, Service, ServiceKey, ServiceKind, ServicePort};

use super::api::GROUP;
use super::compile::Known;
use super::draft::{
    AuthoritiesDraft, BackendTlsDraft, GatewayDraft, GrantDraft, PolicyTargetDraft, RouteDraft,
    SecretDraft, TargetRef, services_of,
};
use super::rollback::Judge;
use super::{Name, policies};
use crate::object::{Kind, TLS_SECRET};

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// In a word of the specification.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

/// Looks up what references point at, and notes what was looked up.
pub(super) struct Resolver<'a> {
    services: &'a HashMap<ServiceKey, Arc<Service>>,
    grants: Vec<&'a GrantDraft>,
    secrets: &'a BTreeMap<Name, SecretDraft>,
    authorities: &'a BTreeMap<Name, AuthoritiesDraft>,
    judge: &'a Judge,
    policies: Vec<&'a BackendTlsDraft>,
    /// What was asked for.
    pub(super) looked: Looked,
}

/// What was asked for, whether it is there or not.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) services: HashSet<ServiceKey>,
    pub(super) secrets: HashSet<Name>,
    pub(super) authorities: HashSet<Name>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(known: &Known<'a>) -> Self {
        Self {
            services: known.services,
            grants: known.grants.clone(),
            secrets: known.secrets,
            authorities: known.authorities,
            judge: known.judge,
            policies: known.policies.clone(),
            looked: Looked::default(),
        }
    }

    /// Whether a BackendTLSPolicy is about a port, whatever comes of it.
    pub(super) fn has_policy(&self, service: &Service, port: u16) -> bool {
        let key = &service.key;
        let is_port = |known: &&ServicePort| known.protocol == Protocol::Tcp && known.port == port;
        let Some(port) = service.ports.iter().find(is_port) else { return false };
        let is_it = |target: &PolicyTargetDraft| {
            (&*target.group, &*target.kind, &*target.name) == ("", "Service", key.name())
                && policies::is_meant(target.section.as_deref(), port)
        };
        key.scope() == Scope::Cluster
            && self.policies.iter().any(|policy| {
                policy.meta.namespace == *key.namespace() && policy.targets.iter().any(is_it)
            })
    }

    /// Which backends have lost their weight.
    pub(super) fn judge(&self) -> &'a Judge {
        self.judge
    }

    /// The service of a key, whoever asks.
    pub(super) fn service(&mut self, key: &ServiceKey) -> Option<&'a Arc<Service>> {
        self.looked.services.insert(key.clone());
        self.services.get(key)
    }

    /// The service and port that a route's reference points at; at a service's routes without a grant.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn backend(
        &mut self,
        route: &RouteDraft,
        target: &TargetRef,
        is_mesh: bool,
    ) -> Result<(&'a Arc<Service>, u16), Unresolved> {
        let TargetRef { group, kind, namespace, name, port } = target;
        let refuse = |reason, message: String| Err(Unresolved { reason, message });
        let Some(scope) = services_of(group, kind) else {
            let dot = if group.is_empty() { "" } else { "." };
            let text =
                format!("{kind}{dot}{group} {namespace}/{name}: no such kind takes requests");
            return refuse("InvalidKind", text);
        };
        if !is_mesh {
            self.permitted((route.kind, &route.meta.namespace), target)?;
        }
        let not_found = |text: String| refuse("BackendNotFound", text);
        let Ok(key) = ServiceKey::new(namespace, name).map(|key| key.within(scope)) else {
            return not_found(format!("{kind} {namespace}/{name}: is the name of none"));
        };
        let Some(service) = self.service(&key) else {
            return not_found(format!("{kind} {namespace}/{name}: there is none"));
        };
        let Some(port) = port else {
            return not_found(format!("{kind} {namespace}/{name}: no port is said"));
        };
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            let text =
                format!("{kind} {namespace}/{name}: is an ExternalName, which has no endpoints");
            return refuse("UnsupportedValue", text);
        }
        if service.traffic.proxy_name.is_some() {
            let text = format!("{kind} {namespace}/{name}: another proxy is to serve it");
            return refuse("UnsupportedValue", text);
        }
        let found = service.ports.iter().find(|known| known.port == *port);
        match found.map(|found| found.protocol) {
            Some(Protocol::Tcp) => Ok((service, *port)),
            Some(protocol) => {
                let text = format!("{kind} {namespace}/{name}: port {port} is {protocol:?}");
                refuse("UnsupportedProtocol", text)
            }
            None => not_found(format!("{kind} {namespace}/{name}: has no port {port}")),
        }
    }

    /// The certificate that a Gateway's reference points at, by its name.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn certificate(
        &mut self,
        gateway: &GatewayDraft,
        target: &TargetRef,
    ) -> Result<(Arc<str>, Arc<Secret>), Unresolved> {
        let TargetRef { group, kind, namespace, name, .. } = target;
        let refuse = |reason, message: String| Err(Unresolved { reason, message });
        let bad = |text: String| refuse("InvalidCertificateRef", text);
        if (&**group, &**kind) != ("", "Secret") {
            return bad(format!("{kind} {namespace}/{name}: only Secrets hold certificates"));
        }
        self.permitted((Kind::Gateway, &gateway.meta.namespace), target)?;
        let key = (Arc::clone(namespace), Arc::clone(name));
        let found = self.secrets.get(&key);
        self.looked.secrets.insert(key);
        match found.map(|secret| &secret.content) {
            Some(Ok(content)) => Ok((format!("{namespace}/{name}").into(), Arc::clone(content))),
            Some(Err(why)) => bad(format!("Secret {namespace}/{name}: {why}")),
            None => bad(format!("Secret {namespace}/{name}: there is none of type {TLS_SECRET}")),
        }
    }

    /// The authorities that a reference points at, PEM, whoever asks.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn authorities(&mut self, target: &TargetRef) -> Result<Arc<str>, Unresolved> {
        let TargetRef { group, kind, namespace, name, .. } = target;
        let refuse = |reason, message: String| Err(Unresolved { reason, message });
        if (&**group, &**kind) != ("", "ConfigMap") {
            let text = format!("{kind} {namespace}/{name}: only ConfigMaps hold authorities");
            return refuse("InvalidKind", text);
        }
        let key = (Arc::clone(namespace), Arc::clone(name));
        let found = self.authorities.get(&key);
        self.looked.authorities.insert(key);
        let bad = |why: &str| {
            let text = format!("ConfigMap {namespace}/{name}: {why}");
            refuse("InvalidCACertificateRef", text)
        };
        match found.map(|found| &found.content) {
            Some(Ok(pem)) => Ok(Arc::clone(pem)),
            Some(Err(why)) => bad(why),
            None => bad("there is none"),
        }
    }

    /// The authorities that a Gateway's reference points at, PEM.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub(super) fn clients_authorities(
        &mut self,
        gateway: &GatewayDraft,
        target: &TargetRef,
    ) -> Result<Arc<str>, Unresolved> {
        self.permitted((Kind::Gateway, &gateway.meta.namespace), target)?;
        self.authorities(target).map_err(|why| match why.reason {
            // The specification has a word of its own for Gateways.
            "InvalidKind" => Unresolved { reason: "InvalidCACertificateKind", ..why },
            _ => why,
        })
    }

    /// Refuses what is of another namespace than who points at it, unless a grant there says that it may.
    fn permitted(&self, from: (Kind, &str), target: &TargetRef) -> Result<(), Unresolved> {
        let TargetRef { kind, namespace, name, .. } = target;
        if **namespace == *from.1 || self.grants(from, target) {
            return Ok(());
        }
        let message =
            format!("{kind} {namespace}/{name}: no ReferenceGrant in {namespace} permits it");
        Err(Unresolved { reason: "RefNotPermitted", message })
    }

    fn grants(&self, (kind, namespace): (Kind, &str), target: &TargetRef) -> bool {
        let kind = kind.as_str();
        self.grants.iter().filter(|grant| grant.meta.namespace == target.namespace).any(|grant| {
            let from = [GROUP, kind, namespace];
            grant.from.iter().any(|said| said.each_ref().map(|part| &**part) == from)
                && grant.to.iter().any(|((group, kind), name)| {
                    *group == target.group
                        && *kind == target.kind
                        && name.as_ref().is_none_or(|name| *name == target.name)
                })
        })
    }
}
