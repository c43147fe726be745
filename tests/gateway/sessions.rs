//! `sessionPersistence` (GEP-1619): a client stays with its endpoint, also among weighted backends, until
//! that is gone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cases::{Case, EMPTY};
use crate::kit::{Answer, Front, Version, World, ask};
use crate::support::{PATIENCE, replace};

/// A Service of all three backends, and rules that go there by cookie, by field, and by weight.
const MANIFESTS: &str = "---
{apiVersion: v1, kind: Service, metadata: {name: many, namespace: $NS, annotations: {portolan.dev/balancer: round_robin}}, spec: {clusterIP: None, ports: [{name: http, port: 80, appProtocol: http}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: many-1, namespace: $NS, labels: {kubernetes.io/service-name: many}}, addressType: IPv4, ports: [{name: http, port: $V1}], endpoints: [{addresses: [127.0.0.1]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: many-2, namespace: $NS, labels: {kubernetes.io/service-name: many}}, addressType: IPv4, ports: [{name: http, port: $V2}], endpoints: [{addresses: [127.0.0.1]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: many-3, namespace: $NS, labels: {kubernetes.io/service-name: many}}, addressType: IPv4, ports: [{name: http, port: $V3}], endpoints: [{addresses: [127.0.0.1]}]}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [
  {matches: [{path: {value: /field}}], sessionPersistence: {sessionName: X-Session, type: Header}, backendRefs: [{name: many, port: 80}]},
  {matches: [{path: {value: /kept}}], sessionPersistence: {sessionName: kept, absoluteTimeout: 2h, cookieConfig: {lifetimeType: Permanent}}, backendRefs: [{name: many, port: 80}]},
  {matches: [{path: {value: /split}}], sessionPersistence: {sessionName: split}, backendRefs: [{name: v1, port: 8080}, {name: v2, port: 8080}]},
  {matches: [{path: {value: /idle}}], sessionPersistence: {idleTimeout: 1h}, backendRefs: [{name: many, port: 80}]},
  {sessionPersistence: {}, backendRefs: [{name: many, port: 80}]}]}}
";

/// Asks a path, with a field.
async fn asked(at: SocketAddr, path: &str, field: &str) -> Answer {
    let field = if field.is_empty() { String::new() } else { format!(" | {field}") };
    ask(at, &format!("GET web.test{path}{field}"), Version::Http1).await
}

/// The cookie that an answer gives, without what is said of it, and that.
fn cookie(answer: &Answer) -> (String, String) {
    let said = answer.header("set-cookie").expect("a cookie");
    let (pair, about) = said.split_once("; ").expect("more than a value");
    // Envoy writes it in quotes.
    (format!("cookie: {}", pair.replace('"', "")), about.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stays_with_its_endpoint() {
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "sessions", manifests: MANIFESTS, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        let backends: Vec<(String, SocketAddr)> = ["v1", "v2", "v3"]
            .iter()
            .zip(&world.backends)
            .map(|(n, b)| ((*n).to_owned(), b.address))
            .collect();
        stays(at, &backends).await;
        if !world.is_envoy() {
            weights(at).await;
        }
        leaves(&world, at).await;
        let routes = world.rows("routes").await;
        let dropped =
            routes.iter().any(|row| row.to_string().contains("idleTimeout: not supported"));
        assert!(dropped, "{routes:?}");
    }
}

async fn stays(at: SocketAddr, backends: &[(String, SocketAddr)]) {
    // Without one every endpoint has its turn.
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        seen.insert(asked(at, "/kept", "").await.backend().to_owned());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");

    for (path, permanent) in [("/kept", true), ("/", false)] {
        let first = asked(at, path, "").await;
        let (brought, about) = cookie(&first);
        assert_eq!(about.contains("Max-Age=7200"), permanent, "{about}");
        assert!(about.contains("Path=/") && about.contains("HttpOnly"), "{about}");
        for _ in 0..9 {
            let next = asked(at, path, &brought).await;
            assert_eq!(next.backend(), first.backend(), "{path}");
            assert_eq!(next.header("set-cookie"), None, "it has one");
        }
    }

    let first = asked(at, "/field", "").await;
    let said = first.header("x-session").expect("a field").to_owned();
    for _ in 0..9 {
        let next = asked(at, "/field", &format!("x-session: {said}")).await;
        assert_eq!(next.backend(), first.backend());
        assert_eq!(next.header("x-session"), None);
    }

    // What both say of an endpoint is the same: whoever made it, each takes it.
    for (name, address) in backends {
        let said = STANDARD.encode(address.to_string());
        assert_eq!(asked(at, "/field", &format!("x-session: {said}")).await.backend(), name);
        let text = address.to_string();
        let length = char::from(u8::try_from(text.len()).expect("short"));
        let said = STANDARD.encode(format!("\n{length}{text}"));
        assert_eq!(asked(at, "/kept", &format!("cookie: kept={said}")).await.backend(), name);
    }
    // One that is no endpoint's, and rubbish.
    for said in [&*STANDARD.encode("127.0.0.1:1"), "*", "AAAA", ""] {
        let answer = asked(at, "/field", &format!("x-session: {said}")).await;
        assert_eq!(answer.status, 200, "{said}");
        assert!(
            answer.header("x-session").is_some(),
            "{said}: another endpoint is another session"
        );
    }
}

/// A client stays with the backend that it got, whatever the shares.
async fn weights(at: SocketAddr) {
    let mut seen = BTreeSet::new();
    for _ in 0..16 {
        let first = asked(at, "/split", "").await;
        let (brought, _) = cookie(&first);
        for _ in 0..6 {
            assert_eq!(asked(at, "/split", &brought).await.backend(), first.backend());
        }
        seen.insert(first.backend().to_owned());
    }
    assert_eq!(seen.len(), 2, "both have their share");
}

/// Its endpoint goes: it gets another, and is told so.
async fn leaves(world: &World, at: SocketAddr) {
    let first = loop {
        let first = asked(at, "/kept", "").await;
        if first.backend() == "v1" {
            break first;
        }
    };
    let (brought, _) = cookie(&first);
    let file = world.folder.path().join("000.yaml");
    let text = std::fs::read_to_string(&file).expect("readable");
    let port = format!(
        "port: {}}}], endpoints: [{{addresses: [127.0.0.1]}}]",
        world.backends[0].address.port()
    );
    assert!(text.contains(&port), "the slice of the first");
    replace(&file, &text.replace(&port, "port: 1}], endpoints: []"));
    let deadline = Instant::now() + PATIENCE;
    let next = loop {
        let next = asked(at, "/kept", &brought).await;
        assert_eq!(next.status, 200);
        if next.backend() != "v1" {
            break next;
        }
        assert!(Instant::now() < deadline, "the endpoint stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (brought, _) = cookie(&next);
    assert_eq!(asked(at, "/kept", &brought).await.backend(), next.backend());
}
