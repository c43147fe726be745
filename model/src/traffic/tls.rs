//! TLS of listeners and to endpoints, and the secrets it needs.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::route::{TextMatch, TextTest};
use super::{ResourceName, SniChain, TcpOptions};

/// What a listener does before anything else where TLS comes first. Never without a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTls {
    /// What it proves itself with, by the name that the client asks for (SNI, RFC 6066 §3): the
    /// chain with the narrowest name that fits. A client for whom there is none is refused.
    pub chains: Vec<TlsChain>,
    /// Whether a connection that does not begin with TLS is served in the clear.
    pub permissive: bool,
    /// Bytes that go to clusters of their own, by the name that the client asks for, rather than by what
    /// the listener is.
    pub beside: Option<Box<Beside>>,
}

/// Bytes within TLS at a listener that is something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Beside {
    /// Where clients go, by name: the narrowest that fits, of these and of [`ServerTls::chains`]. Never
    /// empty.
    pub chains: Vec<BesideChain>,
    /// What is asked of the streams.
    pub options: TcpOptions,
}

/// Where clients go that ask for some names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BesideChain {
    /// The names, and the clusters.
    #[serde(flatten)]
    pub to: SniChain,
    /// Whether TLS ends here, by the chain of the same names, or goes on as it comes.
    pub ended: bool,
}

/// What a client that asks for some names is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsChain {
    /// Names, exact or `*.suffix`, in lower case; empty: any, and none.
    pub names: Vec<Arc<str>>,
    /// Names of the secrets with certificates: the first that is good for what the client asks for
    /// and can do.
    pub certificates: Vec<ResourceName>,
    /// Protocols above it, in order of preference (RFC 7301).
    pub alpn: Vec<Arc<str>>,
    /// What is asked of clients.
    pub clients: ClientCertificates,
    /// What a client's certificate must be for, where there is one; empty: for anything.
    pub client_names: Vec<NameMatch>,
    /// TLS 1.2 is spoken besides 1.3, or one of the two alone.
    pub versions: TlsVersions,
    /// The route table of its requests, where that is not the listener's.
    pub routes: Option<ResourceName>,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificates {
    /// Nothing.
    #[default]
    None,
    /// A certificate that ends in the authorities of this secret, if they have any.
    Optional(ResourceName),
    /// Such a certificate.
    Required(ResourceName),
}

/// TLS to endpoints (Envoy `UpstreamTlsContext`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// The name that endpoints are asked for (SNI); `None`: none.
    pub server_name: Option<Arc<str>>,
    /// In whom an endpoint's certificate must end.
    pub trusted: Trusted,
    /// What an endpoint's certificate must be for; empty: for anything.
    pub names: Vec<NameMatch>,
    /// Name of the secret with what the proxy proves itself with, to endpoints that ask.
    pub certificate: Option<ResourceName>,
    /// Protocols offered above it (RFC 7301). HTTP offers the one that it will speak if this is
    /// empty or holds it.
    pub alpn: Vec<Arc<str>>,
    /// Versions spoken.
    pub versions: TlsVersions,
}

/// In whom certificates must end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trusted {
    /// The authorities of the system that the proxy runs on.
    System,
    /// Those of this secret.
    Authorities(ResourceName),
    /// These, PEM.
    These(Arc<str>),
}

/// What a certificate must be for: one of its alternative names (RFC 5280 §4.2.1.6) is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NameMatch {
    /// Names of which kind are looked at.
    pub kind: NameKind,
    /// What one of them must be. A DNS name that is asked for exactly is found in one with a star,
    /// too (RFC 6125 §6.4.3).
    pub test: TextMatch,
}

/// Kinds of alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NameKind {
    /// A DNS name.
    Dns,
    /// A URI, a SPIFFE ID above all.
    Uri,
    /// An address of mail.
    Email,
    /// An IP address.
    Ip,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 alone.
    Tls12,
    /// 1.3 alone.
    Tls13,
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A certificate with its chain, and its key, both PEM, and what its issuer says of it (OCSP, RFC
    /// 6960), DER. They belong together.
    Certificate {
        /// The chain, leaf first.
        chain: Arc<[u8]>,
        /// The key.
        key: Arc<[u8]>,
        /// The answer of an OCSP server.
        ocsp: Option<Arc<[u8]>>,
    },
    /// Authorities, PEM.
    Authorities(Arc<[u8]>),
}

