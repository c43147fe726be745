//! Listeners of gRPC servers (gRFC A36).

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
use portolan_xds::resource::listener;
use prost::{Message, Name};

fn decoded(name: &str) -> Option<Listener> {
    let any = Any::decode(&listener::encode_server(name)?.any[..]).expect("an Any");
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
