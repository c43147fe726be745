//! What each field means: one table of cases, over both sources, manifests and the API.
//!
//! A case is a service with slices, objects beside it, and facts, each by JSON pointer, about the
//! rows that `portolan get` shows of it and about the nodes and pods of the snapshot.

use portolan_control::view::{self, EndpointRow, Filter, ServiceRow};
use portolan_model::Snapshot;
use serde_json::{Value, json};

use crate::support::apiserver::ApiServer;
use crate::world::{World, of_manifests};

/// What it is about, objects without their usual wrapping, and facts.
struct Case {
    about: &'static str,
    /// `spec` of the service `shop/it`, merged over a plain ClusterIP service.
    spec: Value,
    /// Labels, annotations and status of it.
    more: Value,
    /// Endpoints of its slices, a list each.
    slices: Vec<Value>,
    /// Nodes and pods, whole.
    beside: Vec<Value>,
    facts: Vec<(&'static str, Value)>,
}

fn case(about: &'static str, spec: Value, facts: Vec<(&'static str, Value)>) -> Case {
    Case { about, spec, more: json!({}), slices: Vec::new(), beside: Vec::new(), facts }
}

impl Case {
    fn with(mut self, more: Value) -> Self {
        self.more = more;
        self
    }

    fn slice(mut self, endpoints: Value) -> Self {
        self.slices.push(endpoints);
        self
    }

    fn beside(mut self, kind: &str, name: &str, mut rest: Value) -> Self {
        merge(
            &mut rest,
            &json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } }),
        );
        self.beside.push(rest);
        self
    }

    /// A pod of the namespace `shop`.
    fn pod(self, name: &str, mut rest: Value) -> Self {
        merge(&mut rest, &json!({ "metadata": { "namespace": "shop" } }));
        self.beside("Pod", name, rest)
    }

    fn objects(&self) -> Vec<Value> {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "it", "namespace": "shop" },
            "spec": {
                "clusterIP": "10.96.0.9",
                "ports": [{ "name": "main", "port": 80, "targetPort": 8080 }],
            },
        });
        merge(&mut service["spec"], &self.spec);
        merge(&mut service, &self.more);
        let slices = self.slices.iter().enumerate().map(|(n, endpoints)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("it-{n}"), "namespace": "shop",
                    "labels": { "kubernetes.io/service-name": "it" },
                },
                "addressType": "IPv4",
                "ports": [{ "name": "main", "port": 8080, "protocol": "TCP" }],
                "endpoints": endpoints,
            })
        });
        std::iter::once(service).chain(slices).chain(self.beside.iter().cloned()).collect()
    }
}

/// Puts the fields of one object over those of another; null takes one out.
fn merge(into: &mut Value, from: &Value) {
    let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) else {
        panic!("objects are merged");
    };
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (_, Value::Null) => drop(into.remove(key)),
            (Some(old), Value::Object(_)) if old.is_object() => merge(old, value),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

