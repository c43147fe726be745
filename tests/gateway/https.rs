//! Listeners that end TLS: certificates from Secrets, chosen by name, renewed under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::cases::{Case, EMPTY};
use crate::certificates::{Authority, Issued};
use crate::kit::{Front, Version, World, ask_over};
use crate::support::{PATIENCE, replace};

/// A Secret as a manifest, its content in base 64.
pub(crate) fn secret(namespace: &str, name: &str, issued: &Issued) -> String {
    secret_with(namespace, name, issued, &[])
}

/// The same with more in it.
pub(crate) fn secret_with(
    namespace: &str,
    name: &str,
    Issued { chain, key }: &Issued,
    more: &[(&str, &[u8])],
) -> String {
    let pair = [("tls.crt", chain.as_bytes()), ("tls.key", key.as_bytes())];
    let entry = |(name, octets): &(&str, &[u8])| {
        format!("{name}: {}", base64::engine::general_purpose::STANDARD.encode(octets))
    };
    let data: Vec<String> = pair.iter().chain(more).map(entry).collect();
    format!(
        "---\n{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{name: {name}, \
         namespace: {namespace}}}, data: {{{}}}}}\n",
        data.join(", ")
    )
}

/// Waits for the first handshake: a proxy may listen before it has its certificates.
pub(crate) async fn until_shaken(at: SocketAddr, name: &str, client: &Arc<ClientConfig>) {
    let deadline = Instant::now() + PATIENCE;
    while connect(at, name, client).await.is_err() {
        assert!(Instant::now() < deadline, "a handshake for {name} at {at}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn connect(
    at: SocketAddr,
    name: &str,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name, stream);
    tokio::time::timeout(Duration::from_secs(10), connecting).await?
}

fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("some")[0].clone().into_owned()
}

const LISTENERS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [
  {name: a, port: $PORT, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}]}},
  {name: b, port: $PORT, protocol: HTTPS, hostname: '*.b.test', tls: {certificateRefs: [{name: b}]}},
  {name: missing, port: 1, protocol: HTTPS, tls: {certificateRefs: [{name: nobody}]}},
  {name: odd, port: 2, protocol: HTTPS, tls: {certificateRefs: [{name: odd}]}},
  {name: foreign, port: 3, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: $NS-other}]}},
  {name: none, port: 4, protocol: HTTPS, tls: {certificateRefs: []}},
  {name: mutual, port: 5, protocol: HTTPS, tls: {certificateRefs: [{name: a}], frontendValidation: {caCertificateRefs: []}}}]}, kind: Gateway}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [
  {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]},
  {backendRefs: [{name: v1, port: 8080}]}]}}
";