impl Secret {
    fn kind(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "certificate",
            Self::Authorities(_) => "authorities",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_tuple("Secret").field(&self.kind()).finish()
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Secret", 1)?;
        s.serialize_field("kind", self.kind())?;
        s.end()
    }
}

impl ClientCertificates {
    /// The name of the secret with the authorities that are asked for.
    #[must_use]
    pub fn authorities(&self) -> Option<&ResourceName> {
        match self {
            Self::None => None,
            Self::Optional(name) | Self::Required(name) => Some(name),
        }
    }
}

/// Whether whatever the second name is for the first is for, too. `*.a.b` is for names of any depth
/// below `a.b`, and not for `a.b`.
#[must_use]
pub fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some(suffix) => narrow.len() > suffix.len() && narrow.ends_with(suffix),
        None => wide == narrow,
    }
}

/// Of lists of names, each exact or `*.suffix` in lower case and empty for any, the one that a client
/// is for who asks for this name, if for any.
#[must_use]
pub fn narrowest<'a>(
    lists: impl Iterator<Item = &'a [Arc<str>]>,
    asked: Option<&str>,
) -> Option<usize> {
    // An exact name before all with a star, the longer before the shorter, and any last.
    let fits = |names: &[Arc<str>]| -> Option<(u8, usize)> {
        let by_name = names.iter().filter(|name| asked.is_some_and(|a| covers(name, a)));
        let by_name = by_name.map(|name| (if name.starts_with('*') { 1 } else { 2 }, name.len()));
        by_name.max().or_else(|| names.is_empty().then_some((0, 0)))
    };
    let ranked = lists.enumerate().filter_map(|(i, names)| Some((fits(names)?, i)));
    // Of equals the first.
    ranked.max_by_key(|(rank, i)| (*rank, std::cmp::Reverse(*i))).map(|(_, i)| i)
}

impl ClientTls {
    /// Names of all secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &ResourceName> {
        let authorities = match &self.trusted {
            Trusted::System | Trusted::These(_) => None,
            Trusted::Authorities(name) => Some(name),
        };
        authorities.into_iter().chain(&self.certificate)
    }
}

impl NameMatch {
    /// Whether a name of a certificate is so.
    #[must_use]
    pub fn fits(&self, kind: NameKind, name: &str) -> bool {
        self.kind == kind
            && match (kind, &self.test.test) {
                (NameKind::Dns, TextTest::Exact(wanted)) => is_for(name, wanted),
                _ => self.test.matches(name.as_bytes()),
            }
    }
}

/// Whether a DNS name of a certificate is for a host, whatever their case. A star stands for one
/// label, the first, and never for what is directly below the root.
fn is_for(named: &str, host: &str) -> bool {
    if named.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(("*", suffix)), Some((label, rest))) = (named.split_once('.'), host.split_once('.'))
    else {
        return false;
    };
    !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(rest)
}

impl ServerTls {
    /// The chain for the name that a client asks for, in lower case.
    #[must_use]
    pub fn chain(&self, asked: Option<&str>) -> Option<usize> {
        narrowest(self.chains.iter().map(|chain| &*chain.names), asked)
    }

    /// Where the bytes of a client go that asks for this name, in lower case; `None`: they are what the
    /// listener is for.
    #[must_use]
    pub fn beside(&self, asked: Option<&str>) -> Option<&BesideChain> {
        let beside = self.beside.as_ref()?;
        let others = beside.chains.iter().map(|chain| &*chain.to.names);
        let own = self.chains.iter().map(|chain| &*chain.names);
        // Of equals the first.
        beside.chains.get(narrowest(others.chain(own), asked)?)
    }

