//! LDS of gRPC servers (gRFC A36): a listener for the address that a server asks for, which serves every
//! call itself; with who may call what (gRFC A41) and mutual TLS (gRFC A29) of the services that the server
//! says it serves.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portolan_model::policy::TlsMode;
use portolan_model::{AccessList, Protocol, ServiceEntry, ServiceKey, Snapshot};
use portolan_proto::envoy::core::TransportSocket;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::listener::{FilterChain, Listener};
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::route::{
    NonForwardingAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
    route_match::PathSpecifier,
};
use portolan_proto::envoy::tls::{CommonTlsContext, DownstreamTlsContext};

use super::endpoints::socket_address;
use super::listener::{self, HTTP_FILTER};
use super::{Encoded, pack, rbac, tls};

/// Under this and its address a gRPC server asks for its listener, if its bootstrap says
/// `"server_listener_resource_name_template": "grpc/server?xds.resource.listening_address=%s"`
/// (the name of gRFC A36's example).
pub const PREFIX: &str = "grpc/server?xds.resource.listening_address=";

/// What holds for the calls of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard<'a> {
    /// Who may call what, by each service that it serves: a call has to pass all of them.
    pub access: Vec<&'a [AccessList]>,
    /// It is called by those alone who can prove who they are.
    pub strict: bool,
}

/// The address that a name is for.
#[must_use]
pub fn address(name: &str) -> Option<SocketAddr> {
    let address: SocketAddr = name.strip_prefix(PREFIX)?.parse().ok()?;
    (address.port() != 0).then_some(address)
}

/// What holds for a server of these services at a port; `None` while that is not known: then it gets no
/// listener, rather than one that lets in everybody.
#[must_use]
pub fn guard<'a>(
    snapshot: &'a Snapshot,
    serves: &BTreeSet<ServiceKey>,
    port: u16,
) -> Option<Guard<'a>> {
    let (mut guard, mut unmatched) = (Guard::default(), false);
    for key in serves {
        let entry = snapshot.lookup(key)?;
        let access = snapshot.access(key);
        let strict = entry.service.policy.mutual_tls.as_ref();
        let strict = strict.is_some_and(|mutual| mutual.mode == TlsMode::Strict);
        guard.strict |= strict;
        let Some(access) = access.filter(|access| !access.ports.is_empty()) else { continue };
        let ports = own_ports(entry, port);
        unmatched |= ports.is_empty();
        let lists = ports.iter().filter_map(|port| access.ports.get(port));
        guard.access.extend(lists.map(Vec::as_slice));
    }
    (!unmatched).then_some(guard)
}

/// The ports of a service that lead to this one of its endpoints: its only one in any case.
fn own_ports(entry: &ServiceEntry, number: u16) -> Vec<u16> {
    let tcp = || entry.service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    if let [only] = tcp().collect::<Vec<_>>()[..] {
        return vec![only.port];
    }
    let leads = |name: &str| {
        let mut ports = entry.slices.iter().flat_map(|slice| &slice.ports);
        ports.any(|port| (&*port.name, port.protocol, port.port) == (name, Protocol::Tcp, number))
    };
    tcp().filter(|port| leads(port.endpoint_port_name())).map(|port| port.port).collect()
}

/// Encodes the listener of a server that listens on the address its name holds: it serves whatever
/// arrives there and may. `has_identity`: the server can prove who it is. `None` for any other name, and
/// for a server that has to prove who it is and cannot.
#[must_use]
pub fn encode(name: &str, guard: &Guard<'_>, has_identity: bool, domain: &str) -> Option<Encoded> {
    let address = address(name)?;
    if guard.strict && !has_identity {
        return None;
    }
    let serve = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(Action::NonForwardingAction(NonForwardingAction {})),
        ..Route::default()
    };
    let routes = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![serve],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    let mut manager = listener::connection_manager(name, RouteSpecifier::RouteConfig(routes));
    let filters = guard.access.iter().flat_map(|lists| rbac::http(lists, domain));
    let filters: Vec<_> = filters.enumerate().collect();
    let named = filters.into_iter().map(|(i, mut filter)| {
        // gRPC wants names that differ.
        filter.name = format!("{}.{i}", filter.name);
        filter
    });
    manager.http_filters.splice(0..0, named);
    let listener = Listener {
        name: name.to_owned(),
        address: Some(socket_address(address)),
        default_filter_chain: Some(FilterChain {
            transport_socket: guard.strict.then(secured),
            ..listener::chain(HTTP_FILTER, pack(&manager))
        }),
        ..Listener::default()
    };
    Some(Encoded::new(name, &listener))
}

/// With what the server's own bootstrap has, and from clients of the same authorities alone.
fn secured() -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(tls::provider()),
            validation_context_type: Some(tls::of_provider(Vec::new())),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    tls::socket(&context)
}
