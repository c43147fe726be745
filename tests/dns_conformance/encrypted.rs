//! The encrypted listeners asked by curl, dig and dnspython, and a certificate that is renewed
//! while the server runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::client::{ID, Query, Reply, Transport};
use crate::server::{Certificate, SHOP, Server, full, trusting};
use crate::support::foreign::{program, python, run};
use crate::support::{PATIENCE, replace};

const SETTINGS: &[&str] = &[
    "control.service_ranges=10.96.0.0/16,fd00:96::/112",
    "dns.https_addresses=127.0.0.1:0",
    "dns.quic_addresses=127.0.0.1:0",
];

/// Questions that every protocol is asked: an address, servers, an alias, a name that is none.
const QUESTIONS: [(&str, T); 5] = [
    ("web.shop%", T::A),
    ("_sql._tcp.db.shop%", T::SRV),
    ("in.shop%", T::AAAA),
    ("nobody.shop%", T::A),
    ("example.com.", T::A),
];

/// A request of DNS over HTTPS by curl: what it prints is version, status, media type and
/// freshness, and the body is written to a file.
fn curl(curl: &mut Command, files: &Path, rest: &[&str]) -> (String, Vec<u8>) {
    let body = files.join("body");
    let shown = "%{http_version} %{response_code} %{content_type} %header{cache-control}";
    curl.args(["--silent", "--show-error", "--http2", "--noproxy", "*", "--max-time", "10"]);
    curl.arg("--cacert").arg(files.join("chain.pem"));
    curl.arg("--output").arg(&body).args(["--write-out", shown]).args(rest);
    let said = run(curl);
    let body = std::fs::read(&body).unwrap_or_default();
    (String::from_utf8(said).expect("text"), body)
}

#[tokio::test]
async fn https_answers_get_and_post_as_the_other_transports_do() {
    if program("curl").is_none() {
        return;
    }
    let mut server = Server::start(SHOP, SETTINGS).await;
    let at = server.process().address("dns-https");
    let url = format!("https://{at}/dns-query");
    let query_file = server.file("query");
    let posted = format!("@{}", query_file.display());
    for (name, rtype) in QUESTIONS {
        let query = Query::new(&full(name), rtype);
        let expected = query.ask(&server.target, Transport::Tcp).await;
        let bytes = query.bytes(ID);
        std::fs::write(&query_file, &bytes).expect("written");
        let get = format!("{url}?dns={}", URL_SAFE_NO_PAD.encode(&bytes));
        let media = "content-type: application/dns-message";
        let post = ["--header", media, "--data-binary", &posted, &url];
        for request in [&[get.as_str()][..], &post] {
            let mut command = program("curl").expect("found before");
            let (said, body) = curl(&mut command, server.files.path(), request);
            let age = said.strip_prefix("2 200 application/dns-message max-age=");
            let age: Option<u32> = age.and_then(|age| age.parse().ok());
            let age = age.unwrap_or_else(|| panic!("RFC 8484 §4.2: {request:?}: {said}"));
            // RFC 8484 §5.1: as fresh as its records; a negative answer at most as its SOA.
            let least = expected.ttls.first().copied().unwrap_or(0);
            assert!(age <= least, "{request:?}: {said}");
            assert!(age == least || expected.answers.is_empty(), "{request:?}: {said}");
            assert_eq!(Reply::read(&body, ID), expected, "RFC 8484 §4.2: {request:?}");
        }
    }
}

#[tokio::test]
async fn https_refuses_what_is_no_dns_request_with_a_status() {
    if program("curl").is_none() {
        return;
    }
    let mut server = Server::start(SHOP, SETTINGS).await;
    let at = server.process().address("dns-https");
    let url = format!("https://{at}/dns-query");
    let [path, bad, short] =
        ["/", "/dns-query?dns=*", "/dns-query?dns=AAAA"].map(|end| format!("https://{at}{end}"));
    let media = "content-type: application/dns-message";
    // The requests that are refused unread have no body: curl 7.88 takes the RST_STREAM(NO_ERROR)
    // that follows the status then (RFC 9113 §8.1) for a failure.
    let cases: [(&str, &str, &[&str]); 7] = [
        ("another path", "404", &[&path]),
        ("no question", "400", &[&url]),
        ("a question that is no base64url", "400", &[&bad]),
        ("a question that is no message", "400", &[&short]),
        ("another method", "405", &["--request", "PUT", &url]),
        (
            "another media type",
            "415",
            &["--request", "POST", "--header", "content-type: a/b", &url],
        ),
        ("a body that is no message", "400", &["--header", media, "--data-binary", "x", &url]),
    ];
    for (what, status, request) in cases {
        let mut command = program("curl").expect("found before");
        let (said, _) = curl(&mut command, server.files.path(), request);
        assert_eq!(said.split(' ').nth(1), Some(status), "RFC 8484 §4.2.1: {what}: {said}");
    }
}

