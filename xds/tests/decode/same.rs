//! What a service asks for is what our proxy acts on: from the policy through our own server's
//! resources, and the same for listeners.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::policy::{
    BackOff, CircuitBreaker, FailurePercentage, HashOn, HealthCheck, OutlierDetection, Policy,
    Probe, Retries, RetryBudget, RetryOn,
};
use portolan_model::traffic::{
    AcceptProxy, AdaptiveConcurrency, Cluster, HashPolicy, HttpOptions, ListenerKind, Outlier,
    ProxyHeader, Route, Share, SlowStart, SuccessRate, TcpOptions, UpstreamProtocol,
};
use portolan_model::{AppProtocol, Balancer, Service, ServiceKey};
use portolan_xds::client::decode;
use portolan_xds::resource::{cluster, listener, route};
use portolan_xds::{Dialect, ListenerOptions, ListenerSpec, ListenerTarget, ResourceConfig};

use crate::support::{any, config, entry};

/// `shop/web`, which says nothing of what it speaks, after a change to it.
fn service(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = (*entry("web", 80, &[(1, true)]).service).clone();
    service.ports[0].app_protocol = None;
    change(&mut service);
    service
}

fn cluster_of(service: &Service) -> Cluster {
    let config = ResourceConfig { balancer: Balancer::PeakEwma, ..config() };
    let encoded =
        cluster::encode(service, &service.ports[0], cluster::Way::Plain, &config, Dialect::Envoy);
    decode::cluster::decode(&any(&encoded)).expect("our proxy takes it").1.0
}

fn route_of(service: &Service) -> Route {
    let config = config();
    let around = route::Around {
        routes: None,
        client: None,
        default: Balancer::PeakEwma,
        zone: &config.zone,
    };
    let hosts = route::virtual_hosts(service, around);
    let table = route::encode_http(&hosts.into_iter().collect());
    let (_, table) = decode::route::decode(&any(&table)).expect("our proxy takes it");
    table.hosts[0].routes[0].clone()
}

/// What it is about, what a service asks for, and what that makes of the cluster of one that asks
/// for nothing.
type Case = (&'static str, fn(&mut Policy), fn(&mut Cluster));

const SECOND: Duration = Duration::from_secs(1);

fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_errors: None,
        consecutive_gateway_errors: None,
        consecutive_local_errors: None,
        failure_percentage: None,
        success_rate: None,
        interval: 2 * SECOND,
        ejection_time: 3 * SECOND,
        max_ejection_time: Some(400 * SECOND),
        ejection_jitter: Some(5 * SECOND),
        max_percent: 40,
    }
}

fn judged() -> Outlier {
    Outlier {
        consecutive_errors: None,
        consecutive_gateway_errors: None,
        consecutive_local_errors: None,
        success_rate: None,
        failure_percentage: None,
        interval: 2 * SECOND,
        base_ejection: 3 * SECOND,
        max_ejection: 400 * SECOND,
        ejection_jitter: 5 * SECOND,
        max_percent: 40,
    }
}

fn failures() -> FailurePercentage {
    FailurePercentage { threshold: 50, minimum_hosts: 2, request_volume: 20 }
}

fn rate() -> SuccessRate {
    SuccessRate { stdev_factor_milli: 1500, minimum_hosts: 4, request_volume: 30 }
}

fn adaptive() -> AdaptiveConcurrency {
    AdaptiveConcurrency {
        min: 5,
        max: 500,
        interval: Duration::from_millis(200),
        min_rtt_interval: 30 * SECOND,
        tolerance_percent: 50,
    }
}

