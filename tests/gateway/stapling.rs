//! What the issuer of a certificate says of it (OCSP), from its Secret to the client that asks.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::cases::{Case, EMPTY};
use crate::certificates::Authority;
use crate::https::secret_with;
use crate::kit::{Front, World};
use crate::support::{PATIENCE, foreign, replace};

const MANIFESTS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [{name: a, port: $PORT, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}]}}]}, kind: Gateway}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: v1, port: 8080}]}]}}
";

/// What `openssl s_client -status` says, until it holds a text.
async fn until(at: SocketAddr, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut openssl = foreign::program("openssl").expect("it was there before");
        openssl.args(["s_client", "-connect", &at.to_string(), "-servername", "a.test", "-status"]);
        let output = openssl.stdin(Stdio::null()).output().expect("openssl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains(expected) && text.contains("BEGIN CERTIFICATE") {
            return;
        }
        assert!(Instant::now() < deadline, "no {expected:?}: {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_says_what_is_stapled_to_its_certificate() {
    let ours = Authority::new("ours");
    let (a, other) = (ours.issue(&["a.test"]), ours.issue(&["a.test"]));
    let (Some(good), Some(revoked)) = (ours.says(&a, true), ours.says(&a, false)) else { return };
    let of_other = ours.says(&other, true).expect("as before");
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "stapling", manifests: MANIFESTS, asks: &[], ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        let file = world.folder.path().join("secret.yaml");
        for (staple, expected, warning) in [
            (&good[..], "Cert Status: good", None),
            (&of_other, "OCSP response: no response sent", Some("about another certificate")),
            (&good, "Cert Status: good", None),
            (&revoked, "OCSP response: no response sent", Some("is not good: revoked")),
            (&good, "Cert Status: good", None),
            (b"hello", "OCSP response: no response sent", Some("no OCSP response")),
        ] {
            let said = [("tls.ocsp-staple", staple)];
            replace(&file, &secret_with("case-0", "a", &a, &said));
            until(at, expected).await;
            // The certificate is in force all the same, and what is wrong is said where such things are.
            let said = format!("{:?}", world.rows("rejected").await);
            let named = said.contains("data[tls.ocsp-staple]");
            assert_eq!(named, warning.is_some(), "{said}");
            assert!(warning.is_none_or(|warning| said.contains(warning)), "{said}");
        }
    }
}
