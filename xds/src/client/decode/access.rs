//! `RBAC` of Envoy's HTTP and network filters -> [`Access`]: who may do what. What is not known here is
//! refused by name, as passing it over would let in who is not to come in, or keep out who is.

use std::net::IpAddr;

use portolan_model::traffic::{Access, AccessAction, AccessRule, AccessTest, Network};
use portolan_proto::envoy::core::CidrRange;
use portolan_proto::envoy::http_rbac::Rbac as HttpRbac;
use portolan_proto::envoy::matcher::PathMatcher;
use portolan_proto::envoy::matcher::path_matcher::Rule as PathRule;
use portolan_proto::envoy::network_rbac::Rbac as NetworkRbac;
use portolan_proto::envoy::rbac::permission::Rule;
use portolan_proto::envoy::rbac::principal::Identifier;
use portolan_proto::envoy::rbac::rbac::Action;
use portolan_proto::envoy::rbac::{Permission, Policy, Principal, Rbac};

use super::{condition, refuse};

/// Most rules of a filter, and most conditions of a rule.
const MAX_RULES: usize = 1024;
const MAX_TESTS: usize = 4096;
/// Deepest that conditions may stand in each other.
const MAX_DEPTH: usize = 16;

/// Of what conditions are made.
#[derive(Clone, Copy)]
enum Of {
    Requests,
    Connections,
}

/// Converts the HTTP filter.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn http(field: &str, said: &HttpRbac) -> Result<Vec<Access>, String> {
    let asked =
        [("matcher", said.matcher.is_some()), ("shadow_matcher", said.shadow_matcher.is_some())];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    both(field, said.rules.as_ref(), said.shadow_rules.as_ref(), Of::Requests)
}

