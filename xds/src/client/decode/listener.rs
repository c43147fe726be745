//! `Listener` -> [`Listener`]: a filter chain that ends in the HTTP connection manager or the TCP
//! proxy, or one of each of which the first bytes choose. API listeners are for gRPC clients and
//! passed over.

mod secured;

use portolan_model::policy::HashOn;
use portolan_model::traffic::{
    AcceptProxy, HttpOptions, Listener as Socket, ListenerKind, ResourceName, RouteTable,
    ServerTls, Share, TcpOptions,
};
use portolan_proto::envoy::connection_hash_policy::PolicySpecifier;
use portolan_proto::envoy::core::{TransportSocket, transport_socket};
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_inspector::HttpInspector;
use portolan_proto::envoy::listener::filter::ConfigType;
use portolan_proto::envoy::listener::listener_filter::ConfigType as ListenerFilterConfig;
use portolan_proto::envoy::listener::{FilterChain, FilterChainMatch, Listener, ListenerFilter};
use portolan_proto::envoy::listener_proxy_protocol::ProxyProtocol;
use portolan_proto::envoy::network_rbac::Rbac as NetworkRbac;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::raw_buffer::RawBuffer;
use portolan_proto::envoy::tcp_proxy::TcpProxy;
use portolan_proto::envoy::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use portolan_proto::envoy::tls_inspector::TlsInspector;
use prost::Name;

use super::endpoints::socket_address;
use super::{DecodeError, access, action, http, message, named, refuse, resource, time};
use crate::resource::listener::HTTP_PROTOCOLS;

/// The transport that is none.
const RAW_BUFFER: &str = "raw_buffer";

/// A listener, and the route table it carries in itself, if it does; `None` for an API listener.
pub type DecodedListener = Option<(Socket, Option<RouteTable>)>;

/// Decodes and checks a listener.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn decode(any: &Any) -> Result<(ResourceName, DecodedListener), DecodeError> {
    let listener: Listener = resource(any)?;
    let name: ResourceName = listener.name.as_str().into();
    if listener.api_listener.is_some() {
        return Ok((name, None));
    }
    let decoded = convert(&listener, &name).map_err(named(&listener.name))?;
    Ok((name, Some(decoded)))
}

/// What a filter chain ends in.
enum End {
    Http(ResourceName, Option<RouteTable>, HttpOptions),
    Tcp(Vec<Share>, TcpOptions),
}

fn convert(
    listener: &Listener,
    name: &ResourceName,
) -> Result<(Socket, Option<RouteTable>), String> {
    if name.is_empty() {
        return Err("name: missing".to_owned());
    }
    let address = socket_address("address", listener.address.as_ref())?;
    refuse("additional_addresses", !listener.additional_addresses.is_empty())?;
    refuse("bind_to_port", listener.bind_to_port.is_some_and(|v| !v.value))?;
    refuse("use_original_dst", listener.use_original_dst.is_some_and(|v| v.value))?;
    refuse("filter_chain_matcher", listener.filter_chain_matcher.is_some())?;
    let (mut accept_proxy, inspected) = listener_filters(&listener.listener_filters)?;
    let Chains { kind, table, headed, tls } = chains(listener, name, inspected)?;
    if headed && accept_proxy == AcceptProxy::No {
        accept_proxy = AcceptProxy::Required;
    }
    Ok((Socket { name: name.clone(), address, kind, accept_proxy, tls }, table))
}

/// Whether a PROXY header comes first, and whether HTTP is looked for. TLS is looked for by whoever
/// ends it.
fn listener_filters(filters: &[ListenerFilter]) -> Result<(AcceptProxy, bool), String> {
    let (mut accept_proxy, mut inspected) = (AcceptProxy::No, false);
    for (i, filter) in filters.iter().enumerate() {
        let field = format!("listener_filters[{i}]");
        let Some(ListenerFilterConfig::TypedConfig(any)) = &filter.config_type else {
            return Err(format!("{field}.typed_config: missing"));
        };
        if any.type_url == TlsInspector::type_url() {
            continue;
        }
        refuse(&format!("{field}.filter_disabled"), filter.filter_disabled.is_some())?;
        if any.type_url == HttpInspector::type_url() {
            inspected = true;
        } else if any.type_url == ProxyProtocol::type_url() {
            let said: ProxyProtocol = message(any).map_err(|e| format!("{field}: {e}"))?;
            let fewer = !said.disallowed_versions.is_empty();
            refuse(&format!("{field}.disallowed_versions"), fewer)?;
            accept_proxy = if said.allow_requests_without_proxy_protocol {
                AcceptProxy::Optional
            } else {
                AcceptProxy::Required
            };
        } else {
            return Err(format!("{field}: {:?} is not supported", any.type_url));
        }
    }
    Ok((accept_proxy, inspected))
}

