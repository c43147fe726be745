//! The settings of the xDS server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_xds::server::authorize::{Authorization, Grant};
use portolan_xds::{CertificateSpec, ServerLimits, TlsFiles};
use serde_json::Value;

use super::identity::{self, Identity};
use super::reader::Reader;

/// What is set of the xDS server.
#[derive(Clone, Debug)]
pub(crate) struct Xds {
    pub(crate) address: SocketAddr,
    pub(crate) limits: ServerLimits,
    /// Name of its certificate, if it is to speak TLS.
    certificate: Option<String>,
    client_certificates: ClientCertificates,
    /// What clients have to prove; `None`: nothing.
    pub(crate) authorization: Option<Authorization>,
    /// The trust domain of SPIFFE ids.
    pub(crate) trust_domain: String,
    /// What issues certificates to proxies, if anything does.
    pub(crate) identity: Option<Identity>,
    /// How often clients are asked to report load, if they are.
    pub(crate) load_reports: Option<Duration>,
    /// Whether resources can be put in by hand.
    pub(crate) raw_resources: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientCertificates {
    None,
    Optional,
    Required,
}

/// Reads `xds`.
pub(super) fn read(r: &mut Reader, certificates: &[CertificateSpec]) -> Option<Xds> {
    let address = r.text("xds.address", "127.0.0.1:15010", "Where xDS is served over gRPC");
    let limits = limits(r);
    let certificate = r.optional(
        "xds.certificate",
        "Name of the certificate (see certificates) that xDS is served with over TLS; empty: no TLS",
    );
    let client_certificates = r.word(
        "xds.client_certificates",
        &[
            ("none", ClientCertificates::None),
            ("optional", ClientCertificates::Optional),
            ("required", ClientCertificates::Required),
        ],
        "Whether clients show certificates of the certificate's trusted_ca: none, optional or required",
    );
    let trust_domain: Option<String> =
        r.text("xds.trust_domain", "cluster.local", "Trust domain of SPIFFE ids");
    let trust_domain = trust_domain.unwrap_or_default();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    if trust_domain.is_empty() || !trust_domain.chars().all(valid) {
        r.reject("xds.trust_domain", "expected letters a to z, digits, '-', '.' and '_'");
    }
    let authorization = authorization(r, &trust_domain);
    let identity = identity::read(r, &trust_domain);
    let load_reports = r.word(
        "xds.load_reports",
        &[("off", false), ("on", true)],
        "Whether clients are asked for load reports (LRS), for portolan get load: off or on",
    );
    let interval = r.integer(
        "xds.load_report_interval_secs",
        10,
        1..=3600,
        "How often they report, in seconds",
    );
    let raw_resources = r.word(
        "xds.raw_resources",
        &[("off", false), ("on", true)],
        "Whether portolan raw may put resources in, over an admin port on loopback: off or on",
    );
    let xds = Xds {
        address: address?,
        limits,
        certificate,
        client_certificates,
        authorization,
        trust_domain,
        identity,
        load_reports: load_reports.then(|| Duration::from_secs(interval)),
        raw_resources,
    };
    check(r, &xds, certificates);
    Some(xds)
}

fn limits(r: &mut Reader) -> ServerLimits {
    let defaults = ServerLimits::default();
    let endpoints_ttl = r.integer(
        "xds.endpoints_ttl_secs",
        0,
        0..=86_400,
        "Time in seconds for which clients use endpoints without hearing of them; 0: for ever",
    );
    ServerLimits {
        connections: r.integer(
            "xds.max_connections",
            10_000,
            1..=1_000_000,
            "Connections open at once; more are closed at once",
        ),
        streams: r.integer(
            "xds.max_streams",
            10_000,
            1..=1_000_000,
            "Streams open at once; more are refused",
        ),
        streams_per_sec: r.integer(
            "xds.streams_per_sec",
            1_000,
            1..=1_000_000,
            "Streams let in per second, and at once; others wait for their turn, up to 20 s",
        ),
        names: r.integer(
            "xds.max_names",
            100_000,
            1..=10_000_000,
            "Names a stream may be subscribed to; one with more is ended",
        ),
        endpoints_ttl: Duration::from_secs(endpoints_ttl),
        ..defaults
    }
}

fn authorization(r: &mut Reader, trust_domain: &str) -> Option<Authorization> {
    let identified = r.word(
        "xds.clients",
        &[("any", false), ("identified", true)],
        "Who is served: any, or identified: a SPIFFE id in a client certificate or a service \
         account's token, for its own namespace and what it is granted",
    );
    let grants = r.tables(
        "xds.grants",
        "What identified clients see besides their namespace: namespace and account (* for any), \
         sees (a list of namespaces, * for all)",
        grant,
    );
    if !identified && !grants.is_empty() {
        r.reject("xds.grants", "has no effect without xds.clients = \"identified\"");
    }
    let trust_domain = trust_domain.to_owned();
    identified.then_some(Authorization { trust_domain, grants, tokens: None })
}

fn check(r: &mut Reader, xds: &Xds, certificates: &[CertificateSpec]) {
    let found =
        xds.certificate.as_ref().map(|name| certificates.iter().find(|c| *c.name == **name));
    let asks = xds.client_certificates != ClientCertificates::None;
    match found {
        Some(None) => {
            let name = xds.certificate.as_deref().unwrap_or_default();
            r.reject("xds.certificate", &format!("there is no certificate {name:?}"));
        }
        Some(Some(certificate)) if asks && certificate.trusted_ca.is_none() => {
            let text = format!("the certificate {:?} has no trusted_ca", certificate.name);
            r.reject("xds.client_certificates", &text);
        }
        None if asks => {
            r.reject("xds.client_certificates", "has no effect without xds.certificate");
        }
        _ => {}
    }
}

/// Rejects resources by hand where others than this machine could put them in: the admin port asks
/// nobody who they are.
pub(super) fn check_admin(r: &mut Reader, xds: Option<&Xds>, admin: Option<SocketAddr>) {
    let open = admin.filter(|address| !address.ip().is_loopback());
    if let (Some(address), Some(true)) = (open, xds.map(|xds| xds.raw_resources)) {
        let text = format!("is only for an admin.address on loopback, which {address} is not");
        r.reject("xds.raw_resources", &text);
    }
}

impl Xds {
    /// The files of its TLS, if it is to speak it.
    pub(crate) fn tls(&self, certificates: &[CertificateSpec]) -> Option<TlsFiles> {
        let name = self.certificate.as_deref()?;
        let certificate = certificates.iter().find(|c| &*c.name == name)?;
        let asks = self.client_certificates != ClientCertificates::None;
        Some(TlsFiles {
            certificate: certificate.files.clone(),
            client_ca: certificate.trusted_ca.clone().filter(|_| asks),
            client_required: self.client_certificates == ClientCertificates::Required,
        })
    }
}

fn grant(value: &Value) -> Result<Grant, String> {
    let Value::Object(table) = value else {
        return Err(format!("expected a table, found {value}"));
    };
    let known = ["namespace", "account", "sees"];
    if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("{key}: unknown setting; known: {}", known.join(", ")));
    }
    let text = |key: &str| match table.get(key) {
        None => Ok("*".into()),
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str().into()),
        Some(other) => Err(format!("{key}: expected a name or *, found {other}")),
    };
    let sees: Vec<Arc<str>> = match table.get("sees") {
        Some(Value::Array(items)) if !items.is_empty() => items
            .iter()
            .map(|item| item.as_str().map(Arc::from))
            .collect::<Option<_>>()
            .ok_or("sees: expected a list of names")?,
        _ => return Err("sees: expected a list of namespaces".to_owned()),
    };
    Ok(Grant { namespace: text("namespace")?, account: text("account")?, sees })
}
