//! `DownstreamTlsContext` -> [`TlsChain`]: certificates and authorities by the names of their secrets
//! (SDS). What would weaken what is asked for is refused by name.

use std::sync::Arc;

use portolan_model::traffic::{ClientCertificates, TlsChain, TlsVersions};
use portolan_proto::envoy::core::{TransportSocket, transport_socket};
use portolan_proto::envoy::tls::common_tls_context::ValidationContextType;
use portolan_proto::envoy::tls::tls_parameters::TlsProtocol;
use portolan_proto::envoy::tls::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters,
};

use super::{message, refuse};

/// Most certificates of a chain, and most protocols above it.
const MAX_LISTED: usize = 16;

/// Converts what a filter chain begins with.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
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
    let alpn: Vec<Arc<str>> =
        common.alpn_protocols.iter().map(|name| name.as_str().into()).collect();
    if alpn.len() > MAX_LISTED || alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err(format!("{field}.alpn_protocols: {alpn:?}"));
    }
    let clients = clients(&field, common.validation_context_type.as_ref(), required)?;
    let versions = versions(&format!("{field}.tls_params"), common.tls_params.as_ref())?;
    Ok(TlsChain { names, certificates, alpn, clients, versions })
}

fn certificates(field: &str, common: &CommonTlsContext) -> Result<Vec<Arc<str>>, String> {
    let asked = [
        ("tls_certificates", !common.tls_certificates.is_empty()),
        ("tls_certificate_provider_instance", common.tls_certificate_provider_instance.is_some()),
        ("custom_handshaker", common.custom_handshaker.is_some()),
        ("custom_tls_certificate_selector", common.custom_tls_certificate_selector.is_some()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let said = &common.tls_certificate_sds_secret_configs;
    let field = format!("{field}.tls_certificate_sds_secret_configs");
    if said.is_empty() || said.len() > MAX_LISTED {
        return Err(format!("{field}: {} of 1 to {MAX_LISTED}", said.len()));
    }
    let name = |(i, said)| secret(&format!("{field}[{i}]"), said);
    said.iter().enumerate().map(name).collect()
}

/// Where a secret comes from is passed over: it is asked for over the stream that the listener came
/// by.
fn secret(field: &str, said: &SdsSecretConfig) -> Result<Arc<str>, String> {
    if said.name.is_empty() {
        return Err(format!("{field}.name: missing"));
    }
    Ok(said.name.as_str().into())
}

fn clients(
    field: &str,
    said: Option<&ValidationContextType>,
    required: bool,
) -> Result<ClientCertificates, String> {
    let name = match said {
        None if required => {
            return Err(format!(
                "{field}.validation_context_type: missing, clients need certificates"
            ));
        }
        None => return Ok(ClientCertificates::None),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(said)) => {
            secret(&format!("{field}.validation_context_sds_secret_config"), said)?
        }
        Some(_) => {
            let only = "only validation_context_sds_secret_config is supported";
            return Err(format!("{field}.validation_context_type: {only}"));
        }
    };
    Ok(if required {
        ClientCertificates::Required(name)
    } else {
        ClientCertificates::Optional(name)
    })
}

/// Suites, groups and signatures are those that are safe: what names others is refused.
fn versions(field: &str, said: Option<&TlsParameters>) -> Result<TlsVersions, String> {
    use TlsProtocol::{TlSv12, TlSv13, TlsAuto};
    let Some(said) = said else { return Ok(TlsVersions::Both) };
    let asked = [
        ("cipher_suites", !said.cipher_suites.is_empty()),
        ("ecdh_curves", !said.ecdh_curves.is_empty()),
        ("signature_algorithms", !said.signature_algorithms.is_empty()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let of = |version: i32| TlsProtocol::try_from(version);
    match (of(said.tls_minimum_protocol_version), of(said.tls_maximum_protocol_version)) {
        (Ok(TlSv13), Ok(TlsAuto | TlSv13)) => Ok(TlsVersions::Tls13),
        (Ok(TlsAuto | TlSv12), Ok(TlSv12)) => Ok(TlsVersions::Tls12),
        (Ok(TlsAuto | TlSv12), Ok(TlsAuto | TlSv13)) => Ok(TlsVersions::Both),
        _ => Err(format!("{field}: only versions 1.2 and 1.3 are spoken")),
    }
}