/// Converts the network filter.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn network(field: &str, said: &NetworkRbac) -> Result<Vec<Access>, String> {
    let asked = [
        ("matcher", said.matcher.is_some()),
        ("shadow_matcher", said.shadow_matcher.is_some()),
        ("enforcement_type", said.enforcement_type != 0),
        ("delay_deny", said.delay_deny.is_some()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    both(field, said.rules.as_ref(), said.shadow_rules.as_ref(), Of::Connections)
}

fn both(
    field: &str,
    rules: Option<&Rbac>,
    shadow: Option<&Rbac>,
    of: Of,
) -> Result<Vec<Access>, String> {
    let mut all = Vec::new();
    for (name, said, log_only) in [("shadow_rules", shadow, true), ("rules", rules, false)] {
        let Some(said) = said else { continue };
        all.extend(access(&format!("{field}.{name}"), said, log_only, of)?);
    }
    Ok(all)
}

/// `None` of one that only marks what a log is to have.
fn access(field: &str, said: &Rbac, log_only: bool, of: Of) -> Result<Option<Access>, String> {
    refuse(&format!("{field}.audit_logging_options"), said.audit_logging_options.is_some())?;
    let action = match Action::try_from(said.action) {
        Ok(Action::Allow) => AccessAction::Allow,
        Ok(Action::Deny) => AccessAction::Deny,
        Ok(Action::Log) => return Ok(None),
        Err(_) => return Err(format!("{field}.action: {} is no action", said.action)),
    };
    if said.policies.len() > MAX_RULES {
        let count = said.policies.len();
        return Err(format!("{field}.policies: {count} are more than {MAX_RULES}"));
    }
    let mut named: Vec<(&String, &Policy)> = said.policies.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    let rules = named
        .into_iter()
        .map(|(name, policy)| rule(&format!("{field}.policies[{name}]"), name, policy, of));
    Ok(Some(Access { action, rules: rules.collect::<Result<_, _>>()?, log_only }))
}

fn rule(field: &str, name: &str, said: &Policy, of: Of) -> Result<AccessRule, String> {
    let asked = [
        ("condition", said.condition.is_some()),
        ("checked_condition", said.checked_condition.is_some()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    // Envoy's own rules.
    for (list, is_empty) in
        [("permissions", said.permissions.is_empty()), ("principals", said.principals.is_empty())]
    {
        if is_empty {
            return Err(format!("{field}.{list}: missing"));
        }
    }
    let mut tests = Tests { of, left: MAX_TESTS };
    let what = tests.list(&format!("{field}.permissions"), &said.permissions, 0, Tests::what)?;
    let who = tests.list(&format!("{field}.principals"), &said.principals, 0, Tests::who)?;
    Ok(AccessRule { name: name.into(), what, who })
}

/// Reads conditions, and counts them.
struct Tests {
    of: Of,
    left: usize,
}

impl Tests {
    fn list<T>(
        &mut self,
        field: &str,
        said: &[T],
        depth: usize,
        one: fn(&mut Self, &str, &T, usize) -> Result<AccessTest, String>,
    ) -> Result<Vec<AccessTest>, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("{field}: stands in more than {MAX_DEPTH} others"));
        }
        let mut tests = Vec::with_capacity(said.len().min(self.left));
        for (i, said) in said.iter().enumerate() {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or(format!("{field}: more than {MAX_TESTS} of a rule"))?;
            tests.push(one(self, &format!("{field}[{i}]"), said, depth + 1)?);
        }
        Ok(tests)
    }

    fn what(&mut self, field: &str, said: &Permission, depth: usize) -> Result<AccessTest, String> {
        match said.rule.as_ref().ok_or(format!("{field}.rule: missing"))? {
            Rule::AndRules(set) => {
                let field = format!("{field}.and_rules.rules");
                self.list(&field, &set.rules, depth, Self::what).map(AccessTest::All)
            }
            Rule::OrRules(set) => {
                let field = format!("{field}.or_rules.rules");
                self.list(&field, &set.rules, depth, Self::what).map(AccessTest::OneOf)
            }
            Rule::NotRule(inner) => {
                self.not(&format!("{field}.not_rule"), &**inner, depth, Self::what)
            }
            Rule::Any(any) => Ok(constant(*any)),
            Rule::Header(header) => self.header(&format!("{field}.header"), header),
            Rule::UrlPath(path) => self.path(&format!("{field}.url_path"), path),
            Rule::DestinationPort(port) => {
                let port = u16::try_from(*port);
                let wrong = format!("{field}.destination_port: is no port");
                port.map(AccessTest::Port).map_err(|_| wrong)
            }
            Rule::RequestedServerName(name) => {
                let field = format!("{field}.requested_server_name");
                condition::text(&field, name).map(AccessTest::ServerName)
            }
            _ => Err(format!("{field}.rule: not supported")),
        }
    }

    fn who(&mut self, field: &str, said: &Principal, depth: usize) -> Result<AccessTest, String> {
        match said.identifier.as_ref().ok_or(format!("{field}.identifier: missing"))? {
            Identifier::AndIds(set) => {
                let field = format!("{field}.and_ids.ids");
                self.list(&field, &set.ids, depth, Self::who).map(AccessTest::All)
            }
            Identifier::OrIds(set) => {
                let field = format!("{field}.or_ids.ids");
                self.list(&field, &set.ids, depth, Self::who).map(AccessTest::OneOf)
            }
            Identifier::NotId(inner) => {
                self.not(&format!("{field}.not_id"), &**inner, depth, Self::who)
            }
            Identifier::Any(any) => Ok(constant(*any)),
            Identifier::Authenticated(said) => {
                let field = format!("{field}.authenticated.principal_name");
                let name = said.principal_name.as_ref();
                let name = name.map(|name| condition::text(&field, name)).transpose()?;
                Ok(AccessTest::Proven(name))
            }
            Identifier::RemoteIp(range) => {
                network_of(&format!("{field}.remote_ip"), range).map(AccessTest::Remote)
            }
            Identifier::DirectRemoteIp(range) => {
                network_of(&format!("{field}.direct_remote_ip"), range).map(AccessTest::Connected)
            }
            Identifier::Header(header) => self.header(&format!("{field}.header"), header),
            Identifier::UrlPath(path) => self.path(&format!("{field}.url_path"), path),
            _ => Err(format!("{field}.identifier: not supported")),
        }
    }

    fn not<T>(
        &mut self,
        field: &str,
        inner: &T,
        depth: usize,
        one: fn(&mut Self, &str, &T, usize) -> Result<AccessTest, String>,
    ) -> Result<AccessTest, String> {
        let inner = self.list(field, std::slice::from_ref(inner), depth, one)?;
        Ok(AccessTest::Not(Box::new(AccessTest::All(inner))))
    }

    fn header(
        &self,
        field: &str,
        said: &portolan_proto::envoy::route::HeaderMatcher,
    ) -> Result<AccessTest, String> {
        refuse(field, matches!(self.of, Of::Connections))?;
        condition::header(field, said).map(AccessTest::Header)
    }

    fn path(&self, field: &str, said: &PathMatcher) -> Result<AccessTest, String> {
        refuse(field, matches!(self.of, Of::Connections))?;
        let Some(PathRule::Path(text)) = &said.rule else {
            return Err(format!("{field}.path: missing"));
        };
        condition::text(&format!("{field}.path"), text).map(AccessTest::Path)
    }
}

fn constant(holds: bool) -> AccessTest {
    if holds { AccessTest::Any } else { AccessTest::Not(Box::new(AccessTest::Any)) }
}

fn network_of(field: &str, said: &CidrRange) -> Result<Network, String> {
    let address: IpAddr = (said.address_prefix.parse())
        .map_err(|_| format!("{field}.address_prefix: {:?} is no address", said.address_prefix))?;
    let bits = said.prefix_len.as_ref().map_or(0, |bits| bits.value);
    let network = u8::try_from(bits).ok().and_then(|bits| Network::new(address, bits));
    network.ok_or_else(|| format!("{field}.prefix_len: {bits} is too long"))
}
