//! What `portolan get` shows: rows made from snapshots and reports, and the changes between two.
//! Pure.

mod gateway;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::policy::Policy;
use portolan_model::service::{Exposure, Traffic};
use portolan_model::{
    Changes, Endpoint, Hints, Key, Scope, ServiceEntry, ServiceKey, ServiceKind, ServicePort,
    Snapshot,
};
use serde::Serialize;

use crate::rejection::Rejection;
use crate::report::Report;

pub(crate) use gateway::not_in_force;
pub use gateway::{GatewayRow, RouteRow, gateways, routes};

/// A row and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change<T> {
    /// Whether it is new, differs or is gone.
    #[serde(rename = "type")]
    pub kind: ChangeKind,
    /// The row; the last one it had when it is gone.
    pub object: T,
}

/// What became of a row, by Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It differs.
    Modified,
    /// It is gone.
    Deleted,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Whether it belongs to a set of clusters (a ServiceImport).
    pub cluster_set: bool,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `Headless` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Virtual addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// Where an ExternalName leads.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Endpoints that may get traffic, each address once.
    pub ready: usize,
    /// Endpoints listed, each address once.
    pub endpoints: usize,
    /// Whether endpoints that are not ready are published.
    pub publish_not_ready: bool,
    /// Ways in from outside, and which endpoints a client is sent to.
    pub traffic: Traffic,
    /// Its policy.
    pub policy: Policy,
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub service: Arc<str>,
    /// Whether the service belongs to a set of clusters.
    pub cluster_set: bool,
    /// Its address.
    pub address: IpAddr,
    /// Its ports, as `name:number/PROTOCOL`.
    pub ports: Vec<String>,
    /// Whether it may get traffic.
    pub ready: bool,
    /// Whether it answers.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Its host name below the service's.
    pub hostname: Option<Arc<str>>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Name of the pod behind it.
    pub pod: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// The cluster it runs in, for a service of a set of clusters.
    pub cluster: Option<Arc<str>>,
    /// Clients it is meant for.
    pub hints: Option<Arc<Hints>>,
    /// The slice that lists it.
    pub slice: Arc<str>,
}

/// Something that is not in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRow {
    /// `rejected`, `warning`, `held`, `refused` by a client, or `watch` for a watch of the API that fails.
    pub severity: &'static str,
    /// Where the object stands.
    pub origin: String,
    /// `Kind namespace/name`.
    pub object: Option<String>,
    /// Path of the field.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// A kind of row that a service makes any number of.
pub trait Row: Sized + PartialEq + Clone {
    /// What tells the rows of one service apart.
    type Id: Ord;
    /// The rows of a service.
    fn of(entry: &ServiceEntry) -> Vec<Self>;
    /// Which of them it is.
    fn id(&self) -> Self::Id;
}

impl Row for ServiceRow {
    type Id = ();

    fn of(entry: &ServiceEntry) -> Vec<Self> {
        let service = &entry.service;
        let (ready, endpoints) = entry.readiness();
        let kind = match (&service.kind, service.traffic.exposure) {
            (ServiceKind::Headless, _) => "Headless",
            (ServiceKind::ExternalName(_), _) => "ExternalName",
            (ServiceKind::ClusterIp(_), Exposure::ClusterIP) => "ClusterIP",
            (ServiceKind::ClusterIp(_), Exposure::NodePort) => "NodePort",
            (ServiceKind::ClusterIp(_), Exposure::LoadBalancer) => "LoadBalancer",
        };
        let external_name = match &service.kind {
            ServiceKind::ExternalName(name) => Some(name.to_string()),
            ServiceKind::ClusterIp(_) | ServiceKind::Headless => None,
        };
        vec![Self {
            namespace: service.key.namespace().clone(),
            name: service.key.name().clone(),
            cluster_set: service.key.scope() == Scope::ClusterSet,
            kind,
            cluster_ips: service.cluster_ips().to_vec(),
            external_name,
            ports: service.ports.clone(),
            ready,
            endpoints,
            publish_not_ready: service.publish_not_ready,
            traffic: service.traffic.clone(),
            policy: service.policy.clone(),
        }]
    }

    fn id(&self) {}
}

impl Row for EndpointRow {
    type Id = (Arc<str>, IpAddr, Option<Arc<str>>);

    fn of(entry: &ServiceEntry) -> Vec<Self> {
        let key = &entry.service.key;
        let slices = entry.slices.iter();
        slices
            .flat_map(|slice| {
                let ports: Vec<String> = (slice.ports.iter())
                    .map(|p| format!("{}:{}/{}", p.name, p.port, p.protocol))
                    .map(|text| text.trim_start_matches(':').to_owned())
                    .collect();
                slice.endpoints.iter().map(move |endpoint: &Endpoint| Self {
                    namespace: key.namespace().clone(),
                    service: key.name().clone(),
                    cluster_set: key.scope() == Scope::ClusterSet,
                    address: endpoint.address,
                    ports: ports.clone(),
                    ready: entry.is_ready(endpoint),
                    serving: endpoint.conditions.serving,
                    terminating: endpoint.conditions.terminating,
                    hostname: endpoint.hostname.clone(),
                    node: endpoint.node.clone(),
                    pod: endpoint.pod.clone(),
                    zone: endpoint.zone.clone(),
                    cluster: slice.cluster.clone(),
                    hints: endpoint.hints.clone(),
                    slice: slice.name.clone(),
                })
            })
            .collect()
    }

