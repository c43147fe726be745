//! Bootstraps by the options they are made with.

use clap::Parser as _;
use serde_json::json;

use super::*;
use crate::cli::Cli;

fn plain(server: &str) -> Client {
    let server = Server::parse(server).expect("a server");
    let (zone, node_name, namespace) = (None, None, None);
    let (gateways, serves) = (Vec::new(), Vec::new());
    let (node_id, service_account, tls) = ("n".to_owned(), None, None);
    let own = None;
    Client {
        server,
        node_id,
        zone,
        node_name,
        namespace,
        gateways,
        serves,
        service_account,
        tls,
        own,
    }
}

fn placed(client: Client) -> Client {
    Client { zone: Some("zone-a".to_owned()), node_name: Some("worker-1".to_owned()), ..client }
}

fn secured(client: Client, own: bool) -> Client {
    let certificate = own.then(|| ("chain.pem".to_owned(), "key.pem".to_owned()));
    Client { tls: Some(Tls { authorities: "ca.pem".to_owned(), certificate }), ..client }
}

/// Equality part by part, so that a failure shows the part.
fn check(what: &str, made: &Value, expected: &Value) {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    for key in keys(expected).into_iter().chain(keys(made)) {
        assert_eq!(made[&key], expected[&key], "{what}: {key}");
    }
}

#[test]
fn grpc_gets_a_server_its_credentials_and_a_node() {
    let template = "grpc/server?xds.resource.listening_address=%s";
    let file = |uri: &str, credentials: Value, node: Value| {
        json!({
            "xds_servers": [{
                "server_uri": uri,
                "channel_creds": [credentials],
                "server_features": ["xds_v3"],
            }],
            "node": node,
            "server_listener_resource_name_template": template,
        })
    };
    let ca = json!({ "ca_certificate_file": "ca.pem" });
    let both = json!({
        "ca_certificate_file": "ca.pem",
        "certificate_file": "chain.pem",
        "private_key_file": "key.pem",
    });
    let cases = [
        (
            "an address",
            plain("127.0.0.1:15010"),
            file(
                "127.0.0.1:15010",
                json!({ "type": "insecure" }),
                json!({ "id": "n", "locality": {} }),
            ),
        ),
        (
            "a place",
            placed(plain("portolan.infra:15010")),
            file(
                "portolan.infra:15010",
                json!({ "type": "insecure" }),
                json!({
                    "id": "n",
                    "locality": { "zone": "zone-a" },
                    "metadata": { "NODE_NAME": "worker-1" },
                }),
            ),
        ),
        (
            "TLS",
            secured(plain("[::1]:15010"), false),
            file(
                "[::1]:15010",
                json!({ "type": "tls", "config": ca }),
                json!({ "id": "n", "locality": {} }),
            ),
        ),
        (
            "TLS both ways",
            secured(plain("x:1"), true),
            file(
                "x:1",
                json!({ "type": "tls", "config": both }),
                json!({ "id": "n", "locality": {} }),
            ),
        ),
    ];
    for (what, client, expected) in cases {
        let made = grpc::bootstrap(&client, None).expect("made");
        check(what, &made, &expected);
    }
    let client = secured(plain("x:1"), false);
    let made = grpc::bootstrap(&client, Some("token")).expect("made");
    let token = json!([{ "type": "jwt_token_file", "config": { "jwt_token_file": "token" } }]);
    assert_eq!(made["xds_servers"][0]["call_creds"], token);
    let own = Own {
        certificate: "chain.pem".to_owned(),
        key: "key.pem".to_owned(),
        authorities: "ca.pem".to_owned(),
    };
    let serves = ["a", "b"].map(|name| ServiceKey::new("shop", name).expect("valid")).to_vec();
    let server = Client { own: Some(own), serves, ..plain("x:1") };
    let made = grpc::bootstrap(&server, None).expect("made");
    let provider = json!({
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": "chain.pem",
            "private_key_file": "key.pem",
            "ca_certificate_file": "ca.pem",
            "refresh_interval": "60s",
        },
    });
    assert_eq!(made["certificate_providers"], json!({ "portolan": provider }));
    let metadata =
        json!({ "portolan.dev/serves": "shop/a,shop/b", "portolan.dev/own-identity": "yes" });
    assert_eq!(made["node"]["metadata"], metadata);
    let error = grpc::bootstrap(&plain("x:1"), Some("token")).expect_err("in the clear");
    assert!(error.to_string().contains("--tls-ca"), "{error}");
}

/// What Envoy gets with no option at all.
fn envoy_plain() -> Value {
    let source = json!({
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{ "envoy_grpc": {
            "cluster_name": "portolan",
            "retry_policy": {
                "retry_back_off": { "base_interval": "0.5s", "max_interval": "5s" },
            },
        }}],
    });
    let from_ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let address = json!({ "address": "127.0.0.1", "port_value": 15010 });
    let endpoint = json!({ "endpoint": { "address": { "socket_address": address } } });
    let http2 = json!({ "connection_keepalive": { "interval": "30s", "timeout": "10s" } });
    json!({
        "node": { "id": "n", "cluster": "portolan" },
        "dynamic_resources": {
            "ads_config": source,
            "cds_config": from_ads,
            "lds_config": from_ads,
        },
        "static_resources": { "clusters": [{
            "name": "portolan",
            "type": "STATIC",
            "connect_timeout": "5s",
            "typed_extension_protocol_options": { options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": { "http2_protocol_options": http2 },
            }},
            "load_assignment": {
                "cluster_name": "portolan",
                "endpoints": [{ "lb_endpoints": [endpoint] }],
            },
        }]},
    })
}

