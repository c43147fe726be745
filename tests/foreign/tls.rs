//! TLS to endpoints, for HTTP and bytes, and before bytes: whose certificate is good, what the proxy
//! proves itself with, what a change of either does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::core::health_check::{HealthChecker, HttpHealthCheck};
use portolan_proto::envoy::core::transport_socket::ConfigType;
use portolan_proto::envoy::core::{
    DataSource, HealthCheck, TransportSocket, data_source::Specifier,
};
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::matcher::StringMatcher;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::subject_alt_name_matcher::SanType;
use portolan_proto::envoy::tls::tls_parameters::TlsProtocol;
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_proto::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::backend::{Backend, HEALTH, Lines};
use crate::certificates::{Authority, Issued};
use crate::control_plane::resources::{
    all, any, assignment, eds_cluster, manager, millis, number, tcp_listener, tcp_proxy,
};
use crate::control_plane::{CDS, EDS, LDS, SDS};
use crate::kit::{Answer, Line, ROUTES, WEB, World, all_to_web, until};
use crate::support::free_address;

const NAME: &str = "web.test";
const SPIFFE: &str = "spiffe://test/ns/shop/sa/web";

/// What connections to endpoints begin with.
#[derive(Clone, Default)]
struct Wanted {
    sni: &'static str,
    names: Vec<(SanType, MatchPattern)>,
    proves: bool,
    only: Option<TlsProtocol>,
}

fn exact(text: &str) -> MatchPattern {
    MatchPattern::Exact(text.to_owned())
}

fn named(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), ..SdsSecretConfig::default() }
}

fn validation(names: &[(SanType, MatchPattern)]) -> ValidationContextType {
    let names = names.iter().map(|(kind, pattern)| SubjectAltNameMatcher {
        san_type: (*kind).into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(pattern.clone()),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    });
    let own = CertificateValidationContext {
        match_typed_subject_alt_names: names.collect(),
        ..CertificateValidationContext::default()
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(own),
        validation_context_sds_secret_config: Some(named("ca")),
        ..CombinedCertificateValidationContext::default()
    })
}

fn socket(config: portolan_proto::envoy::protobuf::Any) -> Option<TransportSocket> {
    Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    })
}

impl Wanted {
    fn of(names: &[(SanType, MatchPattern)]) -> Self {
        Self { sni: NAME, names: names.to_vec(), ..Self::default() }
    }

    fn cluster(&self) -> Cluster {
        let version = self.only.map(|only| TlsParameters {
            tls_minimum_protocol_version: only.into(),
            tls_maximum_protocol_version: only.into(),
            ..TlsParameters::default()
        });
        let own = if self.proves { vec![named("own")] } else { Vec::new() };
        let context = UpstreamTlsContext {
            sni: self.sni.to_owned(),
            common_tls_context: Some(CommonTlsContext {
                tls_params: version,
                tls_certificate_sds_secret_configs: own,
                validation_context_type: Some(validation(&self.names)),
                ..CommonTlsContext::default()
            }),
            ..UpstreamTlsContext::default()
        };
        Cluster { transport_socket: socket(any(&context)), ..eds_cluster(WEB) }
    }
}

fn over_http2(cluster: Cluster) -> Cluster {
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Default::default())),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    Cluster { typed_extension_protocol_options: [(key, any(&options))].into(), ..cluster }
}

fn inline(text: &str) -> Option<DataSource> {
    let specifier = Some(Specifier::InlineString(text.to_owned()));
    Some(DataSource { specifier, ..DataSource::default() })
}

pub(crate) fn authorities(authority: &Authority) -> Secret {
    let context = CertificateValidationContext {
        trusted_ca: inline(&authority.pem()),
        ..CertificateValidationContext::default()
    };
    Secret { name: "ca".to_owned(), r#type: Some(Type::ValidationContext(context)) }
}

pub(crate) fn pair(name: &str, issued: &Issued) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: inline(&issued.chain),
        private_key: inline(&issued.key),
        ..TlsCertificate::default()
    };
    Secret { name: name.to_owned(), r#type: Some(Type::TlsCertificate(certificate)) }
}

/// A proxy whose one cluster has this endpoint.
async fn world(cluster: &Cluster, at: SocketAddr, secrets: &[Secret]) -> World {
    let mut world = World::single().await;
    world.plane.set(SDS, all(secrets));
    let endpoints = assignment(WEB, &[at]);
    world.serve(cluster, &endpoints, &all_to_web(), &manager(ROUTES)).await;
    world
}