/// What filter chains come to.
struct Chains {
    kind: ListenerKind,
    /// The route table that came along.
    table: Option<RouteTable>,
    /// Whether a chain wants a PROXY header.
    headed: bool,
    tls: Option<ServerTls>,
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn chains(listener: &Listener, name: &ResourceName, inspected: bool) -> Result<Chains, String> {
    let several = "choosing among several is only supported between HTTP, by the protocols that \
                   http_inspector finds, and TCP for all else";
    let listed: Vec<Listed<'_>> = (listener.filter_chains.iter().enumerate())
        .map(|(i, chain)| (format!("filter_chains[{i}]"), chain))
        .chain(listener.default_filter_chain.iter().map(|c| ("default_filter_chain".to_owned(), c)))
        .collect();
    let headed = listed.iter().any(|(_, c)| c.use_proxy_proto.is_some_and(|v| v.value));
    let of = |(field, chain): &Listed<'_>| end(field, chain, name);
    let matching = |(_, chain): &Listed<'_>| Match::of(chain.filter_chain_match.as_ref());
    if listed.iter().any(|(_, chain)| !is_raw(chain.transport_socket.as_ref())) {
        return secured::secured(&listed, name, headed);
    }
    if listed.iter().any(|(_, chain)| secured::is_for_tls(chain)) {
        let kind = secured::passed_through(&listed, name)?;
        return Ok(Chains { kind, table: None, headed, tls: None });
    }
    let (kind, table) = match &listed[..] {
        [] => return Err("filter_chains: missing".to_owned()),
        [only] if matching(only) == Match::All => match of(only)? {
            End::Http(routes, table, options) => (ListenerKind::Http { routes, options }, table),
            End::Tcp(clusters, options) => (ListenerKind::Tcp { clusters, options }, None),
        },
        [one, other] => {
            let (first, second) = match (matching(one), matching(other)) {
                (Match::Http, Match::All) => (one, other),
                (Match::All, Match::Http) => (other, one),
                _ => return Err(format!("filter_chains: {several}")),
            };
            match (of(first)?, of(second)?) {
                (End::Http(routes, table, http), End::Tcp(clusters, tcp)) if inspected => {
                    let [Share { cluster, .. }] = &clusters[..] else {
                        return Err("weighted_clusters: not supported beside HTTP".to_owned());
                    };
                    let cluster = ResourceName::clone(cluster);
                    (ListenerKind::Detect { routes, cluster, http, tcp }, table)
                }
                _ => return Err(format!("filter_chains: {several}")),
            }
        }
        _ => return Err(format!("filter_chains: {several}")),
    };
    Ok(Chains { kind, table, headed, tls: None })
}

/// A filter chain, and where it stands.
type Listed<'a> = (String, &'a FilterChain);

/// Which connections are for a filter chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    /// Whatever no other chain takes.
    All,
    /// HTTP in the clear.
    Http,
    /// Some condition that is not supported.
    Other,
}

impl Match {
    fn of(said: Option<&FilterChainMatch>) -> Self {
        let Some(said) = said else { return Self::All };
        let rest = FilterChainMatch {
            application_protocols: Vec::new(),
            transport_protocol: String::new(),
            ..said.clone()
        };
        let in_the_clear =
            said.transport_protocol.is_empty() || said.transport_protocol == RAW_BUFFER;
        if rest != FilterChainMatch::default() || !in_the_clear {
            return Self::Other;
        }
        let protocols = &said.application_protocols;
        if protocols.is_empty() {
            Self::All
        } else if HTTP_PROTOCOLS.iter().all(|p| protocols.iter().any(|said| said == p)) {
            Self::Http
        } else {
            // Some HTTP would go one way and some the other.
            Self::Other
        }
    }
}

