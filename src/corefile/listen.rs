//! Where and how queries come in: addresses, certificates, sizes and limits.

use std::net::{IpAddr, SocketAddr};

use super::importer::{Importer, Scope};
use super::key::Transport;
use super::parse::{At, Directive};
use super::values::seconds;

/// The address that stands for all of IPv4.
const ANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The setting with the addresses of a transport; `None` when it is not served.
fn setting(transport: Transport) -> Option<&'static str> {
    match transport {
        Transport::Dns => Some("dns.addresses"),
        Transport::Tls => Some("dns.tls_addresses"),
        Transport::Https => Some("dns.https_addresses"),
        Transport::Quic => Some("dns.quic_addresses"),
        Transport::Grpc | Transport::Https3 => None,
    }
}

/// Takes in the keys of a block and its `bind`.
pub(super) fn import(importer: &mut Importer, scope: &Scope, directives: &[Directive]) {
    let mut hosts = Vec::new();
    let mut bound = false;
    for bind in directives.iter().filter(|d| d.name == "bind") {
        bound = true;
        import_bind(importer, bind, &mut hosts);
    }
    if !bound {
        hosts.push(ANY);
    }
    for (key, at) in &scope.keys {
        let Some(path) = setting(key.transport) else {
            let what = if key.transport == Transport::Grpc { "gRPC" } else { "HTTP/3" };
            importer.note(at, format!("left out: DNS over {what} is not served"));
            continue;
        };
        for host in &hosts {
            importer.settings.push(path, SocketAddr::new(*host, key.port).to_string());
        }
    }
}

fn import_bind(importer: &mut Importer, bind: &Directive, hosts: &mut Vec<IpAddr>) {
    for word in &bind.args {
        match word.parse() {
            Ok(address) if !hosts.contains(&address) => hosts.push(address),
            Ok(_) => {}
            Err(_) => {
                let text = format!("left out: {word:?} is not an IP address, write its addresses");
                importer.note(&bind.at(), text);
            }
        }
    }
    for property in &bind.body {
        match property.name.as_str() {
            "except" => {
                hosts.retain(|host| !property.args.contains(&host.to_string()));
            }
            _ => importer.note(&bind.at_property(property), "no such property known here"),
        }
    }
}

/// Notes what differs once all blocks are known.
pub(super) fn finish(importer: &mut Importer, scopes: &[Scope]) {
    if !importer.settings.has("dns.addresses") {
        let _unset = importer.settings.set("dns.addresses", serde_json::Value::Array(Vec::new()));
    }
    let first = scopes.first().and_then(|s| s.keys.first());
    let Some((_, start)) = first else { return };
    let paths = ["dns.addresses", "dns.tls_addresses", "dns.https_addresses", "dns.quic_addresses"];
    let all: Vec<String> =
        paths.iter().flat_map(|path| importer.settings.list(path)).map(str::to_owned).collect();
    if all.iter().any(|a| a.starts_with("0.0.0.0:")) {
        let text = "0.0.0.0 is IPv4 alone: add [::] with the same port for IPv6";
        importer.note(start, text);
    }
    let listeners = |scope: &Scope| {
        let mut found: Vec<(u16, Option<&str>)> =
            scope.keys.iter().map(|(k, _)| (k.port, setting(k.transport))).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let expected = scopes.first().map(listeners);
    let other = scopes.iter().find(|s| Some(listeners(s)) != expected);
    if let Some((_, at)) = other.and_then(|s| s.keys.first()) {
        importer.note(at, format!("all zones are served on all of {}", all.join(", ")));
    }
}

/// `tls CERT KEY [CA]`.
pub(super) fn import_tls(importer: &mut Importer, tls: &Directive) {
    let at = tls.at();
    match tls.words().as_slice() {
        [certificate, key, rest @ ..] => {
            importer.set(&at, "dns.tls_certificate", *certificate);
            importer.set(&at, "dns.tls_key", *key);
            if !rest.is_empty() {
                importer.note(&at, "clients are not asked for certificates");
            }
        }
        _ => importer.note(&at, "left out: a certificate and its key have to be files"),
    }
    for property in &tls.body {
        let at = tls.at_property(property);
        match property.words().as_slice() {
            ["nocert"] if property.name == "client_auth" => {}
            _ if property.name == "client_auth" => {
                importer.note(&at, "clients are not asked for certificates");
            }
            _ if property.name == "keylog" => importer.note(&at, "secrets are not written out"),
            _ => importer.note(&at, "certificates are not fetched by ACME"),
        }
    }
}

/// `bufsize [SIZE]`.
pub(super) fn import_bufsize(importer: &mut Importer, bufsize: &Directive) {
    let at = bufsize.at();
    let size = bufsize.args.first().map_or("1232", String::as_str);
    if let Some(size) = importer.number(&at, size, 512..=4096) {
        importer.set(&at, "dns.udp_payload_max", size);
    }
}

/// `multisocket [NUM_SOCKETS]`.
pub(super) fn import_multisocket(importer: &mut Importer, multisocket: &Directive) {
    let at = multisocket.at();
    let sockets = multisocket.args.first().map_or("0", String::as_str);
    if let Some(sockets) = importer.number(&at, sockets, 0..=1024) {
        importer.set(&at, "dns.workers", sockets);
    }
}

/// `timeouts { idle DURATION }`.
pub(super) fn import_timeouts(importer: &mut Importer, timeouts: &Directive) {
    for property in &timeouts.body {
        let at = timeouts.at_property(property);
        let time = property.args.first().and_then(|text| seconds(text));
        match (property.name.as_str(), time) {
            ("idle", Some(secs @ 1..=3600)) => importer.set(&at, "dns.tcp_idle_secs", secs),
            ("idle", _) => importer.note(&at, "left out: expected a time from 1s to 1h"),
            _ => import_other_limit(importer, &at),
        }
    }
}

fn import_other_limit(importer: &mut Importer, at: &At) {
    importer.note(at, "left out: only dns.tcp_idle_secs can be set");
}

/// `nsid [DATA]`.
pub(super) fn import_nsid(importer: &mut Importer, nsid: &Directive) {
    let at = nsid.at();
    if nsid.args.is_empty() {
        importer.note(&at, "left out: the host's name is not known here, set dns.nsid");
    } else {
        importer.set(&at, "dns.nsid", nsid.args.join(" "));
    }
}
