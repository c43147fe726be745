//! What chains that begin with TLS ask of clients, and the authorities they ask them by.

use std::sync::Arc;

use portolan_model::policy::Policy;
use portolan_model::traffic::{
    ClientCertificates, ClientTls, ListenerKind, NameKind, NameMatch, ProxyHeader, Share, SniChain,
    TcpOptions, TextMatch, TextTest, TlsVersions, Trusted, Upstream,
};
use portolan_model::{AppProtocol, PortTls};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::core::transport_socket::ConfigType;
use portolan_proto::envoy::core::{DataSource, TransportSocket};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, Rds};
use portolan_proto::envoy::listener::filter::ConfigType as FilterConfig;
use portolan_proto::envoy::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use portolan_proto::envoy::matcher::StringMatcher;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use portolan_proto::envoy::tls::certificate_validation_context::SystemRootCerts;
use portolan_proto::envoy::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use portolan_xds::Dialect;
use portolan_xds::client::decode;
use portolan_xds::resource::cluster::{self, Way};

use crate::clusters::{eds, socket, taken};
use crate::support::{any as encoded_any, config, entry};
use crate::{address, any, number, secs, yes};

fn named(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), ..SdsSecretConfig::default() }
}

/// A chain for a name; with authorities its clients need certificates of them.
fn chain(name: &str, authorities: Option<&str>) -> FilterChain {
    chain_by("t", name, authorities)
}

/// The same, its requests going by a route table.
fn chain_by(table: &str, name: &str, authorities: Option<&str>) -> FilterChain {
    let by_name = |name| ValidationContextType::ValidationContextSdsSecretConfig(named(name));
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![named("certificate")],
        validation_context_type: authorities.map(by_name),
        ..CommonTlsContext::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: authorities.and_then(|_| yes()),
        ..DownstreamTlsContext::default()
    };
    let rds = Rds { route_config_name: table.into(), ..Rds::default() };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let filter =
        Filter { name: "f".into(), config_type: Some(FilterConfig::TypedConfig(any(&manager))) };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![name.into()],
            ..FilterChainMatch::default()
        }),
        filters: vec![filter],
        transport_socket: Some(TransportSocket {
            name: "tls".into(),
            config_type: Some(ConfigType::TypedConfig(any(&context))),
        }),
        ..FilterChain::default()
    }
}

fn listener(filter_chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: "l".into(),
        address: address("127.0.0.1", 8443),
        filter_chains,
        ..Listener::default()
    }
}

#[test]
fn chains_whose_requests_go_by_the_same_routes_ask_for_the_same_of_clients() {
    let both = listener(vec![chain("a.test", Some("ca")), chain("b.test", Some("ca"))]);
    let (_, taken) = decode::listener::decode(&any(&both)).expect("taken");
    let tls = taken.expect("a socket").0.tls.expect("it begins with TLS");
    let required = ClientCertificates::Required("ca".into());
    assert!(tls.chains.iter().all(|chain| chain.clients == required), "{tls:?}");
    for other in [None, Some("other")] {
        let mixed = listener(vec![chain("a.test", Some("ca")), chain("b.test", other)]);
        let error = decode::listener::decode(&any(&mixed)).expect_err("refused").to_string();
        let expected = "l: filter_chains[1].transport_socket: another demand on clients' \
                        certificates than filter_chains[0]";
        assert_eq!(error, expected);
    }
}

