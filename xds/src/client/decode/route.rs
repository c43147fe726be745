//! `RouteConfiguration` -> [`RouteTable`]: virtual hosts with prefix and path matches to clusters.
//! What would change a request on its way, or which requests a route is for, is refused.

use std::sync::Arc;

use portolan_model::traffic::{PathMatch, ResourceName, Route, RouteTable, VirtualHost};
use portolan_proto::envoy::core::HeaderValueOption;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route as rds;
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_match::PathSpecifier;

use super::{DecodeError, action, http_filters, named, refuse, resource};

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
    let asked = [
        ("vhds", config.vhds.is_some()),
        ("request_mirror_policies", !config.request_mirror_policies.is_empty()),
        ("vhost_header", !config.vhost_header.is_empty()),
        ("ignore_path_parameters_in_path_matching", config.ignore_path_parameters_in_path_matching),
    ];
    asked.into_iter().try_for_each(|(field, asked)| refuse(field, asked))?;
    Headers {
        add: [&config.request_headers_to_add, &config.response_headers_to_add],
        remove: [&config.request_headers_to_remove, &config.response_headers_to_remove],
    }
    .refuse("")?;
    http_filters::check_asked("", &config.typed_per_filter_config)?;
    let hosts: Result<Vec<Arc<VirtualHost>>, String> = config
        .virtual_hosts
        .iter()
        .enumerate()
        .map(|(i, host)| virtual_host(&format!("virtual_hosts[{i}]"), host).map(Arc::new))
        .collect();
    let table = RouteTable::new(name, hosts?).map_err(|e| e.to_string())?;
    Ok(table.ignoring_port(config.ignore_port_in_host_matching))
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn virtual_host(field: &str, host: &rds::VirtualHost) -> Result<VirtualHost, String> {
    if host.domains.is_empty() {
        return Err(format!("{field}.domains: missing"));
    }
    let asked = [
        ("matcher", host.matcher.is_some()),
        ("require_tls", host.require_tls != 0),
        ("cors", host.cors.is_some()),
        ("retry_policy_typed_config", host.retry_policy_typed_config.is_some()),
        ("request_mirror_policies", !host.request_mirror_policies.is_empty()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    Headers {
        add: [&host.request_headers_to_add, &host.response_headers_to_add],
        remove: [&host.request_headers_to_remove, &host.response_headers_to_remove],
    }
    .refuse(&format!("{field}."))?;
    http_filters::check_asked(&format!("{field}."), &host.typed_per_filter_config)?;
    let routes: Result<Vec<Route>, String> = host
        .routes
        .iter()
        .enumerate()
        .map(|(i, route)| convert_route(&format!("{field}.routes[{i}]"), route, host))
        .collect();
    Ok(VirtualHost {
        name: host.name.as_str().into(),
        domains: host.domains.iter().map(|d| d.as_str().into()).collect(),
        routes: routes?,
    })
}

/// `host` is the route's own, whose retries hold where the route says nothing of them.
fn convert_route(
    field: &str,
    route: &rds::Route,
    host: &rds::VirtualHost,
) -> Result<Route, String> {
    let Some(condition) = &route.r#match else { return Err(format!("{field}.match: missing")) };
    let path = path(&format!("{field}.match"), condition)?;
    Headers {
        add: [&route.request_headers_to_add, &route.response_headers_to_add],
        remove: [&route.request_headers_to_remove, &route.response_headers_to_remove],
    }
    .refuse(&format!("{field}."))?;
    http_filters::check_asked(&format!("{field}."), &route.typed_per_filter_config)?;
    let Some(Action::Route(said)) = &route.action else {
        return Err(format!("{field}: only routes to a cluster are supported yet"));
    };
    action::convert(&format!("{field}.route"), said, host, path)
}

fn path(field: &str, condition: &rds::RouteMatch) -> Result<PathMatch, String> {
    if !condition.headers.is_empty() || !condition.query_parameters.is_empty() {
        return Err(format!("{field}: header and query matches are not supported yet"));
    }
    let asked = [
        ("case_sensitive", condition.case_sensitive.is_some_and(|v| !v.value)),
        ("runtime_fraction", condition.runtime_fraction.is_some()),
        ("cookies", !condition.cookies.is_empty()),
        ("grpc", condition.grpc.is_some()),
        ("tls_context", condition.tls_context.is_some()),
        ("dynamic_metadata", !condition.dynamic_metadata.is_empty()),
        ("filter_state", !condition.filter_state.is_empty()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    match &condition.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::PathSeparatedPrefix(whole)) => {
            // Envoy's own rule.
            if whole.is_empty() || whole.ends_with('/') || whole.contains(['?', '#']) {
                return Err(format!("{field}.path_separated_prefix: {whole:?} is none"));
            }
            Ok(PathMatch::Under(whole.as_str().into()))
        }
        Some(_) => Err(format!("{field}: only prefixes and paths are supported yet")),
        None => Err(format!("{field}.path_specifier: missing")),
    }
}

/// Headers that are to be changed, of requests and of answers.
struct Headers<'a> {
    add: [&'a [HeaderValueOption]; 2],
    remove: [&'a [String]; 2],
}

impl Headers<'_> {
    fn refuse(&self, prefix: &str) -> Result<(), String> {
        for (kind, (add, remove)) in
            ["request", "response"].into_iter().zip(self.add.iter().zip(self.remove))
        {
            refuse(&format!("{prefix}{kind}_headers_to_add"), !add.is_empty())?;
            refuse(&format!("{prefix}{kind}_headers_to_remove"), !remove.is_empty())?;
        }
        Ok(())
    }
}
