//! Certificates of clients (`spec.tls.frontend`), and TLS that ends here before bytes (protocol `TLS`, mode
//! `Terminate`), through our own proxy and an Envoy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::ClientConfig;

use crate::backend_tls::authorities;
use crate::cases::{Case, EMPTY};
use crate::certificates::Authority;
use crate::https::{connect, secret};
use crate::kit::{Front, Version, World, ask_over};
use crate::support::PATIENCE;

/// A Gateway with an HTTPS listener, and what is asked of its clients.
fn https(frontend: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: gw, namespace: $NS}}, spec: \
         {{gatewayClassName: portolan, addresses: [{{value: $ADDRESS}}], tls: {{frontend: \
         {{{frontend}}}}}, listeners: [{{name: a, port: $PORT, protocol: HTTPS, tls: \
         {{certificateRefs: [{{name: a}}]}}}}]}}, kind: Gateway}}\n---\n{{apiVersion: \
         gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: $NS}}, spec: \
         {{parentRefs: [{{name: gw}}], rules: [{{backendRefs: [{{name: v1, port: 8080}}]}}]}}}}\n"
    )
}

fn validation(refs: &str) -> String {
    format!("validation: {{caCertificateRefs: [{refs}]}}")
}

const OURS: &str = "{group: '', kind: ConfigMap, name: ours}";

const ENDS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [
  {name: a, port: $PORT, protocol: TLS, hostname: a.test, tls: {certificateRefs: [{name: a}]}},
  {name: b, port: $PORT, protocol: TLS, hostname: '*.b.test', tls: {certificateRefs: [{name: b}]}},
  {name: c, port: $PORT, protocol: TLS, hostname: c.test, tls: {certificateRefs: [{name: b}]}},
  {name: empty, port: $PORT, protocol: TLS, hostname: empty.b.test, tls: {certificateRefs: [{name: b}]}}]}, kind: Gateway}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: a, namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: a}], hostnames: [a.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: b, namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: b}], hostnames: [x.b.test, empty.b.test], rules: [{backendRefs: [{name: v2, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: c, namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: c}], rules: [{backendRefs: [{name: v3, port: 8080}]}]}}
";

/// Who answers a request, within TLS; none where there is no handshake, or no answer.
async fn answers(at: SocketAddr, name: &str, client: &Arc<ClientConfig>) -> Option<String> {
    let stream = connect(at, name, client).await.ok()?;
    let answer = ask_over(stream, &format!("GET {name}/x"), Version::Http1).await.ok()?;
    Some(answer.backend().to_owned())
}

