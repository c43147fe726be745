//! Listeners and clusters of proxies in front of endpoints: what our own server says of them, our
//! proxy takes, and understands as the service means it.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::policy::{Account, Inbound, MutualTls, TlsMode};
use portolan_model::traffic::{
    Access, AccessAction, AccessTest, ClientCertField, ClientCertificates, EscapedSlashes,
    HeaderTest, HttpOptions, Listener, ListenerKind, NameKind, RouteTable, TextTest,
};
use portolan_model::{
    AccessEntry, AccessList, AppProtocol, Balancer, IdentityMatch, PathPattern, ServiceAccess,
    ServiceEntry,
};
use portolan_xds::client::decode;
use portolan_xds::resource::cluster::{self, Way};
use portolan_xds::resource::inbound;
use portolan_xds::{Dialect, ResourceConfig};

use crate::support::{any, config, entry};

/// `shop/web` with a proxy in front of its endpoints.
fn web(mode: Option<TlsMode>, protocol: Option<AppProtocol>) -> ServiceEntry {
    let mut web = (*entry("web", 80, &[(1, true)])).clone();
    let mut service = (*web.service).clone();
    service.ports[0].app_protocol = protocol;
    service.policy.inbound = BTreeMap::from([(80, Inbound { listens: 8080, app: 9080 })]);
    let accounts = vec![
        Account { namespace: None, name: "web".into() },
        Account { namespace: Some("pay".into()), name: "api".into() },
    ];
    service.policy.mutual_tls = mode.map(|mode| MutualTls { mode, accounts });
    web.service = Arc::new(service);
    web
}

