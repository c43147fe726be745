//! `DownstreamTlsContext` -> [`TlsChain`]: what a filter chain begins with.

use std::sync::Arc;

use portolan_model::traffic::{ClientCertificates, TlsChain, Trusted};
use portolan_proto::envoy::core::{TransportSocket, transport_socket};
use portolan_proto::envoy::tls::DownstreamTlsContext;

use super::super::{message, refuse};
use super::{alpn, certificates, validation, versions};

/// Converts what a filter chain begins with.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(in crate::client::decode) fn convert(
    field: &str,
    said: Option<&TransportSocket>,
    names: Vec<Arc<str>>,
) -> Result<TlsChain, String> {
    let config = said.and_then(|said| said.config_type.as_ref());
    let Some(transport_socket::ConfigType::TypedConfig(any)) = config else {
        return Err(format!("{field}.typed_config: missing"));
    };
    let context: DownstreamTlsContext = message(any).map_err(|e| format!("{field}: {e}"))?;
    let asked = [
        ("require_sni", context.require_sni.is_some_and(|v| v.value)),
        ("session_timeout", context.session_timeout.is_some()),
        ("session_ticket_keys_type", context.session_ticket_keys_type.is_some()),
        ("ocsp_staple_policy", context.ocsp_staple_policy != 0),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let required = context.require_client_certificate.is_some_and(|v| v.value);
    let field = format!("{field}.common_tls_context");
    let Some(common) = context.common_tls_context else {
        return Err(format!("{field}: missing"));
    };
    let certificates = certificates(&field, &common)?;
    if certificates.is_empty() {
        return Err(format!("{field}.tls_certificate_sds_secret_configs: missing"));
    }
    let alpn = alpn(&field, &common)?;
    let validation = validation(&field, common.validation_context_type.as_ref())?;
    let clients = match validation.trusted {
        None if required => {
            let why = "missing, clients need certificates";
            return Err(format!("{field}.validation_context_type: {why}"));
        }
        None => ClientCertificates::None,
        Some(Trusted::System | Trusted::These(_)) => {
            let why = "only validation_context_sds_secret_config is supported for clients";
            return Err(format!("{field}.validation_context_type: {why}"));
        }
        Some(Trusted::Authorities(name)) if required => ClientCertificates::Required(name),
        Some(Trusted::Authorities(name)) => ClientCertificates::Optional(name),
    };
    let versions = versions(&format!("{field}.tls_params"), common.tls_params.as_ref())?;
    let client_names = validation.names;
    Ok(TlsChain { names, certificates, alpn, clients, client_names, versions, routes: None })
}
