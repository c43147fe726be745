//! Listeners of gRPC servers (gRFC A36).

use std::sync::Arc;

use portolan_model::policy::{MutualTls, TlsMode};
use portolan_model::{
    AccessEntry, AccessList, IdentityMatch, Protocol, ServiceAccess, ServicePort, SlicePort,
};
use portolan_proto::envoy::core::address::Address;
use portolan_proto::envoy::core::socket_address::PortSpecifier;
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType as HttpConfig;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::listener::filter::ConfigType;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::route::Action;
use portolan_xds::resource::ResourceType;
use portolan_xds::resource::server::{self, Guard};
use portolan_xds::viewer::{self, Viewer};
use prost::{Message, Name};

use crate::support::{World, entry};

fn decoded(name: &str) -> Option<Listener> {
    let encoded = server::encode(name, &Guard::default(), false, "cluster.local")?;
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    Some(Listener::decode(&any.value[..]).expect("a listener"))
}

#[test]
fn a_server_gets_a_listener_for_the_address_in_the_name_and_for_no_other_name() {
    let prefix = "grpc/server?xds.resource.listening_address=";
    let cases = [
        ("0.0.0.0:50051", Some(("0.0.0.0", 50051))),
        ("10.0.0.1:1", Some(("10.0.0.1", 1))),
        ("[::]:50051", Some(("::", 50051))),
        ("[2001:db8::1]:65535", Some(("2001:db8::1", 65535))),
        ("", None),
        ("0.0.0.0", None),
        ("0.0.0.0:0", None),
        ("0.0.0.0:65536", None),
        ("::1:80", None),
        ("localhost:80", None),
        ("0.0.0.0:80 ", None),
    ];
    for (address, expected) in cases {
        let name = format!("{prefix}{address}");
        let listener = decoded(&name);
        let socket = listener.and_then(|l| {
            assert_eq!(l.name, name);
            assert!(l.listener_filters.is_empty(), "a server would refuse it");
            l.address
        });
        let socket = socket.and_then(|a| a.address).map(|address| match address {
            Address::SocketAddress(socket) => (socket.address, socket.port_specifier),
            other => panic!("{other:?}"),
        });
        let expected =
            expected.map(|(ip, port)| (ip.to_owned(), Some(PortSpecifier::PortValue(port))));
        assert_eq!(socket, expected, "{address:?}");
    }
    for name in
        ["", "http", "web.shop.svc.cluster.local:80", "0.0.0.0:80", "grpc/server?x=0.0.0.0:80"]
    {
        assert_eq!(decoded(name), None, "{name:?}");
    }
}

#[test]
fn a_server_serves_every_call_itself() {
    let name = "grpc/server?xds.resource.listening_address=0.0.0.0:50051";
    let listener = decoded(name).expect("a listener");
    assert!(listener.filter_chains.is_empty(), "one chain for all");
    let chain = listener.default_filter_chain.expect("a chain");
    let [filter] = &chain.filters[..] else { panic!("{chain:?}") };
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    let manager = HttpConnectionManager::decode(&any.value[..]).expect("a connection manager");
    let filters: Vec<_> = manager.http_filters.iter().map(|f| f.config_type.clone()).collect();
    let [Some(HttpConfig::TypedConfig(router))] = &filters[..] else { panic!("{filters:?}") };
    assert_eq!(router.type_url, Router::type_url());
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else {
        panic!("no routes")
    };
    let [host] = &routes.virtual_hosts[..] else { panic!("{routes:?}") };
    assert_eq!((&host.domains[..], host.routes.len()), (&["*".to_owned()][..], 1));
    let action = &host.routes[0].action;
    assert!(matches!(action, Some(Action::NonForwardingAction(_))), "{action:?}");
}

/// What a server of `shop/web`, with two ports, gets: whether there is a listener, how many lists it
/// enforces, and whether TLS comes first.
#[test]
fn a_server_goes_by_the_services_that_it_serves_or_serves_nobody() {
    let list = |name: &str| AccessList {
        name: name.into(),
        denies: true,
        log_only: false,
        entries: vec![AccessEntry {
            identities: vec![IdentityMatch::Anyone],
            methods: Vec::new(),
            paths: Vec::new(),
        }],
    };
    let made = |mode: Option<TlsMode>, policies: &[u16], target: u16| {
        let mut entry = (*entry("web", 80, &[(1, false)])).clone();
        let service = Arc::make_mut(&mut entry.service);
        service.ports.push(ServicePort::new("second", Protocol::Tcp, 90));
        service.policy.mutual_tls = mode.map(|mode| MutualTls { mode, accounts: Vec::new() });
        let mut slice = (*entry.slices[0]).clone();
        slice.ports[0].port = target;
        let second = SlicePort { name: "second".into(), protocol: Protocol::Tcp, port: 9090 };
        slice.ports.push(second);
        entry.slices = vec![Arc::new(slice)];
        let key = entry.service.key.clone();
        let ports = policies.iter().map(|port| (*port, vec![list("shop/a")])).collect();
        let access = ServiceAccess { service: key.clone(), ports };
        let access = (!policies.is_empty()).then(|| Arc::new(access));
        let mut world = World::default();
        world.apply(Arc::new(entry));
        world.snapshot.set_access(&key, access);
        world.publish();
        world.catalog
    };
    let strict = Some(TlsMode::Strict);
    #[rustfmt::skip]
    let cases = [
        ("nothing is asked", made(None, &[], 50051), "shop/web", false, Some((0, false))),
        ("it says nothing", made(strict, &[80], 50051), "", false, Some((0, false))),
        ("a policy of its port", made(None, &[80], 50051), "shop/web", false, Some((1, false))),
        ("of another one", made(None, &[90], 50051), "shop/web", false, Some((0, false))),
        ("of both", made(None, &[80, 90], 50051), "shop/web", false, Some((1, false))),
        ("of a port that is not known", made(None, &[80], 1), "shop/web", false, None),
        ("a service that is not there", made(None, &[], 50051), "shop/nobody", false, None),
        ("a name that is none beside it", made(None, &[], 50051), "shop/web,Shop", false, None),
        ("strict", made(strict, &[80], 50051), "shop/web", true, Some((1, true))),
        ("strict, and it cannot", made(strict, &[], 50051), "shop/web", false, None),
        ("permissive", made(Some(TlsMode::Permissive), &[], 50051), "shop/web", true, Some((0, false))),
    ];
    let name = "grpc/server?xds.resource.listening_address=0.0.0.0:50051";
    for (about, catalog, serves, has_other, expected) in cases {
        let (serves, serves_more) = viewer::parse_serves(serves);
        let viewer = Viewer { serves, serves_more, has_other, ..Viewer::default() };
        let found = catalog.lookup_for(ResourceType::Listener, name, &viewer);
        let found = found.map(|encoded| {
            let any = Any::decode(&encoded.any[..]).expect("an Any");
            let listener = Listener::decode(&any.value[..]).expect("a listener");
            let chain = listener.default_filter_chain.expect("a chain");
            let Some(ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else {
                panic!("{chain:?}")
            };
            let manager = HttpConnectionManager::decode(&any.value[..]).expect("a manager");
            (manager.http_filters.len() - 1, chain.transport_socket.is_some())
        });
        assert_eq!(found, expected, "{about}");
    }
}
