//! `HttpConnectionManager` -> [`HttpOptions`], and which routes it goes by.

use portolan_model::traffic::{
    ClientCertField, EscapedSlashes, HttpOptions, ResourceName, RouteTable, StripPort, Underscores,
};
use portolan_proto::envoy::core::HttpProtocolOptions;
use portolan_proto::envoy::core::http_protocol_options::HeadersWithUnderscoresAction;
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    StripPortMode, UpgradeConfig,
};

use super::{http_filters, refuse, route, time};

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
    let filters = http_filters::read(&manager.http_filters)?;
    unsupported(manager)?;
    let options =
        HttpOptions { access: filters.access, grpc_web: filters.grpc_web, ..options(manager)? };
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

/// What would change which requests are let through, or where they go.
fn unsupported(manager: &HttpConnectionManager) -> Result<(), String> {
    let asked = [
        ("codec_type: HTTP3", manager.codec_type == i32::from(CodecType::Http3)),
        ("path_normalization_options", manager.path_normalization_options.is_some()),
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
        normalize_path: manager.normalize_path.is_some_and(|v| v.value),
        merge_slashes: manager.merge_slashes,
        escaped_slashes: escaped_slashes(manager.path_with_escaped_slashes_action)?,
        client_cert: client_cert(manager)?,
        strip_port: match manager.strip_port_mode {
            Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if manager.strip_matching_host_port => StripPort::Matching,
            _ => StripPort::No,
        },
        ..HttpOptions::default()
    };
    if let Some(common) = &manager.common_http_protocol_options {
        connection("common_http_protocol_options", common, &mut options)?;
    }
    options.upgrades = upgrades(&manager.upgrade_configs)?;
    Ok(options)
}

/// Of what may be set, the URIs and DNS names are; to leave them out is refused, and so is what would
/// be missed.
fn client_cert(manager: &HttpConnectionManager) -> Result<ClientCertField, String> {
    use ForwardClientCertDetails as Details;
    let details = manager.forward_client_cert_details;
    let field = match Details::try_from(details) {
        Ok(Details::Sanitize) => return Ok(ClientCertField::Remove),
        Ok(Details::ForwardOnly) => return Ok(ClientCertField::Keep),
        Ok(Details::AlwaysForwardOnly) => return Ok(ClientCertField::Pass),
        Ok(Details::SanitizeSet) => ClientCertField::Set,
        Ok(Details::AppendForward) => ClientCertField::Append,
        Err(_) => return Err(format!("forward_client_cert_details: {details} is none")),
    };
    let set = manager.set_current_client_cert_details.as_ref();
    for (name, asked) in [
        ("subject", set.is_some_and(|set| set.subject.is_some_and(|v| v.value))),
        ("cert", set.is_some_and(|set| set.cert)),
        ("chain", set.is_some_and(|set| set.chain)),
    ] {
        refuse(&format!("set_current_client_cert_details.{name}"), asked)?;
    }
    Ok(field)
}

/// What is left to the implementation is that they stay, as with Envoy.
fn escaped_slashes(action: i32) -> Result<EscapedSlashes, String> {
    use PathWithEscapedSlashesAction as Action;
    match Action::try_from(action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => {
            Ok(EscapedSlashes::Keep)
        }
        Ok(Action::RejectRequest) => Ok(EscapedSlashes::Reject),
        Ok(Action::UnescapeAndRedirect) => Ok(EscapedSlashes::Redirect),
        Ok(Action::UnescapeAndForward) => Ok(EscapedSlashes::Unescape),
        Err(_) => Err(format!("path_with_escaped_slashes_action: {action} is no action")),
    }
}

fn underscores(field: &str, action: i32) -> Result<Underscores, String> {
    use HeadersWithUnderscoresAction as Action;
    match Action::try_from(action) {
        Ok(Action::Allow) => Ok(Underscores::Allow),
        Ok(Action::RejectRequest) => Ok(Underscores::Reject),
        Ok(Action::DropHeader) => Ok(Underscores::Drop),
        Err(_) => Err(format!("{field}.headers_with_underscores_action: {action} is no action")),
    }
}

/// Zero stands for no limit, where the proxy's own setting holds.
fn connection(
    field: &str,
    common: &HttpProtocolOptions,
    options: &mut HttpOptions,
) -> Result<(), String> {
    let most = time(&format!("{field}.max_stream_duration"), common.max_stream_duration.as_ref())?;
    refuse(&format!("{field}.max_stream_duration"), most.is_some())?;
    options.underscores = underscores(field, common.headers_with_underscores_action)?;
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