fn start() -> SlowStart {
    SlowStart {
        window: 30 * SECOND,
        aggression_milli: NonZeroU32::new(1234).unwrap_or(NonZeroU32::MIN),
        min_weight_percent: 5,
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Http("/healthz".into()),
        interval: 5 * SECOND,
        timeout: SECOND,
        healthy_threshold: 1,
        unhealthy_threshold: 4,
    }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("nothing", |_| {}, |_| {}),
    ("round robin", |p| p.balancer = Some(Balancer::RoundRobin), |c| c.balancing.balancer = Balancer::RoundRobin),
    ("least request", |p| p.balancer = Some(Balancer::LeastRequest), |c| c.balancing.balancer = Balancer::LeastRequest),
    ("ring hash", |p| p.balancer = Some(Balancer::RingHash), |c| c.balancing.balancer = Balancer::RingHash),
    ("maglev", |p| p.balancer = Some(Balancer::Maglev), |c| c.balancing.balancer = Balancer::Maglev),
    ("random", |p| p.balancer = Some(Balancer::Random), |c| c.balancing.balancer = Balancer::Random),
    ("weighted", |p| p.balancer = Some(Balancer::ClientSideWeightedRoundRobin),
        |c| c.balancing.balancer = Balancer::ClientSideWeightedRoundRobin),
    ("pick first, whose place round robin takes", |p| p.balancer = Some(Balancer::PickFirst),
        |c| c.balancing.balancer = Balancer::RoundRobin),
    ("a hash means a ring", |p| p.hash_on = Some(HashOn::Path), |c| c.balancing.balancer = Balancer::RingHash),
    ("slow start", |p| p.tuning.slow_start = Some(start()), |c| c.balancing.slow_start = Some(start())),
    ("slow start in turn", |p| {
        p.balancer = Some(Balancer::RoundRobin);
        p.tuning.slow_start = Some(start());
    }, |c| {
        c.balancing.balancer = Balancer::RoundRobin;
        c.balancing.slow_start = Some(start());
    }),
    ("slow start by load", |p| {
        p.balancer = Some(Balancer::ClientSideWeightedRoundRobin);
        p.tuning.slow_start = Some(start());
    }, |c| {
        c.balancing.balancer = Balancer::ClientSideWeightedRoundRobin;
        c.balancing.slow_start = Some(start());
    }),
    ("choices", |p| p.tuning.choices = Some(4), |c| c.balancing.choices = 4),
    ("choices of least request", |p| {
        p.balancer = Some(Balancer::LeastRequest);
        p.tuning.choices = Some(4);
    }, |c| {
        c.balancing.balancer = Balancer::LeastRequest;
        c.balancing.choices = 4;
    }),
    ("bounded load", |p| {
        p.balancer = Some(Balancer::Maglev);
        p.tuning.hash_balance_factor = Some(125);
    }, |c| {
        c.balancing.balancer = Balancer::Maglev;
        c.balancing.hash_balance_factor = Some(125);
    }),
    ("bounded load on a ring", |p| {
        p.balancer = Some(Balancer::RingHash);
        p.tuning.hash_balance_factor = Some(125);
    }, |c| {
        c.balancing.balancer = Balancer::RingHash;
        c.balancing.hash_balance_factor = Some(125);
    }),
    ("panic", |p| p.tuning.panic_threshold = Some(0), |c| c.balancing.panic_threshold = 0),
    ("time to connect", |p| p.timeouts.connect = Some(2 * SECOND), |c| c.upstream.connect_timeout = 2 * SECOND),
    ("idle connections", |p| p.connections.idle_timeout = Some(60 * SECOND), |c| c.upstream.idle_timeout = Some(60 * SECOND)),
    ("old connections", |p| p.connections.max_age = Some(600 * SECOND), |c| c.upstream.max_age = Some(600 * SECOND)),
    ("used connections", |p| p.connections.max_requests = NonZeroU32::new(1000),
        |c| c.upstream.max_requests = NonZeroU32::new(1000)),
    ("PROXY 1", |p| p.connections.send_proxy = Some(ProxyHeader::V1), |c| c.upstream.send_proxy = Some(ProxyHeader::V1)),
    ("PROXY 2", |p| p.connections.send_proxy = Some(ProxyHeader::V2), |c| c.upstream.send_proxy = Some(ProxyHeader::V2)),
    ("health check", |p| p.health_check = Some(check()), |c| {
        c.health_check = Some(check());
        c.health_host = Some("web.shop.svc.cluster.local".into());
    }),
    ("health check by TCP", |p| p.health_check = Some(HealthCheck { probe: Probe::Tcp, ..check() }),
        |c| c.health_check = Some(HealthCheck { probe: Probe::Tcp, ..check() })),
    ("errors in a row", |p| p.outlier_detection = Some(OutlierDetection { consecutive_errors: Some(7), ..outlier() }),
        |c| c.outlier = Some(Outlier { consecutive_errors: Some(7), ..judged() })),
    ("gateway errors in a row", |p| p.outlier_detection = Some(OutlierDetection { consecutive_gateway_errors: Some(7), ..outlier() }),
        |c| c.outlier = Some(Outlier { consecutive_gateway_errors: Some(7), ..judged() })),
    ("local errors in a row", |p| p.outlier_detection = Some(OutlierDetection { consecutive_local_errors: Some(7), ..outlier() }),
        |c| c.outlier = Some(Outlier { consecutive_local_errors: Some(7), ..judged() })),
    ("a share of failures", |p| p.outlier_detection = Some(OutlierDetection { failure_percentage: Some(failures()), ..outlier() }),
        |c| c.outlier = Some(Outlier { failure_percentage: Some(failures()), ..judged() })),
    ("success rate", |p| p.outlier_detection = Some(OutlierDetection { success_rate: Some(rate()), ..outlier() }),
        |c| c.outlier = Some(Outlier { success_rate: Some(rate()), ..judged() })),
    ("limits", |p| p.circuit_breaker = CircuitBreaker {
        connections: Some(1), pending_requests: Some(2), requests: Some(3), retries: None,
    }, |c| c.limits.breaker = CircuitBreaker {
        connections: Some(1), pending_requests: Some(2), requests: Some(3), retries: None,
    }),
    ("retries by number", |p| p.circuit_breaker.retries = Some(4), |c| {
        c.limits.breaker.retries = Some(4);
        (c.limits.retry_budget_percent, c.limits.min_retries) = (0, 4);
    }),
    ("retries by budget", |p| p.retry_budget = Some(RetryBudget { percent: 30, minimum: 9 }),
        |c| (c.limits.retry_budget_percent, c.limits.min_retries) = (30, 9)),
    ("adaptive concurrency", |p| p.adaptive_concurrency = Some(adaptive()), |c| c.adaptive_concurrency = Some(adaptive())),
];

