//! Tries side by side, by an annotation of a route or of a Service: our proxy and Envoy.

use std::time::Instant;

use serde_json::Value;

use crate::cases::{Case, EMPTY};
use crate::kit::{Front, Version, World, ask};

/// A Service of two endpoints, and routes to it that differ in what they say of tries side by side.
const MANIFESTS: &str = "
---
apiVersion: v1
kind: Service
metadata:
  name: both
  namespace: $NS
  annotations: {portolan.dev/retry-hedge: 'true', portolan.dev/retry-per-try-timeout: 200ms, portolan.dev/retry-on: 5xx, portolan.dev/retry-attempts: '1', portolan.dev/balancer: round_robin}
spec: {clusterIP: None, ports: [{name: http, port: 8080}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: both-1, namespace: $NS, labels: {kubernetes.io/service-name: both}}, addressType: IPv4, ports: [{name: http, port: $V1}], endpoints: [{addresses: [127.0.0.1]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: both-2, namespace: $NS, labels: {kubernetes.io/service-name: both}}, addressType: IPv4, ports: [{name: http, port: $V2}], endpoints: [{addresses: [127.0.0.1]}]}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: as-the-service, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /service}}], backendRefs: [{name: both, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: own, namespace: $NS, annotations: {portolan.dev/retry-hedge: 'true'}}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /own}}], timeouts: {backendRequest: 200ms}, retry: {attempts: 1, codes: [503]}, backendRefs: [{name: both, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: not, namespace: $NS, annotations: {portolan.dev/retry-hedge: 'false'}}, spec: {parentRefs: [{name: gw}], rules: [{matches: [{path: {value: /not}}], backendRefs: [{name: both, port: 8080}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: grpc, namespace: $NS, annotations: {portolan.dev/retry-hedge: 'yes'}}, spec: {parentRefs: [{name: gw}], hostnames: [grpc.test], rules: [{backendRefs: [{name: both, port: 8080}]}]}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_has_had_its_time_goes_on_beside_the_next_one() {
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "hedging", manifests: MANIFESTS, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        for path in ["/service", "/own"] {
            for _ in 0..6 {
                let began = Instant::now();
                let asked = format!("POST web.test{path} | x-ask-delay-ms: v1=20000 | body: hello");
                let answer = ask(at, &asked, Version::Http1).await;
                answer.check("200 v2 body=hello").unwrap_or_else(|why| panic!("{path}: {why}"));
                assert!(began.elapsed().as_secs() < 8, "{path}: {:?}", began.elapsed());
            }
            assert!(!world.backends[0].requests(path).is_empty(), "{path}: it was tried");
            // Where both take longer than a try has, the first one is not cut off for it.
            let asked = format!("GET web.test{path} | x-ask-delay-ms: 700");
            assert_eq!(ask(at, &asked, Version::Http1).await.status, 200, "{path}");
        }
        let answer = ask(at, "GET web.test/not | x-ask-delay-ms: 700", Version::Http1).await;
        assert_eq!(answer.status, 504, "each try is cut off");
        let answer =
            ask(at, "GRPC grpc.test/a.B/C | x-ask-delay-ms: v1=20000", Version::Http2).await;
        assert_eq!((answer.backend(), answer.header("grpc-status")), ("v2", Some("0")));
        if world.is_envoy() {
            continue;
        }
        let beside = world.process.metric("portolan_proxy_hedges_total").await.expect("a metric");
        assert!(beside >= 4.0, "{beside}");
        // What became of both tries is in the request's decision record, and a word that is none is named.
        tell_why(&mut world).await;
        let refused = format!("{:?}", world.rows("rejected").await);
        let field = "metadata.annotations[portolan.dev/retry-hedge]";
        assert!(refused.contains(field) && refused.contains("not true or false"), "{refused}");
    }
}

async fn tell_why(world: &mut World) {
    let at = world.at(0, false);
    let asked = "GET web.test/own | x-ask-delay-ms: 700 | x-ask-fail: 1x503 | x-request-id: hedged";
    let answer = ask(at, asked, Version::Http1).await;
    let records = world.rows("requests").await;
    let record = records.into_iter().find(|record| record["requestId"] == "hedged");
    let record = record.expect("a record");
    let tries = record["tries"].as_array().cloned().unwrap_or_default();
    assert!(answer.status == 503 && tries.len() == 2, "{record}");
    let outcomes: Vec<&Value> = tries.iter().map(|one| &one["outcome"]).collect();
    assert!(outcomes.iter().any(|outcome| outcome.as_str() == Some("answered 503")), "{record}");
}