/// The manifests of a case with these certificates.
fn manifests(a: &Issued, b: &Issued, c: &Issued) -> &'static str {
    let odd = Issued { chain: a.chain.clone(), key: b.key.clone() };
    let text = [
        LISTENERS,
        &secret("$NS", "a", a),
        &secret("$NS", "b", b),
        &secret("$NS", "odd", &odd),
        &secret("$NS-other", "c", c),
    ]
    .concat();
    // Cases are made to be constants.
    text.leak()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let authority = Authority::new("ours");
    let (a, b, c) = (
        authority.issue(&["a.test"]),
        authority.issue(&["*.b.test"]),
        authority.issue(&["c.test"]),
    );
    for front in [Front::Portolan, Front::Envoy] {
        let case = Case { name: "https", manifests: manifests(&a, &b, &c), ..EMPTY };
        let Some(mut world) = World::start(front, &[case]).await else { return };
        let at = world.at(0, false);
        until_shaken(at, "a.test", &authority.client(&[])).await;
        for (name, alpn, version, chosen) in [
            ("a.test", &["h2", "http/1.1"][..], Version::Http2, Some("h2")),
            ("a.test", &["http/1.1"], Version::Http1, Some("http/1.1")),
            ("a.test", &[], Version::Http1, None),
            ("x.b.test", &["h2"], Version::Http2, Some("h2")),
        ] {
            let stream = connect(at, name, &authority.client(alpn)).await;
            let stream = stream.unwrap_or_else(|e| panic!("{name}: {e}"));
            let got = stream.get_ref().1.alpn_protocol().map(String::from_utf8_lossy);
            assert_eq!(got.as_deref(), chosen, "{name}");
            let answer = ask_over(stream, &format!("GET {name}/x"), version).await;
            let expected = format!("200 v1 host={name} x-forwarded-proto=https");
            answer.expect("an answer").check(&expected).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let stream = connect(at, "a.test", &authority.client(&[])).await.expect("TLS");
        let answer = ask_over(stream, "GET a.test/old", Version::Http1).await.expect("an answer");
        let expected = format!("302 <location=https://a.test:{}/new", at.port());
        answer.check(&expected).expect("elsewhere");
        // A name that no listener has, and what is no TLS.
        assert!(connect(at, "other.test", &authority.client(&[])).await.is_err());
        let stream = TcpStream::connect(at).await.expect("connected");
        assert!(ask_over(stream, "GET a.test/x", Version::Http1).await.is_err());

        let expected = [
            ("a", true, "True"),
            ("b", true, "True"),
            ("missing", false, "InvalidCertificateRef"),
            ("odd", false, "InvalidCertificateRef"),
            ("foreign", false, "RefNotPermitted"),
            ("none", false, "InvalidCertificateRef"),
            ("mutual", false, "UnsupportedValue"),
        ];
        let rows = world.rows("gateways").await;
        for (name, programmed, resolved) in expected {
            let row = rows.iter().find(|row| row["listener"] == name).expect("a row");
            let resolved = format!("ResolvedRefs={resolved}");
            assert!(crate::has(row, &resolved), "{row}");
            assert_eq!(crate::has(row, "Programmed=True"), programmed, "{row}");
        }
        // No key in anything that is shown.
        for page in ["/debug/snapshot", "/debug/proxy", "/debug/rejected", "/metrics"] {
            let (_, text) = world.process.admin(page).await;
            assert!(!text.contains("PRIVATE KEY"), "{page}");
            let line = a.key.lines().nth(1).expect("a key");
            assert!(!text.contains(line), "{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_failed_request() {
    let authority = Authority::new("ours");
    let names = (authority.issue(&["*.b.test"]), authority.issue(&["c.test"]));
    let first = authority.issue(&["a.test"]);
    let case = Case { name: "renewal", manifests: manifests(&first, &names.0, &names.1), ..EMPTY };
    let mut world = World::start(Front::Portolan, &[case]).await.expect("it is ours");
    let at = world.at(0, false);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for i in 0..4 {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let client = authority.client(&["http/1.1"]);
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // A handshake each, most of them resumed from the second on.
                let stream = connect(at, "a.test", &client).await.map_err(|e| e.to_string())?;
                ask_over(stream, &format!("GET a.test/{i}"), Version::Http1).await?.check("200")?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, String>(())
        });
    }
    // One connection that lives through all of it.
    let stream = connect(at, "a.test", &authority.client(&["h2"])).await.expect("TLS");
    let shake = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    );
    let (mut kept, connection) = shake.await.expect("HTTP/2");
    tokio::spawn(connection);

    let file = world.folder.path().join("000.yaml");
    let port = at.port().to_string();
    let mut old = secret("case-0", "a", &first);
    for _ in 0..5 {
        let renewed = authority.issue(&["a.test"]);
        let text = std::fs::read_to_string(&file).expect("readable");
        assert!(text.contains(&port));
        let new = secret("case-0", "a", &renewed);
        let next = text.replace(&old, &new);
        assert_ne!(text, next, "the certificate stands in the manifest");
        replace(&file, &next);
        old = new;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fresh = authority.client(&[]);
            let stream = connect(at, "a.test", &fresh).await.expect("TLS at all times");
            let pem =
                renewed.chain.lines().filter(|line| !line.starts_with('-')).collect::<String>();
            let wanted = base64::engine::general_purpose::STANDARD.decode(pem).expect("PEM");
            if leaf(&stream).as_ref() == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "the certificate stays the old one");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let request = hyper::Request::get("https://a.test/kept");
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("valid");
        let response = kept.send_request(request).await.expect("the connection goes on");
        assert_eq!(response.status(), 200);
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic").expect("no request failed");
    }
    let done = done.load(Ordering::Relaxed);
    assert!(done > 50, "{done} requests");
}