/// Asks on a connection that is surely new, by each change of the cluster once.
async fn told(world: &World, cluster: &Cluster) -> Answer {
    let version = world.plane.set(CDS, all([cluster]));
    world.plane.acked(CDS, &version).await;
    // What is acknowledged is about to be in force.
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.get("/").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_spoken_to_if_its_certificate_is_for_it_and_in_time() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let names = [NAME, SPIFFE];
    let server = |issued: Issued| Some(issued.server(None, &["h2", "http/1.1"]));
    let good = Backend::within("good", server(ours.issue(&names))).await;
    let dns = |pattern| vec![(SanType::Dns, pattern)];
    let uri = |pattern| vec![(SanType::Uri, pattern)];
    let secrets = [authorities(&ours)];
    let begin = Wanted::of(&[]).cluster();
    let world = world(&begin, good.address, &secrets).await;
    for (about, wanted, secured) in [
        ("any name", Wanted::of(&[]), Some("web.test http/1.1")),
        ("no name is asked for", Wanted::default(), Some("- http/1.1")),
        ("its name", Wanted::of(&dns(exact(NAME))), Some("web.test http/1.1")),
        ("its identity", Wanted::of(&uri(exact(SPIFFE))), Some("web.test http/1.1")),
        (
            "one of a domain",
            Wanted::of(&uri(MatchPattern::Prefix("spiffe://test/".to_owned()))),
            Some("web.test http/1.1"),
        ),
        ("another name", Wanted::of(&dns(exact("other.test"))), None),
        ("a name for an identity", Wanted::of(&uri(exact(NAME))), None),
        ("another identity", Wanted::of(&uri(exact("spiffe://test/ns/shop/sa/we"))), None),
        (
            "TLS 1.2",
            Wanted { only: Some(TlsProtocol::TlSv12), ..Wanted::of(&dns(exact(NAME))) },
            Some("web.test http/1.1"),
        ),
    ] {
        let answer = told(&world, &wanted.cluster()).await;
        match secured {
            Some(secured) => {
                assert_eq!((answer.status, &*answer.secured), (200, secured), "{about}");
            }
            None => {
                let refused = (answer.status, &*answer.reason);
                assert_eq!(refused, (503, "connect_failed"), "{about}: {answer:?}");
                let reason = "the certificate is for web.test, spiffe://test/ns/shop/sa/web";
                assert!(answer.body.contains(reason), "{about}: {answer:?}");
            }
        }
    }
    let answer = told(&world, &over_http2(Wanted::of(&[]).cluster())).await;
    assert_eq!((answer.status, &*answer.secured), (200, "web.test h2"), "{answer:?}");
    // Endpoints that are not to be spoken to, whatever is asked for.
    let only_http1 = Some(ours.issue(&names).server(None, &["http/1.1"]));
    let strangers = Some(ours.issue(&names).server(Some(&theirs), &["http/1.1"]));
    for (about, server, cluster, reason) in [
        ("another authority", server(theirs.issue(&names)), begin.clone(), "UnknownIssuer"),
        ("out of time", server(ours.issue_expired(&names)), begin.clone(), "expired"),
        ("in the clear", None, begin.clone(), "no TLS"),
        ("no common protocol", only_http1, over_http2(begin.clone()), "NoApplicationProtocol"),
        ("proof is asked for", strangers, begin.clone(), ""),
    ] {
        let other = Backend::within("other", server).await;
        let version = world.plane.set(EDS, all([&assignment(WEB, &[other.address])]));
        world.plane.acked(EDS, &version).await;
        let answer = told(&world, &cluster).await;
        assert!([502, 503].contains(&answer.status), "{about}: {answer:?}");
        assert!(answer.body.contains(reason), "{about}: {answer:?}");
        assert_eq!(other.requests(), 0, "{about}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_proves_itself_where_it_is_asked_to_and_renewals_fail_no_request() {
    let ours = Authority::new("ours");
    let alpn = ["h2", "http/1.1"];
    let proven = ours.issue(&[NAME]).server(Some(&ours), &alpn);
    let backend = Backend::within("a", Some(proven)).await;
    let wanted = Wanted { proves: true, ..Wanted::of(&[(SanType::Dns, exact(NAME))]) };
    let own = || pair("own", &ours.issue(&["spiffe://test/proxy"]));
    let world = world(&wanted.cluster(), backend.address, &[authorities(&ours), own()]).await;
    let answer = world.get("/").await;
    assert_eq!((answer.status, &*answer.secured), (200, "web.test http/1.1 proven"), "{answer:?}");
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..5 {
        let version = world.plane.set(SDS, all(&[authorities(&ours), own()]));
        for _ in 0..40 {
            *seen.entry(world.get("/").await.status).or_default() += 1;
        }
        world.plane.acked(SDS, &version).await;
    }
    assert_eq!(seen, [(200, 200)].into(), "{seen:?}");
    // Authorities that the endpoint is not of: connections that there are go on, new ones fail.
    let other = Authority::new("other");
    let version = world.plane.set(SDS, all(&[authorities(&other), own()]));
    world.plane.acked(SDS, &version).await;
    let failed = until("new connections are refused", async || {
        let answers = [world.get("/"), world.get("/"), world.get("/"), world.get("/")];
        let answers = futures_util::future::join_all(answers).await;
        let refused = answers.into_iter().find(|answer| answer.status == 503);
        refused.ok_or_else(|| "all were served".to_owned())
    })
    .await;
    assert!(failed.body.contains("UnknownIssuer"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_in_the_clear_once_tls_is_asked_for() {
    let ours = Authority::new("ours");
    let backend = Backend::within("a", Some(ours.issue(&[NAME]).server(None, &["http/1.1"]))).await;
    let world = world(&eds_cluster(WEB), backend.address, &[authorities(&ours)]).await;
    for _ in 0..3 {
        let slow = world.slow(4, Duration::from_millis(300));
        let change = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            told(&world, &Wanted::of(&[]).cluster()).await
        };
        let (before, after) = tokio::join!(slow, change);
        assert_eq!(before.get("a"), Some(&4), "what was under way ends: {before:?}");
        assert_eq!((after.status, &*after.secured), (200, "web.test http/1.1"), "{after:?}");
        // The connections of before would have been free again by now.
        for _ in 0..8 {
            assert_eq!(world.get("/").await.secured, "web.test http/1.1");
        }
        let plain = told(&world, &eds_cluster(WEB)).await;
        assert_eq!((plain.status, &*plain.secured), (200, ""), "{plain:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_probed_within_tls() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = |authority: &Authority| Some(authority.issue(&[NAME]).server(None, &["http/1.1"]));
    let good = Backend::within("good", server(&ours)).await;
    let bad = Backend::within("bad", server(&theirs)).await;
    let check = HealthCheck {
        timeout: millis(2000),
        interval: millis(100),
        unhealthy_threshold: number(1),
        healthy_threshold: number(1),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: HEALTH.to_owned(),
            ..HttpHealthCheck::default()
        })),
        ..HealthCheck::default()
    };
    let cluster = Cluster {
        health_checks: vec![check],
        ..Wanted::of(&[(SanType::Dns, exact(NAME))]).cluster()
    };
    let world = world(&cluster, good.address, &[authorities(&ours)]).await;
    world.plane.set(EDS, all([&assignment(WEB, &[good.address, bad.address])]));
    until("the bad one is known", async || {
        let seen = world.count(10, &[]).await;
        if seen.keys().eq(["good"]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    good.answer_probes(503);
    // Nobody is well: all are asked. With the other authorities the other one is well.
    world.plane.set(SDS, all(&[authorities(&theirs)]));
    until("checks go by the new authorities", async || {
        let seen = world.count(10, &[]).await;
        if seen.keys().eq(["bad"]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// What a listener begins with; with authorities, clients must have proof of them.
pub(crate) fn asking(authorities: Option<&str>) -> Option<TransportSocket> {
    let by_name = |name| ValidationContextType::ValidationContextSdsSecretConfig(named(name));
    let context = DownstreamTlsContext {
        require_client_certificate: authorities.map(|_| BoolValue { value: true }),
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![named("own")],
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            validation_context_type: authorities.map(by_name),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    };
    socket(any(&context))
}

fn secured_listener(at: SocketAddr) -> Listener {
    let mut listener = tcp_listener("tcp", at, &tcp_proxy(WEB));
    listener.filter_chains[0].transport_socket = asking(None);
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_through_tls_on_either_side_or_both() {
    let ours = Authority::new("ours");
    let (within, clear) = (
        Lines::within("s", Some(ours.issue(&[NAME]).server(None, &[]))).await,
        Lines::start("p").await,
    );
    let world = World::single().await;
    world.plane.set(SDS, all(&[authorities(&ours), pair("own", &ours.issue(&[NAME]))]));
    let config = ours.client(&[]);
    for (inwards, outwards) in [(false, true), (true, false), (true, true)] {
        let at = free_address();
        let lines = if outwards { &within } else { &clear };
        let cluster = if outwards { Wanted::of(&[]).cluster() } else { eds_cluster(WEB) };
        let listener =
            if inwards { secured_listener(at) } else { tcp_listener("tcp", at, &tcp_proxy(WEB)) };
        world.plane.set(CDS, all([&cluster]));
        world.plane.set(EDS, all([&assignment(WEB, &[lines.address])]));
        let version = world.plane.set(LDS, all([&listener]));
        world.plane.acked(LDS, &version).await;
        let about = format!("{inwards} {outwards}");
        let name = if outwards { "s" } else { "p" };
        if inwards {
            talk(at, &config, name, &about).await;
        } else {
            let mut line =
                until(&about, async || Line::open(at, b"").await.map_err(|e| e.to_string())).await;
            assert_eq!(line.endpoint, name, "{about}");
            assert_eq!(line.echo("hello").await.expect("echoed"), "hello", "{about}");
        }
    }
}

/// Greets, sends a megabyte, ends its side, and reads all of it and the end.
async fn talk(at: SocketAddr, config: &Arc<ClientConfig>, name: &str, about: &str) {
    let stream = until(about, async || {
        let stream = TcpStream::connect(at).await.map_err(|e| e.to_string())?;
        let host = ServerName::try_from(NAME).expect("a name");
        let connecting = TlsConnector::from(Arc::clone(config)).connect(host, stream);
        connecting.await.map_err(|e| e.to_string())
    })
    .await;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await.expect("a greeting");
    assert_eq!(greeting.trim_end(), name, "{about}");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&sent).await.expect("written");
        writer.shutdown().await.expect("ended");
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut got), write);
    read.expect("an end that is said");
    assert!(got == sent, "{about}: {} bytes came back", got.len());
}
