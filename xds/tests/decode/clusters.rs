//! Clusters: connections to endpoints, limits, adaptive concurrency.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::policy::CircuitBreaker;
use portolan_model::traffic::{
    AdaptiveConcurrency, Cluster as Taken, Limits, ProxyHeader, Upstream, UpstreamProtocol,
};
use portolan_proto::envoy::adaptive_concurrency::gradient_controller_config::{
    ConcurrencyLimitCalculationParams, MinimumRttCalculationParams,
};
use portolan_proto::envoy::adaptive_concurrency::{
    AdaptiveConcurrency as EnvoyAdaptive, GradientControllerConfig,
    adaptive_concurrency::ConcurrencyControllerConfig,
};
use portolan_proto::envoy::cluster::circuit_breakers::{Thresholds, thresholds::RetryBudget};
use portolan_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use portolan_proto::envoy::cluster::{CircuitBreakers, Cluster, Filter};
use portolan_proto::envoy::core::transport_socket::ConfigType;
use portolan_proto::envoy::core::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, Metadata,
    ProxyProtocolConfig, TransportSocket,
};
use portolan_proto::envoy::raw_buffer::RawBuffer;
use portolan_proto::envoy::tls::UpstreamTlsContext;
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_proto::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use portolan_proto::envoy::upstream_proxy_protocol::ProxyProtocolUpstreamTransport;
use portolan_xds::client::decode;
use portolan_xds::resource::cluster::{ADAPTIVE_CONCURRENCY, HTTP_OPTIONS};
use prost::{Message, Name};

use crate::{any, number, secs, share, yes};

/// A cluster `c` by EDS.
pub(crate) fn eds() -> Cluster {
    Cluster {
        name: "c".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Cluster::default()
    }
}

pub(crate) fn taken(cluster: &Cluster) -> Result<Taken, String> {
    let decoded = decode::cluster::decode(&any(cluster));
    decoded.map(|(_, (cluster, _))| cluster).map_err(|e| e.to_string())
}

pub(crate) fn socket<M: Message + Name>(message: &M) -> Option<TransportSocket> {
    let config_type = Some(ConfigType::TypedConfig(any(message)));
    Some(TransportSocket { name: "one".into(), config_type })
}

fn proxy(version: i32) -> ProxyProtocolUpstreamTransport {
    ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version, ..ProxyProtocolConfig::default() }),
        transport_socket: socket(&RawBuffer {}),
        ..ProxyProtocolUpstreamTransport::default()
    }
}

fn with_options(options: &HttpProtocolOptions) -> Cluster {
    Cluster {
        typed_extension_protocol_options: HashMap::from([(HTTP_OPTIONS.to_owned(), any(options))]),
        ..eds()
    }
}

fn speaking(protocol: UpstreamProtocolOptions) -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(protocol),
        ..HttpProtocolOptions::default()
    }
}

fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}

#[test]
fn connections_to_endpoints_are_as_the_cluster_says() {
    let http1 = ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default());
    let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let downstream =
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig::default());
    let common = Common {
        idle_timeout: secs(60),
        max_connection_duration: secs(600),
        max_requests_per_connection: number(1000),
        ..Common::default()
    };
    let limited = HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        ..speaking(explicit(http2.clone()))
    };
    let zero = Common { idle_timeout: secs(0), ..Common::default() };
    let zero = HttpProtocolOptions {
        common_http_protocol_options: Some(zero),
        ..HttpProtocolOptions::default()
    };
    let of = |protocol| Upstream { protocol, ..Upstream::default() };
    let sends = |version| Upstream { send_proxy: Some(version), ..Upstream::default() };
    let sec = Duration::from_secs;
    #[rustfmt::skip]
    let cases = [
        ("nothing", eds(), Upstream::default()),
        ("time to connect", Cluster { connect_timeout: secs(2), ..eds() },
            Upstream { connect_timeout: sec(2), ..Upstream::default() }),
        ("HTTP/1.1", with_options(&speaking(explicit(http1))), of(UpstreamProtocol::Http1)),
        ("HTTP/2", with_options(&speaking(explicit(http2))), of(UpstreamProtocol::Http2)),
        ("the client's", with_options(&speaking(downstream)), of(UpstreamProtocol::Downstream)),
        ("limited", with_options(&limited), Upstream {
            protocol: UpstreamProtocol::Http2,
            idle_timeout: Some(sec(60)),
            max_age: Some(sec(600)),
            max_requests: NonZeroU32::new(1000),
            ..Upstream::default()
        }),
        ("zero is no limit", with_options(&zero), Upstream::default()),
        ("no transport", Cluster { transport_socket: socket(&RawBuffer {}), ..eds() }, Upstream::default()),
        ("PROXY 1", Cluster { transport_socket: socket(&proxy(0)), ..eds() }, sends(ProxyHeader::V1)),
        ("PROXY 2", Cluster { transport_socket: socket(&proxy(1)), ..eds() }, sends(ProxyHeader::V2)),
    ];
    for (about, cluster, expected) in cases {
        assert_eq!(taken(&cluster).map(|c| c.upstream), Ok(expected), "{about}");
    }
}

