//! Broken manifests, one by one, given to a running control plane: the exact words it has for
//! them, and that what was good before is still served.

mod support;

use std::time::{Duration, Instant};

use domain::base::iana::Rtype;
use domain::resolv::stub::conf::Transport;
use serde_json::Value;
use support::dns::ask;
use support::{PATIENCE, Process, output, replace};

/// The file that is broken again and again.
const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: victim, namespace: shop}
spec:
  clusterIP: 10.96.0.81
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: victim-1, namespace: shop, labels: {kubernetes.io/service-name: victim}}
addressType: IPv4
ports:
- {name: http, port: 8080}
endpoints:
- {addresses: [10.1.0.1], hostname: a}
";

/// Stands beside it the whole time.
const BESIDE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}
";

/// What is wrong, the text in [`GOOD`] that is replaced and by what (an empty one appends), and
/// what is said of it.
type Case = (&'static str, &'static str, &'static str, &'static str);

const SERVICE: &str = "victim.yaml, document 1: Service shop/victim: ";
const SLICE: &str = "victim.yaml, document 2: EndpointSlice shop/victim-1: ";

/// An AccessPolicy for a target.
macro_rules! POLICY {
    ($target:literal, $action:literal, $rules:literal) => {
        concat!(
            "---\napiVersion: portolan.dev/v1alpha1\nkind: AccessPolicy\n",
            "metadata: {name: a, namespace: shop}\nspec: {targetRefs: [{group: '', kind: Service, ",
            $target,
            "}], action: ",
            $action,
            ", rules: ",
            $rules,
            "}\n"
        )
    };
}

