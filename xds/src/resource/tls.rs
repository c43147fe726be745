//! TLS to endpoints, as Envoy takes it.

use std::sync::Arc;

use portolan_model::policy::MutualTls;
use portolan_model::traffic::NameKind;
use portolan_model::{AppProtocol, PortTls, ServiceKey};
use portolan_proto::envoy::core::{
    DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use portolan_proto::envoy::matcher::{StringMatcher, string_matcher::MatchPattern};
use portolan_proto::envoy::tls::certificate_validation_context::SystemRootCerts;
use portolan_proto::envoy::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use portolan_proto::envoy::tls::subject_alt_name_matcher::SanType;
use portolan_proto::envoy::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
    SdsSecretConfig, SubjectAltNameMatcher, UpstreamTlsContext,
};
use prost::Name;

use super::cluster::ads;
use super::pack;
use super::rbac::spiffe;
use crate::issuer::{AUTHORITIES, OWN};

/// Name of the transport, by which Envoy finds it where the type is not enough.
const SOCKET: &str = "envoy.transport_sockets.tls";
/// Where Envoy, which does not look for them itself, finds the authorities of its system: the place of
/// Debian, Ubuntu and Alpine, and so of Envoy's own images.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS to the endpoints of a port that speak a protocol.
pub(super) fn upstream(tls: &PortTls, speaks: Option<&AppProtocol>) -> TransportSocket {
    let authorities = match &tls.authorities {
        Some(pem) => Specifier::InlineString(pem.to_string()),
        None => Specifier::Filename(SYSTEM_AUTHORITIES.to_owned()),
    };
    let validation = CertificateValidationContext {
        trusted_ca: Some(DataSource { specifier: Some(authorities), ..DataSource::default() }),
        system_root_certs: tls.authorities.is_none().then(SystemRootCerts::default),
        match_typed_subject_alt_names: tls.names.iter().map(name).collect(),
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        sni: tls.server_name.to_string(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn(speaks),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    socket(&context)
}

/// TLS to the endpoints of a service by which both sides prove who they are.
pub(super) fn mutual(
    mutual: &MutualTls,
    service: &ServiceKey,
    host: &str,
    domain: &str,
    speaks: Option<&AppProtocol>,
) -> TransportSocket {
    let context = UpstreamTlsContext {
        sni: host.to_owned(),
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![by_name(OWN)],
            alpn_protocols: alpn(speaks),
            validation_context_type: Some(of_ids(ids(mutual, service, domain))),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    socket(&context)
}

/// The same for gRPC, which has the certificates of its own bootstrap and looks at the names in the field
/// that is older (gRFC A29).
pub(super) fn mutual_of_grpc(
    mutual: &MutualTls,
    service: &ServiceKey,
    domain: &str,
) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(provider()),
            validation_context_type: Some(of_provider(ids(mutual, service, domain))),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    socket(&context)
}

/// What gRPC's bootstrap calls its certificates (`certificate_providers`).
pub const PROVIDER: &str = "portolan";

pub(super) fn provider() -> CertificateProviderPluginInstance {
    CertificateProviderPluginInstance {
        instance_name: PROVIDER.to_owned(),
        ..CertificateProviderPluginInstance::default()
    }
}

/// Certificates that end in the authorities of the bootstrap, for ids such as these; for any, if there are
/// none.
#[expect(deprecated, reason = "gRPC reads no other")]
pub(super) fn of_provider(patterns: Vec<MatchPattern>) -> ValidationContextType {
    let matcher =
        |pattern| StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
    ValidationContextType::ValidationContext(CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_subject_alt_names: patterns.into_iter().map(matcher).collect(),
        ..CertificateValidationContext::default()
    })
}

/// Who the endpoints of a service are.
fn ids(mutual: &MutualTls, service: &ServiceKey, domain: &str) -> Vec<MatchPattern> {
    let own = service.namespace();
    let accounts = mutual.accounts.iter().map(|account| {
        let namespace = account.namespace.as_deref().unwrap_or(own);
        MatchPattern::Exact(spiffe(domain, namespace, &account.name))
    });
    let mut patterns: Vec<MatchPattern> = accounts.collect();
    if patterns.is_empty() {
        patterns.push(MatchPattern::Prefix(spiffe(domain, own, "")));
    }
    patterns
}

/// Whoever is of the trust domain.
pub(super) fn of_domain(domain: &str) -> ValidationContextType {
    of_ids(vec![MatchPattern::Prefix(format!("spiffe://{domain}/"))])
}

/// Certificates of the trust domain's authorities for SPIFFE ids such as these.
fn of_ids(patterns: Vec<MatchPattern>) -> ValidationContextType {
    let names = patterns.into_iter().map(|pattern| matcher(SanType::Uri, pattern));
    let own = CertificateValidationContext {
        match_typed_subject_alt_names: names.collect(),
        ..CertificateValidationContext::default()
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(own),
        validation_context_sds_secret_config: Some(by_name(AUTHORITIES)),
        ..CombinedCertificateValidationContext::default()
    })
}

/// A secret that comes over the same stream.
pub(super) fn by_name(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) }
}

fn alpn(speaks: Option<&AppProtocol>) -> Vec<String> {
    let names: &[&str] = match speaks {
        Some(AppProtocol::Http2) => &["h2"],
        Some(AppProtocol::Http1) => &["http/1.1"],
        _ => &[],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// TLS of a context, of whichever side.
pub(super) fn socket(context: &impl Name) -> TransportSocket {
    TransportSocket {
        name: SOCKET.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(context))),
    }
}

pub(super) fn name((kind, name): &(NameKind, Arc<str>)) -> SubjectAltNameMatcher {
    let kind = match kind {
        NameKind::Dns => SanType::Dns,
        NameKind::Uri => SanType::Uri,
        NameKind::Email => SanType::Email,
        NameKind::Ip => SanType::IpAddress,
    };
    matcher(kind, MatchPattern::Exact(name.to_string()))
}

fn matcher(kind: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }),
        ..SubjectAltNameMatcher::default()
    }
}
