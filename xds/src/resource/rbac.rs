//! Who may do what, as Envoy's RBAC filters: what is denied before what is allowed.

use std::collections::{BTreeMap, HashMap};

use portolan_model::{AccessEntry, AccessList, IdentityMatch, PathPattern};
use portolan_proto::envoy::http_connection_manager::{HttpFilter, http_filter};
use portolan_proto::envoy::http_rbac::Rbac as HttpRbac;
use portolan_proto::envoy::listener::{Filter, filter};
use portolan_proto::envoy::matcher::path_matcher::Rule as PathRule;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{PathMatcher, StringMatcher};
use portolan_proto::envoy::network_rbac::Rbac as NetworkRbac;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::rbac::permission::Rule;
use portolan_proto::envoy::rbac::principal::{Authenticated, Identifier};
use portolan_proto::envoy::rbac::rbac::Action;
use portolan_proto::envoy::rbac::{Permission, Policy, Principal, Rbac, permission};
use portolan_proto::envoy::route::HeaderMatcher;
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use prost::Message;

const HTTP: &str = "envoy.filters.http.rbac";
const NETWORK: &str = "envoy.filters.network.rbac";

/// The filters before HTTP.
pub(super) fn http(lists: &[AccessList], domain: &str) -> Vec<HttpFilter> {
    let of = |(rules, shadow_rules)| HttpRbac { rules, shadow_rules, ..HttpRbac::default() };
    let filter = |both| HttpFilter {
        name: HTTP.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(in_order(both, of))),
        ..HttpFilter::default()
    };
    filters(lists, domain, true).map(filter).collect()
}

/// The filters before bytes, of which neither method nor path is known: what is allowed by these is not
/// allowed, and what is denied by them is denied all the same.
pub(super) fn network(lists: &[AccessList], domain: &str) -> Vec<Filter> {
    let of = |(rules, shadow_rules)| NetworkRbac {
        rules,
        shadow_rules,
        stat_prefix: "access".to_owned(),
        ..NetworkRbac::default()
    };
    let filter = |both| Filter {
        name: NETWORK.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(in_order(both, of))),
    };
    filters(lists, domain, false).map(filter).collect()
}

/// Rules that are enforced and rules that are only counted, of a filter.
type Both = (Option<Rbac>, Option<Rbac>);

/// The message of a filter, its policies in the order of their names: the same on every replica, which
/// that of a map is not. Written policy by policy: what is written one after the other is read as one
/// message (Protocol Buffers, "Last One Wins": embedded messages and maps are merged).
fn in_order<M: Message + prost::Name>((rules, shadow): Both, of: impl Fn(Both) -> M) -> Any {
    let mut value = Vec::new();
    let mut put = |both| value.extend(of(both).encode_to_vec());
    rules.into_iter().flat_map(parts).for_each(|part| put((Some(part), None)));
    shadow.into_iter().flat_map(parts).for_each(|part| put((None, Some(part))));
    Any { type_url: M::type_url(), value }
}

/// A message without policies, and one for each of them.
fn parts(whole: Rbac) -> impl Iterator<Item = Rbac> {
    let policies: BTreeMap<String, Policy> = whole.policies.into_iter().collect();
    let one = |(name, policy)| Rbac { policies: [(name, policy)].into(), ..Rbac::default() };
    let first = Rbac { action: whole.action, ..Rbac::default() };
    std::iter::once(first).chain(policies.into_iter().map(one))
}

fn filters(lists: &[AccessList], domain: &str, http: bool) -> impl Iterator<Item = Both> {
    let make = |denies: bool, log_only: bool| -> Option<Rbac> {
        let wanted = |list: &&AccessList| list.denies == denies && list.log_only == log_only;
        let own: Vec<&AccessList> = lists.iter().filter(wanted).collect();
        if own.is_empty() {
            return None;
        }
        // What is allowed already goes on to be so once this is enforced.
        let also =
            lists.iter().filter(|list| log_only && !denies && !list.denies && !list.log_only);
        let policies = own.into_iter().chain(also).flat_map(|list| {
            let entries = list.entries.iter().enumerate();
            let usable = entries.filter(|(_, entry)| http || denies || !entry.is_of_http());
            usable.map(|(i, entry)| {
                (format!("{}#{i}", list.name), policy(entry, denies, domain, http))
            })
        });
        let action = if denies { Action::Deny } else { Action::Allow };
        let policies: HashMap<String, Policy> = policies.collect();
        Some(Rbac { action: action.into(), policies, ..Rbac::default() })
    };
    [true, false]
        .into_iter()
        .filter_map(move |denies| {
            let both = (make(denies, false), make(denies, true));
            (both != (None, None)).then_some(both)
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn policy(entry: &AccessEntry, denies: bool, domain: &str, http: bool) -> Policy {
    let one_of = |rules: Vec<Permission>| permission_of(Rule::OrRules(permission::Set { rules }));
    let mut parts = Vec::new();
    if http && !entry.methods.is_empty() {
        parts.push(one_of(entry.methods.iter().map(|name| method(name, denies)).collect()));
    }
    if http && !entry.paths.is_empty() {
        parts.push(one_of(entry.paths.iter().map(|pattern| path(pattern, denies)).collect()));
    }
    let permission = if parts.is_empty() {
        permission_of(Rule::Any(true))
    } else {
        permission_of(Rule::AndRules(permission::Set { rules: parts }))
    };
    let principals = if entry.identities.is_empty() {
        vec![Principal { identifier: Some(Identifier::Any(true)) }]
    } else {
        entry.identities.iter().map(|identity| principal(identity, domain)).collect()
    };
    Policy { permissions: vec![permission], principals, ..Policy::default() }
}

fn permission_of(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn text(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ignore_case }
}

/// As with paths.
fn method(name: &str, denies: bool) -> Permission {
    let exact = text(MatchPattern::Exact(name.to_owned()), denies);
    permission_of(Rule::Header(HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..HeaderMatcher::default()
    }))
}

/// What is denied is so in whatever case it is written: some applications do not mind it.
fn path(pattern: &PathPattern, denies: bool) -> Permission {
    let pattern = match pattern {
        PathPattern::Exact(path) => MatchPattern::Exact(path.to_string()),
        PathPattern::Prefix(path) => MatchPattern::Prefix(path.to_string()),
    };
    let rule = Some(PathRule::Path(text(pattern, denies)));
    permission_of(Rule::UrlPath(PathMatcher { rule }))
}

fn principal(identity: &IdentityMatch, domain: &str) -> Principal {
    let name = match identity {
        IdentityMatch::Anyone => None,
        IdentityMatch::Account(account) => {
            let namespace = account.namespace.as_deref().unwrap_or_default();
            Some(MatchPattern::Exact(spiffe(domain, namespace, &account.name)))
        }
        IdentityMatch::Namespace(namespace) => {
            Some(MatchPattern::Prefix(spiffe(domain, namespace, "")))
        }
        IdentityMatch::Id(id) => Some(MatchPattern::Exact(id.to_string())),
    };
    let principal_name = name.map(|pattern| text(pattern, false));
    Principal { identifier: Some(Identifier::Authenticated(Authenticated { principal_name })) }
}

/// The SPIFFE id of a service account.
pub(crate) fn spiffe(domain: &str, namespace: &str, account: &str) -> String {
    format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
}
