//! TLS of the xDS server: certificates of both sides, good and bad, and one that is replaced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::kit::{self, ADS, CDS, Talk, Variant, control, shop};
use crate::support::{PATIENCE, Process};

/// An authority.
pub(crate) struct Issuer {
    pem: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A chain and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    chain: String,
    key: String,
}

/// A server's files.
pub(crate) struct Files {
    chain: PathBuf,
    key: PathBuf,
}

impl Issuer {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate for `localhost`, in files of this name.
    pub(crate) fn server(&self, folder: &Path, name: &str) -> Files {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let pair = self.sign(&params);
        let path = |end: &str| folder.join(format!("{name}.{end}"));
        let files = Files { chain: path("chain"), key: path("key") };
        crate::support::replace(&files.chain, &pair.chain);
        crate::support::replace(&files.key, &pair.key);
        files
    }

    /// A client's certificate, with a URI or without.
    pub(crate) fn client(&self, uri: Option<&str>) -> Pair {
        self.sign(&client(uri))
    }

    /// Writes its own certificate.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("written");
    }

    /// How a client that trusts it, and shows this, connects.
    pub(crate) fn trusting(&self, pair: Option<&Pair>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().domain_name("localhost");
        let config = config.ca_certificate(Certificate::from_pem(&self.pem));
        match pair {
            Some(pair) => config.identity(Identity::from_pem(&pair.chain, &pair.key)),
            None => config,
        }
    }
}

impl Files {
    /// As a table of the configuration.
    pub(crate) fn table(&self, name: &str, trusted_ca: Option<&Path>) -> String {
        let Self { chain, key } = self;
        let ca = trusted_ca.map(|ca| format!("trusted_ca = {ca:?}\n")).unwrap_or_default();
        format!("[[certificates]]\nname = {name:?}\nchain = {chain:?}\nkey = {key:?}\n{ca}")
    }
}

fn client(uri: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
    let uri = uri.map(|uri| SanType::URI(uri.try_into().expect("ASCII")));
    params.subject_alt_names.extend(uri);
    params
}

/// A channel over TLS.
pub(crate) async fn secured(at: SocketAddr, tls: ClientTlsConfig) -> Result<Channel, Status> {
    let refused = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let endpoint = Endpoint::from_shared(format!("https://{at}")).expect("an address");
    let endpoint = endpoint.tls_config(tls).map_err(refused)?.connect_timeout(PATIENCE);
    endpoint.connect().await.map_err(refused)
}

/// A stream over TLS, with the first response taken.
async fn talk(at: SocketAddr, tls: ClientTlsConfig) -> Result<Talk, Status> {
    let channel = secured(at, tls).await?;
    let mut talk = Talk::open(&channel, ADS, Variant::Sotw, "a", None).await?;
    talk.get(CDS, &[]).await?;
    Ok(talk)
}

/// Writes a configuration with these settings of `xds`, and a server's certificate of this
/// authority, which trusts clients' ones of `clients`.
pub(crate) fn configure(
    folder: &Path,
    authority: &Issuer,
    clients: &Issuer,
    settings: &str,
) -> String {
    let ca = folder.join("clients.pem");
    clients.write(&ca);
    let table = authority.server(folder, "server").table("server", Some(&ca));
    let path = folder.join("portolan.toml");
    let text = format!("[xds]\ncertificate = \"server\"\n{settings}\n{table}");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_good_certificate_to_a_server_it_trusts_gets_in() {
    let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
    let (authority, clients, other) =
        (Issuer::new("servers"), Issuer::new("clients"), Issuer::new("others"));
    let settings = "client_certificates = \"required\"";
    let config = configure(files.path(), &authority, &clients, settings);
    let mut process = control(folder.path(), &["--config", &config]).await;
    let at = process.address("xds");

    let good = clients.client(None);
    let mut expired = client(None);
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let (expired, foreign) = (clients.sign(&expired), other.client(None));
    let cases = [
        ("good", &authority, Some(&good), true),
        ("no certificate", &authority, None, false),
        ("expired", &authority, Some(&expired), false),
        ("of another authority", &authority, Some(&foreign), false),
        ("server not trusted", &other, Some(&good), false),
    ];
    for (what, trusted, shown, expected) in cases {
        let before = failed_handshakes(&mut process).await;
        let result = talk(at, trusted.trusting(shown)).await.map(drop);
        assert_eq!(result.is_ok(), expected, "{what}: {result:?}");
        let deadline = Instant::now() + PATIENCE;
        while !expected && failed_handshakes(&mut process).await == before {
            assert!(Instant::now() < deadline, "{what}: refused, but not by the handshake");
        }
    }
    let plain = Talk::open(&kit::channel(at).await, ADS, Variant::Sotw, "a", None).await;
    assert!(plain.is_err(), "without TLS");
}

async fn failed_handshakes(process: &mut Process) -> Option<f64> {
    process.metric("portolan_xds_handshakes_failed_total").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_for_new_connections_and_old_streams_go_on() {
    let (folder, files) = (shop(), tempfile::tempdir().expect("a folder"));
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    let config = configure(files.path(), &first, &first, "");
    let mut process = control(folder.path(), &["--config", &config]).await;
    let at = process.address("xds");
    let mut old = talk(at, first.trusting(None)).await.expect("the first certificate");

    second.server(files.path(), "server");
    let deadline = Instant::now() + PATIENCE;
    while talk(at, second.trusting(None)).await.is_err() {
        assert!(Instant::now() < deadline, "the second certificate is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(talk(at, first.trusting(None)).await.is_err(), "the first one is not served any more");
    kit::service(folder.path(), "shop", "late", 9, &["10.0.9.1"]);
    old.until(|reply| reply.names().contains("shop/late:80")).await;
}
