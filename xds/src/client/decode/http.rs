//! `HttpConnectionManager` -> [`HttpOptions`], and which routes it goes by.

use portolan_model::traffic::{HttpOptions, ResourceName, RouteTable};
use portolan_proto::envoy::core::HttpProtocolOptions;
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, StripPortMode, UpgradeConfig,
};
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::protobuf::BoolValue;
use prost::Name;

use super::{refuse, route, time};

/// What is always let through.
const WEBSOCKET: &str = "websocket";
/// Most kinds of upgrade of a listener.
const MAX_UPGRADES: usize = 16;

/// Name of the route table, the table itself if the listener carries it, and what is asked of the
/// connections.
pub(super) type Decoded = (ResourceName, Option<RouteTable>, HttpOptions);

/// Converts a connection manager of a listener.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
    manager: &HttpConnectionManager,
    listener: &ResourceName,
) -> Result<Decoded, String> {
    filters(manager)?;
    unsupported(manager)?;
    let options = options(manager)?;
    match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            Ok((rds.route_config_name.as_str().into(), None, options))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            let name: ResourceName = format!("inline:{listener}").into();
            let table = route::convert(config, name.clone())
                .map_err(|reason| format!("route_config: {reason}"))?;
            Ok((name, Some(table), options))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err("scoped_routes: not supported".to_owned()),
        Some(RouteSpecifier::Rds(_)) | None => Err("rds.route_config_name: missing".to_owned()),
    }
}

/// The router, and what may be left out.
fn filters(manager: &HttpConnectionManager) -> Result<(), String> {
    for (i, filter) in manager.http_filters.iter().enumerate() {
        let router = matches!(
            &filter.config_type,
            Some(ConfigType::TypedConfig(any)) if any.type_url == Router::type_url()
        );
        if !router && !filter.is_optional && !filter.disabled {
            return Err(format!("http_filters[{i}]: {:?} is not supported", filter.name));
        }
    }
    Ok(())
}

/// What would change which requests are let through, or where they go.
fn unsupported(manager: &HttpConnectionManager) -> Result<(), String> {
    let on = |value: Option<&BoolValue>| value.is_some_and(|v| v.value);
    let kept = [
        PathWithEscapedSlashesAction::ImplementationSpecificDefault,
        PathWithEscapedSlashesAction::KeepUnchanged,
    ];
    let slashes = manager.path_with_escaped_slashes_action;
    let any_port = matches!(manager.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)));
    let asked = [
        ("codec_type: HTTP3", manager.codec_type == i32::from(CodecType::Http3)),
        ("normalize_path", on(manager.normalize_path.as_ref())),
        ("merge_slashes", manager.merge_slashes),
        ("path_with_escaped_slashes_action", !kept.map(i32::from).contains(&slashes)),
        ("path_normalization_options", manager.path_normalization_options.is_some()),
        ("strip_matching_host_port", manager.strip_matching_host_port),
        ("strip_any_host_port", any_port),
        ("strip_trailing_host_dot", manager.strip_trailing_host_dot),
        ("original_ip_detection_extensions", !manager.original_ip_detection_extensions.is_empty()),
        ("early_header_mutation_extensions", !manager.early_header_mutation_extensions.is_empty()),
        ("request_timeout", time("request_timeout", manager.request_timeout.as_ref())?.is_some()),
    ];
    asked.into_iter().try_for_each(|(field, asked)| refuse(field, asked))
}

fn options(manager: &HttpConnectionManager) -> Result<HttpOptions, String> {
    let mut options = HttpOptions {
        stream_idle_timeout: time("stream_idle_timeout", manager.stream_idle_timeout.as_ref())?,
        header_timeout: time("request_headers_timeout", manager.request_headers_timeout.as_ref())?,
        // Only where it says so: by default Envoy believes whoever comes.
        trust_forwarded: manager.xff_num_trusted_hops > 0
            || manager.use_remote_address.is_some_and(|v| !v.value),
        ..HttpOptions::default()
    };
    if let Some(common) = &manager.common_http_protocol_options {
        connection("common_http_protocol_options", common, &mut options)?;
    }
    options.upgrades = upgrades(&manager.upgrade_configs)?;
    Ok(options)
}

/// Zero stands for no limit, where the proxy's own setting holds.
fn connection(
    field: &str,
    common: &HttpProtocolOptions,
    options: &mut HttpOptions,
) -> Result<(), String> {
    let most = time(&format!("{field}.max_stream_duration"), common.max_stream_duration.as_ref())?;
    refuse(&format!("{field}.max_stream_duration"), most.is_some())?;
    let underscores = common.headers_with_underscores_action != 0;
    refuse(&format!("{field}.headers_with_underscores_action"), underscores)?;
    options.idle_timeout = time(&format!("{field}.idle_timeout"), common.idle_timeout.as_ref())?;
    options.max_age =
        time(&format!("{field}.max_connection_duration"), common.max_connection_duration.as_ref())?;
    let most = common.max_requests_per_connection.as_ref();
    options.max_requests = most.map(|most| most.value).filter(|most| *most > 0);
    Ok(())
}

fn upgrades(configs: &[UpgradeConfig]) -> Result<Vec<String>, String> {
    let mut upgrades: Vec<String> = Vec::new();
    for (i, config) in configs.iter().enumerate() {
        let field = format!("upgrade_configs[{i}]");
        let kind = config.upgrade_type.to_ascii_lowercase();
        if kind.is_empty() {
            return Err(format!("{field}.upgrade_type: missing"));
        }
        refuse(&format!("{field}.filters"), !config.filters.is_empty())?;
        let off = config.enabled.is_some_and(|enabled| !enabled.value);
        refuse(&format!("{field}.enabled"), off && kind == WEBSOCKET)?;
        if !off && kind != WEBSOCKET && !upgrades.contains(&kind) {
            upgrades.push(kind);
        }
    }
    if upgrades.len() > MAX_UPGRADES {
        return Err(format!("upgrade_configs: {} are more than {MAX_UPGRADES}", upgrades.len()));
    }
    Ok(upgrades)
}
