//! TLS to endpoints by BackendTLSPolicy (GEP-1897), through our own proxy and an Envoy.

use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::cases::{Case, EMPTY};
use crate::certificates::Authority;
use crate::kit::{Front, Version, World, ask};
use crate::support::{PATIENCE, replace};

const NAME: &str = "secure.test";
const SPIFFE: &str = "spiffe://test/secure";

/// A Service whose port `tls`, and another one, lead to an endpoint; the first says what is spoken.
fn service(name: &str, backend: &Backend, speaks: &str) -> String {
    let target = backend.address.port();
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: $NS}}, spec: \
         {{clusterIP: None, ports: [{{name: tls, port: 443, targetPort: {target}{speaks}}}, {{name: \
         clear, port: 80, targetPort: {target}}}]}}}}\n---\n{{apiVersion: discovery.k8s.io/v1, kind: \
         EndpointSlice, metadata: {{name: {name}-1, namespace: $NS, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{name: tls, port: \
         {target}}}, {{name: clear, port: {target}}}], endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
    )
}

pub(crate) fn authorities(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: $NS}}\ndata:\n  \
         ca.crt: |\n{lines}"
    )
}

fn policy(name: &str, target: &str, validation: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: \
         {name}, namespace: $NS}}, spec: {{targetRefs: [{{group: '', kind: Service, name: \
         {target}}}], validation: {{{validation}}}}}}}\n"
    )
}

/// What becomes of a request for `/<service>`, to port 443, and to port 80 under `/clear`.
const ASKS: &[(&str, &str)] = &[
    ("GET a.test/good", "200 good <x-tls=secure.test"),
    ("GET a.test/clear/good", "200 good <x-tls="),
    ("GET a.test/h2", "200 h2 <x-tls=secure.test"),
    ("GET a.test/identity", "200 good <x-tls=other.test"),
    ("GET a.test/two", "200 good <x-tls=secure.test"),
    ("GET a.test/wrong-name", "503"),
    ("GET a.test/wrong-authority", "503"),
    ("GET a.test/nobody", "503"),
    ("GET a.test/system", "503"),
];

const STATUSES: &[&str] = &[
    "BackendTLSPolicy good Service $NS/good tls: Accepted=True ResolvedRefs=True",
    "BackendTLSPolicy two-b Service $NS/two: Accepted=Conflicted ResolvedRefs=True",
    "BackendTLSPolicy two-a Service $NS/two: Accepted=True",
    "BackendTLSPolicy nobody Service $NS/nobody: Accepted=NoValidCACertificate \
     ResolvedRefs=InvalidCACertificateRef",
    "BackendTLSPolicy kind Service $NS/h2: ResolvedRefs=InvalidKind",
    "BackendTLSPolicy missing Service $NS/missing: Accepted=TargetNotFound",
    "BackendTLSPolicy section Service $NS/good none: Accepted=TargetNotFound",
    "BackendTLSPolicy system Service $NS/system: Accepted=True ResolvedRefs=True",
];

fn manifests(ours: &Authority, theirs: &Authority, good: &Backend, h2: &Backend) -> &'static str {
    let named = format!(
        "hostname: {NAME}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ours}}]"
    );
    let at = |name: &str| named.replace("name: ours", &format!("name: {name}"));
    let mut text =
        [authorities("ours", &ours.pem()), authorities("theirs", &theirs.pem())].concat();
    text += &service("h2", h2, ", appProtocol: kubernetes.io/h2c");
    for name in ["good", "identity", "two", "wrong-name", "wrong-authority", "nobody", "system"] {
        text += &service(name, good, "");
    }
    for (name, target, validation) in [
        ("good", "good, sectionName: tls", named.clone()),
        ("h2", "h2, sectionName: tls", named.clone()),
        (
            "identity",
            "identity",
            format!(
                "{}, subjectAltNames: [{{type: URI, uri: '{SPIFFE}'}}]",
                named.replace(NAME, "other.test")
            ),
        ),
        ("two-b", "two", named.replace(NAME, "wrong.test")),
        ("two-a", "two", named.clone()),
        ("wrong-name", "wrong-name", named.replace(NAME, "wrong.test")),
        ("wrong-authority", "wrong-authority", at("theirs")),
        ("nobody", "nobody", at("nobody")),
        ("kind", "h2", named.replace("kind: ConfigMap", "kind: Secret")),
        ("missing", "missing", named.clone()),
        ("section", "good, sectionName: none", named.clone()),
        ("system", "system", format!("hostname: {NAME}, wellKnownCACertificates: System")),
    ] {
        text += &policy(name, target, &validation);
    }
    let rule = |(path, service, port): (&str, &str, u16)| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {service}, port: {port}}}]}}"
        )
    };
    let rules: Vec<String> = [
        ("/good", "good", 443),
        ("/clear/good", "good", 80),
        ("/h2", "h2", 443),
        ("/identity", "identity", 443),
        ("/two", "two", 443),
        ("/wrong-name", "wrong-name", 443),
        ("/wrong-authority", "wrong-authority", 443),
        ("/nobody", "nobody", 443),
        ("/system", "system", 443),
    ]
    .into_iter()
    .map(rule)
    .collect();
    text += &format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, \
         namespace: $NS}}, spec: {{parentRefs: [{{name: gw}}], rules: [{}]}}}}\n",
        rules.join(", ")
    );
    // Cases are made to be constants.
    text.leak()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_spoken_to_as_their_policy_says() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let issued = ours.issue(&[NAME, SPIFFE]);
    let good = Backend::within("good", Some(issued.server(None, &["http/1.1"]))).await;
    let h2 = Backend::within("h2", Some(issued.server(None, &["h2"]))).await;
    let text = manifests(&ours, &theirs, &good, &h2);
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "backend TLS", manifests: text, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        let about = if world.is_envoy() { "Envoy" } else { "Portolan" };
        until(at, ASKS[0]).await;
        let mut wrong = Vec::new();
        for (request, expected) in ASKS {
            let answer = ask(at, request, Version::Http1).await;
            if let Err(reason) = answer.check(expected) {
                wrong.push(format!("{about}: {request}: {reason}"));
            }
        }
        wrong.extend(crate::statuses_of(&mut world, 0, "backend TLS", STATUSES).await);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        // An authority that is replaced, step by step, fails no request.
        let file = world.folder.path().join("000.yaml");
        let next = Authority::new("next");
        let text = std::fs::read_to_string(&file).expect("readable");
        let old = authorities("ours", &ours.pem()).replace("$NS", "case-0");
        assert!(text.contains(&old));
        let both = format!("{}{}", ours.pem(), next.pem());
        let both = authorities("ours", &both).replace("$NS", "case-0");
        replace(&file, &text.replace(&old, &both));
        for _ in 0..20 {
            let answer = ask(at, "GET a.test/good", Version::Http1).await;
            answer.check("200 good <x-tls=secure.test").unwrap_or_else(|e| panic!("{about}: {e}"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Without the policy it is spoken to in the clear.
        let (before, rest) = text
            .split_once("metadata: {name: good, namespace: case-0}, spec: {targetRefs")
            .expect("a policy");
        let before = &before[..before.rfind("---").expect("a document")];
        let after = &rest[rest.find("---").expect("a document")..];
        replace(&file, &format!("{before}{after}"));
        until(at, ("GET a.test/good", "200 good <x-tls=")).await;
    }
}

async fn until(at: std::net::SocketAddr, (request, expected): (&str, &str)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(reason) = ask(at, request, Version::Http1).await.check(expected) else { return };
        assert!(Instant::now() < deadline, "{request}: {reason}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