fn cases() -> Vec<Case> {
    let ready = |address: &str| json!({ "addresses": [address], "conditions": { "ready": true } });
    vec![
        case(
            "type ClusterIP",
            json!({}),
            vec![
                ("/services/0/type", json!("ClusterIP")),
                ("/services/0/clusterIps", json!(["10.96.0.9"])),
                ("/services/0/ports/0/port", json!(80)),
                ("/services/0/traffic/affinitySecs", Value::Null),
                ("/services/0/traffic/internal", json!("Cluster")),
                ("/services/0/traffic/external", json!("Cluster")),
            ],
        ),
        case(
            "type NodePort",
            json!({ "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{ "name": "main", "port": 80, "nodePort": 30080 }] }),
            vec![
                ("/services/0/type", json!("NodePort")),
                ("/services/0/ports/0/node_port", json!(30080)),
                ("/services/0/traffic/external", json!("Local")),
            ],
        ),
        case(
            "type LoadBalancer, addresses given",
            json!({ "type": "LoadBalancer",
            "loadBalancerIP": "192.0.2.1", "healthCheckNodePort": 32000,
            "externalTrafficPolicy": "Local" }),
            vec![
                ("/services/0/type", json!("LoadBalancer")),
                ("/services/0/traffic/loadBalancerIps", json!(["192.0.2.9"])),
                ("/services/0/traffic/loadBalancerHosts", json!(["lb.example.com"])),
                ("/services/0/traffic/healthCheckNodePort", json!(32000)),
            ],
        )
        .with(json!({ "status": { "loadBalancer": { "ingress": [
            { "ip": "192.0.2.9" }, { "hostname": "lb.example.com" } ] } } })),
        case(
            "type LoadBalancer, an address asked for and not given yet",
            json!({ "type": "LoadBalancer", "loadBalancerIP": "192.0.2.1" }),
            vec![("/services/0/traffic/loadBalancerIps", json!(["192.0.2.1"]))],
        ),
        case(
            "a load balancer's status on a service that is none",
            json!({}),
            vec![("/services/0/traffic/loadBalancerIps", json!([]))],
        )
        .with(json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } } })),
        case(
            "headless",
            json!({ "clusterIP": "None" }),
            vec![("/services/0/type", json!("Headless")), ("/services/0/clusterIps", json!([]))],
        ),
        case(
            "type ExternalName",
            json!({ "type": "ExternalName", "clusterIP": null,
            "externalName": "Other.Example.com.", "ports": null }),
            vec![
                ("/services/0/type", json!("ExternalName")),
                ("/services/0/externalName", json!("other.example.com")),
            ],
        ),
        case(
            "dual stack",
            json!({ "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack" }),
            vec![("/services/0/clusterIps", json!(["10.96.0.9", "fd00::9"]))],
        ),
        case(
            "externalIPs",
            json!({ "externalIPs": ["198.51.100.7"] }),
            vec![("/services/0/traffic/externalIps", json!(["198.51.100.7"]))],
        ),
        case(
            "sessionAffinity ClientIP lasts three hours by default",
            json!({ "sessionAffinity": "ClientIP" }),
            vec![("/services/0/traffic/affinitySecs", json!(10_800))],
        ),
        case(
            "sessionAffinity ClientIP with a time of its own",
            json!({ "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } } }),
            vec![("/services/0/traffic/affinitySecs", json!(60))],
        ),
        case(
            "internalTrafficPolicy",
            json!({ "internalTrafficPolicy": "Local" }),
            vec![("/services/0/traffic/internal", json!("Local"))],
        ),
        case(
            "trafficDistribution by its first name",
            json!({ "trafficDistribution": "PreferClose" }),
            vec![("/services/0/traffic/distribution", json!("PreferSameZone"))],
        ),
        case(
            "trafficDistribution PreferSameZone",
            json!({ "trafficDistribution": "PreferSameZone" }),
            vec![("/services/0/traffic/distribution", json!("PreferSameZone"))],
        ),
        case(
            "trafficDistribution PreferSameNode",
            json!({ "trafficDistribution": "PreferSameNode" }),
            vec![("/services/0/traffic/distribution", json!("PreferSameNode"))],
        ),
        case(
            "appProtocol",
            json!({ "ports": [
                { "name": "a", "port": 1, "appProtocol": "http" },
                { "name": "b", "port": 2, "appProtocol": "kubernetes.io/h2c" },
                { "name": "c", "port": 3, "appProtocol": "kubernetes.io/ws" },
                { "name": "d", "port": 4, "appProtocol": "grpc" },
                { "name": "e", "port": 5, "appProtocol": "tcp" },
                { "name": "f", "port": 6, "appProtocol": "example.com/own" },
                { "name": "g", "port": 7 } ] }),
            vec![
                ("/services/0/ports/0/app_protocol", json!("http1")),
                ("/services/0/ports/1/app_protocol", json!("http2")),
                ("/services/0/ports/2/app_protocol", json!("http1")),
                ("/services/0/ports/3/app_protocol", json!("http2")),
                ("/services/0/ports/4/app_protocol", json!("tcp")),
                ("/services/0/ports/5/app_protocol", json!({ "other": "example.com/own" })),
                ("/services/0/ports/6/app_protocol", Value::Null),
            ],
        ),
        case(
            "label service-proxy-name",
            json!({}),
            vec![("/services/0/traffic/proxyName", json!("other-proxy"))],
        )
        .with(json!({ "metadata": { "labels": {
            "service.kubernetes.io/service-proxy-name": "other-proxy" } } })),
        case(
            "label service-proxy-name that names us",
            json!({}),
            vec![("/services/0/traffic/proxyName", Value::Null)],
        )
        .with(json!({ "metadata": { "labels": {
            "service.kubernetes.io/service-proxy-name": "portolan" } } })),
        case(
            "label headless on a service with an address",
            json!({}),
            vec![
                ("/services/0/type", json!("ClusterIP")),
                ("/services/0/traffic/proxyName", json!("headless")),
            ],
        )
        .with(json!({ "metadata": { "labels": { "service.kubernetes.io/headless": "" } } })),
        case(
            "annotations",
            json!({}),
            vec![
                ("/services/0/policy/balancer", json!("ring_hash")),
                ("/services/0/policy/hashOn", json!({ "header": "x-user" })),
                ("/services/0/policy/outlierDetection/failurePercentage/threshold", json!(50)),
                ("/services/0/policy/timeouts/request", json!({ "secs": 2, "nanos": 0 })),
                ("/services/0/ports/0/app_protocol", json!("http2")),
            ],
        )
        .with(json!({ "metadata": { "annotations": { "portolan.dev/balancer": "ring_hash",
            "portolan.dev/hash-on": "header:X-User", "portolan.dev/outlier-failure-percent": "50",
            "portolan.dev/request-timeout": "2s", "portolan.dev/protocol": "grpc" } } })),
        case(
            "conditions: nil is ready, serving follows ready",
            json!({}),
            vec![
                ("/services/0/ready", json!(2)),
                ("/services/0/endpoints", json!(4)),
                ("/endpoints/0/ready", json!(true)),
                ("/endpoints/1/ready", json!(true)),
                ("/endpoints/1/serving", json!(true)),
                ("/endpoints/2/ready", json!(false)),
                ("/endpoints/2/serving", json!(false)),
                ("/endpoints/3/ready", json!(false)),
                ("/endpoints/3/serving", json!(true)),
                ("/endpoints/3/terminating", json!(true)),
            ],
        )
        .slice(json!([
            { "addresses": ["10.0.0.1"] },
            { "addresses": ["10.0.0.2"], "conditions": {} },
            { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
            { "addresses": ["10.0.0.4"],
              "conditions": { "ready": false, "serving": true, "terminating": true } },
        ])),
        case(
            "publishNotReadyAddresses",
            json!({ "publishNotReadyAddresses": true }),
            vec![("/services/0/ready", json!(1)), ("/endpoints/0/ready", json!(true))],
        )
        .slice(json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }])),
        case(
            "several slices, an endpoint in two of them",
            json!({}),
            vec![("/services/0/ready", json!(3)), ("/services/0/endpoints", json!(3))],
        )
        .slice(json!([ready("10.0.0.1"), ready("10.0.0.2")]))
        .slice(json!([ready("10.0.0.2"), ready("10.0.0.3")])),
        case(
            "hostname, nodeName, zone and hints",
            json!({}),
            vec![
                ("/endpoints/0/hostname", json!("it-0")),
                ("/endpoints/0/node", json!("node-1")),
                ("/endpoints/0/zone", json!("a")),
                ("/endpoints/0/hints", json!({ "zones": ["a", "b"], "nodes": ["node-1"] })),
                ("/endpoints/1/hints", Value::Null),
            ],
        )
        .slice(json!([
            { "addresses": ["10.0.0.1"], "hostname": "it-0", "nodeName": "node-1", "zone": "a",
              "hints": { "forZones": [{ "name": "a" }, { "name": "b" }],
                         "forNodes": [{ "name": "node-1" }] } },
            { "addresses": ["10.0.0.2"], "hints": { "forZones": [] } },
        ])),
        case(
            "targetRef: a pod of the slice's own namespace",
            json!({}),
            vec![
                ("/endpoints/0/pod", json!("it-7f9c-1")),
                ("/endpoints/1/pod", json!("it-7f9c-1")),
                ("/endpoints/2/pod", json!("it-7f9c-2")),
                ("/endpoints/3/pod", Value::Null),
                ("/endpoints/4/pod", Value::Null),
                ("/endpoints/5/pod", Value::Null),
            ],
        )
        .slice(json!([
            { "addresses": ["10.0.0.1", "10.0.0.2"],
              "targetRef": { "kind": "Pod", "name": "it-7f9c-1", "namespace": "shop" } },
            { "addresses": ["10.0.0.3"], "targetRef": { "kind": "Pod", "name": "it-7f9c-2" } },
            { "addresses": ["10.0.0.4"],
              "targetRef": { "kind": "Pod", "name": "it-7f9c-3", "namespace": "other" } },
            { "addresses": ["10.0.0.5"],
              "targetRef": { "kind": "Node", "name": "it-7f9c-4", "namespace": "shop" } },
            { "addresses": ["10.0.0.6"], "targetRef": { "kind": "Pod" } },
        ])),
        case(
            "podCIDRs, else podCIDR",
            json!({}),
            vec![
                ("/nodes/0/pod_ranges", json!(["10.1.0.0/24", "fd00:1::/64"])),
                ("/nodes/1/pod_ranges", json!(["10.1.1.0/24"])),
                ("/nodes/2/pod_ranges", json!([])),
            ],
        )
        .beside(
            "Node",
            "n0",
            json!({ "spec": { "podCIDR": "10.1.0.0/24",
            "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"] } }),
        )
        .beside("Node", "n1", json!({ "spec": { "podCIDR": "10.1.1.0/24" } }))
        .beside("Node", "n2", json!({})),
        case(
            "podIPs, else podIP, of pods that have one and have not ended",
            json!({}),
            vec![
                ("/pods/0/name", json!("alone")),
                ("/pods/0/addresses", json!(["10.1.0.2"])),
                ("/pods/0/node", Value::Null),
                ("/pods/1/name", json!("dual")),
                ("/pods/1/addresses", json!(["10.1.0.1", "fd00:1::1"])),
                ("/pods/1/namespace", json!("shop")),
                ("/pods/1/node", json!("n0")),
                ("/podCount", json!(2)),
            ],
        )
        .pod(
            "dual",
            json!({ "spec": { "nodeName": "n0" }, "status": { "phase": "Running",
            "podIP": "10.1.0.1", "podIPs": [{ "ip": "10.1.0.1" }, { "ip": "fd00:1::1" }] } }),
        )
        .pod("alone", json!({ "status": { "phase": "Pending", "podIP": "10.1.0.2" } }))
        .pod("done", json!({ "status": { "phase": "Succeeded", "podIP": "10.1.0.3" } }))
        .pod("failed", json!({ "status": { "phase": "Failed", "podIPs": [{ "ip": "10.1.0.4" }] } }))
        .pod("waiting", json!({ "status": { "phase": "Pending" } }))
        .pod("new", json!({})),
        case(
            "target ports as the slices carry them",
            json!({}),
            vec![("/endpoints/0/ports", json!(["main:8080/TCP"]))],
        )
        .slice(json!([ready("10.0.0.1")])),
    ]
}

