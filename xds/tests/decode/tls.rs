//! What chains that begin with TLS ask of clients, and the authorities they ask them by.

use portolan_model::traffic::ClientCertificates;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::core::transport_socket::ConfigType;
use portolan_proto::envoy::core::{DataSource, TransportSocket};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, Rds};
use portolan_proto::envoy::listener::filter::ConfigType as FilterConfig;
use portolan_proto::envoy::listener::{Filter, FilterChain, FilterChainMatch, Listener};
use portolan_proto::envoy::tls::common_tls_context::ValidationContextType;
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
};
use portolan_xds::client::decode;

use crate::{address, any, yes};

fn named(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), ..SdsSecretConfig::default() }
}

/// A chain for a name; with authorities its clients need certificates of them.
fn chain(name: &str, authorities: Option<&str>) -> FilterChain {
    let by_name = |name| ValidationContextType::ValidationContextSdsSecretConfig(named(name));
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![named("certificate")],
        validation_context_type: authorities.map(by_name),
        ..CommonTlsContext::default()
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: authorities.and_then(|_| yes()),
        ..DownstreamTlsContext::default()
    };
    let rds = Rds { route_config_name: "t".into(), ..Rds::default() };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let filter =
        Filter { name: "f".into(), config_type: Some(FilterConfig::TypedConfig(any(&manager))) };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![name.into()],
            ..FilterChainMatch::default()
        }),
        filters: vec![filter],
        transport_socket: Some(TransportSocket {
            name: "tls".into(),
            config_type: Some(ConfigType::TypedConfig(any(&context))),
        }),
        ..FilterChain::default()
    }
}

fn listener(filter_chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: "l".into(),
        address: address("127.0.0.1", 8443),
        filter_chains,
        ..Listener::default()
    }
}

#[test]
fn chains_whose_requests_go_by_the_same_routes_ask_for_the_same_of_clients() {
    let both = listener(vec![chain("a.test", Some("ca")), chain("b.test", Some("ca"))]);
    let (_, taken) = decode::listener::decode(&any(&both)).expect("taken");
    let tls = taken.expect("a socket").0.tls.expect("it begins with TLS");
    let required = ClientCertificates::Required("ca".into());
    assert!(tls.chains.iter().all(|chain| chain.clients == required), "{tls:?}");
    for other in [None, Some("other")] {
        let mixed = listener(vec![chain("a.test", Some("ca")), chain("b.test", other)]);
        let error = decode::listener::decode(&any(&mixed)).expect_err("refused").to_string();
        let expected = "l: filter_chains[1].transport_socket: another demand on clients' \
                        certificates than filter_chains[0]";
        assert_eq!(error, expected);
    }
}

#[test]
fn authorities_that_are_no_certificates_are_refused() {
    let refused = |pem: &str| {
        let specifier = Some(Specifier::InlineString(pem.to_owned()));
        let trusted_ca = Some(DataSource { specifier, ..DataSource::default() });
        let context =
            CertificateValidationContext { trusted_ca, ..CertificateValidationContext::default() };
        let r#type = Some(Type::ValidationContext(context));
        let secret = Secret { name: "ca".into(), r#type };
        decode::secret::decode(&any(&secret)).expect_err("refused").to_string()
    };
    for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = refused(pem);
        assert!(error.starts_with("ca: validation_context.trusted_ca: "), "{error}");
    }
}