#[test]
fn what_is_not_said_is_not_limited() {
    let of = |thresholds| {
        Some(CircuitBreakers {
            thresholds: vec![
                Thresholds { priority: 1, max_requests: number(7), ..Thresholds::default() },
                thresholds,
            ],
            ..CircuitBreakers::default()
        })
    };
    let all = Thresholds {
        max_connections: number(1),
        max_pending_requests: number(2),
        max_requests: number(3),
        max_retries: number(4),
        ..Thresholds::default()
    };
    let budget = |percent, least| Thresholds {
        max_retries: number(4),
        retry_budget: Some(RetryBudget {
            budget_percent: percent,
            min_retry_concurrency: least,
            ..RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    let limits = |retry_budget_percent, min_retries| Limits {
        breaker: CircuitBreaker::default(),
        retry_budget_percent,
        min_retries,
    };
    let breaker = CircuitBreaker {
        connections: Some(1),
        pending_requests: Some(2),
        requests: Some(3),
        retries: Some(4),
    };
    let cases = [
        ("nothing", None, Limits::standard()),
        ("nothing of it", of(Thresholds::default()), Limits::standard()),
        ("all", of(all), Limits { breaker, retry_budget_percent: 0, min_retries: 4 }),
        ("a budget", of(budget(share(35.0), number(9))), limits(35, 9)),
        ("a budget without numbers", of(budget(None, None)), limits(20, 3)),
    ];
    for (about, circuit_breakers, expected) in cases {
        let cluster = Cluster { circuit_breakers, ..eds() };
        assert_eq!(taken(&cluster).map(|c| c.limits), Ok(expected), "{about}");
    }
}

/// A cluster with the message of Envoy's filter in its metadata.
fn adaptive(gradient: Option<GradientControllerConfig>) -> Cluster {
    let config = gradient.map(ConcurrencyControllerConfig::GradientControllerConfig);
    let message =
        EnvoyAdaptive { concurrency_controller_config: config, ..EnvoyAdaptive::default() };
    let typed = HashMap::from([(ADAPTIVE_CONCURRENCY.to_owned(), any(&message))]);
    let metadata = Metadata { typed_filter_metadata: typed, ..Metadata::default() };
    Cluster { metadata: Some(metadata), ..eds() }
}

#[test]
fn adaptive_concurrency_comes_in_the_message_of_envoys_filter() {
    let whole = GradientControllerConfig {
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            max_concurrency_limit: number(200),
            concurrency_update_interval: secs(1),
            min_concurrency_limit: number(8),
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: secs(30),
            buffer: share(10.0),
            ..MinimumRttCalculationParams::default()
        }),
        ..GradientControllerConfig::default()
    };
    let of = |min, max, interval, rtt, tolerance_percent| AdaptiveConcurrency {
        min,
        max,
        interval: Duration::from_millis(interval),
        min_rtt_interval: Duration::from_secs(rtt),
        tolerance_percent,
    };
    let got = |cluster: &Cluster| taken(cluster).map(|c| c.adaptive_concurrency);
    assert_eq!(got(&adaptive(Some(whole))), Ok(Some(of(8, 200, 1000, 30, 10))));
    let least = GradientControllerConfig::default();
    assert_eq!(got(&adaptive(Some(least))), Ok(Some(of(3, 1000, 100, 60, 25))));
    assert_eq!(got(&eds()), Ok(None));
    let field = format!("metadata.typed_filter_metadata[{ADAPTIVE_CONCURRENCY}]");
    let reason = format!("c: {field}.gradient_controller_config: missing");
    assert_eq!(got(&adaptive(None)), Err(reason));
}

#[test]
fn what_nobody_here_does_is_refused_by_name() {
    let tls = || socket(&UpstreamTlsContext::default());
    let streams = Common { max_stream_duration: secs(1), ..Common::default() };
    let streams = HttpProtocolOptions {
        common_http_protocol_options: Some(streams),
        ..HttpProtocolOptions::default()
    };
    let inner = ProxyProtocolUpstreamTransport { transport_socket: tls(), ..proxy(0) };
    let unproven =
        "common_tls_context.validation_context_type: missing, nothing verifies endpoints";
    let hosts = CircuitBreakers {
        per_host_thresholds: vec![Thresholds::default()],
        ..CircuitBreakers::default()
    };
    #[rustfmt::skip]
    let cases = [
        (Cluster { name: String::new(), ..eds() }, ": name: missing".to_owned()),
        (Cluster { transport_socket: tls(), ..eds() },
            format!("c: transport_socket.{unproven}")),
        (Cluster { transport_socket: socket(&inner), ..eds() },
            format!("c: transport_socket.transport_socket.{unproven}")),
        (Cluster { transport_socket: socket(&proxy(7)), ..eds() },
            "c: transport_socket.config.version: 7 is not a version".to_owned()),
        (Cluster { connect_timeout: secs(0), ..eds() }, "c: connect_timeout: is not above 0".to_owned()),
        (Cluster { connect_timeout: secs(-1), ..eds() },
            "c: connect_timeout: -1.000000000s is not a duration".to_owned()),
        (Cluster { connect_timeout: secs(i64::MAX), ..eds() },
            "c: connect_timeout: 9223372036854775807.000000000s is not a duration".to_owned()),
        (Cluster { filters: vec![Filter::default()], ..eds() }, "c: filters: not supported".to_owned()),
        (Cluster { circuit_breakers: Some(hosts), ..eds() },
            "c: circuit_breakers.per_host_thresholds: not supported".to_owned()),
        (with_options(&streams), format!(
            "c: {HTTP_OPTIONS}.common_http_protocol_options.max_stream_duration: not supported")),
        (Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())), ..eds() },
            "c: type: STRICT_DNS is not supported".to_owned()),
    ];
    for (cluster, reason) in cases {
        assert_eq!(taken(&cluster).map(|_| ()), Err(reason));
    }
    let harmless = Cluster { alt_stat_name: "a".into(), wait_for_warm_on_init: yes(), ..eds() };
    assert!(taken(&harmless).is_ok(), "what changes nothing here is passed over");
}
