//! `RouteConfiguration` -> [`RouteTable`]: virtual hosts with prefix and path matches to clusters.
//! What a route hashes is passed over: no balancer here picks by it yet.

use std::sync::Arc;

use portolan_model::traffic::{PathMatch, ResourceName, Route, RouteTable, VirtualHost};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route as rds;
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::ClusterSpecifier;
use portolan_proto::envoy::route::route_match::PathSpecifier;

use super::{DecodeError, duration, named, resource};

/// Envoy's default for a route without `timeout`.
const DEFAULT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Decodes and checks a route table.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn decode(any: &Any) -> Result<(ResourceName, RouteTable), DecodeError> {
    let config: rds::RouteConfiguration = resource(any)?;
    let name: ResourceName = config.name.as_str().into();
    let table = convert(&config, name.clone()).map_err(named(&config.name))?;
    Ok((name, table))
}

/// Converts a route configuration under the given name.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn convert(config: &rds::RouteConfiguration, name: ResourceName) -> Result<RouteTable, String> {
    let hosts: Result<Vec<Arc<VirtualHost>>, String> = config
        .virtual_hosts
        .iter()
        .enumerate()
        .map(|(i, host)| virtual_host(&format!("virtual_hosts[{i}]"), host).map(Arc::new))
        .collect();
    RouteTable::new(name, hosts?).map_err(|e| e.to_string())
}

fn virtual_host(field: &str, host: &rds::VirtualHost) -> Result<VirtualHost, String> {
    if host.domains.is_empty() {
        return Err(format!("{field}.domains: missing"));
    }
    let routes: Result<Vec<Route>, String> = host
        .routes
        .iter()
        .enumerate()
        .map(|(i, route)| convert_route(&format!("{field}.routes[{i}]"), route))
        .collect();
    Ok(VirtualHost {
        name: host.name.as_str().into(),
        domains: host.domains.iter().map(|d| d.as_str().into()).collect(),
        routes: routes?,
    })
}

fn convert_route(field: &str, route: &rds::Route) -> Result<Route, String> {
    let Some(condition) = &route.r#match else { return Err(format!("{field}.match: missing")) };
    if !condition.headers.is_empty() || !condition.query_parameters.is_empty() {
        return Err(format!("{field}.match: header and query matches are not supported yet"));
    }
    let path = match &condition.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.as_str().into()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.as_str().into()),
        Some(_) => return Err(format!("{field}.match: only prefix and path are supported yet")),
        None => return Err(format!("{field}.match.path_specifier: missing")),
    };
    let Some(Action::Route(action)) = &route.action else {
        return Err(format!("{field}: only routes to a cluster are supported yet"));
    };
    let Some(ClusterSpecifier::Cluster(cluster)) = &action.cluster_specifier else {
        return Err(format!("{field}.route: only `cluster` is supported yet"));
    };
    // No timeout field means Envoy's default; a zero means none.
    let timeout = match &action.timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(value) => {
            Some(duration(&format!("{field}.route.timeout"), value)?).filter(|t| !t.is_zero())
        }
    };
    Ok(Route { path, cluster: cluster.as_str().into(), timeout })
}
