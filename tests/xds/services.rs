//! The services by type and the aggregated one, in both variants.

use std::collections::BTreeSet;

use tonic::Code;

use crate::kit::{ADS, CDS, EDS, LDS, Method, RDS, SDS, Talk, Variant, channel, control, shop};
use crate::tls::Issuer;

/// A type: its own service, names asked for, names that come.
struct Case {
    method: Method,
    kind: &'static str,
    ask: &'static [&'static str],
    come: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case {
        method: Method("cluster.v3.ClusterDiscoveryService", "Clusters"),
        kind: CDS,
        ask: &[],
        come: &["pay/api:80", "shop/api:80", "shop/web:80"],
    },
    Case {
        method: Method("endpoint.v3.EndpointDiscoveryService", "Endpoints"),
        kind: EDS,
        ask: &["shop/web:80", "pay/api:80"],
        come: &["pay/api:80", "shop/web:80"],
    },
    Case {
        method: Method("listener.v3.ListenerDiscoveryService", "Listeners"),
        kind: LDS,
        ask: &[],
        come: &["http"],
    },
    Case {
        method: Method("route.v3.RouteDiscoveryService", "Routes"),
        kind: RDS,
        ask: &["portolan/http"],
        come: &["portolan/http"],
    },
    Case {
        method: Method("secret.v3.SecretDiscoveryService", "Secrets"),
        kind: SDS,
        ask: &["edge"],
        come: &["edge"],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn every_service_in_every_variant_answers_the_same_and_for_its_type_alone() {
    let folder = shop();
    let files = tempfile::tempdir().expect("a folder");
    let edge = Issuer::new("ca").server(files.path(), "edge");
    let config = files.path().join("portolan.toml");
    std::fs::write(&config, edge.table("edge", None)).expect("written");
    let config = config.to_str().expect("UTF-8");
    let mut process = control(folder.path(), &["--config", config]).await;
    let channel = channel(process.address("xds")).await;

    for case in &CASES {
        let mut answers = Vec::new();
        for method in [ADS, case.method] {
            for variant in [Variant::Sotw, Variant::Delta] {
                let what = format!("{method:?} {variant:?}");
                let open = || Talk::open(&channel, method, variant, "a", None);
                let mut talk = open().await.expect(&what);
                let reply = talk.get(case.kind, case.ask).await.expect(&what);
                let expected: BTreeSet<&str> = case.come.iter().copied().collect();
                assert_eq!(reply.names(), expected, "{what}");
                answers.push((what.clone(), reply.resources));

                if variant == Variant::Delta {
                    let mut talk = open().await.expect(&what);
                    let reply = talk.get(case.kind, &["no/such:80"]).await.expect(&what);
                    assert_eq!(reply.removed, ["no/such:80"], "{what}");
                }
                if method.0 != ADS.0 {
                    let mut talk = open().await.expect(&what);
                    let other = if case.kind == CDS { EDS } else { CDS };
                    talk.ask(other, &[]).await;
                    let status = talk.next().await.expect_err("another type");
                    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
                }
            }
        }
        let (first, resources) = &answers[0];
        for (what, others) in &answers[1..] {
            assert_eq!(others, resources, "{what} and {first}");
        }
    }
}
