//! Certificates of listeners: read and checked at the start, followed after it, encoded for SDS; and
//! the listeners that name them.

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portolan_model::ServiceKey;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::core::{DataSource, config_source, transport_socket};
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::tls::common_tls_context::ValidationContextType;
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{DownstreamTlsContext, Secret};
use portolan_runtime::{CertificateFiles, Lifecycle, Metrics};
use portolan_xds::resource::{Encoded, listener};
use portolan_xds::{
    CertificateSpec, ListenerOptions, ListenerSpec, ListenerTarget, ListenerTls, SecretSet, Secrets,
};
use prost::Message;
use tempfile::TempDir;
use tokio::sync::watch;

/// A chain and its key, as PEM.
struct Made {
    chain: String,
    key: String,
}

fn make(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    Made { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// A folder with the files of one certificate.
struct Folder {
    dir: TempDir,
    /// Changes so far: each gets a time of its own.
    changes: u64,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder"), changes: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&mut self, name: &str, text: &str) {
        self.changes += 1;
        std::fs::write(self.path(name), text).expect("written");
        let file = std::fs::File::options().append(true).open(self.path(name)).expect("opened");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.changes);
        file.set_modified(time).expect("a time");
    }

    fn spec(&self, trusted_ca: bool) -> CertificateSpec {
        let files = CertificateFiles { chain: self.path("chain"), key: self.path("key") };
        CertificateSpec {
            name: "web".into(),
            files,
            ocsp: None,
            trusted_ca: trusted_ca.then(|| self.path("ca")),
        }
    }
}

fn secret(encoded: &Encoded) -> Secret {
    let any = Any::decode(encoded.any.clone()).expect("an Any");
    assert_eq!(
        any.type_url,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    );
    Secret::decode(&*any.value).expect("a secret")
}

fn text(source: Option<DataSource>) -> String {
    match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(octets)) => String::from_utf8(octets).expect("PEM"),
        other => panic!("inline bytes, not {other:?}"),
    }
}

/// The chain and key that the secret `web` holds.
fn pair(secrets: &SecretSet) -> [String; 2] {
    let secret = secret(&secrets["web"]);
    assert_eq!(secret.name, "web");
    let Some(Type::TlsCertificate(certificate)) = secret.r#type else { panic!("a certificate") };
    [text(certificate.certificate_chain), text(certificate.private_key)]
}

fn authorities(secrets: &SecretSet) -> String {
    let secret = secret(&secrets["web/ca"]);
    assert_eq!(secret.name, "web/ca");
    let Some(Type::ValidationContext(context)) = secret.r#type else { panic!("authorities") };
    text(context.trusted_ca)
}