#[test]
fn requests_go_by_the_routes_of_the_name_that_their_tls_asked_for() {
    let said = listener(vec![
        chain_by("t", "a.test", None),
        chain_by("u", "b.test", Some("ca")),
        chain_by("t", "c.test", None),
    ]);
    let taken = decode::listener::decode(&any(&said)).expect("taken").1.expect("a socket").0;
    let tables: Vec<&str> = taken.route_tables().map(|name| &**name).collect();
    assert_eq!(tables, ["t", "u"], "the listener's, and another");
    let chains = &taken.tls.as_ref().expect("it begins with TLS").chains;
    let routes = chains.iter().map(|chain| chain.routes.as_deref());
    assert_eq!(routes.collect::<Vec<_>>(), [None, Some("u"), None]);
    let asks = chains.iter().map(|chain| chain.clients.authorities().map(|name| &**name));
    assert_eq!(asks.collect::<Vec<_>>(), [None, Some("ca"), None]);

    // Of those who may come, a listener that asks other names for certificates is another one.
    let swapped = listener(vec![
        chain_by("t", "c.test", None),
        chain_by("u", "a.test", Some("ca")),
        chain_by("t", "b.test", None),
    ]);
    let swapped = decode::listener::decode(&any(&swapped)).expect("taken").1.expect("a socket").0;
    assert!(swapped.admits_otherwise(&taken) && !taken.admits_otherwise(&taken));

    let mixed = listener(vec![
        chain_by("t", "a.test", None),
        chain_by("u", "b.test", Some("ca")),
        chain_by("u", "c.test", None),
    ]);
    let error = decode::listener::decode(&any(&mixed)).expect_err("refused").to_string();
    let expected = "l: filter_chains[2].transport_socket: another demand on clients' \
                    certificates than filter_chains[1]";
    assert_eq!(error, expected);
}

#[test]
fn bytes_go_on_by_the_name_that_their_tls_asked_for() {
    let to = |name: &str, cluster: &str, idle: Option<i64>| {
        let proxy = TcpProxy {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
            idle_timeout: idle.and_then(secs),
            ..TcpProxy::default()
        };
        let config_type = Some(FilterConfig::TypedConfig(any(&proxy)));
        let filters = vec![Filter { name: "f".into(), config_type }];
        FilterChain { filters, ..chain(name, None) }
    };
    let taken = |chains: Vec<FilterChain>| {
        let decoded = decode::listener::decode(&any(&listener(chains)));
        decoded.map(|(_, taken)| taken.expect("a socket").0).map_err(|e| e.to_string())
    };
    let by_name = taken(vec![to("a.test", "a", None), to("*.test", "b", None)]).expect("taken");
    let sni = |name: &str, cluster: &str| SniChain {
        names: vec![name.into()],
        clusters: vec![Share::all(cluster.into())],
    };
    let chains = vec![sni("a.test", "a"), sni("*.test", "b")];
    let expected = ListenerKind::ByName { chains, options: TcpOptions::default() };
    assert_eq!(by_name.kind, expected);
    assert_eq!(by_name.tls.expect("it ends here").chains.len(), 2);
    let same = taken(vec![to("a.test", "a", None), to("b.test", "a", None)]).expect("taken");
    assert!(matches!(same.kind, ListenerKind::Tcp { .. }), "{:?}", same.kind);
    let error = taken(vec![to("a.test", "a", None), to("b.test", "b", Some(1))]);
    let other = "l: filter_chains[1].filters: other than those of filter_chains[0]";
    assert_eq!(error.expect_err("refused"), other);
    let raw = FilterChain { filter_chain_match: None, transport_socket: None, ..to("", "a", None) };
    let error = taken(vec![to("a.test", "a", None), to("b.test", "b", None), raw]);
    let clear = "l: filter_chains: bytes in the clear beside TLS that goes to other clusters: not \
                 supported";
    assert_eq!(error.expect_err("refused"), clear);
}