/// The rows of everything there is.
fn rows(snapshot: &Snapshot) -> Value {
    let (none, all) = (Snapshot::default(), Filter::default());
    let services = view::changes::<ServiceRow>(&none, snapshot, &all);
    let endpoints = view::changes::<EndpointRow>(&none, snapshot, &all);
    let services: Vec<_> = services.into_iter().map(|change| change.object).collect();
    let endpoints: Vec<_> = endpoints.into_iter().map(|change| change.object).collect();
    let (nodes, pods): (Vec<_>, Vec<_>) = (snapshot.nodes().collect(), snapshot.pods().collect());
    let count = pods.len();
    json!({ "services": services, "endpoints": endpoints, "nodes": nodes, "pods": pods,
        "podCount": count })
}

async fn of_api(objects: &[Value]) -> Snapshot {
    let server = ApiServer::new();
    server.load(objects.to_vec());
    let mut world = World::with_pods(&server);
    world.settle("the lists").await;
    assert!(world.report().rejections.is_empty(), "{:?}", world.report().rejections);
    let snapshot = (*world.newest()).clone();
    world.finish().await;
    snapshot
}

#[tokio::test(start_paused = true)]
async fn each_field_means_the_same_in_manifests_and_in_the_api() {
    let cases = cases();
    assert!(cases.len() >= 20);
    for case in cases {
        let objects = case.objects();
        for (source, snapshot) in
            [("manifests", of_manifests(&objects)), ("API", of_api(&objects).await)]
        {
            let rows = rows(&snapshot);
            for (pointer, expected) in &case.facts {
                let found = rows.pointer(pointer);
                assert_eq!(found, Some(expected), "{}, {pointer}, from {source}", case.about);
            }
        }
    }
}

