//! Shares and copies: what is only seen over many requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cases::Case;
use crate::kit::{Front, Version, World, ask};
use crate::support::PATIENCE;

const EMPTY: Case =
    Case { name: "", manifests: "", asks: &[], statuses: &[], mesh: false, is_silent: false };

const SPLIT: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [
  {matches: [{path: {value: /split}}], backendRefs: [{name: v1, port: 8080, weight: 70}, {name: v2, port: 8080, weight: 20}, {name: nobody, port: 8080, weight: 10}]},
  {matches: [{path: {value: /mirror}}], filters: [
     {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 8080}}},
     {type: RequestMirror, requestMirror: {backendRef: {name: v3, port: 8080}, percent: 50}},
     {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}]}}],
   backendRefs: [{name: v1, port: 8080}]}]}}
";

/// Clients at the same time, each with one connection.
const CLIENTS: u32 = 8;

/// Asks so many times over one connection; how often each backend answered, and `failed` how often
/// none did.
async fn many(at: SocketAddr, host: &str, path: &str, count: u32) -> BTreeMap<String, u32> {
    let stream = TokioIo::new(TcpStream::connect(at).await.expect("connected"));
    let shake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = shake.expect("HTTP/1.1");
    tokio::spawn(connection);
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let request = hyper::Request::get(path).header("host", host);
        sender.ready().await.expect("the connection stays");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).expect("valid"));
        let response = response.await.expect("an answer");
        let who = match (response.status().as_u16(), response.headers().get("x-backend")) {
            (200, Some(name)) => name.to_str().expect("text").to_owned(),
            (500, None) => "failed".to_owned(),
            other => panic!("{other:?}"),
        };
        response.into_body().collect().await.expect("a body");
        *seen.entry(who).or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_get_their_share_and_those_that_cannot_be_used_fail_theirs() {
    for front in [Front::Portolan, Front::Envoy] {
        let cases = [Case { name: "shares", manifests: SPLIT, asks: &[("", "")], ..EMPTY }];
        let Some(mut world) = World::start(front, &cases).await else { return };
        let at = world.at(0, false);
        let count = 100_000_u32;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(many(at, "a.test", "/split", count / CLIENTS));
        }
        let mut seen: BTreeMap<String, f64> = BTreeMap::new();
        while let Some(counts) = clients.join_next().await {
            for (who, n) in counts.expect("no panic") {
                *seen.entry(who).or_default() += f64::from(n);
            }
        }
        // Four standard deviations of a binomial distribution: once in 16,000 it is beyond them.
        for (who, share) in [("v1", 0.7), ("v2", 0.2), ("failed", 0.1)] {
            let (expected, got) = (share * f64::from(count), seen.get(who).copied().unwrap_or(0.0));
            let bound = 4.0 * (expected * (1.0 - share)).sqrt();
            assert!((got - expected).abs() < bound, "{who}: {got} of {expected}±{bound}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_copied_and_nobody_waits_for_the_copies() {
    for front in [Front::Portolan, Front::Envoy] {
        let cases = [Case { name: "copies", manifests: SPLIT, asks: &[("", "")], ..EMPTY }];
        let Some(mut world) = World::start(front, &cases).await else { return };
        let at = world.at(0, false);
        let body = "x".repeat(10_000);
        let count = 100;
        for version in [Version::Http1, Version::Http2] {
            for _ in 0..count / 2 {
                let request = format!("POST a.test/mirror/a | body: {body}");
                let answer = ask(at, &request, version).await;
                answer.check("200 v1 path=/mirror/a").expect("the request itself goes on");
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while world.backends[1].requests("/mirror/a").len() < count {
            assert!(Instant::now() < deadline, "{}", world.backends[1].requests("/mirror/a").len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let copies = world.backends[1].requests("/mirror/a");
        assert_eq!(copies.len(), count);
        for copy in &copies {
            assert_eq!(copy["body"].as_str(), Some(&*body), "all of the body");
            assert_eq!(copy["host"], "a.test");
            assert_eq!(copy["headers"]["x-set"][0], "s", "as it goes to its backend");
        }
        let half = world.backends[2].requests("/mirror/a").len();
        assert!((20..80).contains(&half), "{half} of {count} by half");
        assert_eq!(world.backends[0].requests("/mirror/a").len(), count, "each once");
        if !world.is_envoy() {
            // The last may be on their way.
            loop {
                let half = world.backends[2].requests("/mirror/a").len();
                let expected = f64::from(u32::try_from(count + half).expect("small"));
                let copied = world.process.metric("portolan_proxy_mirrors_total").await;
                if copied == Some(expected) {
                    break;
                }
                assert!(Instant::now() < deadline, "{copied:?} copies, {expected} came");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(
                world.process.metric("portolan_proxy_mirrors_failed_total").await,
                Some(0.0)
            );
        }
    }
}
