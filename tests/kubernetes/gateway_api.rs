//! The Gateway API from a Kubernetes API: with its definitions installed and without.

use std::time::Duration;

use portolan_control::loads::{self, Load};
use portolan_control::object::Kind;
use portolan_model::GatewayPort;
use portolan_model::traffic::Action;
use serde_json::{Value, json};

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{World, populate, service};

/// The kinds that are watched of it.
const KINDS: [&str; 9] = [
    "GatewayClass",
    "Gateway",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
    "BackendTLSPolicy",
    "AccessPolicy",
];

#[tokio::test]
async fn a_cluster_without_its_definitions_is_served_at_once() {
    let server = KINDS.iter().fold(ApiServer::new(), |server, kind| server.without(kind));
    populate(&server);
    let mut world = World::start(&server);
    let settled = tokio::time::timeout(Duration::from_secs(20), world.settle("all"));
    settled.await.expect("at once");
    world.finish().await;
}

#[tokio::test]
async fn without_the_right_to_read_it_everything_else_goes_on_and_the_lack_is_shown() {
    let server = ApiServer::new();
    populate(&server);
    let without = |kind: &str| KINDS.contains(&kind) && kind != "AccessPolicy";
    server.fail_when(move |call| without(call.kind).then(Fault::forbidden));
    let mut world = World::start(&server);
    let settled = tokio::time::timeout(Duration::from_secs(20), world.settle("all"));
    settled.await.expect("at once");
    let sources = world.report().sources.clone();
    let trouble = sources[&Kind::HttpRoute].trouble.clone().expect("it is shown");
    assert!(trouble.contains("cannot watch httproutes"), "{trouble}");
    assert!(trouble.ends_with("deploy/rbac.yaml grants what is needed"), "{trouble}");
    // Once it is granted it is read.
    server.clear_faults();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !world.report().sources[&Kind::HttpRoute].served {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", world.report().sources);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn policies_that_may_not_be_read_hold_everything_back_unless_there_are_none() {
    let server = ApiServer::new();
    populate(&server);
    let forbid = |server: &ApiServer| {
        server.fail_when(|call| (call.kind == "AccessPolicy").then(Fault::forbidden));
    };
    forbid(&server);
    let mut world = World::start(&server);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.generation(), None, "somebody might have to be kept out");
    let trouble = world.report().sources[&Kind::AccessPolicy].trouble.clone().expect("it is shown");
    assert!(trouble.ends_with("deploy/rbac.yaml grants what is needed"), "{trouble}");
    server.clear_faults();
    world.settle("once it is granted").await;
    world.finish().await;
    // An API server asks for the right before it says that there is no such kind.
    let server = ApiServer::new().without("AccessPolicy");
    populate(&server);
    forbid(&server);
    let mut world = World::start(&server);
    let settled = tokio::time::timeout(Duration::from_secs(20), world.settle("all"));
    settled.await.expect("at once");
    world.finish().await;
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let version = if kind == "GatewayClass" { "" } else { "shop" };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "namespace": version, "generation": 3 },
        "spec": spec,
    })
}

fn class() -> Value {
    object("GatewayClass", "ours", &json!({ "controllerName": "portolan.dev/gateway-controller" }))
}

fn gateway() -> Value {
    object(
        "Gateway",
        "gw",
        &json!({
            "gatewayClassName": "ours",
            "addresses": [{ "value": "10.1.1.1" }],
            "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }],
        }),
    )
}

fn route(backend: &str) -> Value {
    object(
        "HTTPRoute",
        "r",
        &json!({
            "parentRefs": [{ "name": "gw" }],
            "rules": [{ "backendRefs": [{ "name": backend, "port": 80 }] }],
        }),
    )
}

