//! TLS with clients that are not ours, against listeners of the real binary: openssl and curl, each
//! version and protocol, and every wrong certificate of a client.

mod support;

#[path = "support/certificates.rs"]
mod certificates;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use certificates::{Authority, Issued};
use portolan_backends::shop::Shop;
use portolan_runtime::Lifecycle;
use rcgen::ExtendedKeyUsagePurpose;
use support::{PATIENCE, Process, foreign};

/// An identity.
const SHOP: &str = "spiffe://test/ns/shop/sa/web";

/// A folder with certificates, the shop's backends and Portolan in front of them.
struct World {
    process: Process,
    folder: tempfile::TempDir,
    _shop: Shop,
    _manifests: tempfile::TempDir,
}

/// Writes a certificate and its key as `name.pem` and `name.key`.
fn write(folder: &Path, name: &str, issued: &Issued) {
    std::fs::write(folder.join(format!("{name}.pem")), &issued.chain).expect("written");
    std::fs::write(folder.join(format!("{name}.key")), &issued.key).expect("written");
}

impl World {
    async fn start() -> Self {
        Self::of(Authority::new("ours"), None).await
    }

    /// With certificates of an authority, and `web` as it is, with what is stapled to it.
    async fn of(ours: Authority, stapled: Option<(Issued, Vec<u8>)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let theirs = Authority::new("theirs");
        std::fs::write(path.join("ca.pem"), ours.pem()).expect("written");
        let names = ["web.test"];
        let usable_as =
            |purpose| ours.issue_with(&names, |params| params.extended_key_usages = vec![purpose]);
        let early = ours.issue_with(&names, |params| {
            params.not_before = (SystemTime::now() + Duration::from_secs(3600)).into();
            params.not_after = (SystemTime::now() + Duration::from_secs(7200)).into();
        });
        for (name, issued) in [
            ("web", ours.issue(&names)),
            ("good", usable_as(ExtendedKeyUsagePurpose::ClientAuth)),
            ("stranger", theirs.issue(&names)),
            ("expired", ours.issue_expired(&names)),
            ("early", early),
            ("server-only", usable_as(ExtendedKeyUsagePurpose::ServerAuth)),
            ("shop", ours.issue(&["other.test", SHOP])),
            ("reports", ours.issue(&["*.reports.test"])),
            ("nameless", ours.issue(&[])),
            ("stranger-shop", theirs.issue(&[SHOP])),
        ] {
            write(path, name, &issued);
        }
        if let Some((web, said)) = &stapled {
            write(path, "web", web);
            std::fs::write(path.join("web.ocsp"), said).expect("written");
        }
        let config = format!(
            "[[certificates]]\nname = \"web\"\nchain = \"{0}/web.pem\"\nkey = \"{0}/web.key\"\n\
             {1}trusted_ca = \"{0}/ca.pem\"\n\
             [[listeners]]\nname = \"open\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             tls = \"web\"\n\
             [[listeners]]\nname = \"mutual\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             tls = \"web\"\nclient_ca = true\n\
             [[listeners]]\nname = \"named\"\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             tls = \"web\"\nclient_ca = true\nclient_names = [\"{SHOP}\", \"a.reports.test\"]\n\
             [[listeners]]\nname = \"bytes\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
             service = \"shop/web:80\"\ntls = \"web\"\n",
            path.display(),
            if stapled.is_some() {
                format!("ocsp = \"{}/web.ocsp\"\n", path.display())
            } else {
                String::new()
            },
        );
        std::fs::write(path.join("portolan.toml"), config).expect("written");
        let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("the backends start");
        let manifests = tempfile::tempdir().expect("a folder");
        shop.write_manifests(manifests.path()).expect("manifests");
        let config = path.join("portolan.toml");
        let config = config.to_str().expect("UTF-8");
        let mut process = Process::run(manifests.path(), &["--config", config]);
        process.reach(1).await;
        Self { process, folder, _shop: shop, _manifests: manifests }
    }

