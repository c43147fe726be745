//! Listeners: what comes first, what is asked of connections, and which chain takes them.

use std::time::Duration;

use portolan_model::policy::HashOn;
use portolan_model::traffic::{
    AcceptProxy, EscapedSlashes, HttpOptions, Listener as Taken, ListenerKind, Share, SniChain,
    StripPort, TcpOptions, Underscores,
};
use portolan_proto::envoy::accesslog::AccessLog;
use portolan_proto::envoy::core::HttpProtocolOptions;
use portolan_proto::envoy::core::http_protocol_options::HeadersWithUnderscoresAction;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, StripPortMode, UpgradeConfig,
};
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType as HttpFilterConfig;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use portolan_proto::envoy::http_inspector::HttpInspector;
use portolan_proto::envoy::listener::listener_filter::ConfigType as ListenerFilterConfig;
use portolan_proto::envoy::listener::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter::ConfigType,
};
use portolan_proto::envoy::listener_proxy_protocol::ProxyProtocol;
use portolan_proto::envoy::protobuf::{Any, BoolValue};
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use portolan_proto::envoy::tls_inspector::TlsInspector;
use portolan_proto::envoy::{ConnectionHashPolicy, connection_hash_policy};
use portolan_proto::typed_struct::TypedStruct;
use portolan_xds::client::decode;
use prost::Message;

use crate::{address, any, number, secs, yes};

pub(crate) fn manager() -> HttpConnectionManager {
    let rds = Rds { route_config_name: "t".into(), ..Rds::default() };
    HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    }
}

pub(crate) fn proxy() -> TcpProxy {
    TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
        ..TcpProxy::default()
    }
}

pub(crate) fn chain(config: Any) -> FilterChain {
    let filter = Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(config)) };
    FilterChain { filters: vec![filter], ..FilterChain::default() }
}

pub(crate) fn listener(filter_chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: "l".into(),
        address: address("127.0.0.1", 8080),
        filter_chains,
        ..Listener::default()
    }
}

fn filters(configs: Vec<Any>) -> Vec<ListenerFilter> {
    let filter = |config| ListenerFilter {
        name: "f".into(),
        config_type: Some(ListenerFilterConfig::TypedConfig(config)),
        ..ListenerFilter::default()
    };
    configs.into_iter().map(filter).collect()
}

fn taken(listener: &Listener) -> Result<Taken, String> {
    let decoded = decode::listener::decode(&any(listener)).map_err(|e| e.to_string());
    decoded.map(|(_, taken)| taken.expect("a socket").0)
}

fn http(options: HttpOptions) -> ListenerKind {
    ListenerKind::Http { routes: "t".into(), options }
}

#[test]
fn what_is_asked_of_http_connections() {
    let common = HttpProtocolOptions {
        idle_timeout: secs(60),
        max_connection_duration: secs(600),
        max_requests_per_connection: number(1000),
        headers_with_underscores_action: HeadersWithUnderscoresAction::RejectRequest.into(),
        ..HttpProtocolOptions::default()
    };
    let upgrade = |kind: &str, enabled| UpgradeConfig {
        upgrade_type: kind.into(),
        enabled,
        ..UpgradeConfig::default()
    };
    let off = || Some(BoolValue { value: false });
    let whole = HttpConnectionManager {
        common_http_protocol_options: Some(common),
        stream_idle_timeout: secs(30),
        request_headers_timeout: secs(5),
        use_remote_address: off(),
        normalize_path: yes(),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        strip_matching_host_port: true,
        // What is said of the proxy itself changes no request.
        stat_prefix: "http".into(),
        server_header_transformation: 2,
        generate_request_id: yes(),
        access_log: vec![AccessLog::default()],
        upgrade_configs: vec![
            upgrade("websocket", None),
            upgrade("CONNECT", yes()),
            upgrade("connect", None),
            upgrade("spdy/3.1", off()),
        ],
        ..manager()
    };
    let sec = |seconds| Some(Duration::from_secs(seconds));
    let expected = HttpOptions {
        idle_timeout: sec(60),
        stream_idle_timeout: sec(30),
        header_timeout: sec(5),
        max_age: sec(600),
        max_requests: Some(1000),
        trust_forwarded: true,
        upgrades: vec!["connect".into()],
        normalize_path: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Redirect,
        strip_port: StripPort::Matching,
        underscores: Underscores::Reject,
        ..HttpOptions::default()
    };
    let any_port = HttpConnectionManager {
        strip_port_mode: Some(StripPortMode::StripAnyHostPort(true)),
        normalize_path: off(),
        ..manager()
    };
    let trusts = HttpOptions { trust_forwarded: true, ..HttpOptions::default() };
    let cases = [
        ("nothing", manager(), HttpOptions::default()),
        ("any port", any_port, HttpOptions { strip_port: StripPort::Any, ..HttpOptions::NONE }),
        ("all of it", whole, expected),
        ("hops", HttpConnectionManager { xff_num_trusted_hops: 1, ..manager() }, trusts),
        (
            "an edge",
            HttpConnectionManager { use_remote_address: yes(), ..manager() },
            HttpOptions::default(),
        ),
    ];
    for (about, manager, options) in cases {
        let listener = listener(vec![chain(any(&manager))]);
        assert_eq!(taken(&listener).map(|l| l.kind), Ok(http(options)), "{about}");
    }
}

