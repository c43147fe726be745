//! What a Gateway makes is what our own proxy reads of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::{BackOff, HashOn, Retries, RetryOn};
use portolan_model::traffic::{
    Abort, Action, ClientCertificates, Conditions, Cors, Edits, Fault, HashPolicy, HeaderEdit,
    HeaderMatch, HeaderTest, ListenerKind, Mirror, PathEdit, PathMatch, Pattern, PerClient,
    QueryMatch, RateLimit, Redirect, Respond, Route, RouteTable, ServerTls, Session, SessionBy,
    Share, SniChain, Substitution, TextMatch, TextTest, VirtualHost,
};
use portolan_model::{Gateway, GatewayChain, GatewayKey, GatewayPort, GatewaySni, GatewayTls};
use portolan_xds::client::decode;
use portolan_xds::resource::gateway::Made;
use portolan_xds::resource::{ResourceType, gateway};

use crate::support::any;

fn of(port: GatewayPort) -> Gateway {
    let (key, addresses) = (GatewayKey::new("shop", "web"), Vec::new());
    Gateway { key, addresses, ports: [(80, port)].into(), certificates: BTreeMap::new() }
}

/// The routes of a Gateway with this one, as our proxy reads them.
fn read(route: &Route) -> Route {
    let host = VirtualHost {
        name: "a.test".into(),
        domains: vec!["a.test".into()],
        routes: vec![route.clone()],
    };
    let table = table(&of(GatewayPort::Http(vec![Arc::new(host)])));
    table.hosts[0].routes[0].clone()
}

fn table(gateway: &Gateway) -> RouteTable {
    let encoded = gateway::encode(gateway, [127, 0, 0, 1].into());
    let route = encoded.iter().find(|made| made.kind == ResourceType::Route).expect("one");
    decode::route::decode(&any(&route.encoded)).expect("our proxy takes it").1
}

fn text(test: TextTest) -> TextMatch {
    TextMatch { test, ignore_case: false }
}

fn share(cluster: &str, weight: u32, edits: Edits) -> Share {
    let edits = (edits != Edits::default()).then(|| Arc::new(edits));
    Share { cluster: cluster.into(), weight, edits }
}

