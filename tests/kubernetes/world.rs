//! A control loop on a scripted API server, on a paused clock; and what is true of that server,
//! found by another way: its objects read as manifests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use portolan_control::index::Index;
use portolan_control::kubernetes::guard::{GuardLayer, RequestLimits};
use portolan_control::kubernetes::{Kubernetes, WatchLimits};
use portolan_control::loads::LoadsEnd;
use portolan_control::manifests::{FileRead, Manifests};
use portolan_control::report::{ControlMetrics, Report, Reports};
use portolan_control::{GuardLimits, HoldsEnd, Pace, ServiceRanges};
use portolan_model::{Generation, Snapshot};
use portolan_runtime::{Gate, Lifecycle, Metrics, Readiness, Subscriber, publish};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::Layer;

use crate::support::apiserver::ApiServer;

/// Longest any one thing may take, on a paused clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// Kinds that are watched where pods are asked for.
pub(crate) const KINDS_WITH_PODS: &[&str] = &[
    "Namespace",
    "Node",
    "Service",
    "ServiceImport",
    "EndpointSlice",
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
    "BackendTLSPolicy",
    "AccessPolicy",
    "Secret",
    "ConfigMap",
    "Pod",
];
/// Those without the last, whatever the configuration says.
pub(crate) const KINDS: &[&str] = match KINDS_WITH_PODS.split_last() {
    Some((_pod, others)) => others,
    None => &[],
};

/// A running control loop.
pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) snapshots: Subscriber,
    pub(crate) reports: Reports,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// What it watches.
    kinds: &'static [&'static str],
    gate: Gate,
    lifecycle: Lifecycle,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn start(server: &ApiServer) -> Self {
        Self::start_with(server, |control, _| control)
    }

    /// That watches pods as well.
    pub(crate) fn with_pods(server: &ApiServer) -> Self {
        let world = Self::start_with(server, |control, _| control.with_pods(true));
        Self { kinds: KINDS_WITH_PODS, ..world }
    }

    /// That writes Events by this name.
    pub(crate) fn announcing(server: &ApiServer, name: &str) -> Self {
        Self::start_with(server, |control, _| control.with_events(name.to_owned()))
    }

    /// That writes statuses by this name.
    pub(crate) fn with_statuses(server: &ApiServer, name: &str) -> Self {
        Self::start_with(server, |control, _| control.with_statuses(name.to_owned()))
    }

    /// With a copy of an earlier snapshot to begin from.
    pub(crate) fn start_from(server: &ApiServer, saved: Snapshot) -> Self {
        Self::start_with(server, |control, readiness| {
            control.with_saved(saved, readiness.staleness())
        })
    }

    /// That holds back what its guard does not let through, with this end for commands.
    pub(crate) fn guarded(server: &ApiServer, holds: HoldsEnd) -> Self {
        Self::start_with(server, |control, _| control.with_guard(GuardLimits::default(), holds))
    }

    /// That compares backends by what this end is told, and writes Events and statuses.
    pub(crate) fn judging(server: &ApiServer, loads: LoadsEnd) -> Self {
        Self::start_with(server, |control, _| {
            let control = control.with_loads(loads).with_statuses("one".to_owned());
            control.with_events("one".to_owned())
        })
    }

    fn start_with(
        server: &ApiServer,
        adjust: impl FnOnce(Kubernetes, &Readiness) -> Kubernetes,
    ) -> Self {
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let readiness = Readiness::new(lifecycle.clone(), &metrics);
        let gate = readiness.gate("control");
        let (publisher, snapshots) = publish::channel();
        let reports = Reports::default();
        let limits = RequestLimits { answer: Duration::from_secs(20), ..RequestLimits::default() };
        let client = Client::new(GuardLayer::new(limits).layer(server.clone()), "default");
        let control = ControlMetrics::new(&metrics);
        let limits = WatchLimits { watch_secs: 60, list_silence: Duration::from_secs(15) };
        let control =
            Kubernetes::new(client, Pace::default(), reports.clone(), control).with_limits(limits);
        let control = adjust(control, &readiness);
        let mut tasks = JoinSet::new();
        let running = control.run(publisher, gate.clone(), lifecycle.clone());
        tasks.spawn(async { running.await.expect("no watch breaks off") });
        let server = server.clone();
        let kinds = KINDS;
        Self { server, snapshots, reports, metrics, readiness, kinds, gate, lifecycle, tasks }
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.gate.generation()
    }

    pub(crate) fn newest(&self) -> Arc<Snapshot> {
        self.snapshots.newest()
    }

    pub(crate) fn report(&self) -> Arc<Report> {
        self.reports.newest()
    }

    /// Waits until what is published is what is true of the server.
    pub(crate) async fn settle(&mut self, what: &str) {
        let waited = self.settled().await;
        if !waited {
            let (truth, newest) = (self.truth(), self.newest());
            let differ: Vec<String> =
                truth.differences(&newest).iter().map(ToString::to_string).collect();
            panic!("{what}: not in time; these differ: {differ:?}; report {:?}", self.report());
        }
    }

    /// Waits until every kind is watched.
    pub(crate) async fn watched(&self, what: &str) {
        let open = self.server.until(|s| self.kinds.iter().all(|kind| s.open_watches(kind) > 0));
        let waited = tokio::time::timeout(PATIENCE, open).await;
        waited.unwrap_or_else(|_| panic!("{what}: not every kind is watched"));
    }

    /// What is true of the server as far as it is watched.
    fn truth(&self) -> Snapshot {
        truth_of(&self.server, self.kinds)
    }

    /// Whether it came to that in time.
    async fn settled(&mut self) -> bool {
        let settling = async {
            loop {
                if self.gate.generation().is_some()
                    && self.truth().differences(&self.snapshots.newest()).is_empty()
                {
                    return;
                }
                self.snapshots.next().await.expect("the loop runs");
            }
        };
        tokio::time::timeout(PATIENCE, settling).await.is_ok()
    }

    /// Ends the loop.
    pub(crate) async fn finish(mut self) {
        self.lifecycle.drain();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic");
        }
    }
}

