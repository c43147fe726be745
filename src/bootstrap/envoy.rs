//! The bootstrap file of Envoy: one stream for everything; only the way to the control plane is
//! static. Source: `envoy/config/bootstrap/v3/bootstrap.proto`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Client, Host, Tls};

/// Name of the control plane's cluster.
const CONTROL: &str = "portolan";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// What an Envoy may have besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// Where its admin port is.
    pub(super) admin: Option<SocketAddr>,
    /// The delta variant of xDS.
    pub(super) delta: bool,
    /// Reports load (LRS).
    pub(super) load_reports: bool,
}

/// Makes it.
pub(super) fn bootstrap(client: &Client, options: &Options) -> Value {
    let mut node = client.node();
    // Envoy asks nobody anything before it has both.
    node.insert("cluster".to_owned(), json!(CONTROL));
    let from_ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let variant = if options.delta { "DELTA_GRPC" } else { "GRPC" };
    let mut ads = source(variant);
    ads["set_node_on_first_message_only"] = json!(true);
    let mut bootstrap = json!({
        "node": node,
        "dynamic_resources": {
            "ads_config": ads,
            "cds_config": from_ads,
            "lds_config": from_ads,
        },
        "static_resources": { "clusters": [control(client)] },
    });
    if let Some(admin) = options.admin {
        bootstrap["admin"] = json!({ "address": address(&admin.ip().to_string(), admin.port()) });
    }
    if options.load_reports {
        bootstrap["cluster_manager"] = json!({ "load_stats_config": source("GRPC") });
    }
    bootstrap
}

/// The control plane as a source. Without pauses of its own Envoy waits up to 30 s before it tries
/// again.
fn source(api_type: &str) -> Value {
    let pauses = json!({ "base_interval": "0.5s", "max_interval": "5s" });
    json!({
        "api_type": api_type,
        "transport_api_version": "V3",
        "grpc_services": [{
            "envoy_grpc": {
                "cluster_name": CONTROL,
                "retry_policy": { "retry_back_off": pauses },
            },
        }],
    })
}

/// The control plane's cluster.
fn control(client: &Client) -> Value {
    let (host, discovery) = match &client.server.host {
        Host::Ip(ip) => (ip.to_string(), "STATIC"),
        Host::Name(name) => (name.clone(), "STRICT_DNS"),
    };
    // A control plane that vanished without a goodbye is noticed.
    let keepalive = json!({ "interval": "30s", "timeout": "10s" });
    let endpoint = json!({ "endpoint": { "address": address(&host, client.server.port) } });
    let mut cluster = json!({
        "name": CONTROL,
        "type": discovery,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": type_url(HTTP_OPTIONS),
                "explicit_http_config": {
                    "http2_protocol_options": { "connection_keepalive": keepalive },
                },
            },
        },
        "load_assignment": {
            "cluster_name": CONTROL,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
    });
    if let Some(tls) = &client.tls {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": tls_context(tls, &client.server.host),
        });
    }
    cluster
}

/// Authorities alone would take any certificate of theirs: the server's name has to stand in it.
fn tls_context(tls: &Tls, host: &Host) -> Value {
    let (kind, name) = match host {
        Host::Ip(ip) => ("IP_ADDRESS", ip.to_string()),
        Host::Name(name) => ("DNS", name.clone()),
    };
    let mut common = json!({
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": { "filename": tls.authorities },
            "match_typed_subject_alt_names": [{ "san_type": kind, "matcher": { "exact": name } }],
        },
    });
    if let Some((chain, key)) = &tls.certificate {
        common["tls_certificates"] = json!([{
            "certificate_chain": { "filename": chain },
            "private_key": { "filename": key },
        }]);
    }
    let mut context = json!({ "@type": type_url(TLS), "common_tls_context": common });
    if let Host::Name(name) = host {
        // Addresses are no server names (RFC 6066 §3).
        context["sni"] = json!(name);
    }
    context
}

fn address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn type_url(message: &str) -> String {
    format!("type.googleapis.com/{message}")
}