/// The conditions of a route's parent, as `Type=Status Reason`, and whose it is.
fn parents(server: &ApiServer) -> Vec<(String, Vec<String>)> {
    let routes = server.objects("HTTPRoute");
    let parents = routes[0]["status"]["parents"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    parents.iter().map(|p| (text(&p["controllerName"]), conditions(&p["conditions"]))).collect()
}

fn conditions(list: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |c: &Value| {
        assert_eq!(c["observedGeneration"], 3, "{c}");
        assert!(text(&c["lastTransitionTime"]).ends_with('Z'), "{c}");
        format!("{}={} {}", text(&c["type"]), text(&c["status"]), text(&c["reason"]))
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn statuses_are_written_by_one_replica_and_follow_what_is_in_force() {
    let server = ApiServer::new();
    populate(&server);
    for object in [service("web", 80, &[80]), class(), gateway(), route("web")] {
        server.apply(object);
    }
    let (mut one, mut two) =
        (World::with_statuses(&server, "one"), World::with_statuses(&server, "two"));
    one.settle("one").await;
    two.settle("two").await;
    until("a status for each", || {
        let has = |kind: &str| server.objects(kind).iter().all(|o| !o["status"].is_null());
        ["GatewayClass", "Gateway", "HTTPRoute"].iter().all(|kind| has(kind))
    })
    .await;
    let ours = "portolan.dev/gateway-controller".to_owned();
    let good = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"].map(str::to_owned);
    assert_eq!(parents(&server), [(ours.clone(), good.to_vec())]);
    let status = server.objects("Gateway")[0]["status"].clone();
    assert_eq!(
        conditions(&status["conditions"]),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );
    assert_eq!(status["addresses"], json!([{ "type": "IPAddress", "value": "10.1.1.1" }]));
    assert_eq!(status["listeners"][0]["attachedRoutes"], 1);
    let class = server.objects("GatewayClass")[0]["status"].clone();
    assert_eq!(conditions(&class["conditions"]), ["Accepted=True Accepted"]);

    // What another controller says of the route is left alone, and what is so stays as old as it is.
    let mut other = server.objects("HTTPRoute")[0].clone();
    let since = other["status"]["parents"][0]["conditions"][0]["lastTransitionTime"].clone();
    let said = json!({ "controllerName": "other.test/x", "parentRef": { "name": "gw" },
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Accepted",
            "observedGeneration": 3, "lastTransitionTime": "2020-01-01T00:00:00Z" }] });
    other["status"]["parents"].as_array_mut().expect("a list").push(said);
    other["spec"] = route("nobody")["spec"].clone();
    other["metadata"].as_object_mut().expect("an object").remove("resourceVersion");
    server.apply(other);
    let lost = ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"].map(str::to_owned);
    let expected = [
        (ours, lost.to_vec()),
        ("other.test/x".to_owned(), vec!["Accepted=True Accepted".to_owned()]),
    ];
    until("it follows", || parents(&server) == expected).await;
    let now = server.objects("HTTPRoute")[0]["status"]["parents"][0]["conditions"].clone();
    assert_eq!(now[0]["lastTransitionTime"], since);
    let writes = |server: &ApiServer| {
        let is_write = |call: &&crate::support::apiserver::Call| {
            call.kind == "HTTPRoute" && !["get", "list", "watch"].contains(&call.verb)
        };
        server.calls().iter().filter(is_write).count()
    };
    // Each status once, whoever of the two wrote it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writes(&server), 2);

    // One that is made anew, with the same content, has a status again.
    let mut anew = server.objects("HTTPRoute")[0].clone();
    let object = anew.as_object_mut().expect("an object");
    object.remove("status");
    let metadata = object["metadata"].as_object_mut().expect("an object");
    metadata.remove("resourceVersion");
    metadata.insert("uid".to_owned(), json!("another"));
    server.apply(anew);
    until("the new one has a status", || !server.objects("HTTPRoute")[0]["status"].is_null()).await;
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn without_the_right_to_write_statuses_routes_are_in_force_all_the_same() {
    let server = ApiServer::new();
    populate(&server);
    for object in [service("web", 80, &[80]), class(), gateway(), route("web")] {
        server.apply(object);
    }
    server
        .fail_when(|call| (!["get", "list", "watch"].contains(&call.verb)).then(Fault::forbidden));
    let mut world = World::with_statuses(&server, "one");
    world.settle("the lists").await;
    until("a try", || server.calls().iter().any(|call| call.kind == "Lease")).await;
    assert_eq!(world.newest().gateways().count(), 1);
    assert!(server.objects("HTTPRoute")[0]["status"].is_null());

    // What was refused is not tried again with every change.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tries = || server.calls().iter().filter(|call| call.kind == "Lease").count();
    let before = tries();
    for port in 81..86 {
        server.apply(service("web", port, &[80]));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(tries(), before);
    world.finish().await;
}

#[tokio::test]
async fn a_policy_follows_its_config_map_and_has_a_status_for_its_target() {
    let server = ApiServer::new();
    populate(&server);
    server.apply(service("web", 80, &[80]));
    let spec = json!({
        "targetRefs": [{ "group": "", "kind": "Service", "name": "web" }],
        "validation": {
            "hostname": "web.test",
            "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "authorities" }],
        },
    });
    let mut policy = object("BackendTLSPolicy", "p", &spec);
    // What another controller says of it.
    let other = json!({
        "ancestorRef": { "name": "other" }, "controllerName": "other.test/x", "conditions": [],
    });
    policy["status"] = json!({ "ancestors": [other] });
    server.apply(policy);
    let mut world = World::with_statuses(&server, "one");
    world.settle("one").await;
    let said = || {
        let policies = server.objects("BackendTLSPolicy");
        let ancestors = policies[0]["status"]["ancestors"].as_array().cloned().unwrap_or_default();
        let ours: Vec<Value> = ancestors
            .iter()
            .filter(|one| one["controllerName"] == "portolan.dev/gateway-controller")
            .cloned()
            .collect();
        assert_eq!(ancestors.len() - ours.len(), 1, "the other's stays: {ancestors:?}");
        ours.first().map(|one| (one["ancestorRef"].clone(), conditions(&one["conditions"])))
    };
    until("its authorities are missing", || {
        said().is_some_and(|(target, conditions)| {
            assert_eq!(target["kind"], "Service");
            assert_eq!(target["name"], "web");
            conditions
                == [
                    "Accepted=False NoValidCACertificate",
                    "ResolvedRefs=False InvalidCACertificateRef",
                ]
        })
    })
    .await;
    let key = portolan_model::ServiceKey::new("shop", "web").expect("valid");
    let port = |world: &World| world.newest().backend_tls(&key).map(|tls| tls.ports[&80].clone());
    world.settle("refused").await;
    assert_eq!(port(&world), Some(None), "nothing goes there");
    let made = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).expect("a certificate");
    let map = |data: Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "authorities", "namespace": "shop" }, "data": data,
        })
    };
    server.apply(map(json!({ "ca.crt": made.cert.pem() })));
    world.settle("taken").await;
    let tls = port(&world).flatten().expect("TLS");
    assert_eq!(&*tls.server_name, "web.test");
    assert!(tls.authorities.expect("some").contains(made.cert.pem().trim()));
    until("it is accepted", || {
        said().is_some_and(|(_, conditions)| {
            conditions == ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
        })
    })
    .await;
    // Authorities that go take the way there with them.
    server.apply(map(json!({ "other": "text" })));
    world.settle("gone").await;
    assert_eq!(port(&world), Some(None), "nothing goes there");
    world.finish().await;
}