#[test]
fn routes_mean_the_same_to_our_proxy() {
    let pattern = |text: &str| Pattern::new(text).expect("valid");
    let header = |name: &str, test| HeaderMatch {
        name: name.into(),
        test,
        invert: false,
        missing_is_empty: false,
    };
    let to = |path| Route::to(path, "shop/web:80".into());
    let under = || PathMatch::Under("/a".into());
    let fields = || Edits {
        request: vec![
            HeaderEdit::Remove("x-gone".into()),
            HeaderEdit::Set("x-set".into(), "100%".into()),
            HeaderEdit::Add("x-add".into(), "".into()),
        ],
        response: vec![
            HeaderEdit::AddIfAbsent("x-if".into(), "a b".into()),
            HeaderEdit::Replace("x-there".into(), "c".into()),
        ],
        ..Edits::default()
    };
    let rewritten = Edits {
        host: Some("other.test".into()),
        path: Some(PathEdit::Matched("/b".into())),
        ..fields()
    };
    let by = |action| Route { action, ..to(under()) };
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: Some("b.test".into()),
        port: Some(8443),
        path: Some(PathEdit::Whole("/x".into())),
        strip_query: true,
        status: 308,
        edits: None,
    };
    let substitution = Substitution::new("^/a/(.*)$", r"/\1/b").expect("valid");
    let mut limited = RateLimit::new(200, Duration::from_millis(10), 429);
    limited.resource_exhausted = true;
    let each = Duration::from_micros(700);
    limited.per_client = Some(PerClient { tokens: 3, each, most: 4_096 });
    let cases: Vec<Route> = vec![
        to(PathMatch::Prefix("/".into())),
        to(PathMatch::Exact("/a".into())),
        to(under()),
        to(PathMatch::Regex(pattern("/a.*"))),
        Route {
            conditions: Some(Box::new(Conditions {
                ignore_case: true,
                headers: vec![
                    header(":method", HeaderTest::Text(text(TextTest::Exact("GET".into())))),
                    header("x-a", HeaderTest::Text(text(TextTest::Regex(pattern("v[0-9]+"))))),
                    header("x-b", HeaderTest::Present(true)),
                    header("x-c", HeaderTest::Range(1, 9)),
                    HeaderMatch {
                        invert: true,
                        ..header("x-d", HeaderTest::Text(text(TextTest::Prefix("p".into()))))
                    },
                ],
                query: vec![
                    QueryMatch { name: "q".into(), test: None },
                    QueryMatch { name: "r".into(), test: Some(text(TextTest::Suffix("s".into()))) },
                ],
                grpc: true,
                millionths: Some(333_333),
            })),
            ..to(under())
        },
        by(Action::Forward(vec![share("shop/a:80", 1, rewritten.clone())])),
        by(Action::Forward(vec![
            share("shop/a:80", 90, rewritten),
            share(
                "shop/b:80",
                10,
                Edits { path: Some(PathEdit::Matched("/b".into())), ..fields() },
            ),
        ])),
        by(Action::Forward(vec![share(
            "shop/a:80",
            1,
            Edits { path: Some(PathEdit::Replaced(substitution)), ..Edits::default() },
        )])),
        by(Action::Redirect(redirect.clone())),
        by(Action::Redirect(Redirect {
            path: Some(PathEdit::Matched("/b".into())),
            edits: Some(Arc::new(fields())),
            ..redirect
        })),
        by(Action::Redirect(Redirect { status: 302, ..Redirect::default() })),
        by(Action::Respond(Respond { status: 500, body: [].into(), edits: None })),
        by(Action::Respond(Respond {
            status: 200,
            body: b"ok".to_vec().into(),
            edits: Some(Arc::new(fields())),
        })),
        Route {
            timeout: Some(Duration::from_millis(1500)),
            idle_timeout: Some(Duration::from_secs(60)),
            retries: Some(Retries {
                attempts: 3,
                on: vec![RetryOn::ConnectFailure, RetryOn::StatusCodes],
                status_codes: vec![500, 503],
                per_try_timeout: Some(Duration::from_millis(500)),
                back_off: Some(BackOff {
                    base: Duration::from_millis(10),
                    max: Duration::from_millis(100),
                }),
                hedge: true,
            }),
            hash: vec![HashPolicy { on: HashOn::Header("x-user".into()), terminal: true }],
            mirrors: vec![
                Mirror { cluster: "shop/m:80".into(), millionths: 1_000_000, shadow_host: false },
                Mirror { cluster: "shop/n:80".into(), millionths: 5, shadow_host: true },
            ],
            ..to(under())
        },
        Route {
            cors: Some(Arc::new(Cors {
                origins: vec![
                    text(TextTest::Exact("https://a.test".into())),
                    text(TextTest::Regex(pattern("https://[^/:]+\\.b\\.test"))),
                ],
                methods: "GET, PUT".into(),
                headers: "*".into(),
                exposed: "x-a".into(),
                max_age: "60".into(),
                credentials: true,
                forward_unmatched: false,
            })),
            session: Some(Arc::new(Session {
                name: "kept".into(),
                by: SessionBy::Cookie { path: "/".into(), ttl: Some(Duration::from_secs(3600)) },
            })),
            ..to(under())
        },
        Route {
            fault: Some(Arc::new(Fault {
                headers: vec![header("x-a", HeaderTest::Present(true))],
                delay: Some((Duration::from_millis(1500), 10_000)),
                abort: Some((Abort::Http(503), 1_000_000)),
            })),
            rate_limit: Some(Arc::new(limited)),
            ..to(under())
        },
        Route {
            fault: Some(Arc::new(Fault { abort: Some((Abort::Grpc(14), 5)), ..Fault::default() })),
            rate_limit: Some(Arc::new(RateLimit::new(RateLimit::ANY.0, RateLimit::ANY.1, 429))),
            ..to(under())
        },
        Route {
            cors: Some(Arc::new(Cors { forward_unmatched: true, ..Cors::default() })),
            session: Some(Arc::new(Session { name: "x-kept".into(), by: SessionBy::Header })),
            ..to(under())
        },
    ];
    for route in cases {
        assert_eq!(read(&route), route);
    }
}