fn end(field: &str, chain: &FilterChain, name: &ResourceName) -> Result<End, String> {
    refuse(&format!("{field}.transport_socket"), !is_raw(chain.transport_socket.as_ref()))?;
    filters(field, chain, name)
}

fn filters(field: &str, chain: &FilterChain, name: &ResourceName) -> Result<End, String> {
    let (mut access, mut end) = (Vec::new(), None);
    for (i, filter) in chain.filters.iter().enumerate() {
        let field = format!("{field}.filters[{i}]");
        if end.is_some() {
            return Err(format!("{field}: stands behind the last that is supported"));
        }
        let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(format!("{field}.typed_config: missing"));
        };
        if config.type_url == NetworkRbac::type_url() {
            let rbac = message(config).map_err(|error| format!("{field}: {error}"))?;
            access.extend(access::network(&field, &rbac)?);
        } else if config.type_url == HttpConnectionManager::type_url() {
            end = Some(
                http::convert(&message(config)?, name)
                    .map(|(routes, table, options)| End::Http(routes, table, options))?,
            );
        } else if config.type_url == TcpProxy::type_url() {
            end = Some(tcp(&message(config)?)?);
        } else {
            return Err(format!("{field}: {:?} is not supported", config.type_url));
        }
    }
    match end {
        None => Err(format!("{field}.filters: none that ends the chain")),
        Some(End::Tcp(clusters, options)) => {
            Ok(End::Tcp(clusters, TcpOptions { access, ..options }))
        }
        // What connections have to pass each of their requests passes, too.
        Some(End::Http(routes, table, options)) => {
            let access = access.into_iter().chain(options.access).collect();
            Ok(End::Http(routes, table, HttpOptions { access, ..options }))
        }
    }
}

fn is_raw(socket: Option<&TransportSocket>) -> bool {
    socket.is_none_or(|socket| match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => {
            any.type_url == RawBuffer::type_url()
        }
        None => socket.name.ends_with(RAW_BUFFER),
    })
}

fn tcp(proxy: &TcpProxy) -> Result<End, String> {
    let asked = [
        ("metadata_match", proxy.metadata_match.is_some()),
        ("tunneling_config", proxy.tunneling_config.is_some()),
        ("on_demand", proxy.on_demand.is_some()),
        ("downstream_idle_timeout", proxy.downstream_idle_timeout.is_some()),
        ("upstream_idle_timeout", proxy.upstream_idle_timeout.is_some()),
        ("proxy_protocol_tlvs", !proxy.proxy_protocol_tlvs.is_empty()),
    ];
    asked.into_iter().try_for_each(|(field, asked)| refuse(field, asked))?;
    let hash_on = match proxy.hash_policy.first().map(|p| p.policy_specifier.as_ref()) {
        None => None,
        Some(Some(PolicySpecifier::SourceIp(_))) => Some(HashOn::SourceIp),
        Some(_) => return Err("hash_policy[0]: only source_ip is supported".to_owned()),
    };
    let options = TcpOptions {
        idle_timeout: time("idle_timeout", proxy.idle_timeout.as_ref())?,
        max_age: time(
            "max_downstream_connection_duration",
            proxy.max_downstream_connection_duration.as_ref(),
        )?,
        hash_on,
        access: Vec::new(),
    };
    match &proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => {
            Ok(End::Tcp(vec![Share::all(cluster.as_str().into())], options))
        }
        Some(ClusterSpecifier::WeightedClusters(said)) => Ok(End::Tcp(shares(said)?, options)),
        _ => Err("cluster: missing".to_owned()),
    }
}

fn shares(said: &WeightedCluster) -> Result<Vec<Share>, String> {
    let mut shares = Vec::with_capacity(said.clusters.len());
    for (i, said) in said.clusters.iter().enumerate() {
        let field = format!("weighted_clusters.clusters[{i}]");
        refuse(&format!("{field}.metadata_match"), said.metadata_match.is_some())?;
        // Envoy's own rules.
        for (name, missing) in [("name", said.name.is_empty()), ("weight", said.weight == 0)] {
            if missing {
                return Err(format!("{field}.{name}: missing"));
            }
        }
        shares.push(Share { weight: said.weight, ..Share::all(said.name.as_str().into()) });
    }
    action::check_sum("weighted_clusters", &shares)?;
    Ok(shares)
}
