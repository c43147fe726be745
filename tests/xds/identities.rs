//! Who sees what: clients with SPIFFE ids, on every way to what a namespace has.

use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::status::ClientStatusRequest;
use portolan_proto::envoy::status::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use portolan_proto::envoy::tls::Secret;
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::v1::ResolveRequest;
use portolan_proto::v1::endpoints_client::EndpointsClient;
use portolan_runtime::certificate::alternative_names;
use prost::Message;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::kit::{self, ADS, CDS, EDS, RDS, SDS, Talk, Variant, channel, control, shop};
use crate::support::Process;
use crate::tls::{Issuer, configure, secured};

const SETTINGS: &str = "\
client_certificates = \"required\"
clients = \"identified\"
[[xds.grants]]
namespace = \"shop\"
account = \"gateway\"
sees = [\"pay\"]
[[xds.grants]]
namespace = \"edge\"
sees = [\"*\"]";

/// What a client with this identity may see: its clusters, and whether all there is.
struct Case {
    account: &'static str,
    clusters: &'static [&'static str],
    all: bool,
}

const CASES: [Case; 4] = [
    Case { account: "shop/sa/web", clusters: &["shop/api:80", "shop/web:80"], all: false },
    Case {
        account: "shop/sa/gateway",
        clusters: &["pay/api:80", "shop/api:80", "shop/web:80"],
        all: false,
    },
    Case { account: "pay/sa/web", clusters: &["pay/api:80"], all: false },
    Case {
        account: "edge/sa/any",
        clusters: &["pay/api:80", "shop/api:80", "shop/web:80"],
        all: true,
    },
];

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn holds(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sees_its_namespace_and_what_it_is_granted_whichever_way_it_asks() {
    let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
    let authority = Issuer::new("ca");
    let config = configure(files.path(), &authority, &authority, SETTINGS);
    let mut process = control(folder.path(), &["--config", &config]).await;
    let at = process.address("xds");

    for Case { account, clusters, all } in CASES {
        let pair = authority.client(Some(&format!("spiffe://cluster.local/ns/{account}")));
        let channel = secured(at, authority.trusting(Some(&pair))).await.expect("trusted");
        let open = || Talk::open(&channel, ADS, Variant::Delta, "a", None);
        let wildcard = open().await.expect(account).get(CDS, &[]).await.expect(account);
        assert_eq!(wildcard.names(), clusters.iter().copied().collect(), "{account}");
        let mut talk = open().await.expect(account);
        let routes = talk.get(RDS, &["portolan/http"]).await.expect(account);
        for (name, host) in
            [("shop/web:80", "web.shop"), ("shop/api:80", "api.shop"), ("pay/api:80", "api.pay")]
        {
            let seen = clusters.contains(&name);
            let mut talk = open().await.expect(account);
            let endpoints = talk.get(EDS, &[name]).await.expect(account);
            assert_eq!(endpoints.names().contains(name), seen, "{account}: {name}");
            assert_eq!(endpoints.removed.is_empty(), seen, "{account}: {name}");
            let table = &routes.resources["portolan/http"];
            assert_eq!(holds(table, name), seen, "{account}: route to {name}");
            assert_eq!(holds(table, host), seen, "{account}: route of {host}");

            let request = ResolveRequest { service: host.to_owned(), ..ResolveRequest::default() };
            let resolved = EndpointsClient::new(channel.clone()).resolve(request).await;
            let expected = if seen { Code::Ok } else { Code::PermissionDenied };
            assert_eq!(code(resolved), expected, "{account}: {host} by the plain API");
        }
        let mut csds = ClientStatusDiscoveryServiceClient::new(channel.clone());
        let told = csds.fetch_client_status(ClientStatusRequest::default()).await;
        let expected = if all { Code::Ok } else { Code::PermissionDenied };
        assert_eq!(code(told), expected, "{account}: of other clients");
    }

    for uri in [None, Some("spiffe://other.example/ns/shop/sa/web"), Some("spiffe://cluster.local")]
    {
        let pair = authority.client(uri);
        let channel = secured(at, authority.trusting(Some(&pair))).await.expect("trusted");
        let opened = Talk::open(&channel, ADS, Variant::Sotw, "a", None).await;
        assert_eq!(code(opened), Code::Unauthenticated, "{uri:?}");
        let request = ResolveRequest { service: "web.shop".into(), ..ResolveRequest::default() };
        let resolved = EndpointsClient::new(channel).resolve(request).await;
        assert_eq!(code(resolved), Code::Unauthenticated, "{uri:?} by the plain API");
    }
    let unauthenticated = process.metric("portolan_xds_unauthenticated_total").await;
    assert_eq!(unauthenticated, Some(6.0));
}

/// Whom the certificate is for that a client gets, if it gets one.
async fn own_certificate(channel: &Channel, claims: &str) -> Option<String> {
    let name = "portolan.dev/identity";
    let talk = Talk::open(channel, ADS, Variant::Delta, "a", None);
    let mut talk = talk.await.expect("let in");
    talk.says(name, claims);
    let reply = talk.get(SDS, &[name]).await.expect("an answer");
    let secret = reply.resources.get(name)?;
    let secret = Secret::decode(&secret[..]).expect("a secret");
    let Some(Type::TlsCertificate(own)) = secret.r#type else {
        panic!("a certificate: {secret:?}")
    };
    let Some(Specifier::InlineBytes(pem)) = own.certificate_chain.and_then(|c| c.specifier) else {
        panic!("it is inline")
    };
    let certificate = CertificateDer::from_pem_slice(&pem).expect("PEM");
    let names = alternative_names(&certificate);
    let [(_, name)] = &names[..] else { panic!("one name: {names:?}") };
    Some(name.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_for_who_a_client_has_proven_to_be_whatever_it_says() {
    let authority = Issuer::new("ca");
    let proven = authority.client(Some("spiffe://cluster.local/ns/shop/sa/web"));
    let other = authority.client(Some("spiffe://other.example/ns/shop/sa/web"));
    let identified = "client_certificates = \"required\"\nclients = \"identified\"";
    let own = Some("spiffe://cluster.local/ns/shop/sa/web".to_owned());
    let cart = Some("spiffe://cluster.local/ns/shop/sa/cart".to_owned());
    let optional = "client_certificates = \"optional\"";
    // What is asked of clients, whether local ones are trusted, the client's certificate, and what it
    // gets that says it is the cart.
    let cases = [
        (identified, false, Some(&proven), own.clone()),
        (identified, true, Some(&proven), own.clone()),
        (optional, false, Some(&proven), own),
        (optional, false, Some(&other), None),
        (optional, false, None, None),
        (optional, true, None, cart),
    ];
    for (settings, trusted, pair, expected) in cases {
        let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
        let config = configure(files.path(), &authority, &authority, settings);
        let issuer = format!("identity.issuer_folder={}", files.path().join("issuer").display());
        let local = if trusted { "trusted" } else { "prove" };
        let local = format!("identity.local_clients={local}");
        let more = ["--config", &config, "--set", &issuer, "--set", &local];
        let mut process = control(folder.path(), &more).await;
        let channel = secured(process.address("xds"), authority.trusting(pair)).await;
        let got = own_certificate(&channel.expect("trusted"), "shop/cart").await;
        assert_eq!(got, expected, "{settings} {local} {}", pair.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_all_roles_has_a_way_to_itself_that_is_nobody_elses() {
    let folder = shop();
    let mut process = Process::run(folder.path(), &["--set", "xds.clients=identified"]);
    process.reach(1).await;
    let proxy = process.json("/debug/proxy").await;
    assert_eq!(proxy["clusters"].as_object().map(serde_json::Map::len), Some(3), "{proxy}");
    kit::service(folder.path(), "pay", "late", 9, &["10.0.9.1"]);
    process.reach(2).await;

    let public = process.address("xds");
    let said = ["admin", "xds", "dns", "proxy http http"].map(|what| process.address(what).port());
    let own: Vec<u16> = process.listening().into_iter().filter(|p| !said.contains(p)).collect();
    let [own] = own[..] else { panic!("one more than it says: {own:?}") };
    let internal = std::net::SocketAddr::new(public.ip(), own);
    for (at, token) in [(internal, None), (internal, Some("guessed")), (public, None)] {
        let opened = Talk::open(&channel(at).await, ADS, Variant::Sotw, "a", token).await;
        let status = opened.map(drop).expect_err("nobody else");
        assert_eq!(status.code(), Code::Unauthenticated, "{at} {token:?}: {status}");
        assert_eq!(status.message().contains("for the process itself"), at == internal, "{status}");
    }
}