    /// Names of all secrets it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &ResourceName> {
        self.chains
            .iter()
            .flat_map(|chain| chain.certificates.iter().chain(chain.clients.authorities()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_name_that_fits_decides() {
        let chain = |names: &[&str]| TlsChain {
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            certificates: Vec::new(),
            alpn: Vec::new(),
            clients: ClientCertificates::None,
            client_names: Vec::new(),
            versions: TlsVersions::Both,
            routes: None,
        };
        let named = [chain(&["*.a.test"]), chain(&["x.a.test", "b.test"]), chain(&["*.y.a.test"])];
        let tls = ServerTls { chains: named.to_vec(), permissive: false, beside: None };
        let all = [&named[..], &[chain(&[])]].concat();
        let any = ServerTls { chains: all, permissive: false, beside: None };
        for (asked, expected) in [
            (Some("x.a.test"), Some(1)),
            (Some("b.test"), Some(1)),
            (Some("z.a.test"), Some(0)),
            (Some("z.y.a.test"), Some(2)),
            (Some("a.test"), None),
            (None, None),
        ] {
            assert_eq!(tls.chain(asked), expected, "{asked:?}");
            assert_eq!(any.chain(asked), expected.or(Some(3)), "{asked:?}");
        }
    }

    #[test]
    fn the_narrowest_name_decides_what_is_beside() {
        let names = |names: &[&str]| -> Vec<Arc<str>> {
            names.iter().map(|name| Arc::from(*name)).collect()
        };
        let chain = |own: &[&str]| TlsChain {
            names: names(own),
            certificates: Vec::new(),
            alpn: Vec::new(),
            clients: ClientCertificates::None,
            client_names: Vec::new(),
            versions: TlsVersions::Both,
            routes: None,
        };
        let beside = |own: &[&str], ended| BesideChain {
            to: SniChain { names: names(own), clusters: Vec::new() },
            ended,
        };
        let chains = vec![beside(&["a.test", "*.b.test"], false), beside(&["c.test"], true)];
        let tls = ServerTls {
            chains: vec![
                chain(&["*.a.test"]),
                chain(&["x.b.test"]),
                chain(&["c.test"]),
                chain(&[]),
            ],
            permissive: false,
            beside: Some(Box::new(Beside { chains, options: TcpOptions::default() })),
        };
        for (asked, expected) in [
            (Some("a.test"), Some(false)),
            (Some("y.a.test"), None),
            (Some("y.b.test"), Some(false)),
            (Some("x.b.test"), None),
            (Some("c.test"), Some(true)),
            (Some("d.test"), None),
            (None, None),
        ] {
            assert_eq!(tls.beside(asked).map(|chain| chain.ended), expected, "{asked:?}");
        }
        assert_eq!(ServerTls { beside: None, ..tls }.beside(Some("a.test")), None);
    }

    #[test]
    fn a_certificate_is_for_what_it_names() {
        let exact = |kind, text: &str| NameMatch {
            kind,
            test: TextMatch { test: TextTest::Exact(text.into()), ignore_case: false },
        };
        use NameKind::{Dns, Uri};
        for (wanted, kind, name, expected) in [
            (exact(Dns, "a.test"), Dns, "a.test", true),
            (exact(Dns, "a.test"), Dns, "A.TEST", true),
            (exact(Dns, "x.a.test"), Dns, "*.a.test", true),
            (exact(Dns, "y.x.a.test"), Dns, "*.a.test", false),
            (exact(Dns, "a.test"), Dns, "*.a.test", false),
            (exact(Dns, ".a.test"), Dns, "*.a.test", false),
            (exact(Dns, "a.test"), Dns, "*.test", false),
            (exact(Dns, "xy.a.test"), Dns, "x*.a.test", false),
            (exact(Dns, "a.test"), Uri, "a.test", false),
            (exact(Uri, "spiffe://a/b"), Uri, "spiffe://a/b", true),
            (exact(Uri, "spiffe://a/b"), Uri, "spiffe://a/B", false),
        ] {
            assert_eq!(wanted.fits(kind, name), expected, "{wanted:?} {name}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let (chain, key) = (b"chain".to_vec().into(), b"secret key".to_vec().into());
        let secret = Secret::Certificate { chain, key, ocsp: None };
        let shown = format!("{secret:?}");
        assert_eq!(shown, "Secret(\"certificate\")");
    }
}