#[test]
fn http_filters_that_do_nothing_or_may_be_left_out_are_passed_over() {
    let filter = |kind: &str, value: &[u8]| HttpFilter {
        name: "f".into(),
        config_type: Some(HttpFilterConfig::TypedConfig(Any {
            type_url: format!("type.googleapis.com/{kind}"),
            value: value.to_vec(),
        })),
        ..HttpFilter::default()
    };
    let (cors, fault) = (
        "envoy.extensions.filters.http.cors.v3.Cors",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
    );
    let inside = |url: &str| {
        TypedStruct { type_url: format!("type.googleapis.com/{url}"), value: None }.encode_to_vec()
    };
    let json = "udpa.type.v1.TypedStruct";
    let odd = || filter("example.Odd", &[]);
    #[rustfmt::skip]
    let cases = [
        ("the router", filter("envoy.extensions.filters.http.router.v3.Router", &[0x08, 0]), true),
        ("cors", filter(cors, &[]), true),
        ("gRPC-Web", filter("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", &[]), true),
        ("fault without a fault", filter(fault, &[]), true),
        ("fault", filter(fault, &[0x12, 0]), false),
        ("statistics", filter("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", &[0x08, 1]), true),
        ("statistics of Istio", filter("stats.PluginConfig", &[]), true),
        ("the same as JSON", filter(json, &inside("stats.PluginConfig")), true),
        ("something else as JSON", filter(json, &inside("example.Odd")), false),
        ("no JSON", filter(json, &[0xff]), false),
        ("unknown", odd(), false),
        ("optional", HttpFilter { is_optional: true, ..odd() }, true),
        ("switched off", HttpFilter { disabled: true, ..odd() }, true),
        ("no configuration", HttpFilter { name: "f".into(), ..HttpFilter::default() }, false),
    ];
    for (about, filter, passes) in cases {
        let manager = HttpConnectionManager { http_filters: vec![filter], ..manager() };
        let result = taken(&listener(vec![chain(any(&manager))])).map(|_| ());
        let refused = Err("l: http_filters[0]: \"f\" is not supported".to_owned());
        assert_eq!(result, if passes { Ok(()) } else { refused }, "{about}");
    }
}

