//! `RouteConfiguration` -> [`RouteTable`]: virtual hosts and their routes. What is not supported would
//! change which requests a route is for, or what becomes of them, and is refused by name.

use std::sync::Arc;

use portolan_model::traffic::{Action, ResourceName, Route, RouteTable, VirtualHost};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route as rds;
use portolan_proto::envoy::route::route::Action as Said;

use super::asked::Asked;
use super::edits::{self, Around, Level};
use super::{DecodeError, action, answer, condition, named, refuse, resource};

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
    let said = edits::Said {
        add: [&config.request_headers_to_add, &config.response_headers_to_add],
        remove: [&config.request_headers_to_remove, &config.response_headers_to_remove],
    };
    let level = Level::of("", &said)?;
    let specific_wins = config.most_specific_header_mutations_wins;
    let asked = Asked::default().over("", &config.typed_per_filter_config)?;
    let hosts: Result<Vec<Arc<VirtualHost>>, String> = config
        .virtual_hosts
        .iter()
        .enumerate()
        .map(|(i, host)| {
            let field = format!("virtual_hosts[{i}]");
            virtual_host(&field, host, &level, specific_wins, &asked).map(Arc::new)
        })
        .collect();
    let table = RouteTable::new(name, hosts?).map_err(|e| e.to_string())?;
    Ok(table.ignoring_port(config.ignore_port_in_host_matching))
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn virtual_host(
    field: &str,
    host: &rds::VirtualHost,
    table: &Level,
    specific_wins: bool,
    asked: &Asked,
) -> Result<VirtualHost, String> {
    if host.domains.is_empty() {
        return Err(format!("{field}.domains: missing"));
    }
    let unsupported = [
        ("matcher", host.matcher.is_some()),
        ("require_tls", host.require_tls != 0),
        ("cors", host.cors.is_some()),
        ("retry_policy_typed_config", host.retry_policy_typed_config.is_some()),
    ];
    unsupported
        .into_iter()
        .try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let said = edits::Said {
        add: [&host.request_headers_to_add, &host.response_headers_to_add],
        remove: [&host.request_headers_to_remove, &host.response_headers_to_remove],
    };
    let level = Level::of(&format!("{field}."), &said)?;
    let around = Around { table, host: &level, specific_wins };
    let asked = asked.over(&format!("{field}."), &host.typed_per_filter_config)?;
    let routes: Result<Vec<Route>, String> = host
        .routes
        .iter()
        .enumerate()
        .map(|(i, route)| {
            convert_route(&format!("{field}.routes[{i}]"), route, host, around, &asked)
        })
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
    around: Around<'_>,
    asked: &Asked,
) -> Result<Route, String> {
    let Some(matched) = &route.r#match else { return Err(format!("{field}.match: missing")) };
    let (path, conditions) = condition::convert(&format!("{field}.match"), matched)?;
    let said = edits::Said {
        add: [&route.request_headers_to_add, &route.response_headers_to_add],
        remove: [&route.request_headers_to_remove, &route.response_headers_to_remove],
    };
    let level = Level::of(&format!("{field}."), &said)?;
    let asked = asked.over(&format!("{field}."), &route.typed_per_filter_config)?;
    let name = (!route.name.is_empty()).then(|| route.name.as_str().into());
    let own = || edits::shared(around.with(&level, &Level::default()));
    let action = match &route.action {
        Some(Said::Route(said)) => {
            let field = format!("{field}.route");
            let forward = action::convert(&field, said, host, path, around, &level)?;
            return Ok(asked.on(Route { name, conditions, ..forward }));
        }
        Some(Said::Redirect(said)) => {
            Action::Redirect(answer::redirect(&format!("{field}.redirect"), said, own())?)
        }
        Some(Said::DirectResponse(said)) => {
            Action::Respond(answer::respond(&format!("{field}.direct_response"), said, own())?)
        }
        _ => {
            let known = "routes to clusters, redirects and direct responses";
            return Err(format!("{field}: only {known} are supported"));
        }
    };
    Ok(asked.on(Route { name, conditions, action, ..Route::to(path, "".into()) }))
}
