//! HTTPS, TLS that ends before bytes, and TLS that is passed through, all at one port: clients say by the
//! name they ask for which of them they are for. Through our own proxy and an Envoy.

use crate::backend::Backend;
use crate::cases::{Case, EMPTY};
use crate::certificates::Authority;
use crate::https::{connect, secret, until_shaken};
use crate::kit::{Front, Version, World, ask_over};

const MANIFESTS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [
  {name: http, port: $PORT, protocol: HTTPS, hostname: '*.test', tls: {certificateRefs: [{name: ours}]}},
  {name: more, port: $PORT, protocol: HTTPS, hostname: deep.bytes.test, tls: {certificateRefs: [{name: ours}]}},
  {name: bytes, port: $PORT, protocol: TLS, hostname: '*.bytes.test', tls: {certificateRefs: [{name: ours}]}},
  {name: passed, port: $PORT, protocol: TLS, hostname: passed.test, tls: {mode: Passthrough}},
  {name: below, port: $PORT, protocol: TLS, hostname: '*.passed.test', tls: {mode: Passthrough}},
  {name: twice, port: 1, protocol: TLS, hostname: a.test, tls: {mode: Passthrough}},
  {name: same, port: 1, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: ours}]}},
  {name: clear, port: 2, protocol: HTTP, hostname: a.test},
  {name: secure, port: 2, protocol: HTTPS, hostname: b.test, tls: {certificateRefs: [{name: ours}]}}]}, kind: Gateway}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-by, value: http}]}}], backendRefs: [{name: v1, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: bytes, namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: bytes}], hostnames: ['x.bytes.test', 'deep.bytes.test'], rules: [{backendRefs: [{name: v2, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: passed, namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: passed}], hostnames: [passed.test], rules: [{backendRefs: [{name: own, port: 443}]}]}}
";

/// What is asked for, and how and by whom it is answered: by routes of HTTP, by bytes that end here, or by
/// the endpoint that ends TLS itself.
const ASKS: [(&str, Option<&str>); 8] = [
    ("a.test", Some("200 v1 <x-by=http")),
    ("deep.bytes.test", Some("200 v1 <x-by=http")),
    ("x.bytes.test", Some("200 v2 !<x-by")),
    ("passed.test", Some("200 own <x-tls=passed.test")),
    ("nobody.bytes.test", None),
    ("nobody.passed.test", None),
    ("a.b.test", Some("200 v1 <x-by=http")),
    ("elsewhere", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_for_says_how_its_tls_goes_on() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let names: Vec<&str> = ASKS.iter().map(|(name, _)| *name).collect();
    let certificate = secret("$NS", "ours", &ours.issue(&names));
    let passed = theirs.issue(&["passed.test", "nobody.passed.test"]);
    let own = Backend::within("own", Some(passed.server(None, &["http/1.1"]))).await;
    let service = crate::passthrough::service("own", &own);
    let manifests: &str = [MANIFESTS, &certificate, &service].concat().leak();
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "one port", manifests, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        let about = if world.is_envoy() { "Envoy" } else { "Portolan" };
        until_shaken(at, "a.test", &ours.client(&[])).await;
        for (name, expected) in ASKS {
            let authority = if name.ends_with("passed.test") { &theirs } else { &ours };
            for alpn in [&["http/1.1"][..], &[]] {
                let connected = connect(at, name, &authority.client(alpn)).await;
                let answer = match connected {
                    Ok(stream) => {
                        ask_over(stream, &format!("GET {name}/x"), Version::Http1).await.ok()
                    }
                    Err(_) => None,
                };
                match (answer, expected) {
                    (Some(answer), Some(expected)) => {
                        let checked = answer.check(expected);
                        checked.unwrap_or_else(|e| panic!("{about} {name} {alpn:?}: {e}"));
                    }
                    (None, None) => {}
                    (answer, _) => panic!("{about} {name} {alpn:?}: {answer:?}"),
                }
            }
        }
        // HTTP/2 above TLS that ends here is that of the names that are for it.
        let stream = connect(at, "a.test", &ours.client(&["h2"])).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "{about}");
        let answer = ask_over(stream, "GET a.test/x", Version::Http2).await.expect("an answer");
        answer.check("200 v1 <x-by=http").unwrap_or_else(|e| panic!("{about}: {e}"));

        let statuses = [
            "Gateway gw http: Accepted=True Conflicted=NoConflicts Programmed=True routes=1",
            "Gateway gw more: Accepted=True Conflicted=NoConflicts Programmed=True routes=1",
            "Gateway gw bytes: Accepted=True Conflicted=NoConflicts Programmed=True routes=1",
            "Gateway gw passed: Accepted=True Conflicted=NoConflicts Programmed=True routes=1",
            "Gateway gw twice: Accepted=HostnameConflict",
            "Gateway gw same: Accepted=HostnameConflict",
            "Gateway gw clear: Accepted=ProtocolConflict",
            "Gateway gw secure: Accepted=ProtocolConflict",
        ];
        let wrong = crate::statuses_of(&mut world, 0, "one port", &statuses).await;
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
