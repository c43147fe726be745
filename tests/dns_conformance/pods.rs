//! Names of pods: no part of DNS-SD, but what clusters have, in three modes.

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::server::{Case, Server};

const NOERROR: R = R::NOERROR;
const NXDOMAIN: R = R::NXDOMAIN;

/// A pod of both families, one without an address yet, one that has ended, and one elsewhere.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: idle}
---
apiVersion: v1
kind: Pod
metadata: {name: both, namespace: shop}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop}
status: {phase: Succeeded, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: idle}
status: {phase: Running, podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}]}
"#;

const SECTION: &str = "dns.pods";

async fn check(mode: &str, cases: &[Case<'_>]) -> Server {
    let server = Server::start(PODS, &[mode]).await;
    server.check(cases).await;
    server
}

#[tokio::test]
async fn verified_names_are_those_of_pods_of_that_namespace() {
    let cases: &[Case<'_>] = &[
        (SECTION, "10-0-0-1.shop.pod.cluster.local.", T::A, NOERROR, &["A 10.0.0.1"]),
        (SECTION, "fd00--1.shop.pod.cluster.local.", T::AAAA, NOERROR, &["AAAA fd00::1"]),
        (SECTION, "10-0-0-1.shop.pod.cluster.local.", T::AAAA, NOERROR, &[]),
        (SECTION, "10-0-0-3.idle.pod.cluster.local.", T::A, NOERROR, &["A 10.0.0.3"]),
        (SECTION, "10-0-0-3.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "10-0-0-1.idle.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "10-0-0-2.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "10-0-0-9.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "10-0-0-1.nowhere.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "both.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        ("RFC 2308 §2.2", "shop.pod.cluster.local.", T::A, NOERROR, &[]),
        ("RFC 2308 §2.2", "pod.cluster.local.", T::A, NOERROR, &[]),
        ("RFC 2308 §2.1", "nowhere.pod.cluster.local.", T::A, NXDOMAIN, &[]),
    ];
    let mut server = check("dns.pods=verified", cases).await;
    let reasons = [
        ("10-0-0-9.shop.pod.cluster.local.", T::A, 0, "no pod of shop has that address"),
        ("10-0-0-1.shop.pod.cluster.local.", T::AAAA, 0, "the address is of the other family"),
        ("10-0-0-1.nowhere.pod.cluster.local.", T::A, 0, "namespace nowhere does not exist"),
    ];
    server.check_reasons(&reasons).await;
    // A pod that ends takes its names along.
    server.apply(&PODS.replacen("Running", "Failed", 1), 2).await;
    let gone: &[Case<'_>] = &[
        (SECTION, "10-0-0-1.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "fd00--1.shop.pod.cluster.local.", T::AAAA, NXDOMAIN, &[]),
        (SECTION, "10-0-0-3.idle.pod.cluster.local.", T::A, NOERROR, &["A 10.0.0.3"]),
    ];
    server.check(gone).await;
}

#[tokio::test]
async fn insecure_names_spell_any_address_in_a_namespace_that_exists() {
    let cases: &[Case<'_>] = &[
        (SECTION, "192-0-2-7.shop.pod.cluster.local.", T::A, NOERROR, &["A 192.0.2.7"]),
        (SECTION, "2001-db8--7.shop.pod.cluster.local.", T::AAAA, NOERROR, &["AAAA 2001:db8::7"]),
        (SECTION, "192-0-2-7.shop.pod.cluster.local.", T::AAAA, NOERROR, &[]),
        (SECTION, "192-0-2-7.nowhere.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "192-0-2-256.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "x.192-0-2-7.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "both.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        ("RFC 2308 §2.2", "shop.pod.cluster.local.", T::A, NOERROR, &[]),
    ];
    let server = check("dns.pods=insecure", cases).await;
    let reason = "the name spells no address";
    server.check_reasons(&[("both.shop.pod.cluster.local.", T::A, 0, reason)]).await;
}

#[tokio::test]
async fn without_them_there_are_no_names_of_pods() {
    let cases: &[Case<'_>] = &[
        (SECTION, "10-0-0-1.shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        (SECTION, "shop.pod.cluster.local.", T::A, NXDOMAIN, &[]),
        ("RFC 2308 §2.2", "pod.cluster.local.", T::A, NOERROR, &[]),
    ];
    let server = check("dns.pods=disabled", cases).await;
    let reason = "names of pods are switched off";
    server.check_reasons(&[("10-0-0-1.shop.pod.cluster.local.", T::A, 0, reason)]).await;
}
