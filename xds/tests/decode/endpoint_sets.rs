//! Endpoint sets: localities, priorities, weights, health, labels.

use portolan_model::traffic::{EndpointSet, Health, Locality as Place};
use portolan_proto::envoy::core::Locality;
use portolan_proto::envoy::endpoint::cluster_load_assignment::{Policy, policy::DropOverload};
use portolan_proto::envoy::endpoint::endpoint::HealthCheckConfig;
use portolan_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use portolan_proto::envoy::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LedsClusterLocalityConfig, LocalityLbEndpoints,
    locality_lb_endpoints::LbConfig,
};
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Struct, Value};
use portolan_xds::client::decode;

use crate::{address, any, lb_metadata, number, texts};

fn endpoint(octet: u8, health_status: i32) -> LbEndpoint {
    let endpoint =
        Endpoint { address: address(&format!("10.0.0.{octet}"), 80), ..Endpoint::default() };
    LbEndpoint {
        health_status,
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

fn locality(zone: &str, priority: u32, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: Some(Locality { region: "r".into(), zone: zone.into(), sub_zone: "s".into() }),
        priority,
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn set(endpoints: Vec<LocalityLbEndpoints>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: "c".into(),
        endpoints,
        ..ClusterLoadAssignment::default()
    }
}

fn taken(assignment: &ClusterLoadAssignment) -> Result<EndpointSet, String> {
    let decoded = decode::endpoints::decode(&any(assignment));
    decoded.map(|(_, set)| set).map_err(|e| e.to_string())
}

#[test]
fn localities_are_kept_in_an_order_of_their_own_with_the_share_they_were_given() {
    let weighed = |weight, of| LocalityLbEndpoints { load_balancing_weight: weight, ..of };
    let heavy = LbEndpoint { load_balancing_weight: number(5), ..endpoint(2, 0) };
    let listed = vec![
        locality("b", 1, vec![endpoint(9, 0)]),
        locality("empty", 0, vec![]),
        weighed(number(70), locality("b", 0, vec![endpoint(3, 0), heavy])),
        locality("a", 0, vec![endpoint(1, 0)]),
    ];
    let taken_set = taken(&set(listed.clone())).expect("taken");
    let place = |zone: &str, priority, weight| Place {
        region: "r".into(),
        zone: zone.into(),
        sub_zone: "s".into(),
        priority,
        weight,
    };
    assert_eq!(
        taken_set.localities,
        [place("a", 0, None), place("b", 0, Some(70)), place("b", 1, None)]
    );
    let targets: Vec<(String, u32, u32)> = (taken_set.endpoints.iter())
        .map(|t| (t.address.to_string(), t.weight, t.locality))
        .collect();
    let of = |octet: u8, weight, locality| (format!("10.0.0.{octet}:80"), weight, locality);
    assert_eq!(targets, [of(1, 1, 0), of(2, 5, 1), of(3, 1, 1), of(9, 1, 2)]);
    assert_eq!(taken_set.overprovisioning, 140);
    let turned: Vec<_> = listed.into_iter().rev().collect();
    assert_eq!(taken(&set(turned)), Ok(taken_set), "however they are listed");
}

#[test]
fn every_word_for_health_is_kept_in_its_meaning() {
    let said = [0, 1, 2, 3, 4, 5];
    let endpoints =
        said.iter().map(|status| endpoint(u8::try_from(*status).expect("few"), *status));
    let set = taken(&set(vec![locality("a", 0, endpoints.collect())])).expect("taken");
    let health: Vec<Health> = set.endpoints.iter().map(|t| t.health).collect();
    use Health::{Degraded, Draining, Healthy, Unhealthy};
    assert_eq!(health, [Healthy, Healthy, Unhealthy, Draining, Unhealthy, Degraded]);
}

#[test]
fn labels_are_the_strings_that_balancers_read() {
    let mut labels = texts(&[("version", "v1"), ("hash_key", "one")]);
    let number = Value { kind: Some(Kind::NumberValue(1.0)) };
    labels.fields.insert("shard".into(), number);
    let labelled = LbEndpoint { metadata: lb_metadata(labels), ..endpoint(1, 0) };
    let none = LbEndpoint { metadata: lb_metadata(Struct::default()), ..endpoint(2, 0) };
    let set = taken(&set(vec![locality("a", 0, vec![labelled, none])])).expect("taken");
    let of = |i: usize| set.endpoints[i].labels.as_deref();
    let expected = [("hash_key", "one"), ("version", "v1")];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(of(0), Some(&expected.into_iter().collect()));
    assert_eq!(of(1), None);
}

#[test]
fn what_is_malformed_or_not_done_is_refused_by_name() {
    let one = || locality("a", 0, vec![endpoint(1, 0)]);
    let with = |policy| ClusterLoadAssignment { policy: Some(policy), ..set(vec![one()]) };
    let factor = Policy { overprovisioning_factor: number(200), ..Policy::default() };
    assert_eq!(taken(&with(factor)).map(|set| set.overprovisioning), Ok(200));
    let drops = Policy { drop_overloads: vec![DropOverload::default()], ..Policy::default() };
    let zero = Policy { overprovisioning_factor: number(0), ..Policy::default() };
    let weightless = LocalityLbEndpoints { load_balancing_weight: number(0), ..one() };
    let leds = LbConfig::LedsClusterLocalityConfig(LedsClusterLocalityConfig::default());
    let by_leds = LocalityLbEndpoints { lb_config: Some(leds), ..one() };
    let elsewhere = Endpoint {
        address: address("10.0.0.1", 80),
        health_check_config: Some(HealthCheckConfig {
            port_value: 9,
            ..HealthCheckConfig::default()
        }),
        ..Endpoint::default()
    };
    let elsewhere = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(elsewhere)),
        ..LbEndpoint::default()
    };
    let first = "endpoints[0].lb_endpoints[0]";
    #[rustfmt::skip]
    let cases = [
        (with(drops), "policy.drop_overloads: not supported".to_owned()),
        (with(zero), "policy.overprovisioning_factor: 0 is not in 1..=4294967295".to_owned()),
        (set(vec![weightless]), "endpoints[0].load_balancing_weight: 0 is not at least 1".to_owned()),
        (set(vec![by_leds]), "endpoints[0].leds_cluster_locality_config: not supported".to_owned()),
        (set(vec![locality("a", 129, vec![endpoint(1, 0)])]),
            "endpoints[0].priority: 129 is not in 0..=128".to_owned()),
        (set(vec![locality("a", 0, vec![endpoint(1, 17)])]), format!("{first}.health_status: 17 is no status")),
        (set(vec![one(), one()]), "endpoints[1].lb_endpoints[0]: 10.0.0.1:80 stands twice".to_owned()),
        (set(vec![locality("a", 0, vec![elsewhere])]),
            format!("{first}.endpoint.health_check_config: not supported")),
    ];
    for (assignment, reason) in cases {
        assert_eq!(taken(&assignment), Err(format!("c: {reason}")));
    }
}
