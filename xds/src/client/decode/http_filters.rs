//! HTTP filters: who may do what, gRPC-Web, the router, those that do nothing as they stand, and those that may
//! be left out. Any other is refused; what routes ask of them is read by `asked`.

use portolan_model::traffic::Access;
use portolan_proto::envoy::grpc_web::GrpcWeb;
use portolan_proto::envoy::http_connection_manager::HttpFilter;
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType;
use portolan_proto::envoy::http_rbac::Rbac;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::typed_struct::TypedStruct;
use prost::{Message, Name};

use super::{access, message};

/// Filters that watch requests for statistics and leave them as they are, and one that is about the
/// ALPN of TLS to endpoints, where the proxy offers what it will speak.
const WATCHERS: [&str; 4] = [
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
];
/// Filters that do nothing without a configuration, but what routes ask of them.
const IDLE_WHEN_EMPTY: [&str; 3] = [
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
];
/// Messages as JSON, with the type inside.
const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

/// What the filters of a connection manager do.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// What requests have to pass.
    pub(super) access: Vec<Access>,
    /// Requests of gRPC-Web become requests of gRPC.
    pub(super) grpc_web: bool,
}

/// Reads the filters of a connection manager.
///
/// # Errors
/// The first filter that would be missed.
pub(super) fn read(filters: &[HttpFilter]) -> Result<Filters, String> {
    let mut read = Filters::default();
    for (i, filter) in filters.iter().enumerate() {
        if filter.disabled {
            continue;
        }
        let harmless = match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) if any.type_url == Rbac::type_url() => {
                let field = format!("http_filters[{i}]");
                let rbac = message(any).map_err(|error| format!("{field}: {error}"))?;
                read.access.extend(access::http(&field, &rbac)?);
                true
            }
            Some(ConfigType::TypedConfig(any)) if any.type_url == GrpcWeb::type_url() => {
                read.grpc_web = true;
                true
            }
            Some(ConfigType::TypedConfig(any)) => is_harmless(any),
            _ => false,
        };
        if !harmless && !filter.is_optional {
            return Err(format!("http_filters[{i}]: {:?} is not supported", filter.name));
        }
    }
    Ok(read)
}

fn is_harmless(config: &Any) -> bool {
    if config.type_url == Router::type_url() {
        return true;
    }
    let kind = type_name(&config.type_url);
    if TYPED_STRUCTS.contains(&kind) {
        return TypedStruct::decode(&*config.value)
            .is_ok_and(|inner| WATCHERS.contains(&type_name(&inner.type_url)));
    }
    if config.type_url == LocalRateLimit::type_url() {
        // Without a bucket it limits nothing but what routes ask for.
        return message::<LocalRateLimit>(config)
            .is_ok_and(|limit| limit.token_bucket.is_none() && limit.descriptors.is_empty());
    }
    WATCHERS.contains(&kind) || (IDLE_WHEN_EMPTY.contains(&kind) && config.value.is_empty())
}

fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
