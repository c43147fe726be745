//! The sockets that proxies open: `[[listeners]]`, and the short forms `proxy.http` and `proxy.tcp`.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_model::ServiceKey;
use portolan_model::traffic::AcceptProxy;
use portolan_xds::{ListenerOptions, ListenerSpec, ListenerTarget};
use serde_json::{Map, Value};

use super::certificates;
use super::reader::Reader;

/// Longest time any setting of a listener may name, in seconds.
const MAX_SECS: u64 = 86_400;
/// Most kinds of upgrade of a listener.
const MAX_UPGRADES: usize = 16;

/// Settings of any listener, and those of one that takes HTTP.
const KNOWN: [&str; 10] = [
    "name",
    "address",
    "protocol",
    "service",
    "tls",
    "client_ca",
    "client_names",
    "proxy_protocol",
    "idle_timeout_secs",
    "max_connection_secs",
];
const HTTP_ONLY: [&str; 5] = [
    "trust_forwarded",
    "stream_idle_timeout_secs",
    "header_timeout_secs",
    "max_requests_per_connection",
    "upgrades",
];

/// Reads all of them.
pub(super) fn read(r: &mut Reader) -> Vec<ListenerSpec> {
    let mut listeners: Vec<ListenerSpec> = r.tables(
        "listeners",
        "Sockets the proxies open: name, address, protocol (http, tcp or detect), service (for tcp \
         and detect), tls (a certificate), client_ca (true: clients need a certificate too), \
         client_names (for whom), and what is asked of connections",
        parse_listener,
    );
    let http: Vec<SocketAddr> = r.texts("proxy.http", &[], "More HTTP listeners, by address alone");
    listeners.extend(http.into_iter().enumerate().map(|(i, address)| {
        let name = if i == 0 { "http".into() } else { format!("http-{}", i + 1).into() };
        let options = ListenerOptions::default();
        ListenerSpec { name, address, target: ListenerTarget::Http, tls: None, options }
    }));
    let tcp: Vec<TcpMapping> =
        r.texts("proxy.tcp", &[], "More TCP listeners, as ADDRESS=namespace/service:port");
    listeners.extend(tcp.into_iter().map(|TcpMapping { address, service, port }| ListenerSpec {
        name: format!("tcp-{service}:{port}").into(),
        address,
        target: ListenerTarget::Tcp { service, port },
        tls: None,
        options: ListenerOptions::default(),
    }));
    for (i, listener) in listeners.iter().enumerate() {
        if listeners[..i].iter().any(|l| l.name == listener.name) {
            r.reject("listeners", &format!("the name {:?} stands twice", listener.name));
        }
    }
    listeners
}

/// `ADDRESS=namespace/service:port`.
struct TcpMapping {
    address: SocketAddr,
    service: ServiceKey,
    port: u16,
}

impl std::str::FromStr for TcpMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, service) =
            text.split_once('=').ok_or("expected ADDRESS=namespace/service:port")?;
        let address = address.parse().map_err(|e| format!("{address:?}: {e}"))?;
        let (service, port) = service_port(service)?;
        Ok(Self { address, service, port })
    }
}

/// `namespace/service:port`.
fn service_port(text: &str) -> Result<(ServiceKey, u16), String> {
    let (service, port) =
        text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not namespace/service:port"))?;
    let key = ServiceKey::parse(service).map_err(|e| e.to_string())?;
    let port: u16 = port.parse().map_err(|e| format!("port {port:?}: {e}"))?;
    if port == 0 { Err("port 0 is no service port".to_owned()) } else { Ok((key, port)) }
}

