//! What a service says of its traffic and policy, in the resources that clients get.

mod support;

#[path = "policy/balancing.rs"]
mod balancing;
#[path = "policy/consumers.rs"]
mod consumers;
#[path = "policy/listeners.rs"]
mod listeners;
#[path = "policy/places.rs"]
mod places;

use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::{
    FailurePercentage, HealthCheck, OutlierDetection, Policy, Probe, Retries, RetryOn,
};
use portolan_model::{AppProtocol, Scope, Service};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::core::health_check::HealthChecker;
use portolan_proto::envoy::protobuf::{Any, Duration as Span, UInt32Value};
use portolan_proto::envoy::route::{RouteAction, RouteConfiguration, route::Action};
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_xds::catalog::Catalog;
use portolan_xds::resource::ResourceType;
use portolan_xds::resource::cluster::HTTP_OPTIONS;
use prost::Message;
use support::{World, entry};

/// The catalog of `shop/web` after a change to it.
fn catalog(change: impl FnOnce(&mut Service)) -> Catalog {
    let mut entry = (*entry("web", 80, &[(1, true)])).clone();
    change(Arc::make_mut(&mut entry.service));
    let mut world = World::default();
    world.apply(Arc::new(entry)).publish();
    world.catalog
}

fn message<M: Message + Default>(catalog: &Catalog, kind: ResourceType, name: &str) -> M {
    let encoded = catalog.lookup(kind, name).unwrap_or_else(|| panic!("no {name}"));
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    M::decode(&any.value[..]).expect("the message")
}

fn action(catalog: &Catalog, table: &str) -> RouteAction {
    let table: RouteConfiguration = message(catalog, ResourceType::Route, table);
    match table.virtual_hosts[0].routes[0].action.clone() {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

fn secs(seconds: i64) -> Option<Span> {
    Some(Span { seconds, nanos: 0 })
}

#[test]
fn a_policy_is_said_in_cluster_and_routes_alike_for_envoy_and_grpc() {
    let secs_of = Duration::from_secs;
    let catalog = catalog(|service| {
        let policy = &mut service.policy;
        policy.timeouts.connect = Some(Duration::from_millis(250));
        policy.timeouts.request = Some(secs_of(3));
        policy.timeouts.idle = Some(secs_of(60));
        policy.retries = Some(Retries {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::ServerError, RetryOn::Unavailable],
            per_try_timeout: Some(secs_of(1)),
            ..Retries::default()
        });
        policy.health_check = Some(HealthCheck {
            probe: Probe::Http("/healthz".into()),
            interval: secs_of(5),
            timeout: secs_of(1),
            healthy_threshold: 1,
            unhealthy_threshold: 4,
        });
        policy.outlier_detection = Some(OutlierDetection {
            consecutive_errors: Some(7),
            consecutive_gateway_errors: None,
            consecutive_local_errors: None,
            failure_percentage: None,
            success_rate: None,
            interval: secs_of(10),
            ejection_time: secs_of(30),
            max_ejection_time: None,
            ejection_jitter: None,
            max_percent: 40,
        });
        policy.circuit_breaker.connections = Some(100);
        policy.circuit_breaker.requests = Some(200);
    });
    let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
    assert_eq!(cluster.connect_timeout, Some(Span { seconds: 0, nanos: 250_000_000 }));
    let check = &cluster.health_checks[0];
    assert_eq!((check.interval, check.timeout), (secs(5), secs(1)));
    let asked = match &check.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => (http.host.as_str(), http.path.as_str()),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked, ("web.shop.svc.cluster.local", "/healthz"));
    assert!(cluster.ignore_health_on_host_removal, "an endpoint that leaves is left alone");
    let outlier = cluster.outlier_detection.expect("outlier detection");
    assert_eq!(outlier.consecutive_5xx.map(|v| v.value), Some(7));
    assert_eq!(outlier.max_ejection_percent.map(|v| v.value), Some(40));
    assert_eq!(outlier.enforcing_consecutive_5xx, None, "left on");
    assert_eq!(outlier.enforcing_failure_percentage, None, "left off");
    let thresholds = &cluster.circuit_breakers.expect("circuit breakers").thresholds[0];
    assert_eq!(thresholds.max_connections.map(|v| v.value), Some(100));
    assert_eq!(thresholds.max_requests.map(|v| v.value), Some(200));
    assert_eq!(thresholds.max_retries, None, "what is not set is left to the client");

    // The table of a gRPC target, and that of the HTTP listeners.
    for table in ["web.shop.svc.cluster.local:80", "portolan/http"] {
        let action = action(&catalog, table);
        assert_eq!((action.timeout, action.idle_timeout), (secs(3), secs(60)), "{table}");
        let grpc = action.max_stream_duration.and_then(|d| d.max_stream_duration);
        assert_eq!(grpc, if table == "portolan/http" { None } else { secs(3) }, "{table}");
        let retries = action.retry_policy.expect("retries");
        assert_eq!(retries.retry_on, "connect-failure,5xx,unavailable");
        assert_eq!(retries.num_retries.map(|v| v.value), Some(2));
        assert_eq!(retries.per_try_timeout, secs(1));
    }
}