fn fixture(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/fixtures/kubernetes/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("readable");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

#[tokio::test(start_paused = true)]
async fn objects_as_a_real_api_server_returns_them_are_read_in_full() {
    let names = [
        "namespaces",
        "nodes",
        "pods",
        "services",
        "endpointslices",
        "serviceimports",
        "endpointslices-clusterset",
    ];
    let objects: Vec<Value> = names.iter().flat_map(|name| fixture(name)).collect();
    let api = of_api(&objects).await;
    let manifests = of_manifests(&objects);
    assert!(api.differences(&manifests).is_empty(), "{:?}", api.differences(&manifests));
    assert_eq!((api.service_count(), api.nodes().count()), (21, 3));
    let namespaces: Vec<&str> = api.namespaces().map(|n| &**n).collect();
    assert_eq!(namespaces, ["default", "kube-system", "shop", "staging"]);

    let rows = rows(&api);
    let shown = |name: &str, set: bool, pointer: &str| -> Value {
        let all = rows["services"].as_array().expect("a list");
        let row = all.iter().find(|r| r["name"] == name && r["clusterSet"] == set);
        row.and_then(|row| row.pointer(pointer)).cloned().unwrap_or(Value::Null)
    };
    let facts = [
        ("web", false, "/ready", json!(3)),
        ("web", false, "/endpoints", json!(6)),
        // Seven entries in two slices, one of them in both.
        ("catalog", false, "/endpoints", json!(6)),
        ("cart", false, "/clusterIps/1", json!("fd00:10:96::8a3c")),
        ("db", false, "/publishNotReady", json!(true)),
        ("gateway", false, "/traffic/healthCheckNodePort", json!(32015)),
        ("sessions", false, "/traffic/affinitySecs", json!(10_800)),
        ("search", false, "/traffic/distribution", json!("PreferSameZone")),
        ("node-cache", false, "/traffic/distribution", json!("PreferSameNode")),
        ("greeter", false, "/policy/balancer", json!("round_robin")),
        ("ledger", false, "/traffic/proxyName", json!("headless")),
        ("legacy-erp", false, "/ready", json!(1)),
        ("web", true, "/type", json!("ClusterIP")),
        ("db", true, "/type", json!("Headless")),
        ("db", true, "/ready", json!(5)),
    ];
    for (name, set, pointer, expected) in facts {
        assert_eq!(shown(name, set, pointer), expected, "{name} {pointer}, cluster set {set}");
    }
    let pods: Vec<(&str, usize)> = api.pods().map(|p| (&*p.name, p.addresses.len())).collect();
    let named =
        [("kube-proxy-8m4zr", 2), ("cart-6c8d5b7f9d-2jg9x", 2), ("cart-6c8d5b7f9d-w5252", 2)];
    assert_eq!(pods, named, "of five, one has ended and one has no address");
    assert!(api.nodes().all(|node| node.pod_ranges.len() == 2), "IPv4 and IPv6");
    // An endpoint that names its node and no zone is in the node's zone.
    let endpoints = rows["endpoints"].as_array().expect("a list");
    let placed = endpoints.iter().filter(|e| !e["node"].is_null());
    assert!(placed.clone().count() > 10);
    assert!(placed.into_iter().all(|e| !e["zone"].is_null()));
    // A pod and its endpoints agree on name and address.
    let pods = endpoints.iter().filter(|e| {
        let pod = e["pod"].as_str().and_then(|name| api.pod("shop", name));
        pod.is_some_and(|pod| pod.addresses.iter().any(|a| e["address"] == json!(a)))
    });
    assert_eq!(pods.count(), 4, "two pods of cart, each in two families");
}