/// Envoy has no words of its own for these; what is read does the same.
#[test]
fn paths_that_are_replaced_come_to_the_same() {
    let whole = || PathEdit::Whole("/x".into());
    let matched = |to: &str| PathEdit::Matched(to.into());
    let under = || PathMatch::Under("/a.b".into());
    for (edit, path, from, to) in [
        (whole(), under(), "/a.b/c?q=1", "/x?q=1"),
        (matched("/"), under(), "/a.b/c?q=1", "/c?q=1"),
        (matched("/"), under(), "/a.b", "/"),
        (matched("/x/"), under(), "/a.b/c", "/x/c"),
        (matched("/x/"), under(), "/a.b", "/x/"),
        (matched("/x/"), under(), "/a.b/", "/x/"),
        (matched("/x/"), PathMatch::Prefix("/".into()), "/a", "/x/a"),
    ] {
        assert_eq!(edit.apply(from.as_bytes(), &path), to.as_bytes(), "the case itself: {from}");
        let edits = Edits { path: Some(edit.clone()), ..Edits::default() };
        let forward = Action::Forward(vec![share("shop/a:80", 1, edits)]);
        let redirect =
            Action::Redirect(Redirect { status: 302, path: Some(edit), ..Redirect::default() });
        for action in [forward, redirect] {
            let route = Route { action, ..Route::to(path.clone(), "".into()) };
            let read = match read(&route).action {
                Action::Forward(shares) => shares[0].edits.as_ref().expect("some").path.clone(),
                Action::Redirect(redirect) => redirect.path,
                Action::Respond(_) => None,
            };
            let got = read.expect("a change").apply(from.as_bytes(), &path);
            assert_eq!(String::from_utf8_lossy(&got), to, "{route:?}");
        }
    }
}