/// An HTTPRoute with annotations.
macro_rules! ROUTE {
    ($annotations:literal) => {
        concat!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n",
            "metadata: {name: r, namespace: shop, annotations: {",
            $annotations,
            "}}\n",
            "spec: {rules: [{backendRefs: [{name: victim, port: 80}]}]}\n"
        )
    };
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("a policy that does what there is not", "", POLICY!("name: victim", "Permit", "[]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.action: \"Permit\" is not Allow or Deny"),
    ("a policy for nobody", "", POLICY!("name: victim", "Allow, mode: Dry", "[]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.mode: \"Dry\" is not Enforce or LogOnly"),
    ("a rule that says nothing", "", POLICY!("name: victim", "Deny", "[{methods: []}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0]: says nothing; identities: [\"*\"] is anybody who has proven who he is"),
    ("an identity that is none", "", POLICY!("name: victim", "Allow", "[{identities: [shop/web, web]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].identities[1]: \"web\" is not namespace/account, namespace/*, * or a SPIFFE id"),
    ("a method that is none", "", POLICY!("name: victim", "Allow", "[{methods: ['GET /']}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].methods[0]: \"GET /\" is no method"),
    ("a path that nobody could have", "", POLICY!("name: victim", "Deny", "[{paths: [/a/../b]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].paths[0]: \"/a/../b\" is no path as it is after normalization, nor one with a * behind"),
    ("a path with a star within", "", POLICY!("name: victim", "Deny", "[{paths: ['/a/*/b']}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].paths[0]: \"/a/*/b\" is no path as it is after normalization, nor one with a * behind"),
    ("a field of a rule that nobody reads", "", POLICY!("name: victim", "Deny", "[{path: [/a]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].path: unknown field"),
    ("a mode of TLS that there is not", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/mtls: must}}\nspec",
     "{service}metadata.annotations[portolan.dev/mtls]: \"must\" is not strict, permissive or off"),
    ("an account that can be none", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/service-accounts: a/b/c}}\nspec",
     "{service}metadata.annotations[portolan.dev/service-accounts]: \"a/b/c\" is not the name of a service account"),
    ("a path with an escape that is none", "", POLICY!("name: victim", "Deny", "[{paths: ['/%61dmin*']}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: spec.rules[0].paths[0]: \"/%61dmin*\" is no path as it is after normalization, nor one with a * behind"),
    // The file as a whole.
    ("bad YAML", "spec:\n", "spec: [\n",
     "victim.yaml, document 1: line 6, column 8: while parsing a flow mapping, did not find expected ',' or '}'"),
    ("a tab as indentation", "  clusterIP:", "\tclusterIP:",
     "victim.yaml, document 1: line 5, column 2: tabs disallowed within this context (block indentation)"),
    ("a key that stands twice", "  clusterIP: 10.96.0.81", "  clusterIP: 10.96.0.81\n  clusterIP: 10.96.0.82",
     "victim.yaml, document 1: line 6, column 3: key \"clusterIP\" stands twice"),
    ("bad JSON", GOOD, "{\"kind\": ]",
     "victim.yaml, document 1: expected value at line 1 column 10"),
    ("no object at all", GOOD, "--- hello\n",
     "victim.yaml, document 1: a document must be an object with kind and metadata"),
    // What it is.
    ("a missing kind", "kind: Service\n", "", "victim.yaml, document 1: kind: missing"),
    ("a missing apiVersion", "apiVersion: v1\n", "", "victim.yaml, document 1: apiVersion: missing"),
    ("a version that is not read", "discovery.k8s.io/v1\n", "discovery.k8s.io/v1beta1\n",
     "{slice}apiVersion: version \"v1beta1\" of EndpointSlice is not read, \"v1\" is"),
    ("a missing name", "name: victim,", "", "victim.yaml, document 1: metadata.name: missing"),
    ("a name that is a number", "name: victim,", "name: 7,",
     "victim.yaml, document 1: metadata.name: expected a non-empty string, found 7"),
    ("a name that is no DNS label", "name: victim,", "name: Victim,",
     "victim.yaml, document 1: Service shop/Victim: metadata.name: \"Victim\" is not a DNS label: it may hold a-z, 0-9 and '-', and must start and end with a letter or digit"),
    ("a namespace that is no DNS label", "namespace: shop}\nspec", "namespace: a.b}\nspec",
     "victim.yaml, document 1: Service a.b/victim: metadata.namespace: \"a.b\" is not a DNS label: it may hold a-z, 0-9 and '-', and must start and end with a letter or digit"),
    ("an object twice in a file", "---\n", "---\napiVersion: v1\nkind: Service\nmetadata: {name: victim, namespace: shop}\nspec: {ports: [{port: 1}]}\n---\n",
     "victim.yaml, document 2: Service shop/victim: duplicate: in force from victim.yaml, document 1"),
    ("an object that stands in another file", "", "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 1}]}\n",
     "victim.yaml, document 3: Service shop/web: duplicate: in force from beside.yaml, document 1"),
    // Keys and types.
    ("an unknown key", "  ports:\n", "  prots: []\n  ports:\n", "{service}spec.prots: unknown field"),
    ("an unknown key in a port", "port: 80,", "port: 80, potr: 1,", "{service}spec.ports[0].potr: unknown field"),
    ("an unknown key in an endpoint", "hostname: a", "hostnam: a", "{slice}endpoints[0].hostnam: unknown field"),
    ("ports that are no list", "  ports:\n  - {name: http, port: 80, targetPort: 8080}", "  ports: 80",
     "{service}spec.ports: invalid type: integer `80`, expected a sequence"),
    ("a port that is text", "port: 80,", "port: eighty,",
     "{service}spec.ports[0].port: invalid type: string \"eighty\", expected i32"),
    ("a spec that is missing", "spec:\n  clusterIP: 10.96.0.81\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n", "",
     "{service}spec: missing"),
    // Ports of a service.
    ("a port above the range", "port: 80,", "port: 70000,", "{service}spec.ports[0].port: 70000 is not in 1..=65535"),
    ("a port of zero", "port: 80,", "port: 0,", "{service}spec.ports[0].port: 0 is not in 1..=65535"),
    ("a negative port", "port: 80,", "port: -1,", "{service}spec.ports[0].port: -1 is not in 1..=65535"),
    ("a target port above the range", "targetPort: 8080", "targetPort: 65536",
     "{service}spec.ports[0].targetPort: 65536 is not in 1..=65535"),
    ("no port", "  ports:\n  - {name: http, port: 80, targetPort: 8080}\n", "",
     "{service}spec.ports: missing, a service needs at least one port"),
    ("a protocol that does not exist", "port: 80,", "port: 80, protocol: ICMP,",
     "{service}spec.ports[0].protocol: \"ICMP\" is not TCP, UDP or SCTP"),
    ("two ports of one name", "targetPort: 8080}\n", "targetPort: 8080}\n  - {name: http, port: 81}\n",
     "{service}spec.ports[1].name: \"http\" stands twice"),
    ("two ports of one number", "targetPort: 8080}\n", "targetPort: 8080}\n  - {name: more, port: 80}\n",
     "{service}spec.ports[1].port: 80/TCP stands twice"),
    ("a port without a name among several", "targetPort: 8080}\n", "targetPort: 8080}\n  - {port: 81}\n",
     "{service}spec.ports[1].name: missing, every port needs a name when there are several"),
    ("a port name that is no DNS label", "{name: http, port: 80,", "{name: web_ui, port: 80,",
     "{service}spec.ports[0].name: \"web_ui\" is not a DNS label: it may hold a-z, 0-9 and '-', and must start and end with a letter or digit"),
    // Addresses of a service.
    ("a cluster IP that is none", "10.96.0.81", "10.96.0.381", "{service}spec.clusterIP: \"10.96.0.381\" is not an IP address"),
    ("a cluster IP that is taken", "10.96.0.81", "10.96.0.80", "{service}spec.clusterIP: 10.96.0.80 is taken by service shop/web"),
    ("two cluster IPs of one family", "clusterIP: 10.96.0.81", "clusterIPs: [10.96.0.81, 10.96.0.82]",
     "{service}spec.clusterIPs[1]: 10.96.0.82 is a second IPv4 address"),
    ("cluster IPs that differ", "clusterIP: 10.96.0.81", "clusterIP: 10.96.0.81\n  clusterIPs: [10.96.0.83]",
     "{service}spec.clusterIPs[0]: \"10.96.0.83\" differs from clusterIP \"10.96.0.81\""),
    ("an IP family that does not fit", "clusterIP: 10.96.0.81", "clusterIP: fd00::1\n  ipFamilies: [IPv4]",
     "{service}spec.ipFamilies[0]: IPv4 does not fit cluster IP fd00::1"),
    ("an IP family without a range", "clusterIP: 10.96.0.81", "type: ClusterIP\n  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]",
     "{service}spec.clusterIP: no IPv6 service range is configured"),
    ("a type that does not exist", "clusterIP: 10.96.0.81", "type: Clusterip",
     "{service}spec.type: \"Clusterip\" is not ClusterIP, NodePort, LoadBalancer or ExternalName"),
    ("an external name that is missing", "clusterIP: 10.96.0.81", "type: ExternalName",
     "{service}spec.externalName: missing, a service of type ExternalName needs it"),
    ("an external name that is none", "clusterIP: 10.96.0.81", "type: ExternalName\n  externalName: \"a..b\"",
     "{service}spec.externalName: a name must not be empty"),
    ("a headless node port", "clusterIP: 10.96.0.81", "type: NodePort\n  clusterIP: None",
     "{service}spec.clusterIP: may not be None for a service of type NodePort or LoadBalancer"),
    ("a misspelt policy", "clusterIP: 10.96.0.81", "clusterIP: 10.96.0.81\n  sessionAffinity: ClientIp",
     "{service}spec.sessionAffinity: \"ClientIp\" is not None or ClientIP"),
    // Endpoint slices.
    ("a slice without a service", ", labels: {kubernetes.io/service-name: victim}", "",
     "{slice}metadata.labels[kubernetes.io/service-name]: missing, the slice names no service"),
    ("an address type that does not exist", "addressType: IPv4", "addressType: IPv5", "{slice}addressType: \"IPv5\" is not IPv4 or IPv6"),
    ("an address type that is not served", "addressType: IPv4", "addressType: FQDN",
     "{slice}addressType: FQDN slices are deprecated in Kubernetes and not served"),
    ("IPv6 among IPv4", "[10.1.0.1]", "[10.1.0.1, \"fd00::1\"]",
     "{slice}endpoints[0].addresses[1]: fd00::1 does not fit addressType IPv4"),
    ("an address that is none", "[10.1.0.1]", "[10.1.0]", "{slice}endpoints[0].addresses[0]: \"10.1.0\" is not an IP address"),
    ("an address of many", "[10.1.0.1]", "[224.0.0.1]", "{slice}endpoints[0].addresses[0]: 224.0.0.1 is not the address of one endpoint"),
    ("no address", "[10.1.0.1]", "[]", "{slice}endpoints[0].addresses: missing"),
    ("a host name that is no DNS label", "hostname: a", "hostname: a.b",
     "{slice}endpoints[0].hostname: \"a.b\" is not a DNS label: it may hold a-z, 0-9 and '-', and must start and end with a letter or digit"),
    ("an endpoint port above the range", "port: 8080}\nend", "port: 65536}\nend", "{slice}ports[0].port: 65536 is not in 1..=65535"),
    ("two endpoint ports of one name", "port: 8080}\nend", "port: 8080}\n- {name: http, port: 8081}\nend", "{slice}ports[1].name: \"http\" stands twice"),
    ("a condition that is text", "hostname: a", "conditions: {ready: \"yes\"}",
     "{slice}endpoints[0].conditions.ready: invalid type: string \"yes\", expected a boolean"),
];

/// In force all the same: the object is good, one setting of it is not, or has no effect.
#[rustfmt::skip]
const WARNINGS: &[Case] = &[
    ("a slice of an unknown service", "", "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: ghost-1, namespace: shop, labels: {kubernetes.io/service-name: ghost}}\naddressType: IPv4\n",
     "victim.yaml, document 3: EndpointSlice shop/ghost-1: metadata.labels[kubernetes.io/service-name]: there is no service shop/ghost"),
    ("an annotation with an unknown value", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/balancer: fastest}}\nspec",
     "{service}metadata.annotations[portolan.dev/balancer]: \"fastest\" is not one of peak_ewma, least_request, round_robin, \
      ring_hash, maglev, client_side_weighted_round_robin, pick_first, random"),
    ("an annotation nobody reads", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/blancer: x}}\nspec",
     "{service}metadata.annotations[portolan.dev/blancer]: unknown setting; known: adaptive-concurrency, adaptive-concurrency-interval, adaptive-concurrency-max, adaptive-concurrency-min, adaptive-concurrency-min-rtt-interval, adaptive-concurrency-tolerance-percent, app-port, balancer, balancer-choices, connect-timeout, connection-idle-timeout, connection-max-age, connection-max-requests, hash-balance-percent, hash-on, health-check, health-check-healthy-threshold, health-check-interval, health-check-timeout, health-check-unhealthy-threshold, idle-timeout, max-connections, max-pending-requests, max-requests, max-retries, mtls, outlier-consecutive-errors, outlier-consecutive-gateway-errors, outlier-consecutive-local-errors, outlier-ejection-jitter, outlier-ejection-time, outlier-failure-percent, outlier-interval, outlier-max-ejection-time, outlier-max-percent, outlier-minimum-hosts, outlier-request-volume, outlier-success-rate-stdev, panic-percent, protocol, proxy-protocol, request-timeout, retry-attempts, retry-back-off, retry-back-off-max, retry-budget-min, retry-budget-percent, retry-hedge, retry-on, retry-per-try-timeout, retry-status-codes, service-accounts, slow-start, slow-start-aggression, slow-start-min-percent"),
    ("an application where its proxy is to listen", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/app-port: '8080'}}\nspec",
     "{service}metadata.annotations[portolan.dev/app-port]: is the targetPort, where the proxy is to listen"),
    ("an application that is no port", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/app-port: '0'}}\nspec",
     "{service}metadata.annotations[portolan.dev/app-port]: \"0\" is not a whole number in 1..=65535"),
    ("an application of a port that there is not", "{name: victim, namespace: shop}\nspec", "{name: victim, namespace: shop, annotations: {portolan.dev/app-port.grpc: '9000'}}\nspec",
     "{service}metadata.annotations[portolan.dev/app-port.grpc]: there is no such TCP port"),
    ("a canary that is watched for too long", "", ROUTE!("portolan.dev/rollback: 'on', portolan.dev/rollback-window: 2h"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/rollback-window]: \"2h\" is not within 1s and 1h"),
    ("a canary that is judged by nothing", "", ROUTE!("portolan.dev/rollback: 'on', portolan.dev/rollback-min-requests: '0'"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/rollback-min-requests]: \"0\" is not a whole number in 1..=1000000"),
    ("a limit that is none", "", ROUTE!("portolan.dev/rate-limit: 100/s"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/rate-limit]: \"100/s\" is not a rate such as 100/1s"),
    ("a fault of nothing", "", ROUTE!("portolan.dev/fault-delay-percent: '5'"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/fault-delay]: without it the others have no effect"),
    ("a canary that is not watched", "", ROUTE!("portolan.dev/rollback-min-requests: '10'"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/rollback]: without it the others have no effect"),
    ("an annotation of a route that nobody reads", "", ROUTE!("portolan.dev/rollbak: 'on'"),
     "victim.yaml, document 3: HTTPRoute shop/r: metadata.annotations[portolan.dev/rollbak]: unknown setting; known: fault-abort, fault-abort-percent, fault-delay, fault-delay-percent, rate-limit, rate-limit-burst, rate-limit-client, rate-limit-client-burst, retry-hedge, rollback, rollback-attempt, rollback-latency-margin-percent, rollback-min-requests, rollback-success-margin-percent, rollback-window"),
    ("a policy of access for nobody", "", POLICY!("name: ghost", "Allow", "[{identities: [shop/web]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: Service shop/ghost: there is none (TargetNotFound)"),
    ("a policy of access for a port that there is not", "", POLICY!("name: victim, sectionName: grpc", "Allow", "[{identities: [shop/web]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: Service shop/victim has no such TCP port: grpc (TargetNotFound)"),
    ("a policy of access that nobody enforces", "", POLICY!("name: victim", "Allow", "[{identities: [shop/web]}]"),
     "victim.yaml, document 3: AccessPolicy shop/a: no proxy stands in front of port 80: the Service has no portolan.dev/app-port; gRPC servers that say that they serve it go by it (NotEnforced)"),
    ("an unknown key from a newer API server", "{name: victim, namespace: shop}\nspec:\n", "{name: victim, namespace: shop, resourceVersion: \"7\"}\nspec:\n  brandNew: 1\n",
     "{service}spec.brandNew: unknown field"),
    ("an endpoint port without a number", "- {name: http, port: 8080}\n", "- {name: http, port: 8080}\n- {name: any}\n",
     "{slice}ports[1].port: missing: a port without a number cannot be sent traffic"),
    ("a target that can be no pod's name", "hostname: a", "hostname: a, targetRef: {kind: Pod, name: A_1}",
     "{slice}endpoints[0].targetRef.name: \"A_1\" is not a name: at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at the start and end and around each '.'"),
    ("a pod's address that is none", "", "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nstatus: {podIPs: [{ip: 10.1.0.1}, {ip: fd00}]}\n",
     "victim.yaml, document 3: Pod shop/a: status.podIPs[1].ip: \"fd00\" is not an IP address"),
    ("a node's range of pods that is none", "", "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nspec: {podCIDRs: [10.1.0.0/24, \"fd00::/129\"]}\n",
     "victim.yaml, document 3: Node node-1: spec.podCIDRs[1]: \"fd00::/129\" is not a range of IP addresses"),
];

fn broken(case: &Case) -> (String, String) {
    let (name, from, to, expected) = case;
    let text = if from.is_empty() { format!("{GOOD}{to}") } else { GOOD.replacen(from, to, 1) };
    assert_ne!(text, GOOD, "{name}: nothing is broken");
    let expected = expected.replace("{service}", SERVICE).replace("{slice}", SLICE);
    (text, expected)
}

/// One line per rejection, as logs and `portolan check` say it.
fn said(rejected: &Value) -> Vec<String> {
    let list = rejected["rejections"].as_array().expect("a list");
    list.iter().map(|r| r["text"].as_str().expect("text").to_owned()).collect()
}

struct World {
    folder: tempfile::TempDir,
    process: Process,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("beside.yaml"), BESIDE).expect("written");
        std::fs::write(folder.path().join("victim.yaml"), GOOD).expect("written");
        let mut process = Process::run(folder.path(), &["--log", "off"]);
        process.reach(1).await;
        Self { folder, process }
    }

    /// Replaces the file and waits until what is said of it is no longer `before`.
    async fn give(&mut self, text: &str, before: &[String]) -> Vec<String> {
        replace(&self.folder.path().join("victim.yaml"), text);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = said(&self.process.json("/debug/rejected").await);
            if now != before {
                return now;
            }
            assert!(Instant::now() < deadline, "nothing was said of:\n{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn check_served(&mut self, case: &str) {
        let dns = self.process.address("dns");
        for (name, address) in [("victim", "10.96.0.81"), ("web", "10.96.0.80")] {
            let name = format!("{name}.shop.svc.cluster.local");
            let answer = ask(dns, Transport::UdpTcp, &name, Rtype::A).await;
            let expected = std::collections::BTreeSet::from([format!("{name} A {address}")]);
            assert_eq!(answer.records, expected, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_manifest_is_named_exactly_and_the_old_state_stays_in_force() {
    let mut world = World::start().await;
    let good = world.process.json("/debug/snapshot").await;
    assert!(CASES.len() >= 30);
    let mut wrong = Vec::new();
    for case in CASES {
        let (text, expected) = broken(case);
        let now = world.give(&text, &[]).await;
        if now != [expected.as_str()] {
            wrong.push(format!("{}:\n     got {now:?}\n  wanted {expected:?}", case.0));
        }
        // Another object of the same file may have changed; those that are refused have not.
        let snapshot = world.process.json("/debug/snapshot").await;
        let victim = |s: &Value| s["services"].as_array().cloned().expect("a list");
        assert_eq!(victim(&snapshot), victim(&good), "{}", case.0);
        world.check_served(case.0).await;
        assert!(world.give(GOOD, &now).await.is_empty(), "{}", case.0);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_not_in_force_is_named_and_its_object_is_served() {
    let mut world = World::start().await;
    for case in WARNINGS {
        let (text, expected) = broken(case);
        let now = world.give(&text, &[]).await;
        assert_eq!(now, [expected], "{}", case.0);
        world.check_served(case.0).await;
        assert!(world.give(GOOD, &now).await.is_empty(), "{}", case.0);
    }
}

#[test]
fn check_says_the_same_and_its_exit_code_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let run = |more: &[&str]| {
        let output = output(&[&["check", path], more].concat());
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    std::fs::write(folder.path().join("victim.yaml"), GOOD).expect("written");
    let (code, text) = run(&[]);
    let summary = "1 services, 1 endpoint slices, 1 endpoints; 0 objects of other kinds passed \
                   over; 0 rejected, 0 warnings\n";
    assert_eq!((code, text.as_str()), (Some(0), summary));

    std::fs::write(folder.path().join("beside.yaml"), BESIDE).expect("written");
    let mut wrong = Vec::new();
    // Which of two services has an address depends on who was first; here both are new.
    for case in CASES.iter().filter(|c| c.0 != "a cluster IP that is taken") {
        let (text, expected) = broken(case);
        std::fs::write(folder.path().join("victim.yaml"), text).expect("written");
        let (code, text) = run(&[]);
        assert_eq!(code, Some(1), "{}", case.0);
        let line = format!("rejected: {expected}");
        if !text.lines().any(|l| l == line) {
            wrong.push(format!("{}:\n  wanted {line}\n     got {text}", case.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for case in WARNINGS {
        let (text, expected) = broken(case);
        std::fs::write(folder.path().join("victim.yaml"), text).expect("written");
        let (code, text) = run(&[]);
        assert_eq!(code, Some(0), "{}", case.0);
        assert!(text.starts_with(&format!("warning: {expected}\n")), "{}: {text}", case.0);
        assert_eq!(run(&["--strict"]).0, Some(1), "{}", case.0);
    }
}