/// The answer section as dig prints it.
fn dig(server: &Server, at: SocketAddr, how: &str, name: &str, rtype: T) -> BTreeSet<String> {
    let authority = format!("+tls-ca={}", server.file("chain.pem").display());
    let mut command = program("dig").expect("found before");
    command.args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), how, &authority]);
    command.args(["+tls-hostname=localhost", "+noall", "+answer", "+tries=1", "+time=10"]);
    command.args([name, &rtype.to_string()]);
    let said = String::from_utf8(run(&mut command)).expect("text");
    let lines = said.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [owner, _ttl, _class, rest @ ..] = words.as_slice() else { panic!("{said}") };
            format!("{owner} {}", rest.join(" "))
        })
        .collect()
}

#[tokio::test]
async fn dig_gets_the_same_answers_over_tls_and_https() {
    if program("dig").is_none() {
        return;
    }
    let mut server = Server::start(SHOP, SETTINGS).await;
    let https = server.process().address("dns-https");
    for (name, rtype) in QUESTIONS {
        let name = full(name);
        let expected = server.lookup(&name, rtype).await.answers;
        for (at, how) in [(server.target.tls, "+tls"), (https, "+https"), (https, "+https-get")] {
            assert_eq!(dig(&server, at, how, &name, rtype), expected, "{how} {name} {rtype}");
        }
    }
}

#[tokio::test]
async fn quic_answers_as_the_other_transports_do() {
    if python(&["dns.query", "aioquic"]).is_none() {
        return;
    }
    let mut server = Server::start(SHOP, SETTINGS).await;
    let at = server.process().address("dns-quic");
    for (name, rtype) in QUESTIONS {
        let name = full(name);
        let expected = server.lookup(&name, rtype).await;
        let mut command = python(&["dns.query"]).expect("found before");
        command.arg("tests/dns_conformance/doq.py");
        command.args([at.ip().to_string(), at.port().to_string()]);
        command.arg(server.file("chain.pem")).args([&name, &rtype.to_string()]);
        let said = String::from_utf8(run(&mut command)).expect("text");
        let mut lines = said.lines().map(str::to_owned);
        assert_eq!(lines.next(), Some(expected.rcode.to_string()), "RFC 9250: {said}");
        assert_eq!(lines.collect::<BTreeSet<_>>(), expected.answers, "RFC 9250: {said}");
    }
}

/// The certificate that a listener of TLS shows to a client that trusts these.
async fn shown(at: SocketAddr, trusted: &[&Certificate]) -> Vec<u8> {
    let tcp = TcpStream::connect(at).await.expect("connected");
    let name = ServerName::IpAddress(at.ip().into());
    let tls = TlsConnector::from(trusting(trusted)).connect(name, tcp).await;
    let tls = tls.expect("a handshake");
    let chain = tls.get_ref().1.peer_certificates().expect("a certificate");
    chain[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_half_a_renewal_is_not() {
    let mut first = Certificate::new();
    let (second, third) = (Certificate::new(), Certificate::new());
    let files = |files: &Path| {
        std::fs::write(files.join("chain.pem"), &first.chain).expect("written");
        std::fs::write(files.join("key.pem"), &first.key).expect("written");
    };
    let mut server = Server::start_with(SHOP, SETTINGS, files).await;
    let listeners = [server.target.tls, server.process().address("dns-https")];
    for at in listeners {
        assert_eq!(shown(at, &[&first]).await, first.der);
    }
    for new in [&second, &third] {
        // The chain alone does not belong to the key.
        let errors = "portolan_dns_certificate_errors_total";
        let before = server.process().metric(errors).await.expect("the metric");
        replace(&server.file("chain.pem"), &new.chain);
        let deadline = Instant::now() + PATIENCE;
        while server.process().metric(errors).await == Some(before) {
            assert!(Instant::now() < deadline, "half a renewal is not noticed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for at in listeners {
            assert_eq!(shown(at, &[&first, new]).await, first.der, "the old one stays in force");
        }
        replace(&server.file("key.pem"), &new.key);
        let deadline = Instant::now() + PATIENCE;
        for at in listeners {
            while shown(at, &[&first, new]).await != new.der {
                assert!(Instant::now() < deadline, "{at}: the new certificate is not shown");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        server.target.trust = trusting(&[new]);
        let reply = server.lookup("web.shop%", T::A).await;
        assert_eq!((reply.rcode, reply.answers.len()), (R::NOERROR, 1));
        first =
            Certificate { chain: new.chain.clone(), key: new.key.clone(), der: new.der.clone() };
    }
}
