//! Who may do what (Envoy's RBAC filters).

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::route::{Asked, HeaderMatch, TextMatch};
use super::tls::NameKind;

/// A list of rules that requests or connections have to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// What comes of being named by a rule.
    pub action: AccessAction,
    /// The rules, in order of their names.
    pub rules: Vec<AccessRule>,
    /// It only counts and says what it would do.
    pub log_only: bool,
}

/// What comes of being named by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessAction {
    /// Who is named passes, and nobody else.
    Allow,
    /// Who is named does not pass.
    Deny,
}

/// A rule: it names a request if one of `what` and one of `who` hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Its name.
    pub name: Arc<str>,
    /// What is asked for.
    pub what: Vec<AccessTest>,
    /// Who asks.
    pub who: Vec<AccessTest>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessTest {
    /// It holds.
    Any,
    /// All of these hold.
    All(Vec<AccessTest>),
    /// One of these holds.
    OneOf(Vec<AccessTest>),
    /// This does not hold.
    Not(Box<AccessTest>),
    /// Who asks has proven itself, and as one whose identity is so if there is a condition.
    Proven(Option<TextMatch>),
    /// Who asks is in this network: by a PROXY header or X-Forwarded-For where these are believed,
    /// else as `Connected`.
    Remote(Network),
    /// Who holds the connection is in this network.
    Connected(Network),
    /// The connection came to this port.
    Port(u16),
    /// The path without its query.
    Path(TextMatch),
    /// A field. Of connections none is there.
    Header(HeaderMatch),
    /// The name that TLS was asked for.
    ServerName(TextMatch),
}

/// Addresses that begin alike (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Who holds a connection, and how it came.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The names of the certificate by which it has proven itself; `None`: it has not.
    pub proven: Option<&'a [(NameKind, String)]>,
    /// Who asks, as far as that is believed.
    pub remote: IpAddr,
    /// Who holds the connection.
    pub connected: IpAddr,
    /// The port it came to.
    pub port: u16,
    /// The name that TLS was asked for.
    pub server_name: Option<&'a str>,
}

impl Network {
    /// The addresses whose first bits are those of this one.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                // Of an address that maps one of IPv4 the first 96 bits are none of its own.
                let bits =
                    if self.address.is_ipv6() { self.bits.saturating_sub(96) } else { self.bits };
                u32::from(bits) <= differ.leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                u32::from(self.bits) <= (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => false,
        }
    }
}

impl Access {
    /// Whether a request passes; with the rule that says so, if one does. `asked` is `None` of a
    /// connection.
    pub fn judge(
        &self,
        caller: &Caller<'_>,
        asked: Option<&impl Asked>,
    ) -> (bool, Option<&AccessRule>) {
        let named = self.rules.iter().find(|rule| rule.names(caller, asked));
        let passes = match self.action {
            AccessAction::Allow => named.is_some(),
            AccessAction::Deny => named.is_none(),
        };
        (passes, named)
    }
}

impl AccessRule {
    fn names(&self, caller: &Caller<'_>, asked: Option<&impl Asked>) -> bool {
        self.what.iter().any(|test| test.holds(caller, asked))
            && self.who.iter().any(|test| test.holds(caller, asked))
    }
}

impl AccessTest {
    fn holds(&self, caller: &Caller<'_>, asked: Option<&impl Asked>) -> bool {
        match self {
            Self::Any => true,
            Self::All(tests) => tests.iter().all(|test| test.holds(caller, asked)),
            Self::OneOf(tests) => tests.iter().any(|test| test.holds(caller, asked)),
            Self::Not(test) => !test.holds(caller, asked),
            Self::Proven(None) => caller.proven.is_some(),
            Self::Proven(Some(test)) => caller.proven.is_some_and(|names| is_proven(names, test)),
            Self::Remote(network) => network.has(caller.remote),
            Self::Connected(network) => network.has(caller.connected),
            Self::Port(port) => caller.port == *port,
            Self::Path(test) => asked.is_some_and(|asked| test.matches(asked.path())),
            Self::Header(test) => asked.is_some_and(|asked| test.holds(asked)),
            Self::ServerName(test) => {
                test.matches(caller.server_name.unwrap_or_default().as_bytes())
            }
        }
    }
}