#[test]
fn every_port_and_address_has_a_listener() {
    let shares =
        || vec![share("shop/a:1", 3, Edits::default()), share("shop/b:1", 1, Edits::default())];
    let sni = |name: Option<&str>, clusters, certificate: Option<&str>| GatewaySni {
        name: name.map(Into::into),
        clusters,
        certificates: certificate.into_iter().map(Into::into).collect(),
        clients: certificate.map(|_| "clients:8443".into()),
    };
    let tls = |names| GatewayPort::Tls(GatewayTls { names, ..GatewayTls::default() });
    let gateway = Gateway {
        addresses: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
        ports: [
            (80, GatewayPort::Http(Vec::new())),
            (90, GatewayPort::Tcp(shares())),
            (443, tls(vec![sni(Some("a.test"), shares(), None), sni(None, Vec::new(), None)])),
            (
                8443,
                tls(vec![
                    sni(Some("a.test"), shares(), Some("shop/cert")),
                    sni(
                        Some("b.test"),
                        vec![share("shop/b:1", 1, Edits::default())],
                        Some("shop/cert"),
                    ),
                ]),
            ),
            (
                9443,
                GatewayPort::Tls(GatewayTls {
                    chains: vec![GatewayChain {
                        name: Some("*.test".into()),
                        hosts: Vec::new(),
                        certificates: vec!["shop/cert".into()],
                        clients: None,
                    }],
                    names: vec![
                        sni(Some("a.test"), shares(), None),
                        GatewaySni {
                            clients: None,
                            ..sni(Some("b.test"), shares(), Some("shop/cert"))
                        },
                    ],
                }),
            ),
        ]
        .into(),
        ..of(GatewayPort::Tcp(Vec::new()))
    };
    let read = |gateway: &Gateway| -> Vec<(String, String, ListenerKind, Option<ServerTls>)> {
        let default = [127, 0, 0, 1].into();
        let encoded = gateway::encode(gateway, default);
        let named: BTreeSet<_> =
            encoded.iter().map(|made| (made.kind, made.name.clone())).collect();
        assert_eq!(named, gateway::names(gateway, default));
        let encoded = encoded.into_iter();
        let listeners = encoded.filter(|made| made.kind == ResourceType::Listener);
        listeners
            .map(|Made { name, encoded, .. }| {
                let decoded = decode::listener::decode(&any(&encoded)).expect("taken").1;
                let (listener, _) = decoded.expect("a socket");
                assert_eq!(listener.name, name);
                (name.to_string(), listener.address.to_string(), listener.kind, listener.tls)
            })
            .collect()
    };
    let found = read(&gateway);
    let places: Vec<(&str, &str)> =
        found.iter().map(|(name, address, ..)| (&**name, &**address)).collect();
    assert_eq!(
        places,
        [
            ("gateway/shop/web:80", "10.0.0.1:80"),
            ("gateway/shop/web#2:80", "10.0.0.2:80"),
            ("gateway/shop/web:90", "10.0.0.1:90"),
            ("gateway/shop/web#2:90", "10.0.0.2:90"),
            ("gateway/shop/web:443", "10.0.0.1:443"),
            ("gateway/shop/web#2:443", "10.0.0.2:443"),
            ("gateway/shop/web:8443", "10.0.0.1:8443"),
            ("gateway/shop/web#2:8443", "10.0.0.2:8443"),
            ("gateway/shop/web:9443", "10.0.0.1:9443"),
            ("gateway/shop/web#2:9443", "10.0.0.2:9443"),
        ]
    );
    let ListenerKind::Http { routes, options } = &found[1].2 else { panic!("{:?}", found[1]) };
    assert_eq!(&**routes, "gateway/shop/web:80", "one table for all addresses");
    assert!(options.normalize_path && !options.trust_forwarded);
    let ListenerKind::Tcp { clusters, .. } = &found[3].2 else { panic!("{:?}", found[3]) };
    assert_eq!(*clusters, shares());
    let ListenerKind::ByName { chains, .. } = &found[5].2 else { panic!("{:?}", found[5]) };
    let chain = |names: &[&str], clusters| SniChain {
        names: names.iter().map(|name| (*name).into()).collect(),
        clusters,
    };
    let nowhere = vec![Share::all("nowhere".into())];
    assert_eq!(*chains, [chain(&["a.test"], shares()), chain(&[], nowhere)]);
    let ListenerKind::ByName { chains, .. } = &found[7].2 else { panic!("{:?}", found[7]) };
    let one = vec![share("shop/b:1", 1, Edits::default())];
    assert_eq!(*chains, [chain(&["a.test"], shares()), chain(&["b.test"], one)]);
    let ended = found[7].3.as_ref().expect("TLS ends there");
    for own in &ended.chains {
        assert_eq!(*own.certificates, ["gateway/shop/web/tls/shop/cert:0".into()]);
        let authorities = "gateway/shop/web/tls/clients:8443:0".into();
        assert_eq!(own.clients, ClientCertificates::Required(authorities));
    }
    assert_eq!(found[5].3, None, "TLS goes on");
    let ListenerKind::Http { .. } = &found[9].2 else { panic!("{:?}", found[9]) };
    let tls = found[9].3.as_ref().expect("TLS ends there");
    let ends: Vec<&[Arc<str>]> = tls.chains.iter().map(|chain| &*chain.names).collect();
    assert_eq!(ends, [&["*.test".into()], &["b.test".into()]]);
    let beside: Vec<(SniChain, bool)> = (tls.beside.iter())
        .flat_map(|beside| beside.chains.iter().map(|own| (own.to.clone(), own.ended)))
        .collect();
    assert_eq!(
        beside,
        [(chain(&["a.test"], shares()), false), (chain(&["b.test"], shares()), true)]
    );
    let anywhere = Gateway { addresses: Vec::new(), ..gateway };
    assert_eq!(read(&anywhere)[0].1, "127.0.0.1:80");
}