#[test]
fn envoy_gets_one_stream_for_everything_and_what_it_is_told_besides() {
    type Change = fn(&mut Value);
    let here = || plain("127.0.0.1:15010");
    let none = envoy::Options::default;
    let cases: [(&str, Client, envoy::Options, Change); 7] = [
        ("nothing", here(), none(), |_| {}),
        ("a place", placed(here()), none(), |expected| {
            expected["node"]["locality"] = json!({ "zone": "zone-a" });
            expected["node"]["metadata"] = json!({ "NODE_NAME": "worker-1" });
        }),
        (
            "an admin port",
            here(),
            envoy::Options { admin: "[::1]:9901".parse().ok(), ..none() },
            |expected| {
                let address = json!({ "address": "::1", "port_value": 9901 });
                expected["admin"] = json!({ "address": { "socket_address": address } });
            },
        ),
        ("delta", here(), envoy::Options { delta: true, ..none() }, |expected| {
            expected["dynamic_resources"]["ads_config"]["api_type"] = json!("DELTA_GRPC");
        }),
        (
            "load reports, which have no delta",
            here(),
            envoy::Options { load_reports: true, delta: true, ..none() },
            |expected| {
                let mut source = expected["dynamic_resources"]["ads_config"].clone();
                let fields = source.as_object_mut().expect("an object");
                fields.remove("set_node_on_first_message_only");
                expected["cluster_manager"] = json!({ "load_stats_config": source });
                expected["dynamic_resources"]["ads_config"]["api_type"] = json!("DELTA_GRPC");
            },
        ),
        ("a name", plain("portolan.infra:1"), none(), |expected| {
            let cluster = &mut expected["static_resources"]["clusters"][0];
            cluster["type"] = json!("STRICT_DNS");
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
                json!({ "socket_address": { "address": "portolan.infra", "port_value": 1 } });
        }),
        ("TLS", secured(here(), false), none(), |expected| {
            expected["static_resources"]["clusters"][0]["transport_socket"] =
                tls_socket("IP_ADDRESS", "127.0.0.1");
        }),
    ];
    for (what, client, options, change) in cases {
        let mut expected = envoy_plain();
        change(&mut expected);
        check(what, &envoy::bootstrap(&client, &options), &expected);
    }
    let made = envoy::bootstrap(&secured(plain("portolan.infra:1"), true), &none());
    let mut expected = tls_socket("DNS", "portolan.infra");
    expected["typed_config"]["sni"] = json!("portolan.infra");
    expected["typed_config"]["common_tls_context"]["tls_certificates"] = json!([{
        "certificate_chain": { "filename": "chain.pem" },
        "private_key": { "filename": "key.pem" },
    }]);
    assert_eq!(made["static_resources"]["clusters"][0]["transport_socket"], expected);
}

fn tls_socket(kind: &str, name: &str) -> Value {
    let message = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("type.googleapis.com/{message}"),
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {
                    "trusted_ca": { "filename": "ca.pem" },
                    "match_typed_subject_alt_names": [
                        { "san_type": kind, "matcher": { "exact": name } },
                    ],
                },
            },
        },
    })
}

#[test]
fn a_server_is_a_host_and_a_port_and_one_that_listens_everywhere_is_here() {
    for (text, expected) in [
        ("127.0.0.1:15010", Ok("127.0.0.1:15010")),
        ("0.0.0.0:15010", Ok("127.0.0.1:15010")),
        ("[::]:15010", Ok("[::1]:15010")),
        ("[fd00::1]:1", Ok("[fd00::1]:1")),
        ("portolan.infra.svc:15010", Ok("portolan.infra.svc:15010")),
        ("127.0.0.1:0", Err("port 0 is none to connect to")),
        ("portolan:0", Err("expected a port in 1..=65535")),
        ("portolan:x", Err("expected a port in 1..=65535")),
        ("portolan", Err("expected HOST:PORT")),
        (":1", Err("expected HOST:PORT")),
        ("fd00::1:1x", Err("expected HOST:PORT")),
        ("http://portolan:1", Err("expected HOST:PORT")),
    ] {
        let parsed = Server::parse(text).map(|server| server.to_string());
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected, "{text}");
    }
}

#[test]
fn options_that_do_not_go_together_are_refused_by_the_command_line() {
    for (args, fits) in [
        ("grpc --server x:1", true),
        ("grpc --server x:1 --delta", false),
        ("envoy --server x:1 --delta --load-reports --no-admin -o json", true),
        ("envoy --no-admin --admin 127.0.0.1:1", false),
        ("envoy --token-file t", false),
        ("envoy --tls-ca ca --tls-cert c --tls-key k", true),
        ("envoy --tls-ca ca --tls-cert c", false),
        ("envoy --tls-ca ca --tls-key k", false),
        ("envoy --tls-cert c --tls-key k", false),
        ("grpc --tls-ca ca --token-file t --zone z --node-name n --node-id i", true),
    ] {
        let words = ["portolan", "bootstrap"].into_iter().chain(args.split(' '));
        assert_eq!(Cli::try_parse_from(words).is_ok(), fits, "{args}");
    }
}
