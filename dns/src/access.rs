//! Who may ask for what: the first rule that fits a client and a name decides.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{AccessAction, AccessRule};
use crate::name::{WireName, suffix_start};

/// Rules in their order.
#[derive(Debug, Default)]
pub(crate) struct Access(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    action: AccessAction,
    networks: Vec<IpNet>,
    zones: Vec<WireName>,
}

impl Access {
    pub(crate) fn new(rules: &[AccessRule]) -> Self {
        let rule = |rule: &AccessRule| Rule {
            action: rule.action,
            networks: rule.networks.clone(),
            zones: (rule.zones.iter())
                .map(|zone| zone.as_ref().map_or_else(WireName::root, WireName::of))
                .collect(),
        };
        Self(rules.iter().map(rule).collect())
    }

    /// What becomes of a query of this client for this lower-case wire name.
    pub(crate) fn decide(&self, client: IpAddr, name: &[u8]) -> AccessAction {
        let client = client.to_canonical();
        let fits = |rule: &&Rule| {
            let from =
                rule.networks.is_empty() || rule.networks.iter().any(|n| n.contains(&client));
            let in_zone = |zone: &WireName| suffix_start(name, zone.as_bytes()).is_some();
            from && (rule.zones.is_empty() || rule.zones.iter().any(in_zone))
        };
        self.0.iter().find(fits).map_or(AccessAction::Allow, |rule| rule.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::DnsName;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = [
            "allow from 10.1.0.0/16",
            "drop from 10.0.0.0/8 fd00::/8 for corp.example",
            "refuse for corp.example",
        ];
        let access = Access::new(&rules.map(|rule| rule.parse().expect("valid")));
        for (client, name, expected) in [
            ("10.1.2.3", "db.corp.example", AccessAction::Allow),
            ("10.2.2.3", "db.corp.example", AccessAction::Drop),
            ("fd00::1", "corp.example", AccessAction::Drop),
            ("::ffff:10.2.2.3", "corp.example", AccessAction::Drop),
            ("192.0.2.1", "corp.example", AccessAction::Refuse),
            ("192.0.2.1", "xcorp.example", AccessAction::Allow),
        ] {
            let name = WireName::of(&DnsName::parse(name).expect("valid"));
            let client = client.parse().expect("valid");
            assert_eq!(access.decide(client, name.as_bytes()), expected, "{client} {name}");
        }
    }
}