#[test]
fn what_cannot_be_used_from_the_start_names_certificate_file_and_reason() {
    let (one, two) = (make("one"), make("two"));
    let large = "x".repeat(1024 * 1024 + 1);
    let missing = "No such file or directory";
    type Files<'a> = &'a [(&'a str, &'a str)];
    // Files, and which of them is refused and why.
    let cases: [(Files<'_>, &str, &str); 7] = [
        (&[("key", &one.key), ("ca", &one.chain)], "chain", missing),
        (&[("chain", &one.chain), ("ca", &one.chain)], "key", missing),
        (&[("chain", &one.chain), ("key", &one.key)], "ca", missing),
        (&[("chain", "words"), ("key", &one.key)], "chain", "it holds no certificate"),
        (&[("chain", &one.chain), ("key", &two.key)], "key", "keys may not be consistent"),
        (&[("chain", &large), ("key", &one.key)], "chain", "it is larger than 1048576 octets"),
        (&[("chain", &one.chain), ("key", &one.key), ("ca", "")], "ca", "it holds no certificate"),
    ];
    for (files, refused, reason) in cases {
        let mut folder = Folder::new();
        for (name, text) in files {
            folder.write(name, text);
        }
        let opened = Secrets::open(&[folder.spec(true)], &Metrics::new());
        let said = opened.expect_err("refused").to_string();
        let name = if refused == "ca" { "web/ca" } else { "web" };
        let start =
            format!("certificate {name:?}: cannot use {}: ", folder.path(refused).display());
        assert!(said.starts_with(&start) && said.contains(reason), "{said}");
    }
}

/// The next set that is put in force.
async fn next(receiver: &mut watch::Receiver<SecretSet>) -> SecretSet {
    let changed = tokio::time::timeout(Duration::from_secs(60), receiver.changed());
    changed.await.expect("in time").expect("followed");
    receiver.borrow_and_update().clone()
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the handle is kept and joined")]
async fn files_are_followed_and_what_does_not_belong_together_is_not_put_in_force() {
    let (one, two) = (make("one"), make("two"));
    let mut folder = Folder::new();
    for (name, text) in [("chain", &one.chain), ("key", &one.key), ("ca", &one.chain)] {
        folder.write(name, text);
    }
    let (metrics, lifecycle) = (Metrics::new(), Lifecycle::new());
    let (secrets, mut receiver) =
        Secrets::open(&[folder.spec(true)], &metrics).expect("good files");
    let first = receiver.borrow_and_update().clone();
    assert_eq!(pair(&first), [one.chain.clone(), one.key.clone()]);
    assert_eq!(authorities(&first), one.chain);
    assert_eq!(first.len(), 2);
    assert!(!format!("{first:?}{secrets:?}").contains("PRIVATE"), "keys stay out of logs");
    let follower = tokio::spawn(secrets.follow(lifecycle.clone()));

    // The chain of a renewal alone, and authorities besides: these count at once.
    folder.write("chain", &two.chain);
    folder.write("ca", &two.chain);
    let second = next(&mut receiver).await;
    assert_eq!(pair(&second), pair(&first));
    assert_eq!(authorities(&second), two.chain);
    let errors = "portolan_xds_certificate_errors_total 1";
    assert!(metrics.encode().expect("metrics").lines().any(|line| line == errors));
    // Its key as well.
    folder.write("key", &two.key);
    let third = next(&mut receiver).await;
    assert_eq!(pair(&third), [two.chain.clone(), two.key.clone()]);
    assert_ne!(third["web"].version, first["web"].version);

    // Written anew with the same content, then gone: nothing is put in force for either.
    folder.write("key", &two.key);
    tokio::time::sleep(Duration::from_secs(3)).await;
    std::fs::remove_file(folder.path("key")).expect("removed");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!receiver.has_changed().expect("followed"));
    assert!(Arc::ptr_eq(&third, &receiver.borrow()));
    lifecycle.drain();
    follower.await.expect("it ends");
}

#[test]
fn listeners_ask_for_their_secrets_over_the_same_stream() {
    let service = ServiceKey::new("shop", "db").expect("valid");
    let tcp = || ListenerTarget::Tcp { service: service.clone(), port: 5432 };
    let tls = |client_ca| {
        let certificate = "web".into();
        Some(ListenerTls { certificate, client_ca, client_names: Vec::new() })
    };
    // The listener; its ALPN, and the secret of its authorities.
    type Expected = Option<(&'static [&'static str], Option<&'static str>)>;
    let cases: [(ListenerTarget, Option<ListenerTls>, Expected); 4] = [
        (ListenerTarget::Http, None, None),
        (ListenerTarget::Http, tls(false), Some((&["h2", "http/1.1"], None))),
        (ListenerTarget::Http, tls(true), Some((&["h2", "http/1.1"], Some("web/ca")))),
        (tcp(), tls(true), Some((&[], Some("web/ca")))),
    ];
    for (target, tls, expected) in cases {
        let address = "127.0.0.1:8443".parse().expect("an address");
        let client_ca = tls.as_ref().is_some_and(|tls| tls.client_ca);
        let options = ListenerOptions::default();
        let spec = ListenerSpec { name: "l".into(), address, target, tls, options };
        let any = Any::decode(listener::encode_socket(&spec).any).expect("an Any");
        let listener = Listener::decode(&*any.value).expect("a listener");
        let socket = listener.filter_chains[0].transport_socket.clone();
        let Some((alpn, authorities)) = expected else {
            assert_eq!(socket, None);
            continue;
        };
        let socket = socket.expect("a transport socket");
        assert_eq!(socket.name, "envoy.transport_sockets.tls");
        let Some(transport_socket::ConfigType::TypedConfig(context)) = socket.config_type else {
            panic!("a typed config");
        };
        let context = DownstreamTlsContext::decode(&*context.value).expect("a context");
        assert_eq!(context.require_client_certificate.map(|v| v.value), Some(client_ca));
        let common = context.common_tls_context.expect("a common context");
        assert_eq!(common.alpn_protocols, alpn);
        let [certificate] = common.tls_certificate_sds_secret_configs.as_slice() else {
            panic!("one certificate");
        };
        assert_eq!(certificate.name, "web");
        let source = certificate.sds_config.clone().and_then(|s| s.config_source_specifier);
        assert!(matches!(source, Some(config_source::ConfigSourceSpecifier::Ads(_))));
        let named = common.validation_context_type.map(|kind| match kind {
            ValidationContextType::ValidationContextSdsSecretConfig(config) => config.name,
            other => panic!("by SDS, not {other:?}"),
        });
        assert_eq!(named.as_deref(), authorities);
    }
}