const NEIGHBOURS: &str = "---
{apiVersion: gateway.networking.k8s.io/v1, metadata: {name: gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: $ADDRESS}], listeners: [
  {name: a, port: $PORT, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: all}]}},
  {name: wide, port: $PORT, protocol: HTTPS, hostname: '*.b.test', tls: {certificateRefs: [{name: all}]}},
  {name: narrow, port: $PORT, protocol: HTTPS, hostname: x.b.test, tls: {certificateRefs: [{name: all}]}},
  {name: bytes, port: $PORT, protocol: TLS, hostname: bytes.test, tls: {mode: Passthrough}}$REST]}, kind: Gateway}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: $NS}, spec: {parentRefs: [{name: gw}], rules: [
  {backendRefs: [{name: v1, port: 8080}]}]}}
";

/// Over a connection that asked for the first name, what requests for the second come to: where there is no
/// listener for all other names, and where there is one.
const MISDIRECTED: [(&str, &str, u16, u16); 13] = [
    ("a.test", "a.test", 200, 200),
    ("a.test", "y.b.test", 421, 421),
    ("a.test", "x.b.test", 421, 421),
    ("a.test", "bytes.test", 421, 421),
    ("a.test", "b.test", 404, 421),
    ("a.test", "other.test", 404, 421),
    ("y.b.test", "y.b.test", 200, 200),
    ("y.b.test", "z.b.test", 200, 200),
    ("y.b.test", "x.b.test", 421, 421),
    ("y.b.test", "a.test", 421, 421),
    ("x.b.test", "x.b.test", 200, 200),
    ("x.b.test", "y.b.test", 421, 421),
    ("x.b.test", "other.test", 404, 421),
];

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_for_another_listener_are_told_so() {
    let authority = Authority::new("ours");
    let all = authority.issue(&["a.test", "*.b.test", "other.test"]);
    let rest =
        ",\n  {name: rest, port: $PORT, protocol: HTTPS, tls: {certificateRefs: [{name: all}]}}";
    let manifests = |rest| -> &'static str {
        [&NEIGHBOURS.replace("$REST", rest), &secret("$NS", "all", &all)[..]].concat().leak()
    };
    for front in [Front::Portolan, Front::Envoy] {
        let cases = [
            Case { name: "without a listener for all", manifests: manifests(""), ..EMPTY },
            Case { name: "with a listener for all", manifests: manifests(rest), ..EMPTY },
        ];
        let Some(mut world) = World::start(front, &cases).await else { return };
        for (i, case) in cases.iter().enumerate() {
            let at = world.at(i, false);
            until_shaken(at, "a.test", &authority.client(&[])).await;
            let ours = [("other.test", "other.test", 0, 200), ("other.test", "a.test", 0, 421)];
            for (name, host, without, with) in MISDIRECTED.into_iter().chain(ours) {
                let expected = [without, with][i];
                for (alpn, version) in [("http/1.1", Version::Http1), ("h2", Version::Http2)] {
                    let connected = connect(at, name, &authority.client(&[alpn])).await;
                    let about = format!("{}: {name}, {host}, {version:?}", case.name);
                    let Ok(stream) = connected else {
                        assert_eq!(expected, 0, "{about}");
                        continue;
                    };
                    let answer = ask_over(stream, &format!("GET {host}/x"), version).await;
                    let checked = answer.expect("an answer").check(&expected.to_string());
                    checked.unwrap_or_else(|e| panic!("{about}: {e}"));
                }
            }
        }
    }
}
