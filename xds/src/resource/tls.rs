//! TLS to endpoints, as Envoy takes it.

use std::sync::Arc;

use portolan_model::traffic::NameKind;
use portolan_model::{AppProtocol, PortTls};
use portolan_proto::envoy::core::{
    DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use portolan_proto::envoy::matcher::{StringMatcher, string_matcher::MatchPattern};
use portolan_proto::envoy::tls::certificate_validation_context::SystemRootCerts;
use portolan_proto::envoy::tls::common_tls_context::ValidationContextType;
use portolan_proto::envoy::tls::subject_alt_name_matcher::SanType;
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};

use super::pack;

/// Name of the transport, by which Envoy finds it where the type is not enough.
pub(super) const SOCKET: &str = "envoy.transport_sockets.tls";
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
    let alpn: &[&str] = match speaks {
        Some(AppProtocol::Http2) => &["h2"],
        Some(AppProtocol::Http1) => &["http/1.1"],
        _ => &[],
    };
    let context = UpstreamTlsContext {
        sni: tls.server_name.to_string(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: SOCKET.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}

pub(super) fn name((kind, name): &(NameKind, Arc<str>)) -> SubjectAltNameMatcher {
    let kind = match kind {
        NameKind::Dns => SanType::Dns,
        NameKind::Uri => SanType::Uri,
        NameKind::Email => SanType::Email,
        NameKind::Ip => SanType::IpAddress,
    };
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_string())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}
