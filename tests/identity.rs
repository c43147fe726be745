//! Identity between proxies, through the front door: a control plane with the built-in issuer, proxies
//! as clients and in front of an application, and Envoys in the place of either.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

#[path = "support/certificates.rs"]
mod certificates;

#[path = "foreign/backend.rs"]
#[expect(dead_code, reason = "the application needs a part of it")]
mod backend;
#[path = "identity/elsewhere.rs"]
mod elsewhere;
#[path = "identity/kit.rs"]
mod kit;

use std::time::{Duration, Instant};

use certificates::Authority;
use kit::{CART, From, Front, OTHER, World, plain};
use support::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_prove_who_they_are_and_nobody_else_gets_in() {
    let world = World::start(Front::Portolan, Front::Portolan, "strict", 3600).await.expect("ours");
    let answer = world.until(CART, "GET", "/", 200).await;
    assert_eq!(answer.cert, "URI=spiffe://cluster.local/ns/shop/sa/cart", "{answer:?}");
    // In the clear, without a certificate, and with one of somebody else.
    let inbound = world.inbound();
    assert_eq!(plain(inbound, "/").await, 0, "strict");
    let theirs = Authority::new("theirs");
    let forged = theirs.issue(&["spiffe://cluster.local/ns/shop/sa/cart"]);
    for client in [theirs.client(&[]), theirs.client_as(&forged, &[])] {
        assert!(!kit::handshakes(inbound, &client).await);
    }
    // A proxy without an identity speaks in the clear, which is not taken.
    let answer = world.ask(None, "GET", "/").await;
    assert!([502, 503].contains(&answer.status), "{answer:?}");
    assert!(answer.endpoint.is_empty(), "{answer:?}");
    // Permissive: the same proxy is served, and who can prove who it is goes on to do so.
    world.annotate("mtls: strict", "mtls: permissive");
    let answer = world.until(None, "GET", "/", 200).await;
    assert_eq!(answer.cert, "");
    assert_eq!(plain(inbound, "/").await, 200);
    let answer = world.until(CART, "GET", "/", 200).await;
    assert_eq!(answer.cert, "URI=spiffe://cluster.local/ns/shop/sa/cart", "{answer:?}");
    world.annotate("mtls: permissive", "mtls: strict");
    let deadline = Instant::now() + PATIENCE;
    while plain(inbound, "/").await != 0 {
        assert!(Instant::now() < deadline, "strict again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Endpoints of another account than the service's are not spoken to.
    world.annotate("service-accounts: web", "service-accounts: somebody");
    let answer = world.until(CART, "GET", "/", 503).await;
    let reason = "the certificate is for spiffe://cluster.local/ns/shop/sa/web";
    assert!(answer.body.contains(reason), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_prove_who_it_is_serves_nobody_once_it_has_to() {
    let off = "'off'";
    let world =
        World::start_as(Front::Portolan, Front::Portolan, off, From::Issuer(3600), None).await;
    let world = world.expect("ours");
    let deadline = Instant::now() + PATIENCE;
    let answers = async |status: u16| {
        while plain(world.inbound(), "/").await != status {
            assert!(Instant::now() < deadline, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    answers(200).await;
    // What it served before is no thing to fall back to.
    world.annotate("mtls: 'off'", "mtls: strict");
    answers(0).await;
    assert_eq!(plain(world.inbound(), "/").await, 0);
    world.annotate("mtls: strict", "mtls: 'off'");
    answers(200).await;
    // What cannot be read leaves what was good in force.
    world.annotate("mtls: 'off'", "mtls: Strict");
    tokio::time::sleep(Duration::from_millis(300)).await;
    answers(200).await;
    world.annotate("mtls: Strict", "mtls: strict");
    answers(0).await;
    world.annotate("mtls: strict", "mtls: None");
    tokio::time::sleep(Duration::from_millis(300)).await;
    answers(0).await;
}

/// Method, path, and what the cart and another account get.
type Case = (&'static str, &'static str, u16, u16);

const ALLOW: &str = "
---
apiVersion: portolan.dev/v1alpha1
kind: AccessPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: Allow
  rules:
  - {identities: [shop/cart], methods: [GET], paths: [/open/*, /one]}
  - {identities: ['shop/*'], paths: [/all/*]}
";

const DENY: &str = "
---
apiVersion: portolan.dev/v1alpha1
kind: AccessPolicy
metadata: {name: d, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: Deny
  rules:
  - {paths: [/all/admin*]}
  - {methods: [PURGE]}
";

const CASES: &[Case] = &[
    ("GET", "/open/x", 200, 403),
    ("POST", "/open/x", 403, 403),
    ("GET", "/one", 200, 403),
    ("GET", "/one/more", 403, 403),
    ("DELETE", "/all/x", 200, 200),
    ("GET", "/all/admin", 403, 403),
    ("GET", "/all/ADMIN/x", 403, 403),
    ("GET", "/all/x/../admin", 403, 403),
    ("GET", "/all//admin", 403, 403),
    ("GET", "/all/%61dmin", 403, 403),
    ("GET", "/all/x%2f..%2fadmin", 400, 400),
    ("PURGE", "/all/x", 403, 403),
    ("GET", "/", 403, 403),
];

#[tokio::test(flavor = "multi_thread")]
async fn policies_say_who_may_do_what_and_may_be_tried_out_before() {
    for server in [Front::Portolan, Front::Envoy] {
        let Some(mut world) = World::start(Front::Portolan, server, "strict", 3600).await else {
            return;
        };
        world.until(CART, "GET", "/", 200).await;
        // Only counted at first.
        let log_only = |text: &str| text.replace("action:", "mode: LogOnly\n  action:");
        world.add(&log_only(&format!("{ALLOW}{DENY}")));
        if server == Front::Portolan {
            let would = "portolan_proxy_access_total{listener=\"inbound/shop/web:80\",\
                         outcome=\"would_deny\"}";
            let deadline = Instant::now() + PATIENCE;
            while world.server().metric(would).await.is_none() {
                assert_eq!(world.ask(OTHER, "GET", "/").await.status, 200);
                assert!(Instant::now() < deadline, "it is counted");
            }
        }
        for (method, path, ..) in CASES.iter().filter(|case| case.2 != 400) {
            let answer = world.ask(OTHER, method, path).await;
            assert_eq!(answer.status, 200, "{server:?}: {method} {path}: {answer:?}");
        }
        world.remove(&log_only(&format!("{ALLOW}{DENY}")));
        world.add(&format!("{ALLOW}{DENY}"));
        world.until(OTHER, "GET", "/", 403).await;
        world.until(CART, "GET", "/all/admin", 403).await;
        for (method, path, cart, other) in CASES {
            for (account, expected) in [(CART, *cart), (OTHER, *other)] {
                let answer = world.ask(account, method, path).await;
                let about = format!("{server:?}: {account:?} {method} {path}: {answer:?}");
                assert_eq!(answer.status, expected, "{about}");
                assert_eq!(answer.endpoint.is_empty(), expected != 200, "{about}");
            }
        }
        if server == Front::Portolan {
            // An Envoy refuses methods that nobody knows.
            assert_eq!(world.ask(CART, "purge", "/all/x").await.status, 403);
        }
        world.remove(ALLOW);
        world.remove(DENY);
        world.until(OTHER, "GET", "/", 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_takes_the_place_of_either_side() {
    for (client, server) in [(Front::Envoy, Front::Portolan), (Front::Envoy, Front::Envoy)] {
        let Some(world) = World::start(client, server, "strict", 3600).await else { return };
        let answer = world.until(CART, "GET", "/", 200).await;
        let identity = "URI=spiffe://cluster.local/ns/shop/sa/cart";
        assert!(answer.cert.contains(identity), "{client:?} {server:?}: {answer:?}");
        assert_eq!(plain(world.inbound(), "/").await, 0, "strict");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_before_their_time_is_over_without_a_failed_request() {
    let lifetime = 6;
    let world = World::start(Front::Portolan, Front::Portolan, "strict", lifetime).await;
    let mut world = world.expect("ours");
    world.until(CART, "GET", "/", 200).await;
    let issued = "portolan_xds_identities_issued_total";
    let before = world.control().metric(issued).await.expect("counted");
    let began = Instant::now();
    let mut requests = 0;
    // A connection each: handshakes all the time, for as long as two lifetimes.
    while began.elapsed() < Duration::from_secs(2 * lifetime) {
        let answer = world.ask(CART, "GET", "/").await;
        assert_eq!(answer.status, 200, "after {:?}: {answer:?}", began.elapsed());
        requests += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = world.control().metric(issued).await.expect("counted");
    assert!(after >= before + 6.0, "three identities are renewed: {before} {after}");
    assert!(requests > 100, "{requests}");
}