#[test]
fn http_and_bytes_that_end_here_or_do_not_may_stand_at_one_listener() {
    let filters = |cluster: &str| {
        let cluster_specifier = Some(ClusterSpecifier::Cluster(cluster.into()));
        let proxy = TcpProxy { cluster_specifier, ..TcpProxy::default() };
        let config_type = Some(FilterConfig::TypedConfig(any(&proxy)));
        vec![Filter { name: "f".into(), config_type }]
    };
    let http = |name: &str| chain(name, None);
    let ends = |name: &str, cluster| FilterChain { filters: filters(cluster), ..chain(name, None) };
    let passes =
        |name: &str, cluster| FilterChain { transport_socket: None, ..ends(name, cluster) };
    let passed_http = FilterChain { transport_socket: None, ..http("p.test") };
    let clear = |chain: FilterChain| FilterChain {
        filter_chain_match: None,
        transport_socket: None,
        ..chain
    };
    /// Whether it is HTTP, how many chains end TLS, and what is beside.
    type Read = (bool, usize, Vec<(String, bool)>);
    let read = |chains: Vec<FilterChain>| -> Result<Read, String> {
        let decoded = decode::listener::decode(&any(&listener(chains)));
        let (_, taken) = decoded.map_err(|error| error.to_string())?;
        let socket = taken.expect("a socket").0;
        let tls = socket.tls.expect("TLS");
        let beside = tls.beside.iter().flat_map(|beside| &beside.chains);
        let beside = beside.map(|own| (own.to.clusters[0].cluster.to_string(), own.ended));
        let is_http = matches!(socket.kind, ListenerKind::Http { .. });
        Ok((is_http, tls.chains.len(), beside.collect()))
    };
    let own = |cluster: &str, ended| (cluster.to_owned(), ended);
    let refused = |what: &str| Err(format!("l: filter_chains: {what}: not supported"));
    for (chains, expected) in [
        (vec![http("a.test"), ends("b.test", "b")], Ok((true, 2, vec![own("b", true)]))),
        (vec![ends("b.test", "b"), http("a.test")], Ok((true, 2, vec![own("b", true)]))),
        (
            vec![http("a.test"), passes("p.test", "p"), ends("b.test", "b"), http("c.test")],
            Ok((true, 3, vec![own("p", false), own("b", true)])),
        ),
        (vec![ends("b.test", "b"), passes("p.test", "p")], Ok((false, 1, vec![own("p", false)]))),
        (vec![http("a.test"), clear(http(""))], Ok((true, 1, vec![]))),
        (
            vec![http("a.test"), passed_http],
            Err("l: filter_chains[1].filters: of TLS that is not ended there is no HTTP".to_owned()),
        ),
        (
            vec![http("a.test"), ends("b.test", "b"), clear(http(""))],
            refused("what is in the clear beside HTTP and bytes within TLS"),
        ),
        (
            vec![http("a.test"), clear(ends("", "b"))],
            refused("bytes in the clear beside HTTP within TLS"),
        ),
        (
            vec![ends("b.test", "b"), passes("p.test", "p"), clear(ends("", "b"))],
            refused("what is in the clear beside TLS that is not ended here"),
        ),
    ] {
        assert_eq!(read(chains), expected);
    }
}

#[test]
fn authorities_that_are_no_certificates_are_refused() {
    let refused = |pem: &str| {
        let specifier = Some(Specifier::InlineString(pem.to_owned()));
        let trusted_ca = Some(DataSource { specifier, ..DataSource::default() });
        let context =
            CertificateValidationContext { trusted_ca, ..CertificateValidationContext::default() };
        let r#type = Some(Type::ValidationContext(context));
        let secret = Secret { name: "ca".into(), r#type };
        decode::secret::decode(&any(&secret)).expect_err("refused").to_string()
    };
    for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = refused(pem);
        assert!(error.starts_with("ca: validation_context.trusted_ca: "), "{error}");
    }
}

fn inline(text: &str) -> Option<DataSource> {
    let specifier = Some(Specifier::InlineString(text.to_owned()));
    Some(DataSource { specifier, ..DataSource::default() })
}

fn authority() -> String {
    let made = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).expect("a certificate");
    made.cert.pem()
}

fn san(kind: i32, pattern: Option<MatchPattern>) -> SubjectAltNameMatcher {
    let matcher = StringMatcher { match_pattern: pattern, ..StringMatcher::default() };
    SubjectAltNameMatcher {
        san_type: kind,
        matcher: Some(matcher),
        ..SubjectAltNameMatcher::default()
    }
}

fn to(validation: Option<ValidationContextType>) -> UpstreamTlsContext {
    let common =
        CommonTlsContext { validation_context_type: validation, ..CommonTlsContext::default() };
    UpstreamTlsContext { common_tls_context: Some(common), ..UpstreamTlsContext::default() }
}

