//! Where names that are not ours go: rules of a zone and its upstreams, and the cache's limits.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::DnsName;

use super::access::zone;

/// Forwarding and its cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// The rules; of those whose zone a name is in, the longest counts. None: nothing is forwarded.
    pub rules: Vec<ForwardRule>,
    /// Which upstream of a rule is asked first.
    pub policy: ForwardPolicy,
    /// Longest time for one question, all tries together; below the 5 s of a resolver's client.
    pub timeout: Duration,
    /// Questions under way to all upstreams together, those waiting for the same answer counted
    /// each; past it they get SERVFAIL at once.
    pub max_inflight: usize,
    /// Idle connections kept per upstream and transport, and UDP sockets.
    pub max_idle: usize,
    /// Bytes the cache may take, its keys and bookkeeping included.
    pub cache_bytes: u64,
    /// Longest time an answer with records is kept, in seconds.
    pub cache_ttl_max_secs: u32,
    /// Shortest time any answer is kept, in seconds.
    pub cache_ttl_min_secs: u32,
    /// Longest time a negative answer is kept, in seconds (RFC 2308 §5).
    pub cache_negative_ttl_max_secs: u32,
    /// How long past its time an answer may still be given when no upstream answers (RFC 8767);
    /// zero: never.
    pub stale_secs: u32,
    /// Whether hot names are asked anew before they run out.
    pub prefetch: bool,
    /// Certificates that upstreams' chains may end in, a PEM file; `None`: those of the system.
    pub certificate_authorities: Option<PathBuf>,
}

/// One zone's upstreams: `ZONE UPSTREAM…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardRule {
    /// The zone; the root is `None`.
    pub zone: Option<DnsName>,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamSpec>,
}

/// Where one or more upstreams are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamSpec {
    /// The name servers of a file in the format of resolv.conf, followed when it changes.
    File(PathBuf),
    /// One server.
    Server {
        /// What it speaks.
        proto: Proto,
        /// Where it is.
        address: SocketAddr,
    },
}

/// What is spoken with an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    /// UDP, and TCP for what does not fit (RFC 7766).
    Udp,
    /// TCP alone.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls {
        /// The name its certificate has to have; none: its address.
        name: Option<Arc<str>>,
    },
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// The name its certificate has to have; none: its address.
        name: Option<Arc<str>>,
        /// The path asked.
        path: Arc<str>,
    },
}

/// Which upstream of a rule is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardPolicy {
    /// Any.
    #[default]
    Random,
    /// Each in turn.
    RoundRobin,
    /// The first that is well.
    Sequential,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            policy: ForwardPolicy::default(),
            timeout: Duration::from_millis(4500),
            max_inflight: 4096,
            max_idle: 64,
            cache_bytes: 64 << 20,
            cache_ttl_max_secs: 3600,
            cache_ttl_min_secs: 5,
            cache_negative_ttl_max_secs: 1800,
            stale_secs: 3600,
            prefetch: true,
            certificate_authorities: None,
        }
    }
}

impl FromStr for ForwardRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let zone = zone(words.next().ok_or("expected ZONE UPSTREAM…")?)?;
        let upstreams = words.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        if upstreams.is_empty() {
            return Err("no upstream after the zone".to_owned());
        }
        Ok(Self { zone, upstreams })
    }
}

impl FromStr for UpstreamSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("udp", text));
        let (rest, name) = match rest.split_once('#') {
            Some((rest, name)) => (rest, Some(Arc::<str>::from(name))),
            None => (rest, None),
        };
        if let Some(name) = &name {
            DnsName::parse(&name.to_ascii_lowercase()).map_err(|e| format!("{text:?}: {e}"))?;
        }
        let (place, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (proto, port) = match scheme {
            "udp" | "dns" => (Proto::Udp, 53),
            "tcp" => (Proto::Tcp, 53),
            "tls" => (Proto::Tls { name: name.clone() }, 853),
            "https" => {
                let path = if path.is_empty() { "/dns-query" } else { path };
                let valid = http::uri::PathAndQuery::try_from(path);
                valid.map_err(|e| format!("{text:?}: {path:?}: {e}"))?;
                (Proto::Https { name: name.clone(), path: path.into() }, 443)
            }
            other => return Err(format!("{text:?}: {other:?} is not udp, tcp, tls or https")),
        };
        if name.is_some() && matches!(proto, Proto::Udp | Proto::Tcp) {
            return Err(format!("{text:?}: only tls and https have a name after #"));
        }
        if !path.is_empty() && !matches!(proto, Proto::Https { .. }) {
            return Err(format!("{text:?}: only https has a path"));
        }
        let address = address(place, port)
            .ok_or_else(|| format!("{text:?}: {place:?} is not an IP address or IP:PORT"))?;
        Ok(Self::Server { proto, address })
    }
}

/// An address with a port, or with the default one.
pub(crate) fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, port));
    ip.or_else(|_| text.parse()).ok().filter(|address| address.port() != 0)
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls { .. } => "tls",
            Self::Https { .. } => "https",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> String {
        match text.parse::<UpstreamSpec>() {
            Ok(UpstreamSpec::File(path)) => format!("file {}", path.display()),
            Ok(UpstreamSpec::Server { proto, address }) => format!("{proto:?} {address}"),
            Err(error) => error,
        }
    }

    #[test]
    fn an_upstream_is_a_file_or_a_server() {
        for (text, expected) in [
            ("/etc/resolv.conf", "file /etc/resolv.conf"),
            ("10.0.0.1", "Udp 10.0.0.1:53"),
            ("fd00::1", "Udp [fd00::1]:53"),
            ("[fd00::1]:54", "Udp [fd00::1]:54"),
            ("tcp://10.0.0.1:54", "Tcp 10.0.0.1:54"),
            ("tls://9.9.9.9#dns.q", "Tls { name: Some(\"dns.q\") } 9.9.9.9:853"),
            (
                "https://9.9.9.9:8443/q#dns.q",
                "Https { name: Some(\"dns.q\"), path: \"/q\" } 9.9.9.9:8443",
            ),
            ("https://9.9.9.9", "Https { name: None, path: \"/dns-query\" } 9.9.9.9:443"),
            ("tls://9.9.9.9#", "\"tls://9.9.9.9#\": a name must not be empty"),
            ("quic://9.9.9.9", "\"quic://9.9.9.9\": \"quic\" is not udp, tcp, tls or https"),
            ("dns.q", "\"dns.q\": \"dns.q\" is not an IP address or IP:PORT"),
            ("10.0.0.1:0", "\"10.0.0.1:0\": \"10.0.0.1:0\" is not an IP address or IP:PORT"),
            ("10.0.0.1#a", "\"10.0.0.1#a\": only tls and https have a name after #"),
            ("tls://10.0.0.1/a", "\"tls://10.0.0.1/a\": only https has a path"),
        ] {
            assert_eq!(spec(text), expected, "{text}");
        }
    }

    #[test]
    fn a_rule_is_a_zone_and_its_upstreams() {
        let rule: ForwardRule = "corp.example. 10.0.0.1 10.0.0.2".parse().expect("valid");
        assert_eq!(rule.zone, Some(DnsName::parse("corp.example").expect("valid")));
        assert_eq!(rule.upstreams.len(), 2);
        assert_eq!(". 10.0.0.1".parse::<ForwardRule>().expect("valid").zone, None);
        assert!(".".parse::<ForwardRule>().is_err() && "".parse::<ForwardRule>().is_err());
    }
}