    fn at(&mut self, listener: &str) -> SocketAddr {
        let kind = if listener == "bytes" { "tcp" } else { "http" };
        self.process.address(&format!("proxy {kind} {listener}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// curl on a listener, with what else it is told.
    fn curl(&mut self, listener: &str, more: &[&str]) -> Option<Output> {
        let at = self.at(listener);
        let mut curl = foreign::program("curl")?;
        curl.args(["-s", "--max-time", "20", "-H", "Host: web.shop", "-o", "/dev/null"]);
        curl.args(["-w", "%{http_version} %{http_code}", "--resolve"]);
        curl.arg(format!("web.test:{}:127.0.0.1", at.port()));
        curl.arg("--cacert").arg(self.file("ca.pem")).args(more);
        curl.arg(format!("https://web.test:{}/", at.port()));
        Some(curl.stdin(Stdio::null()).output().expect("curl runs"))
    }

    /// `openssl s_client` on a listener; what it says. It ends the connection at once.
    fn openssl(&mut self, listener: &str, more: &[&str]) -> Option<String> {
        let at = self.at(listener).to_string();
        let mut openssl: Command = foreign::program("openssl")?;
        openssl.args(["s_client", "-connect", &at, "-servername", "web.test", "-CAfile"]);
        openssl.arg(self.file("ca.pem")).args(more);
        let output = openssl.stdin(Stdio::null()).output().expect("openssl runs");
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_suite_and_protocol_comes_to_what_it_is_to() {
    let mut world = World::start().await;
    for (arguments, expected) in [
        (&["--http1.1"][..], "1.1 200"),
        (&["--http2"], "2 200"),
        (&["--no-alpn"], "1.1 200"),
        (&["--tlsv1.3"], "2 200"),
        (&["--tls-max", "1.2"], "2 200"),
        // Refused: what is older than 1.2 (RFC 8996).
        (&["--tlsv1.0", "--tls-max", "1.1"], "0 000"),
    ] {
        let Some(output) = world.curl("open", arguments) else { return };
        assert_eq!(said(&output), expected, "{arguments:?}");
    }
    for (arguments, expected) in [
        (&["-tls1_3"][..], Ok("TLSv1.3")),
        (&["-tls1_2"], Ok("TLSv1.2")),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            Ok("ECDHE-ECDSA-AES128-GCM-SHA256"),
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
            Ok("ECDHE-ECDSA-CHACHA20-POLY1305"),
        ),
        (
            &["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
            Ok("TLS_CHACHA20_POLY1305_SHA256"),
        ),
        // No forward secrecy, or no authenticated encryption.
        (&["-tls1_2", "-cipher", "AES128-SHA"], Err("alert ")),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], Err("alert ")),
        (&["-alpn", "h2"], Ok("ALPN protocol: h2")),
        (&["-alpn", "http/1.1"], Ok("ALPN protocol: http/1.1")),
        (&["-alpn", "smtp"], Err("no application protocol")),
    ] {
        let Some(text) = world.openssl("open", arguments) else { return };
        let (Ok(words) | Err(words)) = expected;
        assert!(text.contains(words), "{arguments:?}: no {words:?} in {text}");
        assert_eq!(
            !text.contains("no peer certificate available"),
            expected.is_ok(),
            "{arguments:?}: {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_good_certificate_is_refused() {
    let mut world = World::start().await;
    for (listener, name, expected) in [
        ("mutual", None, "000"),
        ("mutual", Some("good"), "200"),
        // Without a purpose of its own it is good for any.
        ("mutual", Some("web"), "200"),
        ("mutual", Some("stranger"), "000"),
        ("mutual", Some("expired"), "000"),
        ("mutual", Some("early"), "000"),
        ("mutual", Some("server-only"), "000"),
        // For whom it is.
        ("named", None, "000"),
        ("named", Some("shop"), "200"),
        ("named", Some("reports"), "200"),
        ("named", Some("good"), "000"),
        ("named", Some("nameless"), "000"),
        ("named", Some("stranger-shop"), "000"),
    ] {
        for version in ["1.2", "1.3"] {
            let files = name.map(|name| {
                [".pem", ".key"].map(|end| {
                    world.file(&format!("{name}{end}")).to_str().expect("UTF-8").to_owned()
                })
            });
            let mut arguments = vec!["--tls-max", version];
            if let Some([chain, key]) = &files {
                arguments.extend(["--cert", chain, "--key", key]);
            }
            let Some(output) = world.curl(listener, &arguments) else { return };
            let got = said(&output);
            let about = format!("{listener}: {name:?} over {version}");
            assert_eq!(got.split(' ').nth(1), Some(expected), "{about}: {got}");
        }
    }
    let refused = "portolan_proxy_listener_local_answers_total{listener=\"mutual\",\
                   reason=\"tls_handshake\"}";
    assert_eq!(world.process.metric(refused).await, Some(10.0), "each is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_and_not_where_they_could_not_have_begun() {
    let mut world = World::start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = world.file(&format!("session{version}"));
        let session = session.to_str().expect("UTF-8").to_owned();
        // A session is told of after the handshake: something has to be read.
        let first = [version, "-sess_out", &session, "-ign_eof"];
        let at = world.at("open").to_string();
        let Some(mut openssl) = foreign::program("openssl") else { return };
        openssl
            .args(["s_client", "-quiet", "-connect", &at, "-servername", "web.test"])
            .args(first);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = openssl.spawn().expect("openssl runs");
        use std::io::Write as _;
        let request = b"GET / HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n\r\n";
        child.stdin.as_mut().expect("piped").write_all(request).expect("written");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.stdout.starts_with(b"HTTP/1.1 200"), "{version}: {}", said(&output));
        // The end is said within TLS: it is told from a cut.
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("unexpected eof"), "{version}: {errors}");
        let Some(text) = world.openssl("open", &[version, "-sess_in", &session]) else { return };
        assert!(text.contains("Reused, "), "{version}: {text}");
        // The same session at a listener that asks for a certificate is none.
        let Some(text) = world.openssl("mutual", &[version, "-sess_in", &session]) else { return };
        assert!(!text.contains("Reused, "), "{version}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_says_is_stapled_to_a_certificate() {
    let ours = Authority::new("ours");
    let web = ours.issue(&["web.test"]);
    let (Some(good), Some(revoked)) = (ours.says(&web, true), ours.says(&web, false)) else {
        return;
    };
    let mut world = World::of(ours, Some((web, good.clone()))).await;
    let status = ["-status", "-tls1_3"];
    for more in [status, ["-status", "-tls1_2"]] {
        let Some(text) = world.openssl("open", &more) else { return };
        assert!(text.contains("OCSP Response Status: successful (0x0)"), "{more:?}: {text}");
        assert!(text.contains("Cert Status: good"), "{more:?}: {text}");
    }
    // Who does not ask for it does not get it.
    let Some(text) = world.openssl("open", &["-tls1_3"]) else { return };
    assert!(text.contains("Verify return code: 0") && !text.contains("OCSP"), "{text}");
    // What is of no use is not stapled; the certificate goes on without it, and a good one comes back.
    for (i, bad) in [revoked, b"hello".to_vec(), Vec::new()].iter().enumerate() {
        for (said, expected) in
            [(bad, "OCSP response: no response sent"), (&good, "Cert Status: good")]
        {
            std::fs::write(world.file("web.ocsp"), said).expect("written");
            let deadline = Instant::now() + PATIENCE;
            loop {
                let Some(text) = world.openssl("open", &status) else { return };
                assert!(text.contains("Verify return code: 0"), "{i}: {text}");
                if text.contains(expected) {
                    break;
                }
                assert!(Instant::now() < deadline, "{i}: no {expected}: {text}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_within_tls_where_the_listener_says_so() {
    let mut world = World::start().await;
    // What is served is HTTP, which passes as bytes: the endpoint answers, and nobody adds a field.
    let Some(output) = world.curl("bytes", &["--http1.1"]) else { return };
    assert_eq!(said(&output), "1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_gets_no_answer_of_http() {
    let mut world = World::start().await;
    let at = world.at("open");
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: web.shop\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"\x00\x00\x00\x00",
    ] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        stream.shutdown().await.expect("half-closed");
        let mut answer = Vec::new();
        // It may be reset.
        let _ended = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/"), "{bytes:?}: {answer:?}");
        assert!(answer.is_empty() || answer[0] == 0x15, "an alert at most: {answer:?}");
    }
}