fn within(own: CertificateValidationContext) -> UpstreamTlsContext {
    to(Some(ValidationContextType::ValidationContext(own)))
}

fn exact(kind: NameKind, text: &str) -> NameMatch {
    let test = TextTest::Exact(text.into());
    NameMatch { kind, test: TextMatch { test, ignore_case: false } }
}

fn trusting(trusted: Trusted) -> ClientTls {
    ClientTls {
        server_name: None,
        trusted,
        names: Vec::new(),
        certificate: None,
        alpn: Vec::new(),
        versions: TlsVersions::Both,
    }
}

#[test]
fn what_connections_to_endpoints_begin_with_is_taken_or_refused_by_name() {
    let by_name = || to(Some(ValidationContextType::ValidationContextSdsSecretConfig(named("ca"))));
    let pem = authority();
    let file = Some(DataSource {
        specifier: Some(Specifier::Filename("/etc/ca.pem".into())),
        ..DataSource::default()
    });
    let names = || vec![san(2, Some(MatchPattern::Exact("a.test".into())))];
    let own = CertificateValidationContext::default;
    let system = || Some(SystemRootCerts::default());
    let combined = |own| {
        to(Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(own),
                validation_context_sds_secret_config: Some(named("ca")),
                ..CombinedCertificateValidationContext::default()
            },
        )))
    };
    let common = |change: fn(&mut CommonTlsContext)| {
        let mut context = by_name();
        change(context.common_tls_context.as_mut().expect("some"));
        context
    };
    let named_ca = || trusting(Trusted::Authorities("ca".into()));
    let at = "c: transport_socket.common_tls_context";
    let cases: Vec<(UpstreamTlsContext, Result<ClientTls, String>)> = vec![
        (by_name(), Ok(named_ca())),
        (
            UpstreamTlsContext { sni: "a.test".into(), max_session_keys: number(7), ..by_name() },
            Ok(ClientTls { server_name: Some("a.test".into()), ..named_ca() }),
        ),
        (
            combined(CertificateValidationContext {
                match_typed_subject_alt_names: names(),
                ..own()
            }),
            Ok(ClientTls { names: vec![exact(NameKind::Dns, "a.test")], ..named_ca() }),
        ),
        (
            common(|common| {
                common.tls_certificate_sds_secret_configs = vec![named("own")];
                common.alpn_protocols = vec!["h2".into()];
                common.tls_params = Some(TlsParameters {
                    tls_minimum_protocol_version: 4,
                    ..TlsParameters::default()
                });
            }),
            Ok(ClientTls {
                certificate: Some("own".into()),
                alpn: vec!["h2".into()],
                versions: TlsVersions::Tls13,
                ..named_ca()
            }),
        ),
        (
            within(CertificateValidationContext { trusted_ca: inline(&pem), ..own() }),
            Ok(trusting(Trusted::These(pem.as_str().into()))),
        ),
        (
            within(CertificateValidationContext {
                system_root_certs: system(),
                match_typed_subject_alt_names: names(),
                ..own()
            }),
            Ok(ClientTls {
                names: vec![exact(NameKind::Dns, "a.test")],
                ..trusting(Trusted::System)
            }),
        ),
        (
            within(CertificateValidationContext { system_root_certs: system(), ..own() }),
            Err(format!(
                "{at}.validation_context.match_typed_subject_alt_names: missing, with the \
                 system's authorities"
            )),
        ),
        (
            within(CertificateValidationContext { trusted_ca: file, ..own() }),
            Err(format!(
                "{at}.validation_context.trusted_ca: only what is sent with it is supported"
            )),
        ),
        (
            within(CertificateValidationContext { trusted_ca: inline("text"), ..own() }),
            Err(format!("{at}.validation_context.trusted_ca: holds no certificate")),
        ),
        (within(own()), Err(format!("{at}.validation_context: names no authorities"))),
        (
            within(CertificateValidationContext { allow_expired_certificate: true, ..own() }),
            Err(format!(
                "{at}.validation_context: only match_typed_subject_alt_names, trusted_ca and \
                 system_root_certs are supported"
            )),
        ),
        (
            combined(CertificateValidationContext { trusted_ca: inline(&pem), ..own() }),
            Err(format!("{at}.combined_validation_context: authorities are named twice")),
        ),
        (
            combined(CertificateValidationContext {
                match_typed_subject_alt_names: vec![san(0, None)],
                ..own()
            }),
            Err(format!(
                "{at}.combined_validation_context.default_validation_context.\
                 match_typed_subject_alt_names[0].san_type: 0 is not supported"
            )),
        ),
        (
            common(|common| {
                common.tls_certificate_sds_secret_configs = vec![named("a"), named("b")];
            }),
            Err(format!("{at}.tls_certificate_sds_secret_configs: only one is supported")),
        ),
        (
            UpstreamTlsContext { allow_renegotiation: true, ..by_name() },
            Err("c: transport_socket.allow_renegotiation: not supported".to_owned()),
        ),
        (
            UpstreamTlsContext { sni: "a b".into(), ..by_name() },
            Err("c: transport_socket.sni: \"a b\" is no host".to_owned()),
        ),
        (
            to(None),
            Err(format!("{at}.validation_context_type: missing, nothing verifies endpoints")),
        ),
    ];
    for (context, expected) in cases {
        let cluster = Cluster { transport_socket: socket(&context), ..eds() };
        let got = taken(&cluster).map(|cluster| cluster.upstream.tls);
        assert_eq!(got, expected.map(|tls| Some(Arc::new(tls))), "{context:?}");
    }
}

