//! Portolan's dns role as a process of its own, on manifests and settings of a test's choice, and
//! the check that every case goes through.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use domain::base::iana::{OptRcode, Rtype};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::client::{Query, Reply, TRANSPORTS, Target, Transport};
use crate::support::{Process, replace};

/// The manifests that most cases are about.
pub(crate) const SHOP: &str = include_str!("shop.yaml");
/// Settings that most cases are about.
pub(crate) const SHOP_SETTINGS: &[&str] = &[
    "control.service_ranges=10.96.0.0/16,fd00:96::/112",
    "dns.server_ips=10.96.0.10,fd00:96::a",
    "dns.nsid=portolan-1",
    "dns.workers=1",
];
/// Time to live of cluster names unless a setting says otherwise, in seconds.
const TTL_SECS: u32 = 5;

/// A running server with what it was started on, all gone when dropped.
pub(crate) struct Server {
    /// Behind a lock, since a server may be shared by tests.
    process: std::sync::Mutex<Process>,
    /// Where its manifests are.
    pub(crate) manifests: TempDir,
    /// Where its certificate and files of a test's own are.
    pub(crate) files: TempDir,
    pub(crate) target: Target,
}

/// Section of a specification, name, type, code, and answer section. `%` stands for
/// `.svc.cluster.local.`; a record without owner is that of the name asked.
pub(crate) type Case<'a> = (&'a str, &'a str, Rtype, OptRcode, &'a [&'a str]);

/// The server on [`SHOP`], shared by all tests that run at a time.
pub(crate) async fn shop() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(Server::start(SHOP, SHOP_SETTINGS).await);
    *shared = Arc::downgrade(&server);
    server
}

/// A new certificate for the loopback addresses: its chain and key in PEM, and the chain in DER.
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("valid names");
        Self {
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            der: made.cert.der().to_vec(),
        }
    }
}

/// A client of TLS that trusts these certificates alone.
pub(crate) fn trusting(certificates: &[&Certificate]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.der.clone().into()).expect("a certificate");
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

impl Server {
    /// Starts it on one file of manifests; settings are `KEY=VALUE`.
    pub(crate) async fn start(manifests: &str, settings: &[&str]) -> Self {
        Self::start_with(manifests, settings, |_| {}).await
    }

    /// The same with files of the test's own, written before it starts; `{files}` in a setting
    /// stands for the folder they are in.
    pub(crate) async fn start_with(
        manifests: &str,
        settings: &[&str],
        write: impl FnOnce(&Path),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("all.yaml"), manifests).expect("written");
        let certificate = Certificate::new();
        std::fs::write(files.path().join("chain.pem"), &certificate.chain).expect("written");
        std::fs::write(files.path().join("key.pem"), &certificate.key).expect("written");
        write(files.path());
        let mut args =
            ["dns", "--log", "warn", "--admin", "127.0.0.1:0"].map(str::to_owned).to_vec();
        args.extend(["--dns", "127.0.0.1:0", "--manifests"].map(str::to_owned));
        args.push(folder.path().to_str().expect("UTF-8").to_owned());
        let at = files.path().to_str().expect("UTF-8");
        let encrypted = [
            "dns.tls_addresses=127.0.0.1:0",
            "dns.tls_certificate={files}/chain.pem",
            "dns.tls_key={files}/key.pem",
        ];
        for setting in encrypted.iter().chain(settings) {
            args.extend(["--set".to_owned(), setting.replace("{files}", at)]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut process = Process::start(&args);
        process.reach(1).await;
        let target = Target {
            plain: process.address("dns"),
            tls: process.address("dns-tls"),
            trust: trusting(&[&certificate]),
        };
        Self { process: process.into(), manifests: folder, files, target }
    }

    /// The process of a server that no other test has.
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.get_mut().expect("no test has failed while it held it")
    }

    /// Replaces the manifests and waits until they are in force.
    pub(crate) async fn apply(&mut self, manifests: &str, generation: u64) {
        replace(&self.manifests.path().join("all.yaml"), manifests);
        self.process().reach(generation).await;
    }

    /// A file of the test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Asks over every transport; the answers must be the same.
    pub(crate) async fn ask_over_all(&self, query: &Query) -> Reply {
        let first = query.ask(&self.target, Transport::Udp).await;
        for transport in TRANSPORTS {
            let other = query.ask(&self.target, transport).await;
            assert_eq!(other, first, "{transport:?} and Udp differ: {query:?}");
        }
        first
    }

