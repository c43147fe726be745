//! TLS of listeners and clusters: certificates and authorities by the names of their secrets (SDS).
//! What would weaken what is asked for is refused by name.

mod downstream;
mod upstream;

use std::sync::Arc;

use portolan_model::traffic::{NameKind, NameMatch, TlsVersions, Trusted};
use portolan_proto::envoy::core::DataSource;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::tls::common_tls_context::ValidationContextType;
use portolan_proto::envoy::tls::subject_alt_name_matcher::SanType;
use portolan_proto::envoy::tls::tls_parameters::TlsProtocol;
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    TlsParameters,
};
use portolan_runtime::certificate;

use super::{condition, refuse, secret};

pub(super) use downstream::convert as downstream;
pub(super) use upstream::convert as upstream;

/// Most certificates of a chain, and most protocols above it.
const MAX_LISTED: usize = 16;

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
    if said.len() > MAX_LISTED {
        return Err(format!("{field}: {} are more than {MAX_LISTED}", said.len()));
    }
    let name = |(i, said)| secret_name(&format!("{field}[{i}]"), said);
    said.iter().enumerate().map(name).collect()
}

/// Where a secret comes from is passed over: it is asked for over the stream that the listener came
/// by.
fn secret_name(field: &str, said: &SdsSecretConfig) -> Result<Arc<str>, String> {
    if said.name.is_empty() {
        return Err(format!("{field}.name: missing"));
    }
    Ok(said.name.as_str().into())
}

/// What certificates of the other side are held against.
struct Validation {
    trusted: Option<Trusted>,
    /// Empty: whatever they are for.
    names: Vec<NameMatch>,
}

fn validation(field: &str, said: Option<&ValidationContextType>) -> Result<Validation, String> {
    let by_name = |field: &str, said: &SdsSecretConfig| {
        let field = format!("{field}.validation_context_sds_secret_config");
        secret_name(&field, said).map(Trusted::Authorities)
    };
    match said {
        None => Ok(Validation { trusted: None, names: Vec::new() }),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(said)) => {
            Ok(Validation { trusted: Some(by_name(field, said)?), names: Vec::new() })
        }
        Some(ValidationContextType::CombinedValidationContext(said)) => {
            let field = format!("{field}.combined_validation_context");
            let Some(sds) = &said.validation_context_sds_secret_config else {
                return Err(format!("{field}.validation_context_sds_secret_config: missing"));
            };
            let own = said.default_validation_context.as_ref();
            let own = own.map(|own| context(&format!("{field}.default_validation_context"), own));
            let own = own.transpose()?.unwrap_or(Validation { trusted: None, names: Vec::new() });
            if own.trusted.is_some() {
                return Err(format!("{field}: authorities are named twice"));
            }
            Ok(Validation { trusted: Some(by_name(&field, sds)?), names: own.names })
        }
        Some(ValidationContextType::ValidationContext(said)) => {
            let field = format!("{field}.validation_context");
            let validation = context(&field, said)?;
            if validation.trusted.is_none() {
                return Err(format!("{field}: names no authorities"));
            }
            Ok(validation)
        }
        Some(_) => Err(format!("{field}.validation_context_type: not supported")),
    }
}

/// What stands in a validation context itself: names and authorities.
fn context(field: &str, said: &CertificateValidationContext) -> Result<Validation, String> {
    let rest = CertificateValidationContext {
        match_typed_subject_alt_names: Vec::new(),
        system_root_certs: None,
        trusted_ca: None,
        ..said.clone()
    };
    if rest != CertificateValidationContext::default() {
        let only = "match_typed_subject_alt_names, trusted_ca and system_root_certs";
        return Err(format!("{field}: only {only} are supported"));
    }
    let system = said.system_root_certs.is_some();
    let trusted = match &said.trusted_ca {
        None => system.then_some(Trusted::System),
        // Envoy has the system's authorities by the name of their file alone.
        Some(file) if system && matches!(file.specifier, Some(Specifier::Filename(_))) => {
            Some(Trusted::System)
        }
        Some(source) => Some(these(&format!("{field}.trusted_ca"), source)?),
    };
    let listed = &said.match_typed_subject_alt_names;
    let field = format!("{field}.match_typed_subject_alt_names");
    if listed.len() > MAX_LISTED {
        return Err(format!("{field}: {} are more than {MAX_LISTED}", listed.len()));
    }
    let name = |(i, said)| name(&format!("{field}[{i}]"), said);
    let names: Vec<NameMatch> = listed.iter().enumerate().map(name).collect::<Result<_, _>>()?;
    if trusted == Some(Trusted::System) && names.is_empty() {
        // Anybody has a certificate of them.
        return Err(format!("{field}: missing, with the system's authorities"));
    }
    Ok(Validation { trusted, names })
}

fn these(field: &str, said: &DataSource) -> Result<Trusted, String> {
    let pem = secret::inline(field, Some(said))?;
    certificate::authorities(pem).map_err(|reason| format!("{field}: {reason}"))?;
    let text = std::str::from_utf8(pem).map_err(|_| format!("{field}: is no text"))?;
    Ok(Trusted::These(text.into()))
}

fn name(field: &str, said: &SubjectAltNameMatcher) -> Result<NameMatch, String> {
    let kind = match SanType::try_from(said.san_type) {
        Ok(SanType::Dns) => NameKind::Dns,
        Ok(SanType::Uri) => NameKind::Uri,
        Ok(SanType::Email) => NameKind::Email,
        Ok(SanType::IpAddress) => NameKind::Ip,
        _ => return Err(format!("{field}.san_type: {} is not supported", said.san_type)),
    };
    let Some(matcher) = &said.matcher else { return Err(format!("{field}.matcher: missing")) };
    let test = condition::text(&format!("{field}.matcher"), matcher)?;
    Ok(NameMatch { kind, test })
}

fn alpn(field: &str, common: &CommonTlsContext) -> Result<Vec<Arc<str>>, String> {
    let alpn: Vec<Arc<str>> =
        common.alpn_protocols.iter().map(|name| name.as_str().into()).collect();
    if alpn.len() > MAX_LISTED || alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err(format!("{field}.alpn_protocols: {alpn:?}"));
    }
    Ok(alpn)
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
