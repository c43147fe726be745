//! The bootstrap file of gRPC (gRFC A27), for `GRPC_XDS_BOOTSTRAP` of every gRPC.

use anyhow::bail;
use portolan_xds::resource::server::PREFIX;
use portolan_xds::resource::tls::PROVIDER;
use serde_json::{Value, json};

use super::{Client, Own};

/// Makes it.
///
/// # Errors
/// A token without TLS: no gRPC sends one in the clear.
pub(super) fn bootstrap(client: &Client, token_file: Option<&str>) -> anyhow::Result<Value> {
    let mut server = json!({
        "server_uri": client.server.to_string(),
        "channel_creds": [credentials(client)],
        "server_features": ["xds_v3"],
    });
    if let Some(file) = token_file {
        if client.tls.is_none() {
            bail!("--token-file: tokens go over TLS alone: name the authorities with --tls-ca");
        }
        // gRFC A97; clients skip kinds they do not know.
        let token = json!({ "type": "jwt_token_file", "config": { "jwt_token_file": file } });
        server["call_creds"] = json!([token]);
    }
    let mut node = client.node();
    // gRPC for Node.js refuses a bootstrap without one, even an empty one.
    node.entry("locality").or_insert_with(|| json!({}));
    let mut bootstrap = json!({
        "xds_servers": [server],
        "node": node,
        // The listener that a gRPC server asks for, by the address it listens on (gRFC A36).
        "server_listener_resource_name_template": format!("{PREFIX}%s"),
    });
    if let Some(own) = &client.own {
        bootstrap["certificate_providers"] = json!({ PROVIDER: provider(own) });
    }
    Ok(bootstrap)
}

/// Files that are read again every minute (gRFC A29, "File watcher certificate provider").
fn provider(own: &Own) -> Value {
    json!({
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": own.certificate,
            "private_key_file": own.key,
            "ca_certificate_file": own.authorities,
            "refresh_interval": "60s",
        },
    })
}

/// gRFC A65 for TLS; the files are read again every ten minutes.
fn credentials(client: &Client) -> Value {
    let Some(tls) = &client.tls else { return json!({ "type": "insecure" }) };
    let mut config = json!({ "ca_certificate_file": tls.authorities });
    if let Some((chain, key)) = &tls.certificate {
        config["certificate_file"] = json!(chain);
        config["private_key_file"] = json!(key);
    }
    json!({ "type": "tls", "config": config })
}