#[test]
fn what_is_asked_of_tcp_streams() {
    let source_ip = connection_hash_policy::SourceIp {};
    let hash = ConnectionHashPolicy {
        policy_specifier: Some(connection_hash_policy::PolicySpecifier::SourceIp(source_ip)),
    };
    let whole = TcpProxy {
        idle_timeout: secs(60),
        max_downstream_connection_duration: secs(600),
        hash_policy: vec![hash],
        ..proxy()
    };
    let expected = TcpOptions {
        idle_timeout: Some(Duration::from_secs(60)),
        max_age: Some(Duration::from_secs(600)),
        hash_on: Some(HashOn::SourceIp),
        ..TcpOptions::default()
    };
    let unlimited = TcpProxy { idle_timeout: secs(0), ..proxy() };
    for (proxy, options) in
        [(whole, expected), (proxy(), TcpOptions::default()), (unlimited, TcpOptions::default())]
    {
        let kind = ListenerKind::Tcp { clusters: vec![Share::all("c".into())], options };
        assert_eq!(taken(&listener(vec![chain(any(&proxy))])).map(|l| l.kind), Ok(kind));
    }
}

#[test]
fn a_proxy_header_may_or_must_come_first() {
    let may =
        ProxyProtocol { allow_requests_without_proxy_protocol: true, ..ProxyProtocol::default() };
    let must = ProxyProtocol::default();
    let (tls, inspector) = (any(&TlsInspector::default()), any(&HttpInspector {}));
    for (configs, expected) in [
        (vec![tls, inspector], AcceptProxy::No),
        (vec![any(&may)], AcceptProxy::Optional),
        (vec![any(&must)], AcceptProxy::Required),
    ] {
        let listener =
            Listener { listener_filters: filters(configs), ..listener(vec![chain(any(&proxy()))]) };
        assert_eq!(taken(&listener).map(|l| l.accept_proxy), Ok(expected));
    }
}

/// TLS as it comes, of clients that ask for these names.
fn asked(names: &[&str], transport: &str, config: Any) -> FilterChain {
    let matched = FilterChainMatch {
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        transport_protocol: transport.into(),
        ..FilterChainMatch::default()
    };
    FilterChain { filter_chain_match: Some(matched), ..chain(config) }
}

#[test]
fn tls_that_is_not_ended_goes_by_name() {
    let to = |cluster: &str| TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..TcpProxy::default()
    };
    let chains = vec![
        asked(&["A.test", "*.b.test"], "", any(&to("a"))),
        asked(&["c.test"], "tls", any(&to("c"))),
        asked(&[], "tls", any(&to("rest"))),
    ];
    let sni = |names: &[&str], cluster: &str| SniChain {
        names: names.iter().map(|name| (*name).into()).collect(),
        clusters: vec![Share::all(cluster.into())],
    };
    let expected = ListenerKind::ByName {
        chains: vec![sni(&["a.test", "*.b.test"], "a"), sni(&["c.test"], "c"), sni(&[], "rest")],
        options: TcpOptions::default(),
    };
    assert_eq!(taken(&listener(chains.clone())).map(|l| l.kind), Ok(expected));
    let refused = |more: FilterChain| {
        let all = chains.iter().cloned().chain([more]).collect();
        taken(&listener(all)).expect_err("it cannot be done")
    };
    let idle = TcpProxy { idle_timeout: secs(1), ..to("d") };
    for (chain, text) in [
        (
            chain(any(&to("d"))),
            "l: filter_chains[3].filter_chain_match: only chains for TLS are supported beside one for it \
             that does not end it",
        ),
        (
            asked(&["d.test"], "tls", any(&manager())),
            "l: filter_chains[3].filters: of TLS that is not ended there is no HTTP",
        ),
        (
            asked(&["d.test"], "tls", any(&idle)),
            "l: filter_chains[3].filters: with other options than filter_chains[0]",
        ),
        (
            FilterChain {
                filter_chain_match: Some(FilterChainMatch {
                    server_names: vec!["d.test".into()],
                    application_protocols: vec!["h2".into()],
                    ..FilterChainMatch::default()
                }),
                ..chain(any(&to("d")))
            },
            "l: filter_chains[3].filter_chain_match: only server_names are supported within TLS",
        ),
    ] {
        assert_eq!(refused(chain), text);
    }
}

/// HTTP where this is found.
fn found(protocols: &[&str], transport: &str) -> FilterChain {
    let matched = FilterChainMatch {
        application_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
        transport_protocol: transport.into(),
        ..FilterChainMatch::default()
    };
    FilterChain { filter_chain_match: Some(matched), ..chain(any(&manager())) }
}