    /// The same with and without EDNS.
    pub(crate) async fn ask(&self, query: &Query) -> Reply {
        let reply = self.ask_over_all(query).await;
        let plain = self.ask_over_all(&query.plain()).await;
        assert_eq!(plain, Reply { edns: None, ..reply.clone() }, "without EDNS: {query:?}");
        reply
    }

    /// Asks an ordinary question of this name and type.
    pub(crate) async fn lookup(&self, name: &str, rtype: Rtype) -> Reply {
        self.ask(&Query::new(&full(name), rtype)).await
    }

    /// Checks cases asked by a client on this machine.
    pub(crate) async fn check(&self, cases: &[Case<'_>]) {
        self.check_from("127.0.0.1", cases).await;
    }

    /// Checks cases asked from an address.
    pub(crate) async fn check_from(&self, address: &str, cases: &[Case<'_>]) {
        for (section, name, rtype, code, answers) in cases {
            let name = full(name);
            let reply = self.ask(&Query::new(&name, *rtype).from(address)).await;
            let what = format!("{section}: {name} {rtype} from {address}: {reply:#?}");
            assert_eq!(reply.rcode, *code, "{what}");
            let expected: BTreeSet<String> = answers.iter().map(|a| record(a, &name)).collect();
            assert_eq!(reply.answers, expected, "{what}");
            check_form(&reply, &name, *rtype, &what);
        }
    }

    /// Checks additional sections: section of a specification, name, type, records.
    pub(crate) async fn check_additional(&self, cases: &[(&str, &str, Rtype, &[&str])]) {
        for (section, name, rtype, expected) in cases {
            let reply = self.lookup(name, *rtype).await;
            let expected: BTreeSet<String> = expected.iter().map(|r| record(r, "")).collect();
            assert_eq!(reply.additionals, expected, "{section}: {name} {rtype}");
        }
    }

    /// Checks the extended errors of answers: name, type, code and text (RFC 8914).
    pub(crate) async fn check_reasons(&self, cases: &[(&str, Rtype, u16, &str)]) {
        for (name, rtype, code, text) in cases {
            let reply = self.lookup(name, *rtype).await;
            let expected = Some((*code, (*text).to_owned()));
            assert_eq!(reply.extended_error(), expected, "{name} {rtype}");
        }
    }
}

/// What holds for every answer.
fn check_form(reply: &Reply, name: &str, rtype: Rtype, what: &str) {
    // RFC 4343 §4.1: the question as it was asked.
    assert_eq!(reply.questions, [format!("{name} {rtype}")], "{what}");
    let definite = matches!(reply.rcode, OptRcode::NOERROR | OptRcode::NXDOMAIN);
    assert_eq!(reply.authoritative, definite, "RFC 1035 §4.1.1 AA: {what}");
    assert!(!reply.truncated && reply.recursion_desired && !reply.recursion_available, "{what}");
    let alias = reply.answers.iter().any(|r| r.contains(" CNAME ")) && rtype != Rtype::CNAME;
    let negative = definite && (reply.rcode == OptRcode::NXDOMAIN || reply.answers.is_empty());
    if negative {
        // RFC 2308 §3: an SOA alone, by which the answer is kept.
        let soas = reply.authorities.iter().filter(|r| r.contains(" SOA ns.dns.")).count();
        assert_eq!((soas, reply.authorities.len()), (1, 1), "{what}");
        let (_, text) = reply.extended_error().expect("RFC 8914: every negative answer says why");
        assert!(!text.is_empty(), "{what}");
    } else if !alias {
        assert!(reply.authorities.is_empty(), "{what}");
    }
    assert!(reply.ttls.iter().all(|ttl| *ttl == TTL_SECS), "{what}");
}

/// A name with `%` written out.
pub(crate) fn full(text: &str) -> String {
    text.replace('%', ".svc.cluster.local.")
}

/// A record with its owner and `%` written out.
fn record(text: &str, owner: &str) -> String {
    let owned = text.split(' ').next().is_some_and(|first| first.contains(['.', '%']));
    full(&if owned { text.to_owned() } else { format!("{owner} {text}") })
}
