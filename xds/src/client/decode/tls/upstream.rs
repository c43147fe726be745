//! `UpstreamTlsContext` -> [`ClientTls`]: what connections to endpoints begin with.

use std::sync::Arc;

use portolan_model::traffic::ClientTls;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::tls::UpstreamTlsContext;

use super::super::{message, refuse};
use super::{alpn, certificates, validation, versions};

/// Longest name that endpoints can be asked for (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// Converts what connections to endpoints begin with. Endpoints that nothing verifies are refused,
/// though Envoy takes them.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(in crate::client::decode) fn convert(field: &str, any: &Any) -> Result<ClientTls, String> {
    let context: UpstreamTlsContext = message(any).map_err(|e| format!("{field}: {e}"))?;
    let asked = [
        ("auto_host_sni", context.auto_host_sni),
        ("auto_sni_san_validation", context.auto_sni_san_validation),
        ("allow_renegotiation", context.allow_renegotiation),
        ("max_session_keys", context.max_session_keys.is_some_and(|most| most.value == 0)),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let name = &context.sni;
    if name.len() > MAX_NAME || name.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(format!("{field}.sni: {name:?} is no host"));
    }
    let field = format!("{field}.common_tls_context");
    let common = context.common_tls_context.unwrap_or_default();
    let certificate = match &certificates(&field, &common)?[..] {
        [] => None,
        [one] => Some(Arc::clone(one)),
        _ => {
            let field = format!("{field}.tls_certificate_sds_secret_configs");
            return Err(format!("{field}: only one is supported"));
        }
    };
    let alpn = alpn(&field, &common)?;
    let validation = validation(&field, common.validation_context_type.as_ref())?;
    let Some(trusted) = validation.trusted else {
        return Err(format!(
            "{field}.validation_context_type: missing, nothing verifies endpoints"
        ));
    };
    let versions = versions(&format!("{field}.tls_params"), common.tls_params.as_ref())?;
    Ok(ClientTls {
        server_name: (!name.is_empty()).then(|| name.as_str().into()),
        trusted,
        names: validation.names,
        certificate,
        alpn,
        versions,
    })
}
