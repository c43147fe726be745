//! Faults and limits of rate by annotations of a route, through our own proxy and an Envoy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cases::{Case, EMPTY};
use crate::kit::{Front, Version, World, ask};

/// A route with annotations for a path of its own.
fn route(name: &str, annotations: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, \
         namespace: $NS, annotations: {{{annotations}}}}}, spec: {{parentRefs: [{{name: gw}}], rules: \
         [{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: v1, port: 8080}}]}}]}}}}\n"
    )
}

/// How many of some requests are let through, and with which status the others are answered.
async fn passed(at: SocketAddr, path: &str, count: usize, field: &str) -> (usize, Vec<u16>) {
    let (mut passed, mut others) = (0, Vec::new());
    for _ in 0..count {
        let answer = ask(at, &format!("GET web.test{path}{field}"), Version::Http1).await;
        match answer.status {
            200 => passed += 1,
            other => others.push(other),
        }
    }
    others.dedup();
    (passed, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_and_limits_are_those_of_the_route() {
    let grpc = "---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: grpc, namespace: $NS, annotations: {portolan.dev/fault-abort: '8'}}, spec: {parentRefs: [{name: gw}], hostnames: [grpc.test], rules: [{backendRefs: [{name: v1, port: 8080}]}]}}
";
    let manifests = [
        route("plain", ""),
        route("aborted", "portolan.dev/fault-abort: '418'"),
        route("half", "portolan.dev/fault-abort: '503', portolan.dev/fault-abort-percent: '50'"),
        route("slow", "portolan.dev/fault-delay: 300ms"),
        // A token comes within the hour.
        route("limited", "portolan.dev/rate-limit: 1/1h, portolan.dev/rate-limit-burst: '5'"),
        route(
            "each",
            "portolan.dev/rate-limit-client: 1/1h, portolan.dev/rate-limit-client-burst: '3'",
        ),
        route("refills", "portolan.dev/rate-limit: 20/1s, portolan.dev/rate-limit-burst: '1'"),
        grpc.to_owned(),
    ];
    for front in [Front::Portolan, Front::Envoy] {
        let manifests = manifests.concat().leak();
        let case = Case { name: "limits", manifests, ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        assert_eq!(passed(at, "/plain", 3, "").await, (3, vec![]));
        assert_eq!(passed(at, "/aborted", 3, "").await, (0, vec![418]));
        let (some, others) = passed(at, "/half", 200, "").await;
        // 100, with a standard deviation of 7: six of those once in 500 million runs.
        assert!((58..=142).contains(&some) && others == [503], "{some} {others:?}");
        let began = Instant::now();
        assert_eq!(passed(at, "/slow", 1, "").await, (1, vec![]));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(290), "{took:?}, Envoy: {}", world.is_envoy());
        assert_eq!(passed(at, "/limited", 9, "").await, (5, vec![429]));
        // Clients are told apart by their address, and what they say of it is not believed.
        assert_eq!(passed(at, "/each", 5, "").await, (3, vec![429]));
        let other = " | x-forwarded-for: 10.0.0.9";
        assert_eq!(passed(at, "/each", 2, other).await, (0, vec![429]));
        let answer = ask(at, "GET web.test/refills", Version::Http1).await;
        assert_eq!(answer.status, 200);
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(at, "GET web.test/refills", Version::Http1).await.status != 200 {
            assert!(Instant::now() < deadline, "a token comes");
        }
        let answer = ask(at, "GRPC grpc.test/a.B/C", Version::Http2).await;
        assert_eq!(answer.header("grpc-status"), Some("8"));
        if !world.is_envoy() {
            others_are_others(&mut world, at).await;
        }
    }
}

/// From another address of this machine there is another bucket.
async fn others_are_others(world: &mut World, at: SocketAddr) {
    let stream = tokio::net::TcpSocket::new_v4().expect("a socket");
    stream.bind("127.0.0.77:0".parse().expect("an address")).expect("bound");
    let stream = stream.connect(at).await.expect("connected");
    let answer = crate::kit::ask_over(stream, "GET web.test/each", Version::Http1).await;
    assert_eq!(answer.expect("an answer").status, 200);
    let limited = "portolan_proxy_local_answers_total{reason=\"rate_limited\"}";
    assert!(world.process.metric(limited).await.is_some_and(|count| count >= 4.0));
}