async fn until_serving(at: SocketAddr, name: &str, client: &Arc<ClientConfig>) {
    let deadline = Instant::now() + PATIENCE;
    while answers(at, name, client).await.is_none() {
        assert!(Instant::now() < deadline, "{name} is served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_prove_who_they_are_where_they_are_asked() {
    let (server, ours, theirs) =
        (Authority::new("server"), Authority::new("ours"), Authority::new("theirs"));
    let a = secret("$NS", "a", &server.issue(&["a.test"]));
    let known = authorities("ours", &ours.pem());
    let elsewhere = "{group: '', kind: ConfigMap, name: ours, namespace: $NS-other}";
    let grant = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, \
                 namespace: $NS-other}, spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, \
                 namespace: $NS}], to: [{group: '', kind: ConfigMap}]}}\n";
    let far = known.replace("namespace: $NS", "namespace: $NS-other");
    let default = |said: &str| https(&format!("default: {{{said}}}"));
    let served = [
        ("all ports", default(&validation(OURS)), true),
        (
            "a port that asks nothing",
            https(&format!(
                "default: {{{}}}, perPort: [{{port: $PORT, tls: {{}}}}]",
                validation(OURS)
            )),
            false,
        ),
        (
            "a port that asks",
            https(&format!("perPort: [{{port: $PORT, tls: {{{}}}}}]", validation(OURS))),
            true,
        ),
        ("granted", default(&validation(elsewhere)) + &far + grant, true),
        (
            "one of two",
            default(&validation(&format!("{OURS}, {{group: '', kind: ConfigMap, name: nobody}}"))),
            true,
        ),
    ];
    let refused = [
        (
            "missing",
            default(&validation("{group: '', kind: ConfigMap, name: nobody}")),
            "InvalidCACertificateRef",
            "NoValidCACertificate",
        ),
        (
            "kind",
            default(&validation("{group: '', kind: Secret, name: a}")),
            "InvalidCACertificateKind",
            "NoValidCACertificate",
        ),
        (
            "not granted",
            default(&validation(elsewhere)) + &far,
            "RefNotPermitted",
            "NoValidCACertificate",
        ),
        (
            "fallback",
            default(&format!(
                "validation: {{caCertificateRefs: [{OURS}], mode: AllowInsecureFallback}}"
            )),
            "ResolvedRefs",
            "UnsupportedValue",
        ),
    ];
    let mut cases = Vec::new();
    for (name, manifests, _) in &served {
        let manifests = [manifests, &a, &known].map(String::as_str).concat().leak();
        cases.push(Case { name, manifests, ..EMPTY });
    }
    for (name, manifests, ..) in &refused {
        let manifests = [manifests, &a, &known].map(String::as_str).concat().leak();
        cases.push(Case { name, manifests, is_silent: true, ..EMPTY });
    }
    let proven = server.client_as(&ours.issue(&["client"]), &[]);
    let odd = server.client_as(&theirs.issue(&["client"]), &[]);
    let expired = server.client_as(&ours.issue_expired(&["client"]), &[]);
    for front in [Front::Portolan, Front::Envoy] {
        let Some(mut world) = World::start(front, &cases).await else { return };
        for (i, (name, _, asks)) in served.iter().enumerate() {
            let at = world.at(i, false);
            until_serving(at, "a.test", &proven).await;
            for (who, client, may) in [
                ("proven", &proven, true),
                ("nobody", &server.client(&[]), !asks),
                ("another authority's", &odd, !asks),
                ("expired", &expired, !asks),
            ] {
                let served = answers(at, "a.test", client).await.is_some();
                assert_eq!(served, may, "{name}: {who}");
            }
        }
        let rows = world.rows("gateways").await;
        let row_of = |case: usize| {
            let namespace = format!("case-{case}");
            rows.iter().find(|row| row["namespace"] == namespace.as_str()).expect("a row")
        };
        let row = row_of(served.len() - 1);
        for condition in ["ResolvedRefs=InvalidCACertificateRef", "Programmed=True"] {
            assert!(crate::has(row, condition), "one of two: {row}");
        }
        for (i, (name, _, resolved, accepted)) in refused.iter().enumerate() {
            let row = row_of(served.len() + i);
            let resolved = if *resolved == "ResolvedRefs" {
                "ResolvedRefs=True".to_owned()
            } else {
                format!("ResolvedRefs={resolved}")
            };
            assert!(crate::has(row, &resolved), "{name}: {row}");
            assert!(crate::has(row, &format!("Accepted={accepted}")), "{name}: {row}");
            assert!(!crate::has(row, "Programmed=True"), "{name}: {row}");
            let at = world.at(served.len() + i, false);
            assert!(answers(at, "a.test", &proven).await.is_none(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_ends_before_bytes_that_go_by_name() {
    let server = Authority::new("server");
    let manifests = [
        ENDS.to_owned(),
        secret("$NS", "a", &server.issue(&["a.test"])),
        secret("$NS", "b", &server.issue(&["*.b.test", "c.test"])),
    ];
    let case = Case { name: "ends", manifests: manifests.concat().leak(), ..EMPTY };
    let client = server.client(&[]);
    for front in [Front::Portolan, Front::Envoy] {
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        until_serving(at, "a.test", &client).await;
        for (name, expected) in [
            ("a.test", Some("v1")),
            ("x.b.test", Some("v2")),
            ("c.test", Some("v3")),
            // Of the narrowest listener, which has no route for it.
            ("empty.b.test", None),
            ("y.b.test", None),
            ("d.test", None),
        ] {
            assert_eq!(answers(at, name, &client).await.as_deref(), expected, "{name}");
        }
        let rows = world.rows("gateways").await;
        for listener in ["a", "b", "c", "empty"] {
            let row = rows.iter().find(|row| row["listener"] == listener).expect("a row");
            assert!(crate::has(row, "Programmed=True"), "{row}");
        }
    }
}