#[test]
fn what_a_policy_says_of_a_port_is_what_our_proxy_begins_with() {
    let pem: Arc<str> = authority().into();
    let name = |name: &str| (NameKind::Dns, name.into());
    let uri = (NameKind::Uri, Arc::from("spiffe://test/a"));
    let port = |names: &[(NameKind, Arc<str>)], authorities| PortTls {
        server_name: "a.test".into(),
        names: names.to_vec(),
        authorities,
    };
    let these = || Some(Arc::clone(&pem));
    for (tls, speaks, trusted) in [
        (port(&[name("a.test")], these()), None, Trusted::These(Arc::clone(&pem))),
        (
            port(&[name("a.test"), uri], these()),
            Some(AppProtocol::Http2),
            Trusted::These(Arc::clone(&pem)),
        ),
        (port(&[name("a.test")], None), Some(AppProtocol::Http1), Trusted::System),
    ] {
        let mut service = (*entry("web", 80, &[(1, true)]).service).clone();
        let alpn: &[&str] = match speaks {
            None => &[],
            Some(AppProtocol::Http2) => &["h2"],
            Some(_) => &["http/1.1"],
        };
        service.ports[0].app_protocol = speaks;
        for header in [None, Some(ProxyHeader::V2)] {
            service.policy = Policy::default();
            service.policy.connections.send_proxy = header;
            let port = &service.ports[0];
            let made = cluster::encode(&service, port, Way::Tls(&tls), &config(), Dialect::Envoy);
            let taken = decode::cluster::decode(&encoded_any(&made)).expect("taken").1.0;
            let expected = ClientTls {
                server_name: Some("a.test".into()),
                trusted: trusted.clone(),
                names: tls.names.iter().map(|(kind, name)| exact(*kind, name)).collect(),
                certificate: None,
                alpn: alpn.iter().map(|name| Arc::from(*name)).collect(),
                versions: TlsVersions::Both,
            };
            let Upstream { send_proxy, tls: got, .. } = taken.upstream;
            assert_eq!((send_proxy, got.as_deref()), (header, Some(&expected)));
        }
        // gRPC would refuse the cluster.
        let port = &service.ports[0];
        let made = cluster::encode(&service, port, Way::Tls(&tls), &config(), Dialect::Grpc);
        let plain = cluster::encode(&service, port, Way::Plain, &config(), Dialect::Grpc);
        assert_eq!(made.version, plain.version);
    }
}