/// By URIs and then by DNS names, as Envoy does (`Principal.Authenticated`).
fn is_proven(names: &[(NameKind, String)], test: &TextMatch) -> bool {
    let of = |wanted: NameKind| names.iter().filter(move |(kind, _)| *kind == wanted);
    let fits = |(_, name): &(NameKind, String)| test.matches(name.as_bytes());
    of(NameKind::Uri).any(fits) || of(NameKind::Dns).any(fits)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::route::{HeaderTest, TextTest};
    use super::*;

    struct Get(&'static str);

    impl Asked for Get {
        fn path(&self) -> &[u8] {
            self.0.as_bytes()
        }
        fn query(&self) -> Option<&[u8]> {
            None
        }
        fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == ":method").then_some(Cow::Borrowed(b"GET"))
        }
        fn is_grpc(&self) -> bool {
            false
        }
        fn random(&self) -> u64 {
            0
        }
    }

    fn text(test: TextTest) -> TextMatch {
        TextMatch { test, ignore_case: false }
    }

    fn caller<'a>(proven: Option<&'a [(NameKind, String)]>) -> Caller<'a> {
        let address = IpAddr::from([10, 1, 2, 3]);
        Caller { proven, remote: address, connected: address, port: 80, server_name: None }
    }

    #[test]
    fn a_rule_names_who_does_what() {
        let cart =
            [(NameKind::Uri, "spiffe://a/cart".to_owned()), (NameKind::Email, "x".to_owned())];
        let method = |name: &str, test| {
            AccessTest::Header(HeaderMatch {
                name: name.into(),
                test: HeaderTest::Text(text(test)),
                invert: false,
                missing_is_empty: false,
            })
        };
        let get = || method(":method", TextTest::Exact("GET".into()));
        let under = |path: &str| AccessTest::Path(text(TextTest::Prefix(path.into())));
        let is = |name: &str| AccessTest::Proven(Some(text(TextTest::Exact(name.into()))));
        let net =
            |bits| AccessTest::Remote(Network::new([10, 1, 0, 0].into(), bits).expect("valid"));
        let both = |a, b| AccessTest::All(vec![a, b]);
        let cases: [(AccessTest, bool, bool, bool); 13] = [
            // By a caller that has proven itself, by one that has not, and for a connection.
            (AccessTest::Any, true, true, true),
            (AccessTest::Proven(None), true, false, true),
            (is("spiffe://a/cart"), true, false, true),
            (is("spiffe://a/CART"), false, false, false),
            (is("x"), false, false, false),
            (AccessTest::Not(Box::new(is("spiffe://a/cart"))), false, true, false),
            (net(16), true, true, true),
            (net(24), false, false, false),
            (both(get(), under("/a")), true, true, false),
            (both(get(), under("/b")), false, false, false),
            (AccessTest::OneOf(vec![under("/b"), get()]), true, true, false),
            (AccessTest::OneOf(Vec::new()), false, false, false),
            (AccessTest::Port(81), false, false, false),
        ];
        for (who, proven, unproven, connection) in cases {
            let rule = AccessRule { name: "r".into(), what: vec![AccessTest::Any], who: vec![who] };
            let judge = |action, caller: &Caller<'_>, asked: Option<&Get>| {
                let access = Access { action, rules: vec![rule.clone()], log_only: false };
                access.judge(caller, asked).0
            };
            for (named, of) in [
                (proven, (caller(Some(&cart)), Some(&Get("/a/b")))),
                (unproven, (caller(None), Some(&Get("/a/b")))),
                (connection, (caller(Some(&cart)), None)),
            ] {
                assert_eq!(judge(AccessAction::Allow, &of.0, of.1), named, "{rule:?}");
                assert_eq!(judge(AccessAction::Deny, &of.0, of.1), !named, "{rule:?}");
            }
        }
        // Without rules nobody is named.
        let none = |action| Access { action, rules: Vec::new(), log_only: false };
        assert!(!none(AccessAction::Allow).judge(&caller(None), Some(&Get("/"))).0);
        assert!(none(AccessAction::Deny).judge(&caller(None), Some(&Get("/"))).0);
    }

    #[test]
    fn a_network_has_what_begins_alike() {
        for (network, bits, address, expected) in [
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("10.1.2.3", 0, "192.168.0.1", true),
            ("10.1.2.3", 8, "::ffff:10.9.9.9", true),
            ("::ffff:10.0.0.0", 104, "10.9.9.9", true),
            ("fd00::", 8, "fdab::1", true),
            ("fd00::", 8, "fe80::1", false),
            ("fd00::", 0, "10.0.0.1", false),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            let network = Network::new(parse(network), bits).expect("valid");
            assert_eq!(network.has(parse(address)), expected, "{network:?} {address}");
        }
        assert_eq!(Network::new([10, 0, 0, 0].into(), 33), None);
    }
}