    fn id(&self) -> Self::Id {
        (self.slice.clone(), self.address, self.hostname.clone())
    }
}

/// Which services are looked at; `None` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this namespace.
    pub namespace: Option<String>,
    /// Those of this name.
    pub name: Option<String>,
}

impl Filter {
    fn takes(&self, key: &ServiceKey) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        fits(&self.namespace, key.namespace()) && fits(&self.name, key.name())
    }
}

/// The services whose rows may differ between `old` and `new`, given what changed between the two.
#[must_use]
pub fn changed_services(
    old: &Snapshot,
    new: &Snapshot,
    changed: &Changes,
    filter: &Filter,
) -> Vec<ServiceKey> {
    let keys: Vec<ServiceKey> = match changed {
        Changes::Nothing => Vec::new(),
        Changes::Keys(keys) => keys.iter().filter_map(Key::service).cloned().collect(),
        Changes::Everything => {
            old.differences(new).iter().filter_map(Key::service).cloned().collect()
        }
    };
    keys.into_iter().filter(|key| filter.takes(key)).collect()
}

/// How the rows of one service differ between `old` and `new`.
#[must_use]
pub fn changes_of<R: Row>(old: &Snapshot, new: &Snapshot, key: &ServiceKey) -> Vec<Change<R>> {
    let mut found = Vec::new();
    let (before, after) = (old.lookup(key), new.lookup(key));
    between(before.map(|e| &**e), after.map(|e| &**e), &mut found);
    found
}

/// How all rows of `new` that are asked for differ from those of `old`.
#[must_use]
pub fn changes<R: Row>(old: &Snapshot, new: &Snapshot, filter: &Filter) -> Vec<Change<R>> {
    let keys = changed_services(old, new, &Changes::Everything, filter);
    keys.iter().flat_map(|key| changes_of(old, new, key)).collect()
}

fn between<R: Row>(
    old: Option<&ServiceEntry>,
    new: Option<&ServiceEntry>,
    found: &mut Vec<Change<R>>,
) {
    let rows = |entry: Option<&ServiceEntry>| -> BTreeMap<R::Id, R> {
        entry.map(R::of).unwrap_or_default().into_iter().map(|row| (row.id(), row)).collect()
    };
    let (mut before, after) = (rows(old), rows(new));
    for (id, object) in after {
        let kind = match before.remove(&id) {
            None => ChangeKind::Added,
            Some(old) if old == object => continue,
            Some(_) => ChangeKind::Modified,
        };
        found.push(Change { kind, object });
    }
    let gone = before.into_values();
    found.extend(gone.map(|object| Change { kind: ChangeKind::Deleted, object }));
}

/// The rows of a report.
#[must_use]
pub fn rejected(report: &Report) -> Vec<RejectedRow> {
    let refused = report.rejections.iter().map(|rejection: &Rejection| RejectedRow {
        severity: rejection.severity.as_str(),
        origin: rejection.origin.to_string(),
        object: rejection.object.clone(),
        field: rejection.field.clone(),
        reason: rejection.reason.clone(),
    });
    let watches = report.sources.values().filter_map(|source| source.trouble.as_ref());
    let failing = watches.map(|trouble| RejectedRow {
        severity: "watch",
        origin: "kubernetes".to_owned(),
        object: None,
        field: None,
        reason: trouble.clone(),
    });
    refused.chain(failing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::snapshot;

    #[test]
    fn rows_are_added_modified_and_deleted_as_the_snapshot_changes() {
        let old = snapshot(&[("a/x", &[1, 2]), ("b/y", &[3])]);
        let new = snapshot(&[("a/x", &[2, 4]), ("a/z", &[])]);
        let all = Filter::default();
        let services: Vec<(ChangeKind, String)> = changes::<ServiceRow>(&old, &new, &all)
            .into_iter()
            .map(|c| (c.kind, format!("{} {}", c.object.name, c.object.ready)))
            .collect();
        let expected = [(ChangeKind::Added, "z 0".to_owned()), (ChangeKind::Deleted, "y 1".into())];
        assert_eq!(services, expected, "x has two ready endpoints as before");

        let a = Filter { namespace: Some("a".into()), name: None };
        let endpoints: Vec<(ChangeKind, String)> = changes::<EndpointRow>(&old, &new, &a)
            .into_iter()
            .map(|c| (c.kind, c.object.address.to_string()))
            .collect();
        let expected =
            [(ChangeKind::Added, "10.0.0.4".to_owned()), (ChangeKind::Deleted, "10.0.0.1".into())];
        assert_eq!(endpoints, expected);
    }
}
