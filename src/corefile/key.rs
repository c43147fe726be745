//! A server block's key: `[SCHEME://]ZONE[:PORT]`.

use super::names;

/// What a block is served over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP and TCP.
    Dns,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
    /// DNS over QUIC.
    Quic,
    /// DNS over gRPC: not ours.
    Grpc,
    /// DNS over HTTP/3: not ours.
    Https3,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// What it is served over.
    pub(super) transport: Transport,
    /// Its zones: one, or several when it is a network.
    pub(super) zones: Vec<String>,
    /// The port, that of the transport if none is given.
    pub(super) port: u16,
}

const SCHEMES: [(&str, Transport, u16); 6] = [
    ("dns", Transport::Dns, 53),
    ("tls", Transport::Tls, 853),
    ("https", Transport::Https, 443),
    ("quic", Transport::Quic, 853),
    ("grpc", Transport::Grpc, 443),
    ("https3", Transport::Https3, 443),
];

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
        let known = SCHEMES.iter().find(|(name, ..)| *name == scheme);
        let Some((_, transport, default)) = known else {
            let known: Vec<&str> = SCHEMES.iter().map(|(name, ..)| *name).collect();
            return Err(format!("{text:?}: {scheme:?} is not one of {}", known.join(", ")));
        };
        let (zone, port) = split_port(rest).map_err(|reason| format!("{text:?}: {reason}"))?;
        let zones = names::zones(zone)?;
        Ok(Self { transport: *transport, zones, port: port.unwrap_or(*default) })
    }
}

/// Digits after the last colon are a port; an IPv6 network has its prefix length there.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let Some((zone, port)) = text.rsplit_once(':') else { return Ok((text, None)) };
    if port.is_empty() {
        return Err("no port after ':'".to_owned());
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Ok((text, None));
    }
    match port.parse() {
        Ok(port) if port > 0 => Ok((zone, Some(port))),
        _ => Err(format!("{port:?} is not a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_scheme_a_zone_and_a_port() {
        for (text, transport, zone, port) in [
            (".", Transport::Dns, ".", 53),
            (".:1053", Transport::Dns, ".", 1053),
            ("dns://Example.org.", Transport::Dns, "example.org", 53),
            ("tls://example.org", Transport::Tls, "example.org", 853),
            ("https://.:8443", Transport::Https, ".", 8443),
            ("quic://.", Transport::Quic, ".", 853),
            ("grpc://.", Transport::Grpc, ".", 443),
            ("10.0.0.0/24", Transport::Dns, "0.0.10.in-addr.arpa", 53),
            ("10.0.0.0/24:54", Transport::Dns, "0.0.10.in-addr.arpa", 54),
            ("2001:db8::/32", Transport::Dns, "8.b.d.0.1.0.0.2.ip6.arpa", 53),
            ("2001:db8::/32:54", Transport::Dns, "8.b.d.0.1.0.0.2.ip6.arpa", 54),
        ] {
            let expected = Key { transport, zones: vec![zone.to_owned()], port };
            assert_eq!(Key::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_named() {
        for (text, reason) in [
            (
                "http://.",
                "\"http://.\": \"http\" is not one of dns, tls, https, quic, grpc, https3",
            ),
            (".:", "\".:\": no port after ':'"),
            (".:0", "\".:0\": \"0\" is not a port"),
            (".:70000", "\".:70000\": \"70000\" is not a port"),
        ] {
            assert_eq!(Key::parse(text).expect_err("wrong"), reason);
        }
        assert!(Key::parse("a..b").is_err());
    }
}