fn taken(entry: &ServiceEntry, lists: Vec<AccessList>) -> (Listener, Option<RouteTable>) {
    let access =
        ServiceAccess { service: entry.service.key.clone(), ports: BTreeMap::from([(80, lists)]) };
    let all = inbound::encode(entry, Some(&Arc::new(access)), &config());
    let [(name, listener, app)] = &all[..] else { panic!("one port: {all:?}") };
    let (_, app) = decode::cluster::decode(&any(app)).expect("our proxy takes the cluster");
    let endpoints = app.1.expect("it is static");
    let addresses: Vec<String> =
        endpoints.endpoints.iter().map(|target| target.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:9080"]);
    let (known, listener) = decode::listener::decode(&any(listener)).expect("our proxy takes it");
    assert_eq!(*known, **name);
    listener.expect("it is a socket")
}

fn list(denies: bool, log_only: bool, entries: Vec<AccessEntry>) -> AccessList {
    AccessList { name: "shop/p".into(), denies, log_only, entries }
}

fn rule() -> AccessEntry {
    AccessEntry {
        identities: vec![
            IdentityMatch::Anyone,
            IdentityMatch::Namespace("shop".into()),
            IdentityMatch::Account(Account { namespace: Some("pay".into()), name: "api".into() }),
            IdentityMatch::Id("spiffe://elsewhere/x".into()),
        ],
        methods: vec!["GET".into()],
        paths: vec![PathPattern::Exact("/a".into()), PathPattern::Prefix("/b/".into())],
    }
}

fn texts(test: &AccessTest, found: &mut Vec<String>) {
    let mut say = |text: &portolan_model::traffic::TextMatch| {
        let case = if text.ignore_case { "~" } else { "" };
        found.push(match &text.test {
            TextTest::Exact(text) => format!("{case}{text}"),
            TextTest::Prefix(text) => format!("{case}{text}*"),
            other => panic!("{other:?}"),
        });
    };
    match test {
        AccessTest::Proven(Some(text)) | AccessTest::Path(text) => say(text),
        AccessTest::Header(header) => match &header.test {
            HeaderTest::Text(text) => say(text),
            other => panic!("{other:?}"),
        },
        AccessTest::Proven(None) => found.push("*".to_owned()),
        AccessTest::All(tests) | AccessTest::OneOf(tests) => {
            tests.iter().for_each(|test| texts(test, found));
        }
        AccessTest::Any => {}
        other => panic!("{other:?}"),
    }
}

/// What a list comes to: its action, what is asked for, and who asks.
fn said(access: &Access) -> (AccessAction, bool, Vec<String>, Vec<String>) {
    let (mut what, mut who) = (Vec::new(), Vec::new());
    for rule in &access.rules {
        rule.what.iter().for_each(|test| texts(test, &mut what));
        rule.who.iter().for_each(|test| texts(test, &mut who));
    }
    (access.action, access.log_only, what, who)
}

fn http(listener: &Listener) -> &HttpOptions {
    match &listener.kind {
        ListenerKind::Http { options, .. } => options,
        other => panic!("it speaks HTTP: {other:?}"),
    }
}

#[test]
fn the_mode_says_what_is_taken_and_of_whom() {
    for mode in [None, Some(TlsMode::Permissive), Some(TlsMode::Strict)] {
        for protocol in [Some(AppProtocol::Http1), Some(AppProtocol::Http2), None] {
            let is_http = protocol.is_some();
            let (listener, table) = taken(&web(mode, protocol), Vec::new());
            assert_eq!(listener.address.to_string(), "0.0.0.0:8080");
            assert_eq!(table.is_some(), is_http);
            assert_eq!(listener.tls.is_some(), mode.is_some());
            if is_http {
                let options = http(&listener);
                assert!(options.normalize_path && options.merge_slashes);
                assert_eq!(options.escaped_slashes, EscapedSlashes::Reject);
                assert_eq!(options.client_cert, ClientCertField::Set);
                assert!(!options.trust_forwarded && options.access.is_empty());
            }
            let Some(tls) = listener.tls else { continue };
            assert_eq!(tls.permissive, mode == Some(TlsMode::Permissive));
            let [chain] = &tls.chains[..] else { panic!("one chain: {tls:?}") };
            assert_eq!(*chain.certificates[0], *"portolan.dev/identity");
            let asked = ClientCertificates::Required("portolan.dev/authorities".into());
            assert_eq!(chain.clients, asked);
            let [name] = &chain.client_names[..] else { panic!("one name: {chain:?}") };
            assert_eq!(name.kind, NameKind::Uri);
            assert_eq!(name.test.test, TextTest::Prefix("spiffe://test/".into()));
        }
    }
}

#[test]
fn what_is_denied_comes_first_and_what_is_only_logged_keeps_nobody_out() {
    let lists = vec![
        list(false, false, vec![rule()]),
        list(true, false, vec![rule()]),
        list(true, true, vec![rule()]),
    ];
    let (listener, _) = taken(&web(Some(TlsMode::Strict), Some(AppProtocol::Http1)), lists);
    let who = ["*", "spiffe://test/ns/shop/sa/*", "spiffe://test/ns/pay/sa/api"];
    let who: Vec<String> = [&who[..], &["spiffe://elsewhere/x"]].concat().map_texts();
    let (plain, folded) = (["GET", "/a", "/b/*"].map_texts(), ["~GET", "~/a", "~/b/*"].map_texts());
    let all: Vec<_> = http(&listener).access.iter().map(said).collect();
    let expected = [
        (AccessAction::Deny, true, folded.clone(), who.clone()),
        (AccessAction::Deny, false, folded, who.clone()),
        (AccessAction::Allow, false, plain, who),
    ];
    assert_eq!(all, expected);
}

#[test]
fn the_same_policies_are_the_same_bytes() {
    let many = || (0..20).map(|_| rule()).collect::<Vec<_>>();
    let lists = || vec![list(false, false, many()), list(false, true, many())];
    let access = |lists| {
        Arc::new(ServiceAccess {
            service: entry("web", 80, &[]).service.key.clone(),
            ports: BTreeMap::from([(80, lists)]),
        })
    };
    for protocol in [Some(AppProtocol::Http1), None] {
        let web = web(Some(TlsMode::Strict), protocol.clone());
        let encode = || inbound::encode(&web, Some(&access(lists())), &config())[0].1.clone();
        assert!((0..10).all(|_| encode() == encode()), "{protocol:?}");
    }
    let (listener, _) = taken(
        &web(Some(TlsMode::Strict), Some(AppProtocol::Http1)),
        vec![list(true, false, many())],
    );
    assert_eq!(http(&listener).access[0].rules.len(), 20);
}

#[test]
fn of_bytes_a_rule_about_requests_allows_nothing_and_denies_what_is_left_of_it() {
    let lists = vec![list(false, false, vec![rule()]), list(true, false, vec![rule()])];
    let (listener, _) = taken(&web(Some(TlsMode::Strict), None), lists);
    let ListenerKind::Tcp { options, .. } = &listener.kind else { panic!("it carries bytes") };
    let all: Vec<_> = options.access.iter().map(said).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((all[0].0, all[0].2.len(), all[0].3.len()), (AccessAction::Deny, 0, 4));
    assert_eq!((all[1].0, options.access[1].rules.len()), (AccessAction::Allow, 0));
}

#[test]
fn clients_take_endpoints_for_the_accounts_that_the_service_names() {
    let config = ResourceConfig { balancer: Balancer::RoundRobin, ..config() };
    let names = |accounts: bool| {
        let mut service = (*web(Some(TlsMode::Strict), Some(AppProtocol::Http2)).service).clone();
        if !accounts {
            service.policy.mutual_tls.as_mut().expect("there").accounts.clear();
        }
        let (port, mutual) = (&service.ports[0], service.policy.mutual_tls.as_ref());
        let way = Way::Mutual(mutual.expect("there"));
        let encoded = cluster::encode(&service, port, way, &config, Dialect::Envoy);
        let (_, (cluster, _)) = decode::cluster::decode(&any(&encoded)).expect("taken");
        let tls = cluster.upstream.tls.expect("TLS");
        assert_eq!(tls.certificate.as_deref(), Some("portolan.dev/identity"));
        assert_eq!(tls.server_name.as_deref(), Some("web.shop.svc.cluster.local"));
        let name = |name: &portolan_model::traffic::NameMatch| format!("{:?}", name.test.test);
        tls.names.iter().map(name).collect::<Vec<_>>()
    };
    let named = ["spiffe://test/ns/shop/sa/web", "spiffe://test/ns/pay/sa/api"];
    assert_eq!(names(true), named.map(|id| format!("Exact({id:?})")));
    assert_eq!(names(false), [r#"Prefix("spiffe://test/ns/shop/sa/")"#]);
}

/// Texts of their own.
trait MapTexts {
    fn map_texts(&self) -> Vec<String>;
}

impl MapTexts for [&str] {
    fn map_texts(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}