#[test]
fn a_health_check_by_grpc_is_for_ports_that_speak_http2() {
    for (protocol, checks) in [(AppProtocol::Http1, 0), (AppProtocol::Http2, 1)] {
        let catalog = catalog(|service| {
            service.ports[0].app_protocol = Some(protocol);
            service.policy.health_check = Some(HealthCheck {
                probe: Probe::Grpc,
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy_threshold: 1,
                unhealthy_threshold: 1,
            });
        });
        let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
        assert_eq!(cluster.health_checks.len(), checks);
    }
}

#[test]
fn a_share_of_failures_ejects_for_envoy_and_grpc_alike_and_turns_off_what_was_not_asked_for() {
    // Envoy and gRPC read it by the same rules (gRFC A50), whose defaults are those of the message.
    let catalog = catalog(|service| {
        service.policy.outlier_detection = Some(OutlierDetection {
            consecutive_errors: None,
            consecutive_gateway_errors: None,
            consecutive_local_errors: None,
            success_rate: None,
            max_ejection_time: None,
            ejection_jitter: None,
            failure_percentage: Some(FailurePercentage {
                threshold: 60,
                minimum_hosts: 2,
                request_volume: 20,
            }),
            interval: Duration::from_secs(10),
            ejection_time: Duration::from_secs(30),
            max_percent: 10,
        });
    });
    let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
    let outlier = cluster.outlier_detection.expect("outlier detection");
    let number = |value: Option<UInt32Value>| value.map(|v| v.value);
    let read = [
        ("threshold", outlier.failure_percentage_threshold, Some(60)),
        ("enforced", outlier.enforcing_failure_percentage, Some(100)),
        ("hosts", outlier.failure_percentage_minimum_hosts, Some(2)),
        ("requests", outlier.failure_percentage_request_volume, Some(20)),
        ("by success rate", outlier.enforcing_success_rate, Some(0)),
        ("in a row", outlier.enforcing_consecutive_5xx, Some(0)),
        ("how many in a row", outlier.consecutive_5xx, None),
    ];
    for (about, value, expected) in read {
        assert_eq!(number(value), expected, "{about}");
    }
    assert_eq!(outlier.always_eject_one_host.map(|v| v.value), Some(true), "one of few as well");
}

#[test]
fn a_port_speaks_to_its_endpoints_by_the_words_of_kubernetes_and_of_grpc() {
    for (word, protocol) in [
        ("kubernetes.io/h2c", Some("HTTP/2")),
        ("grpc", Some("HTTP/2")),
        ("h2c", Some("HTTP/2")),
        ("http", Some("HTTP/1.1")),
        ("kubernetes.io/ws", Some("HTTP/1.1")),
        ("https", None),
        ("example.org/mine", None),
    ] {
        let catalog = catalog(|service| {
            service.ports[0].app_protocol = Some(AppProtocol::from_word(word));
        });
        let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
        let options = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS).map(|any| {
            HttpProtocolOptions::decode(&any.value[..]).expect("options").upstream_protocol_options
        });
        let said = options.flatten().map(|options| match options {
            UpstreamProtocolOptions::ExplicitHttpConfig(config) => match config.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(_)) => "HTTP/1.1",
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => "HTTP/2",
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        });
        assert_eq!(said, protocol, "{word}");
    }
}

#[test]
fn without_a_policy_nothing_is_set_but_what_has_to_be() {
    let catalog = catalog(|service| service.policy = Policy::default());
    let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
    assert!(cluster.health_checks.is_empty());
    assert_eq!((cluster.outlier_detection, cluster.circuit_breakers), (None, None));
    let action = action(&catalog, "portolan/http");
    assert_eq!((action.timeout, action.retry_policy), (secs(0), None), "streams may last");
    assert_eq!(action.hash_policy, []);
}

#[test]
fn a_service_of_another_proxy_has_no_cluster_and_no_route() {
    let catalog = catalog(|service| service.traffic.proxy_name = Some("other".into()));
    assert!(catalog.wildcard(ResourceType::Cluster).is_empty());
    let table: RouteConfiguration = message(&catalog, ResourceType::Route, "portolan/http");
    assert!(table.virtual_hosts.is_empty());
}

#[test]
fn a_service_of_a_cluster_set_is_reached_by_its_full_name_alone() {
    let catalog = catalog(|service| service.key = service.key.clone().within(Scope::ClusterSet));
    let target = "web.shop.svc.clusterset.local:80";
    assert!(catalog.lookup(ResourceType::Listener, target).is_some());
    let name = "clusterset/shop/web:80";
    assert!(catalog.lookup(ResourceType::Endpoints, name).is_some());
    let table: RouteConfiguration = message(&catalog, ResourceType::Route, "portolan/http");
    let domains = &table.virtual_hosts[0].domains;
    assert_eq!(*domains, [target, "web.shop.svc.clusterset.local"]);
}