#[tokio::test]
async fn a_canary_that_falls_behind_gets_a_condition_and_an_event_and_no_more_requests() {
    let server = ApiServer::new();
    populate(&server);
    for name in ["web", "next"] {
        server.apply(service(name, if name == "web" { 80 } else { 81 }, &[80]));
    }
    let mut split = route("web");
    let annotations = [("", "on"), ("-min-requests", "10"), ("-window", "1h")];
    for (name, value) in annotations {
        split["metadata"]["annotations"][format!("portolan.dev/rollback{name}")] = value.into();
    }
    let backend = |name: &str, weight| json!({ "name": name, "port": 80, "weight": weight });
    split["spec"]["rules"][0]["backendRefs"] = json!([backend("web", 90), backend("next", 10)]);
    for object in [class(), gateway(), split.clone()] {
        server.apply(object);
    }
    let (told, loads) = loads::channel();
    let world = World::judging(&server, loads);
    let condition = |status: &str| {
        let all = parents(&server);
        all.iter().any(|(_, conditions)| conditions.iter().any(|condition| condition == status))
    };
    until("it is watched", || condition("portolan.dev/RolledBack=False Watching")).await;
    let shares = |world: &World| {
        let gateway = world.newest().gateways().next().cloned().expect("a Gateway");
        let [GatewayPort::Http(hosts)] = &gateway.ports.values().cloned().collect::<Vec<_>>()[..]
        else {
            panic!("one port: {gateway:?}")
        };
        let Action::Forward(shares) = &hosts[0].routes[0].action else { panic!("{hosts:?}") };
        shares.iter().map(|share| (share.cluster.to_string(), share.weight)).collect::<Vec<_>>()
    };
    let both = [("shop/web:80".to_owned(), 90), ("shop/next:80".to_owned(), 10)];
    assert_eq!(shares(&world), both);
    let load = |good, bad| Load { good, bad, ..Load::default() };
    let all = || [("shop/web:80".into(), load(90.0, 0.0)), ("shop/next:80".into(), load(5.0, 5.0))];
    for _ in 0..3 {
        assert!(told.tell(all().into()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    until("it is rolled back", || condition("portolan.dev/RolledBack=True SuccessRate")).await;
    assert_eq!(shares(&world), both[..1]);
    let note = "rule 0: shop/next:80: 50.0 % of 10 requests ended well, 100.0 % of 90 at \
                shop/web:80; it has no weight until the rule is changed";
    until("an event", || {
        server.objects("Event").iter().any(|event| {
            let about = &event["regarding"];
            (&event["reason"], &about["kind"], &about["name"])
                == (&json!("RolledBack"), &json!("HTTPRoute"), &json!("r"))
                && event["note"] == note
        })
    })
    .await;
    // Another share is another attempt.
    split["spec"]["rules"][0]["backendRefs"] = json!([backend("web", 95), backend("next", 5)]);
    server.apply(split);
    until("it is watched again", || condition("portolan.dev/RolledBack=False Watching")).await;
    assert_eq!(shares(&world), [("shop/web:80".to_owned(), 95), ("shop/next:80".to_owned(), 5)]);
    world.finish().await;
}