#[test]
fn what_a_service_asks_of_its_cluster_arrives() {
    let plain = cluster_of(&service(|_| {}));
    assert_eq!(plain, Cluster::new("shop/web:80".into(), Balancer::PeakEwma));
    for (about, ask, change) in CASES {
        let mut expected = plain.clone();
        change(&mut expected);
        let asking = service(|service| ask(&mut service.policy));
        assert_eq!(cluster_of(&asking), expected, "{about}");
    }
}

#[test]
fn what_is_spoken_to_endpoints_is_the_protocol_of_the_port() {
    let idle = |service: &mut Service| service.policy.connections.idle_timeout = Some(SECOND);
    for (word, protocol, balancer) in [
        (None, UpstreamProtocol::Auto, Balancer::PeakEwma),
        (Some("http"), UpstreamProtocol::Http1, Balancer::PeakEwma),
        (Some("kubernetes.io/ws"), UpstreamProtocol::Http1, Balancer::PeakEwma),
        (Some("kubernetes.io/h2c"), UpstreamProtocol::Http2, Balancer::PeakEwma),
        (Some("grpc"), UpstreamProtocol::Http2, Balancer::PeakEwma),
        (Some("example.com/own"), UpstreamProtocol::Auto, Balancer::PeakEwma),
        // What goes by how long answers take says nothing of bytes.
        (Some("tcp"), UpstreamProtocol::Auto, Balancer::LeastRequest),
    ] {
        for limited in [false, true] {
            let service = service(|service| {
                service.ports[0].app_protocol = word.map(AppProtocol::from_word);
                if limited {
                    idle(service);
                }
            });
            let cluster = cluster_of(&service);
            assert_eq!(cluster.upstream.protocol, protocol, "{word:?}, limited: {limited}");
            assert_eq!(cluster.upstream.idle_timeout, limited.then_some(SECOND), "{word:?}");
            assert_eq!(cluster.balancing.balancer, balancer, "{word:?}");
        }
    }
}

#[test]
fn a_header_of_the_proxy_protocol_is_not_for_grpc_which_would_refuse_the_cluster() {
    let service = service(|s| s.policy.connections.send_proxy = Some(ProxyHeader::V2));
    let encoded =
        cluster::encode(&service, &service.ports[0], cluster::Way::Plain, &config(), Dialect::Grpc);
    let (_, (cluster, _)) = decode::cluster::decode(&any(&encoded)).expect("taken");
    assert_eq!(cluster.upstream.send_proxy, None);
}