const ALL: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

#[test]
fn the_first_bytes_choose_between_http_and_tcp() {
    let inspected = |of| Listener { listener_filters: filters(vec![any(&HttpInspector {})]), ..of };
    let tcp = || chain(any(&proxy()));
    let by_default =
        Listener { default_filter_chain: Some(tcp()), ..listener(vec![found(&ALL, "raw_buffer")]) };
    for listener in
        [listener(vec![found(&ALL, ""), tcp()]), listener(vec![tcp(), found(&ALL, "")]), by_default]
    {
        let kind = ListenerKind::Detect {
            routes: "t".into(),
            cluster: "c".into(),
            http: HttpOptions::default(),
            tcp: TcpOptions::default(),
        };
        assert_eq!(taken(&inspected(listener.clone())).map(|l| l.kind), Ok(kind));
        assert!(taken(&listener).is_err(), "without an inspector nothing is found");
    }
    for (about, listener) in [
        ("some HTTP here, some there", listener(vec![found(&["http/1.1"], ""), tcp()])),
        ("HTTP twice", listener(vec![found(&ALL, ""), found(&ALL, "")])),
        ("three", listener(vec![found(&ALL, ""), tcp(), tcp()])),
        ("HTTP alone", listener(vec![found(&ALL, "")])),
    ] {
        let error = taken(&inspected(listener)).expect_err(about);
        assert!(error.starts_with("l: filter_chains: choosing among several"), "{error}");
    }
    let within_tls = inspected(listener(vec![found(&ALL, "tls"), tcp()]));
    assert!(taken(&within_tls).expect_err("HTTP in TLS").contains("only server_names"));
}

#[test]
fn what_nobody_here_does_is_refused_by_name() {
    let by = |manager: HttpConnectionManager| listener(vec![chain(any(&manager))]);
    let to = |proxy: TcpProxy| listener(vec![chain(any(&proxy))]);
    let filter = HttpFilter { name: "lua".into(), ..HttpFilter::default() };
    let odd = || Any { type_url: "example.Odd".into(), value: Vec::new() };
    let one = ProxyProtocol { disallowed_versions: vec![1], ..ProxyProtocol::default() };
    let first = || listener(vec![chain(any(&manager()))]);
    #[rustfmt::skip]
    let cases = [
        (by(HttpConnectionManager { http_filters: vec![filter], ..manager() }), "http_filters[0]: \"lua\" is not supported"),
        (by(HttpConnectionManager { path_with_escaped_slashes_action: 9, ..manager() }), "path_with_escaped_slashes_action: 9 is no action"),
        (by(HttpConnectionManager { path_normalization_options: Some(Default::default()), ..manager() }), "path_normalization_options: not supported"),
        (by(HttpConnectionManager { strip_trailing_host_dot: true, ..manager() }), "strip_trailing_host_dot: not supported"),
        (by(HttpConnectionManager { request_timeout: secs(1), ..manager() }), "request_timeout: not supported"),
        (to(TcpProxy { tunneling_config: Some(Default::default()), ..proxy() }), "tunneling_config: not supported"),
        (to(TcpProxy { hash_policy: vec![ConnectionHashPolicy::default()], ..proxy() }), "hash_policy[0]: only source_ip is supported"),
        (listener(vec![]), "filter_chains: missing"),
        (listener(vec![chain(odd())]), "filter_chains[0].filters[0]: \"example.Odd\" is not supported"),
        (Listener { listener_filters: filters(vec![odd()]), ..first() }, "listener_filters[0]: \"example.Odd\" is not supported"),
        (Listener { listener_filters: filters(vec![any(&one)]), ..first() }, "listener_filters[0].disallowed_versions: not supported"),
        (Listener { use_original_dst: yes(), ..first() }, "use_original_dst: not supported"),
        (Listener { bind_to_port: Some(BoolValue { value: false }), ..first() }, "bind_to_port: not supported"),
    ];
    for (listener, reason) in cases {
        assert_eq!(taken(&listener), Err(format!("l: {reason}")));
    }
}
