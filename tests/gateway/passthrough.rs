//! Listeners and routes of TLS that is not ended here (TLSRoute), through our own proxy and an Envoy.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::cases::{Case, EMPTY};
use crate::certificates::Authority;
use crate::https::{connect, until_shaken};
use crate::kit::{Front, Version, World, ask_over};

pub(crate) fn service(name: &str, backend: &Backend) -> String {
    let port = backend.address.port();
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: $NS}}, spec: \
         {{clusterIP: None, ports: [{{port: 443, targetPort: {port}}}]}}}}\n---\n{{apiVersion: \
         discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, namespace: $NS, \
         labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: \
         {port}}}], endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
    )
}

const LISTENERS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [
  {name: all, port: $PORT, protocol: TLS, tls: {mode: Passthrough}},
  {name: below, port: $PORT, protocol: TLS, hostname: '*.b.test', tls: {mode: Passthrough}},
  {name: empty, port: $PORT, protocol: TLS, hostname: empty.test, tls: {mode: Passthrough}},
  {name: ends, port: 1, protocol: TLS, tls: {certificateRefs: [{name: nobody}]}},
  {name: no-tls, port: 2, protocol: TLS},
  {name: both-tls, port: 3, protocol: TLS, tls: {mode: Passthrough}},
  {name: both-https, port: 3, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}]}, kind: Gateway}
";

fn route(name: &str, section: &str, hosts: &str, backends: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: {name}, \
         namespace: $NS}}, spec: {{parentRefs: [{{name: gw, sectionName: {section}}}], hostnames: \
         [{hosts}], rules: [{{backendRefs: [{backends}]}}]}}}}\n"
    )
}

/// What is asked for, and who answers.
const ASKS: &[(&str, Option<&str>)] = &[
    ("a.test", Some("one")),
    ("x.b.test", Some("two")),
    ("y.x.b.test", Some("two")),
    ("star.b.test", Some("one")),
    ("b.test", Some("one")),
    ("other.test", None),
    ("empty.test", None),
    ("nobody.test", None),
    ("within.test", None),
];

const STATUSES: &[&str] = &[
    "TLSRoute a Gateway $NS/gw all: Accepted=True ResolvedRefs=True",
    "TLSRoute b Gateway $NS/gw below: Accepted=True ResolvedRefs=True",
    "TLSRoute late Gateway $NS/gw all: Accepted=Conflicted",
    "TLSRoute nobody Gateway $NS/gw all: Accepted=True ResolvedRefs=BackendNotFound",
    "TLSRoute within Gateway $NS/gw all: Accepted=True ResolvedRefs=UnsupportedValue",
    "TLSRoute elsewhere Gateway $NS/gw below: Accepted=NoMatchingListenerHostname",
    "HTTPRoute http Gateway $NS/gw all: Accepted=NotAllowedByListeners",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_by_the_name_it_asks_for_and_as_it_is() {
    let authority = Authority::new("ours");
    let names = [
        "a.test",
        "*.b.test",
        "b.test",
        "*.x.b.test",
        "other.test",
        "empty.test",
        "within.test",
        "nobody.test",
    ];
    let issued = authority.issue(&names);
    let tls = || Some(issued.server(None, &["http/1.1"]));
    let (one, two) = (Backend::within("one", tls()).await, Backend::within("two", tls()).await);
    let text = [
        LISTENERS.to_owned(),
        service("one", &one),
        service("two", &two),
        route("a", "all", "a.test, b.test", "{name: one, port: 443}"),
        route("b", "below", "'*.b.test'", "{name: two, port: 443}"),
        route("b-star", "below", "star.b.test", "{name: one, port: 443}"),
        route("late", "all", "a.test", "{name: two, port: 443}"),
        route("nobody", "all", "nobody.test", "{name: nobody, port: 443}"),
        route("within", "all", "within.test", "{name: secured, port: 443}"),
        service("secured", &one),
        "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: p, \
         namespace: $NS}, spec: {targetRefs: [{group: '', kind: Service, name: secured}], validation: \
         {hostname: a.test, wellKnownCACertificates: System}}}\n"
            .to_owned(),
        route("elsewhere", "below", "c.test", "{name: two, port: 443}"),
        "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: http, \
         namespace: $NS}, spec: {parentRefs: [{name: gw, sectionName: all}], rules: [{backendRefs: \
         [{name: one, port: 443}]}]}}\n"
            .to_owned(),
    ];
    for front in [Front::Portolan, Front::Envoy] {
        // Cases are made to be constants.
        let manifests = text.concat().leak();
        let case = Case { name: "passthrough", manifests, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        let about = if world.is_envoy() { "Envoy" } else { "Portolan" };
        until_shaken(at, "a.test", &authority.client(&[])).await;
        for (name, expected) in ASKS {
            let connected = connect(at, name, &authority.client(&["http/1.1"])).await;
            match (connected, expected) {
                (Ok(stream), Some(expected)) => {
                    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                    assert_eq!(alpn.as_deref(), Some(&b"http/1.1"[..]), "{about} {name}");
                    let request = format!("GET {name}/x");
                    let answer = ask_over(stream, &request, Version::Http1).await;
                    let expected = format!("200 {expected} host={name} <x-tls={name}");
                    let answer = answer.expect("an answer").check(&expected);
                    answer.unwrap_or_else(|e| panic!("{about} {name}: {e}"));
                }
                (Err(_), None) => {}
                (other, _) => panic!("{about} {name}: {:?}", other.map(drop)),
            }
        }
        // What is no TLS, and TLS that asks for no name.
        let mut stream = TcpStream::connect(at).await.expect("connected");
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        let mut bytes = Vec::new();
        if stream.write_all(request).await.is_ok() {
            let reading = stream.read_to_end(&mut bytes);
            let ended = tokio::time::timeout(Duration::from_secs(10), reading).await;
            ended.expect("it is closed").unwrap_or_default();
        }
        assert!(bytes.is_empty(), "{about}: {}", bytes.escape_ascii());
        assert!(connect(at, "127.0.0.1", &authority.client(&[])).await.is_err(), "{about}");

        let wrong = crate::statuses_of(&mut world, 0, "passthrough", STATUSES).await;
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let rows = world.rows("gateways").await;
        let listener = |name: &str| {
            let row = rows.iter().find(|row| row["listener"] == name).expect("a row");
            let conditions = row["listenerConditions"].as_array().expect("a list");
            let failing = |c: &&serde_json::Value| {
                c["status"] == "False" && c["type"] != "Conflicted" && c["type"] != "Programmed"
            };
            let failing = conditions.iter().find(failing);
            (failing.map(|c| c["reason"].as_str().expect("text").to_owned()), row["routes"].clone())
        };
        let ok = |routes: i32| (None, routes.into());
        let refused = |reason: &str| (Some(reason.to_owned()), 0.into());
        assert_eq!(listener("all"), ok(3), "{about}");
        assert_eq!(listener("below"), ok(2));
        assert_eq!(listener("empty"), ok(0));
        assert_eq!(listener("ends"), refused("InvalidCertificateRef"));
        assert_eq!(listener("no-tls"), refused("InvalidCertificateRef"));
        assert_eq!(listener("both-tls"), refused("HostnameConflict"));
        assert_eq!(listener("both-https"), refused("HostnameConflict"));
    }
}
