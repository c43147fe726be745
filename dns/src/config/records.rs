//! Settings of one line about names: static records, rewritten suffixes, search paths.

use std::str::FromStr;
use std::sync::Arc;

use portolan_model::DnsName;
use portolan_model::name::validate_label;

use super::SearchMode;
use crate::name::WireName;
use crate::records::Rdata;

/// A record of our own making: `NAME TTL TYPE DATA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRecord {
    /// Its owner.
    pub name: WireName,
    /// Its time to live, in seconds.
    pub ttl_secs: u32,
    /// Its data.
    pub data: Rdata,
}

/// A suffix that stands for another: `FROM=TO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The suffix that is asked for.
    pub from: DnsName,
    /// The suffix that is looked up in its place.
    pub to: DnsName,
}

/// What is done about search paths of one namespace: `NAMESPACE=MODE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchNamespace {
    /// The namespace.
    pub namespace: Arc<str>,
    /// What is done.
    pub mode: SearchMode,
}

impl FromStr for StaticRecord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut next = |what: &str| {
            words.next().ok_or_else(|| format!("no {what}; expected NAME TTL TYPE DATA"))
        };
        let name = name(next("name")?)?;
        let ttl = next("ttl")?;
        let ttl_secs = ttl.parse().map_err(|_| format!("{ttl:?} is not a ttl in seconds"))?;
        let kind = next("type")?.to_ascii_uppercase();
        let data = match kind.as_str() {
            "A" => Rdata::A(parsed(next("address")?, "an IPv4 address")?),
            "AAAA" => Rdata::Aaaa(parsed(next("address")?, "an IPv6 address")?),
            "CNAME" => Rdata::Cname(self::name(next("target")?)?),
            "PTR" => Rdata::Ptr(self::name(next("target")?)?),
            "SRV" => Rdata::Srv {
                priority: parsed(next("priority")?, "a priority")?,
                weight: parsed(next("weight")?, "a weight")?,
                port: parsed(next("port")?, "a port")?,
                target: self::name(next("target")?)?,
            },
            "TXT" => {
                let text = words.by_ref().collect::<Vec<_>>().join(" ");
                let text = text.trim_matches('"');
                if text.is_empty() || text.len() > 255 {
                    return Err("a text has 1 to 255 octets".to_owned());
                }
                Rdata::Txt(text.into())
            }
            other => {
                let known = "A, AAAA, CNAME, PTR, SRV or TXT";
                return Err(format!("type {other:?} is not {known}"));
            }
        };
        match words.next() {
            Some(more) => Err(format!("{more:?} follows the data")),
            None => Ok(Self { name, ttl_secs, data }),
        }
    }
}

fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

/// A name of a record: any labels, so that `_http._tcp.web` is one.
fn name(text: &str) -> Result<WireName, String> {
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    WireName::root()
        .below(labels.map(str::as_bytes))
        .ok_or_else(|| format!("{text:?} is not a domain name"))
}

impl FromStr for Rewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("expected FROM=TO")?;
        let name = |text: &str| {
            let text = text.trim();
            DnsName::parse(text.strip_suffix('.').unwrap_or(text)).map_err(|e| e.to_string())
        };
        let (from, to) = (name(from)?, name(to)?);
        if from == to { Err("both are the same".to_owned()) } else { Ok(Self { from, to }) }
    }
}

impl SearchMode {
    /// The modes by their words.
    pub const WORDS: [(&str, Self); 3] =
        [("off", Self::Off), ("prefetch", Self::Prefetch), ("complete", Self::Complete)];
}

impl FromStr for SearchNamespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, mode) = text.split_once('=').ok_or("expected NAMESPACE=MODE")?;
        validate_label(namespace).map_err(|e| e.to_string())?;
        let found = SearchMode::WORDS.iter().find(|(word, _)| *word == mode);
        let (_, mode) =
            found.ok_or_else(|| format!("{mode:?} is not off, prefetch or complete"))?;
        Ok(Self { namespace: namespace.into(), mode: *mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_name_ttl_type_and_data() {
        for (text, expected) in [
            ("db.corp 300 A 10.1.1.1", "db.corp. 300 A(10.1.1.1)"),
            ("DB.corp. 0 aaaa fd00::1", "db.corp. 0 Aaaa(fd00::1)"),
            ("a.corp 1 CNAME b.corp", "a.corp. 1 Cname(b.corp.)"),
            ("t.corp 1 TXT \"two words\"", "t.corp. 1 Txt(\"two words\")"),
        ] {
            let record: StaticRecord = text.parse().expect(text);
            let shown = format!("{} {} {:?}", record.name, record.ttl_secs, record.data);
            assert_eq!(shown, expected);
        }
        let srv: StaticRecord = "_a._tcp.b.corp 5 SRV 1 2 3 b.corp".parse().expect("valid");
        assert!(matches!(srv.data, Rdata::Srv { priority: 1, weight: 2, port: 3, .. }));
    }

    #[test]
    fn what_is_wrong_with_a_record_is_named() {
        for (text, reason) in [
            ("", "no name; expected NAME TTL TYPE DATA"),
            ("a..b 1 A 10.0.0.1", "\"a..b\" is not a domain name"),
            ("a.b x A 10.0.0.1", "\"x\" is not a ttl in seconds"),
            ("a.b 1 MX 10", "type \"MX\" is not A, AAAA, CNAME, PTR, SRV or TXT"),
            ("a.b 1 A fd00::1", "\"fd00::1\" is not an IPv4 address"),
            ("a.b 1 A 10.0.0.1 10.0.0.2", "\"10.0.0.2\" follows the data"),
            ("a.b 1 SRV 0 0", "no port; expected NAME TTL TYPE DATA"),
        ] {
            assert_eq!(text.parse::<StaticRecord>().expect_err("wrong"), reason);
        }
    }

    #[test]
    fn rewrites_and_search_modes_are_pairs() {
        assert!("a.example=b.example".parse::<Rewrite>().is_ok());
        assert!("a.example=a.example.".parse::<Rewrite>().is_err());
        assert!("a.example".parse::<Rewrite>().is_err());
        let shop: SearchNamespace = "shop=complete".parse().expect("valid");
        assert_eq!((&*shop.namespace, shop.mode), ("shop", SearchMode::Complete));
        assert!("shop=on".parse::<SearchNamespace>().is_err());
    }
}