#[test]
fn what_a_service_asks_of_its_routes_arrives() {
    type Case = (&'static str, fn(&mut Service), fn(&mut Route));
    fn hashed(on: HashOn) -> Vec<HashPolicy> {
        vec![HashPolicy { on, terminal: false }]
    }
    fn cookie(ttl: Option<Duration>) -> HashOn {
        HashOn::Cookie { name: "user".into(), ttl }
    }
    fn retries() -> Option<Retries> {
        let on = vec![RetryOn::ConnectFailure, RetryOn::ServerError, RetryOn::Unavailable];
        let per_try_timeout = Some(SECOND);
        Some(Retries { attempts: 3, on, per_try_timeout, ..Retries::default() })
    }
    fn by_status() -> Option<Retries> {
        let on = RetryOn::WORDS.map(|(_, reason)| reason).to_vec();
        let back_off = Some(BackOff { base: SECOND, max: 3 * SECOND });
        Some(Retries {
            attempts: 1,
            on,
            status_codes: vec![409, 429],
            back_off,
            ..Retries::default()
        })
    }
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("nothing", |_| {}, |_| {}),
        ("a time-out", |s| s.policy.timeouts.request = Some(3 * SECOND), |r| r.timeout = Some(3 * SECOND)),
        ("silence", |s| s.policy.timeouts.idle = Some(60 * SECOND), |r| r.idle_timeout = Some(60 * SECOND)),
        ("retries", |s| s.policy.retries = retries(), |r| r.retries = retries()),
        ("every reason to retry", |s| s.policy.retries = by_status(), |r| r.retries = by_status()),
        ("a header", |s| s.policy.hash_on = Some(HashOn::Header("x-user".into())),
            |r| r.hash = hashed(HashOn::Header("x-user".into()))),
        ("the path", |s| s.policy.hash_on = Some(HashOn::Path), |r| r.hash = hashed(HashOn::Path)),
        ("a cookie of theirs", |s| s.policy.hash_on = Some(cookie(None)), |r| r.hash = hashed(cookie(None))),
        ("a cookie of ours", |s| s.policy.hash_on = Some(cookie(Some(60 * SECOND))),
            |r| r.hash = hashed(cookie(Some(60 * SECOND)))),
        ("the address", |s| s.policy.hash_on = Some(HashOn::SourceIp), |r| r.hash = hashed(HashOn::SourceIp)),
        ("the address by maglev", |s| s.policy.balancer = Some(Balancer::Maglev), |r| r.hash = hashed(HashOn::SourceIp)),
        ("session affinity", |s| s.traffic.affinity_secs = Some(10_800), |r| r.hash = hashed(HashOn::SourceIp)),
    ];
    let plain = route_of(&service(|_| {}));
    assert_eq!((plain.timeout, plain.retries.as_ref(), plain.hash.len()), (None, None, 0));
    for (about, ask, change) in cases {
        let mut expected = plain.clone();
        change(&mut expected);
        assert_eq!(route_of(&service(ask)), expected, "{about}");
    }
}

#[test]
fn what_the_configuration_asks_of_a_listener_arrives() {
    let options = || ListenerOptions {
        accept_proxy: AcceptProxy::Optional,
        trust_forwarded: true,
        idle_timeout: Some(60 * SECOND),
        stream_idle_timeout: Some(30 * SECOND),
        header_timeout: Some(5 * SECOND),
        max_age: Some(600 * SECOND),
        max_requests: Some(1000),
        upgrades: vec!["connect".into()],
    };
    // Proxies have browsers among their clients.
    let plain = || HttpOptions { grpc_web: true, ..HttpOptions::default() };
    let http = HttpOptions {
        idle_timeout: Some(60 * SECOND),
        stream_idle_timeout: Some(30 * SECOND),
        header_timeout: Some(5 * SECOND),
        max_age: Some(600 * SECOND),
        max_requests: Some(1000),
        trust_forwarded: true,
        upgrades: vec!["connect".into()],
        ..plain()
    };
    let tcp = TcpOptions {
        idle_timeout: Some(60 * SECOND),
        max_age: Some(600 * SECOND),
        hash_on: Some(HashOn::SourceIp),
        ..TcpOptions::default()
    };
    let by_address = || TcpOptions { hash_on: Some(HashOn::SourceIp), ..TcpOptions::default() };
    let service = || ServiceKey::new("shop", "db").expect("valid");
    let to = || ListenerTarget::Tcp { service: service(), port: 5432 };
    let detect = || ListenerTarget::Detect { service: service(), port: 5432 };
    let (routes, cluster) = (|| route::HTTP_ROUTES.into(), || "shop/db:5432".into());
    let none = ListenerOptions::default;
    #[rustfmt::skip]
    let cases = [
        (ListenerTarget::Http, none(), ListenerKind::Http { routes: routes(), options: plain() }),
        (ListenerTarget::Http, options(), ListenerKind::Http { routes: routes(), options: http.clone() }),
        (to(), none(), ListenerKind::Tcp { clusters: vec![Share::all(cluster())], options: by_address() }),
        (to(), options(), ListenerKind::Tcp { clusters: vec![Share::all(cluster())], options: tcp.clone() }),
        (detect(), none(), ListenerKind::Detect {
            routes: routes(), cluster: cluster(), http: plain(), tcp: by_address(),
        }),
        (detect(), options(), ListenerKind::Detect { routes: routes(), cluster: cluster(), http, tcp }),
    ];
    let address = "127.0.0.1:8080".parse().expect("an address");
    for (target, options, kind) in cases {
        for accept_proxy in [AcceptProxy::No, AcceptProxy::Optional, AcceptProxy::Required] {
            let options = ListenerOptions { accept_proxy, ..options.clone() };
            let target = target.clone();
            let spec = ListenerSpec { name: "l".into(), address, target, tls: None, options };
            let encoded = listener::encode_socket(&spec);
            let (_, taken) = decode::listener::decode(&any(&encoded)).expect("taken");
            let (taken, table) = taken.expect("a socket");
            assert_eq!((taken.kind, taken.accept_proxy), (kind.clone(), accept_proxy), "{spec:?}");
            assert_eq!(table, None, "routes come by RDS");
        }
    }
}