/// What the server's objects mean, pods apart, read the way a manifest folder is.
pub(crate) fn truth(server: &ApiServer) -> Snapshot {
    truth_of(server, KINDS)
}

fn truth_of(server: &ApiServer, kinds: &[&str]) -> Snapshot {
    let items: Vec<Value> = kinds.iter().flat_map(|kind| server.objects(kind)).collect();
    of_manifests(&items)
}

/// What these objects mean as manifests.
pub(crate) fn of_manifests(items: &[Value]) -> Snapshot {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let ranges = ServiceRanges::new(vec!["10.96.0.0/16".parse().expect("a range")]);
    let mut index = Index::new(ranges.expect("valid"));
    let file = BTreeMap::from([("all.json".into(), FileRead::Text(list.to_string()))]);
    let report = Manifests::default().reload(file, &mut index);
    let refused: Vec<String> = report
        .rejections
        .iter()
        .filter(|r| r.severity == portolan_control::Severity::Rejected)
        .map(ToString::to_string)
        .collect();
    assert!(refused.is_empty(), "the test's own objects are good: {refused:?}");
    index.commit().0
}

pub(crate) fn service(name: &str, ip: u8, ports: &[u16]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|p| json!({ "name": format!("p{p}"), "port": p })).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "clusterIP": format!("10.96.0.{ip}"), "ports": ports },
    })
}

/// A slice of a service with endpoints by last octet and whether they are ready.
pub(crate) fn slice(service: &str, number: u8, endpoints: &[(u8, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(octet, ready)| {
            json!({
                "addresses": [format!("10.0.{number}.{octet}")],
                "conditions": { "ready": ready },
                "nodeName": format!("node-{}", octet % 3),
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "shop",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "p80", "port": 8080 }],
        "endpoints": endpoints,
    })
}

pub(crate) fn node(number: u8, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": format!("node-{number}"),
            "labels": { "topology.kubernetes.io/zone": zone },
        },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("192.168.0.{number}") }] },
    })
}

/// A pod of the namespace `shop` in one of its phases, with an address by last octet.
pub(crate) fn pod(name: &str, octet: u8, phase: &str) -> Value {
    let address = format!("10.0.9.{octet}");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "nodeName": format!("node-{}", octet % 3), "containers": [] },
        "status": { "phase": phase, "podIP": address, "podIPs": [{ "ip": address }] },
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

pub(crate) fn import(name: &str, ip: u8) -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "type": "ClusterSetIP", "ips": [format!("10.97.0.{ip}")], "ports": [{ "port": 80 }] },
    })
}

/// A few objects of every kind.
pub(crate) fn populate(server: &ApiServer) {
    server.load(vec![
        namespace("shop"),
        namespace("empty"),
        node(0, "a"),
        node(1, "b"),
        service("web", 1, &[80]),
        service("api", 2, &[80, 443]),
        import("web", 1),
        pod("web-0", 1, "Running"),
        pod("job-0", 2, "Succeeded"),
        slice("web", 1, &[(1, true), (2, true), (3, false)]),
        slice("web", 2, &[(4, true)]),
        slice("api", 3, &[(5, true)]),
    ]);
}
