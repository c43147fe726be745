//! Who may do what: what is taken of Envoy's RBAC filters, and what is refused by name.

use portolan_model::traffic::{
    Access, AccessAction, AccessRule, AccessTest, ClientCertField, HttpOptions, Listener as Taken,
    ListenerKind, Network, TextMatch, TextTest,
};
use portolan_proto::envoy::core::CidrRange;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::SetCurrentClientCertDetails;
use portolan_proto::envoy::http_connection_manager::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use portolan_proto::envoy::http_rbac::Rbac as HttpRbac;
use portolan_proto::envoy::matcher::path_matcher::Rule as PathRule;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{PathMatcher, StringMatcher};
use portolan_proto::envoy::network_rbac::Rbac as NetworkRbac;
use portolan_proto::envoy::rbac::permission::Rule;
use portolan_proto::envoy::rbac::principal::{Authenticated, Identifier};
use portolan_proto::envoy::rbac::{Permission, Policy, Principal, Rbac, permission};
use portolan_xds::client::decode;

use crate::listeners::{chain, listener, manager, proxy};
use crate::{any, number, yes};

fn text(text: &str) -> StringMatcher {
    let match_pattern = Some(MatchPattern::Exact(text.to_owned()));
    StringMatcher { match_pattern, ..StringMatcher::default() }
}

fn exact(text: &str) -> TextMatch {
    TextMatch { test: TextTest::Exact(text.into()), ignore_case: false }
}

fn what(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn who(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn path() -> Permission {
    what(Rule::UrlPath(PathMatcher { rule: Some(PathRule::Path(text("/a"))) }))
}

fn policy(what: Permission, who: Principal) -> Policy {
    Policy { permissions: vec![what], principals: vec![who], ..Policy::default() }
}

fn rbac(action: i32, policies: Vec<(&str, Policy)>) -> Rbac {
    let policies = policies.into_iter().map(|(name, policy)| (name.to_owned(), policy));
    Rbac { action, policies: policies.collect(), ..Rbac::default() }
}

fn taken(manager: &HttpConnectionManager) -> Result<HttpOptions, String> {
    let decoded = decode::listener::decode(&any(&listener(vec![chain(any(manager))])));
    let (_, socket) = decoded.map_err(|error| error.to_string())?;
    let Some((Taken { kind: ListenerKind::Http { options, .. }, .. }, _)) = socket else {
        panic!("it speaks HTTP");
    };
    Ok(options)
}

fn guarded(rbac: &HttpRbac) -> HttpConnectionManager {
    let filter = HttpFilter {
        name: "rbac".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(rbac))),
        ..HttpFilter::default()
    };
    let mut manager = manager();
    manager.http_filters.insert(0, filter);
    manager
}

fn enforced(rules: Rbac) -> HttpRbac {
    HttpRbac { rules: Some(rules), ..HttpRbac::default() }
}

fn any_what() -> Permission {
    what(Rule::Any(true))
}

fn any_who() -> Principal {
    who(Identifier::Any(true))
}

#[test]
fn lists_are_taken_in_their_order_and_rules_in_that_of_their_names() {
    let cidr = CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) };
    let proven = Authenticated { principal_name: Some(text("spiffe://a/b")) };
    let inner = what(Rule::NotRule(Box::new(path())));
    let policies = vec![
        ("b", policy(any_what(), who(Identifier::RemoteIp(cidr)))),
        (
            "a",
            policy(
                what(Rule::AndRules(permission::Set { rules: vec![path(), inner] })),
                who(Identifier::Authenticated(proven)),
            ),
        ),
    ];
    let filter = HttpRbac {
        rules: Some(rbac(1, policies)),
        shadow_rules: Some(rbac(0, Vec::new())),
        ..HttpRbac::default()
    };
    let of_path = || AccessTest::Path(exact("/a"));
    let not = AccessTest::Not(Box::new(AccessTest::All(vec![of_path()])));
    let rule =
        |name: &str, what, who| AccessRule { name: name.into(), what: vec![what], who: vec![who] };
    let expected = vec![
        Access { action: AccessAction::Allow, rules: Vec::new(), log_only: true },
        Access {
            action: AccessAction::Deny,
            rules: vec![
                rule(
                    "a",
                    AccessTest::All(vec![of_path(), not]),
                    AccessTest::Proven(Some(exact("spiffe://a/b"))),
                ),
                rule(
                    "b",
                    AccessTest::Any,
                    AccessTest::Remote(Network::new([10, 0, 0, 0].into(), 8).expect("valid")),
                ),
            ],
            log_only: false,
        },
    ];
    assert_eq!(taken(&guarded(&filter)).map(|options| options.access), Ok(expected));
    // Those of a mark for logs do nothing.
    let marks = enforced(rbac(2, vec![("a", policy(any_what(), any_who()))]));
    assert_eq!(taken(&guarded(&marks)).map(|options| options.access), Ok(Vec::new()));
}

