//! A rule of who may ask: `ACTION [from NETWORK…] [for ZONE…]`.

use std::str::FromStr;

use ipnet::IpNet;
use portolan_model::DnsName;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// What becomes of a query that it fits.
    pub action: AccessAction,
    /// The clients it is about; none: all.
    pub networks: Vec<IpNet>,
    /// The zones it is about; none: all. The root is written as `.`.
    pub zones: Vec<Option<DnsName>>,
}

/// What becomes of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessAction {
    /// It is answered.
    Allow,
    /// It gets REFUSED with the extended error "Prohibited" (RFC 8914 §4.19).
    Refuse,
    /// It gets no answer.
    Drop,
}

impl FromStr for AccessRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let action = match words.next() {
            Some("allow") => AccessAction::Allow,
            Some("refuse") => AccessAction::Refuse,
            Some("drop") => AccessAction::Drop,
            Some(other) => return Err(format!("{other:?} is not allow, refuse or drop")),
            None => return Err("expected ACTION [from NETWORK…] [for ZONE…]".to_owned()),
        };
        let mut rule = Self { action, networks: Vec::new(), zones: Vec::new() };
        let mut part = None;
        for word in words {
            match (word, part) {
                ("from" | "for", _) => part = Some(word),
                (_, Some("from")) => rule.networks.push(network(word)?),
                (_, Some(_)) => rule.zones.push(zone(word)?),
                (_, None) => return Err(format!("{word:?}: expected `from` or `for`")),
            }
        }
        match part {
            Some("from") if rule.networks.is_empty() => Err("no network after `from`".to_owned()),
            Some("for") if rule.zones.is_empty() => Err("no zone after `for`".to_owned()),
            _ => Ok(rule),
        }
    }
}

/// A network, or an address that stands for itself alone.
fn network(text: &str) -> Result<IpNet, String> {
    let host = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse().or_else(|_| host()).map_err(|_| format!("{text:?} is not a network or address"))
}

/// A zone; the root is `None`.
pub(super) fn zone(text: &str) -> Result<Option<DnsName>, String> {
    if text == "." {
        return Ok(None);
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    DnsName::parse(name).map(Some).map_err(|e| format!("{text:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_an_action_with_networks_and_zones() {
        let rule: AccessRule =
            "refuse from 10.0.0.0/8 fd00::1 for corp.example .".parse().expect("valid");
        assert_eq!(rule.action, AccessAction::Refuse);
        assert_eq!(rule.networks.len(), 2);
        assert_eq!(rule.zones, [Some(DnsName::parse("corp.example").expect("valid")), None]);
        assert_eq!("allow".parse::<AccessRule>().expect("valid").networks, []);
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_named() {
        for (text, reason) in [
            ("", "expected ACTION [from NETWORK…] [for ZONE…]"),
            ("deny", "\"deny\" is not allow, refuse or drop"),
            ("drop 10.0.0.0/8", "\"10.0.0.0/8\": expected `from` or `for`"),
            ("drop from 10.0.0/8", "\"10.0.0/8\" is not a network or address"),
            ("drop from", "no network after `from`"),
            ("drop from 10.0.0.1 for", "no zone after `for`"),
        ] {
            assert_eq!(text.parse::<AccessRule>().expect_err("wrong"), reason);
        }
    }
}