fn parse_listener(value: &Value) -> Result<ListenerSpec, String> {
    let Value::Object(table) = value else {
        return Err(format!("expected a table, found {value}"));
    };
    let known = |key: &str| KNOWN.contains(&key) || HTTP_ONLY.contains(&key);
    if let Some(key) = table.keys().find(|k| !known(k.as_str())) {
        let known = [&KNOWN[..], &HTTP_ONLY[..]].concat().join(", ");
        return Err(format!("{key}: unknown setting; known: {known}"));
    }
    let text = |key: &str| -> Result<&str, String> {
        match table.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(other) => Err(format!("{key}: expected a string, found {other}")),
            None => Err(format!("{key}: missing")),
        }
    };
    let name = text("name")?.into();
    let address = text("address")?;
    let address = address.parse().map_err(|e| format!("address: {address:?}: {e}"))?;
    let target = match (text("protocol")?, table.contains_key("service")) {
        ("http", false) => ListenerTarget::Http,
        ("http", true) => return Err("service: only a tcp or detect listener has one".to_owned()),
        (protocol @ ("tcp" | "detect"), _) => {
            let (service, port) =
                service_port(text("service")?).map_err(|e| format!("service: {e}"))?;
            match protocol {
                "tcp" => ListenerTarget::Tcp { service, port },
                _ => ListenerTarget::Detect { service, port },
            }
        }
        (other, _) => return Err(format!("protocol: {other:?} is not http, tcp or detect")),
    };
    let tls = certificates::listener_tls(table)?;
    if tls.is_some() && matches!(target, ListenerTarget::Detect { .. }) {
        return Err("tls: a detect listener has none, it looks at bytes in the clear".to_owned());
    }
    if let (ListenerTarget::Tcp { .. }, Some(key)) =
        (&target, HTTP_ONLY.iter().find(|key| table.contains_key(**key)))
    {
        return Err(format!("{key}: a tcp listener has none"));
    }
    Ok(ListenerSpec { name, address, target, tls, options: options(table)? })
}

fn options(table: &Map<String, Value>) -> Result<ListenerOptions, String> {
    let accept_proxy = match table.get("proxy_protocol").map(|v| (v, v.as_str())) {
        None => AcceptProxy::No,
        Some((_, Some("optional"))) => AcceptProxy::Optional,
        Some((_, Some("required"))) => AcceptProxy::Required,
        Some((other, _)) => {
            return Err(format!("proxy_protocol: {other} is not \"optional\" or \"required\""));
        }
    };
    let trust_forwarded = match table.get("trust_forwarded") {
        None => false,
        Some(Value::Bool(trust)) => *trust,
        Some(other) => {
            return Err(format!("trust_forwarded: expected true or false, found {other}"));
        }
    };
    let secs = |key| Ok::<_, String>(number(table, key, MAX_SECS)?.map(Duration::from_secs));
    let requests = number(table, "max_requests_per_connection", u32::MAX.into())?;
    Ok(ListenerOptions {
        accept_proxy,
        trust_forwarded,
        idle_timeout: secs("idle_timeout_secs")?,
        stream_idle_timeout: secs("stream_idle_timeout_secs")?,
        header_timeout: secs("header_timeout_secs")?,
        max_age: secs("max_connection_secs")?,
        max_requests: requests.and_then(|n| u32::try_from(n).ok()),
        upgrades: upgrades(table)?,
    })
}

fn number(table: &Map<String, Value>, key: &str, most: u64) -> Result<Option<u64>, String> {
    let Some(value) = table.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ => Err(format!("{key}: {value} is not a whole number in 1..={most}")),
    }
}

fn upgrades(table: &Map<String, Value>) -> Result<Vec<String>, String> {
    let Some(value) = table.get("upgrades") else { return Ok(Vec::new()) };
    let token = |text: &str| {
        let of_token = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
        !text.is_empty() && text.bytes().all(of_token)
    };
    let kinds = value.as_array().filter(|kinds| kinds.len() <= MAX_UPGRADES);
    let kinds: Option<Vec<String>> = kinds.and_then(|kinds| {
        let texts = kinds.iter().map(|kind| kind.as_str().filter(|text| token(text)));
        texts.map(|text| Some(text?.to_ascii_lowercase())).collect()
    });
    kinds.ok_or_else(|| {
        format!("upgrades: {value} is not a list of up to {MAX_UPGRADES} names such as \"connect\"")
    })
}