#[test]
fn what_would_let_in_or_keep_out_others_is_refused_by_name() {
    let deep = (0..20).fold(any_what(), |inner, _| what(Rule::NotRule(Box::new(inner))));
    let nameless = Permission { rule: None };
    let many = vec![any_what(); 5000];
    let none = Policy { principals: vec![any_who()], ..Policy::default() };
    let long = CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(33) };
    let named = CidrRange { address_prefix: "web".into(), prefix_len: number(8) };
    let uri = what(Rule::UriTemplate(Default::default()));
    let custom = who(Identifier::Custom(Default::default()));
    let at = "http_filters[0].rules";
    let policy_at = format!("{at}.policies[p]");
    for (policy, reason) in [
        (none, format!("{policy_at}.permissions: missing")),
        (policy(nameless, any_who()), format!("{policy_at}.permissions[0].rule: missing")),
        (policy(uri, any_who()), format!("{policy_at}.permissions[0].rule: not supported")),
        (
            policy(any_what(), custom),
            format!("{policy_at}.principals[0].identifier: not supported"),
        ),
        (
            policy(any_what(), who(Identifier::RemoteIp(long))),
            format!("{policy_at}.principals[0].remote_ip.prefix_len: 33 is too long"),
        ),
        (
            policy(any_what(), who(Identifier::DirectRemoteIp(named))),
            format!(
                "{policy_at}.principals[0].direct_remote_ip.address_prefix: \"web\" is no address"
            ),
        ),
        (
            policy(what(Rule::DestinationPort(70_000)), any_who()),
            format!("{policy_at}.permissions[0].destination_port: is no port"),
        ),
        (
            Policy { permissions: many, principals: vec![any_who()], ..Policy::default() },
            format!("{policy_at}.permissions: more than 4096 of a rule"),
        ),
    ] {
        let error = taken(&guarded(&enforced(rbac(0, vec![("p", policy)])))).expect_err("refused");
        assert_eq!(error, format!("l: {reason}"));
    }
    let error = taken(&guarded(&enforced(rbac(0, vec![("p", policy(deep, any_who()))]))));
    assert!(error.expect_err("refused").ends_with("stands in more than 16 others"));
    let error = taken(&guarded(&enforced(rbac(7, Vec::new())))).expect_err("refused");
    assert_eq!(error, format!("l: {at}.action: 7 is no action"));
    // Of bytes there are no paths and fields.
    let network = NetworkRbac {
        rules: Some(rbac(0, vec![("p", policy(path(), any_who()))])),
        ..NetworkRbac::default()
    };
    let mut chains = chain(any(&proxy()));
    let mut filter = chains.filters[0].clone();
    filter.config_type =
        Some(portolan_proto::envoy::listener::filter::ConfigType::TypedConfig(any(&network)));
    chains.filters.insert(0, filter);
    let error = decode::listener::decode(&any(&listener(vec![chains]))).expect_err("refused");
    let reason = "l: filters[0].rules.policies[p].permissions[0].url_path: not supported";
    assert!(error.to_string().ends_with(&reason[3..]), "{error}");
}

#[test]
fn what_is_said_of_a_clients_certificate() {
    let details = |kind: i32, set| HttpConnectionManager {
        forward_client_cert_details: kind,
        set_current_client_cert_details: set,
        ..manager()
    };
    let uris = || Some(SetCurrentClientCertDetails { uri: true, ..Default::default() });
    for (kind, expected) in [
        (0, ClientCertField::Remove),
        (1, ClientCertField::Keep),
        (2, ClientCertField::Append),
        (3, ClientCertField::Set),
        (4, ClientCertField::Pass),
    ] {
        let options = taken(&details(kind, uris()));
        assert_eq!(options.map(|options| options.client_cert), Ok(expected), "{kind}");
    }
    let subject = Some(SetCurrentClientCertDetails { subject: yes(), ..Default::default() });
    let error = taken(&details(3, subject)).expect_err("refused");
    assert_eq!(error, "l: set_current_client_cert_details.subject: not supported");
    assert_eq!(
        taken(&details(9, None)).expect_err("refused"),
        "l: forward_client_cert_details: 9 is none"
    );
}
