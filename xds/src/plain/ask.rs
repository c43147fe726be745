//! Requests, checked: which port of which service is asked for, and from where.
//!
//! Everything a client sends passes through here; what is wrong is named by its field.

use portolan_model::name::{MAX_LABEL, MAX_NAME, validate_label};
use portolan_model::{DnsName, Place, Scope, ServiceKey};
use portolan_proto::v1::{Client, ResolveRequest, WatchRequest, resolve_request, watch_request};

/// Longest text of the field `service`, in octets: a name, a colon and a port's name.
const MAX_SERVICE: usize = MAX_NAME + 1 + MAX_LABEL;
/// Longest id of a client, in octets.
const MAX_ID: usize = 256;

/// The zones that names of services may end in.
#[derive(Clone, Debug)]
pub struct Zones {
    /// The cluster's own.
    pub cluster: DnsName,
    /// That of the services which a set of clusters shares.
    pub cluster_set: DnsName,
}

/// What a client wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The service.
    pub key: ServiceKey,
    /// Which of its ports.
    pub port: PortChoice,
    /// Where the client is.
    pub place: Place,
    /// What the client calls itself.
    pub id: String,
}

/// How a port is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// Port 80 if the service has it, else its first.
    Default,
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// A request that cannot be answered as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidAsk {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The fields that both requests have.
struct Fields {
    service: String,
    namespace: String,
    name: String,
    port: Option<GivenPort>,
    client: Option<Client>,
}

/// A port as a field of its own.
enum GivenPort {
    Number(u32),
    Name(String),
}

fn invalid(field: &'static str, reason: impl Into<String>) -> InvalidAsk {
    InvalidAsk { field, reason: reason.into() }
}

impl Ask {
    /// Checks a request for the endpoints as they are.
    ///
    /// # Errors
    /// [`InvalidAsk`] naming the first field that is wrong.
    pub fn resolve(request: ResolveRequest, zones: &Zones) -> Result<Self, InvalidAsk> {
        let ResolveRequest { service, namespace, name, client, service_port } = request;
        let port = service_port.map(|port| match port {
            resolve_request::ServicePort::Port(number) => GivenPort::Number(number),
            resolve_request::ServicePort::PortName(name) => GivenPort::Name(name),
        });
        Self::new(Fields { service, namespace, name, port, client }, zones)
    }

    /// Checks a request for the endpoints as they change; the heartbeat is not looked at.
    ///
    /// # Errors
    /// [`InvalidAsk`] naming the first field that is wrong.
    pub fn watch(request: WatchRequest, zones: &Zones) -> Result<Self, InvalidAsk> {
        let WatchRequest { service, namespace, name, client, service_port, .. } = request;
        let port = service_port.map(|port| match port {
            watch_request::ServicePort::Port(number) => GivenPort::Number(number),
            watch_request::ServicePort::PortName(name) => GivenPort::Name(name),
        });
        Self::new(Fields { service, namespace, name, port, client }, zones)
    }

    fn new(fields: Fields, zones: &Zones) -> Result<Self, InvalidAsk> {
        let Fields { service, namespace, name, port, client } = fields;
        let given = port.map(given_port).transpose()?;
        let (key, inside) = match (service.is_empty(), namespace.is_empty(), name.is_empty()) {
            (false, true, true) => service_text(&service, zones)?,
            (false, ..) => {
                return Err(invalid("service", "given along with namespace or name"));
            }
            (true, false, false) => (service_key(&namespace, &name)?, None),
            (true, true, true) => {
                return Err(invalid("service", "missing, and so are namespace and name"));
            }
            (true, true, false) => return Err(invalid("namespace", "missing")),
            (true, false, true) => return Err(invalid("name", "missing")),
        };
        let port = match (given, inside) {
            (Some(_), Some(_)) => return Err(invalid("port", "the service's text names one too")),
            (given, inside) => given.or(inside).unwrap_or(PortChoice::Default),
        };
        let Client { id, node, zone } = client.unwrap_or_default();
        bound("client.id", &id, MAX_ID)?;
        bound("client.node", &node, MAX_NAME)?;
        bound("client.zone", &zone, MAX_NAME)?;
        let known = |text: String| (!text.is_empty()).then(|| text.into());
        Ok(Self { key, port, place: Place { node: known(node), zone: known(zone) }, id })
    }
}

fn bound(field: &'static str, text: &str, limit: usize) -> Result<(), InvalidAsk> {
    match text.len() {
        length if length <= limit => Ok(()),
        length => Err(invalid(field, format!("{length} octets long, the limit is {limit}"))),
    }
}

fn service_key(namespace: &str, name: &str) -> Result<ServiceKey, InvalidAsk> {
    validate_label(namespace).map_err(|e| invalid("namespace", e.to_string()))?;
    ServiceKey::new(namespace, name).map_err(|e| invalid("name", e.to_string()))
}

fn given_port(port: GivenPort) -> Result<PortChoice, InvalidAsk> {
    match port {
        GivenPort::Number(number) => match u16::try_from(number) {
            Ok(number) if number > 0 => Ok(PortChoice::Number(number)),
            _ => Err(invalid("port", format!("{number} is not in 1..=65535"))),
        },
        GivenPort::Name(name) => {
            validate_label(&name).map_err(|e| invalid("port_name", e.to_string()))?;
            Ok(PortChoice::Name(name))
        }
    }
}

/// Reads the field `service`.
fn service_text(text: &str, zones: &Zones) -> Result<(ServiceKey, Option<PortChoice>), InvalidAsk> {
    bound("service", text, MAX_SERVICE)?;
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(text_port(port)?)),
        None => (text, None),
    };
    let key = if name.contains('/') {
        ServiceKey::parse(name).map_err(|e| invalid("service", e.to_string()))?
    } else {
        dns_key(name, zones)?
    };
    Ok((key, port))
}

/// A port behind a colon: digits are a number, for a port's name has a letter (RFC 6335 §5.1).
fn text_port(text: &str) -> Result<PortChoice, InvalidAsk> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse().ok().filter(|number| *number > 0);
        return number
            .map(PortChoice::Number)
            .ok_or_else(|| invalid("service", format!("port {text} is not in 1..=65535")));
    }
    validate_label(text).map_err(|e| invalid("service", format!("port: {e}")))?;
    Ok(PortChoice::Name(text.to_owned()))
}

/// A name as a pod would use it.
fn dns_key(text: &str, zones: &Zones) -> Result<ServiceKey, InvalidAsk> {
    let name = DnsName::parse(text).map_err(|e| invalid("service", e.to_string()))?;
    let name = name.as_str();
    let below = |zone: &DnsName| name.strip_suffix(zone.as_str())?.strip_suffix(".svc.");
    let (short, scope) = match (below(&zones.cluster), below(&zones.cluster_set)) {
        (Some(short), _) => (short, Scope::Cluster),
        (None, Some(short)) => (short, Scope::ClusterSet),
        (None, None) => (name.strip_suffix(".svc").unwrap_or(name), Scope::Cluster),
    };
    match short.split_once('.') {
        Some((service, namespace)) if !namespace.contains('.') => {
            ServiceKey::new(namespace, service)
                .map(|key| key.within(scope))
                .map_err(|e| invalid("service", e.to_string()))
        }
        _ => Err(invalid(
            "service",
            format!(
                "{name:?} is not NAME.NAMESPACE, NAME.NAMESPACE.svc or NAME.NAMESPACE.svc.{}",
                zones.cluster
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones() -> Zones {
        let zone = |text| DnsName::parse(text).expect("valid");
        Zones { cluster: zone("cluster.local"), cluster_set: zone("clusterset.local") }
    }

    fn named(service: &str) -> ResolveRequest {
        ResolveRequest { service: service.to_owned(), ..ResolveRequest::default() }
    }

    fn parts(namespace: &str, name: &str) -> ResolveRequest {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        ResolveRequest { namespace, name, ..ResolveRequest::default() }
    }

    #[test]
    fn a_service_is_named_in_any_form_a_pod_would_use() {
        let number = PortChoice::Number;
        let name = |text: &str| PortChoice::Name(text.to_owned());
        for (text, key, port) in [
            ("web.shop", "shop/web", PortChoice::Default),
            ("web.shop:80", "shop/web", number(80)),
            ("web.shop.svc:https", "shop/web", name("https")),
            ("Web.Shop.svc.cluster.local.:8080", "shop/web", number(8080)),
            ("web.shop.svc.clusterset.local", "clusterset/shop/web", PortChoice::Default),
            ("shop/web", "shop/web", PortChoice::Default),
            ("clusterset/shop/web:h2", "clusterset/shop/web", name("h2")),
            ("svc.shop", "shop/svc", PortChoice::Default),
        ] {
            let ask = Ask::resolve(named(text), &zones()).expect(text);
            assert_eq!((ask.key.to_string().as_str(), ask.port), (key, port), "{text}");
        }
        let ask = Ask::resolve(parts("shop", "web"), &zones()).expect("valid");
        assert_eq!(ask.key.to_string(), "shop/web");
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named_by_its_field() {
        let with = |port| ResolveRequest { service_port: Some(port), ..parts("shop", "web") };
        let port = resolve_request::ServicePort::Port;
        let port_name = |text: &str| resolve_request::ServicePort::PortName(text.to_owned());
        let client = |id: usize, node: usize, zone: usize| {
            let text = |length| "a".repeat(length);
            let client = Client { id: text(id), node: text(node), zone: text(zone) };
            ResolveRequest { client: Some(client), ..parts("shop", "web") }
        };
        let twice = ResolveRequest { service: "web.shop:80".to_owned(), ..with(port(80)) };
        let twice = ResolveRequest { namespace: String::new(), name: String::new(), ..twice };
        let cases = [
            (ResolveRequest::default(), "service: missing, and so are namespace and name"),
            (parts("", "web"), "namespace: missing"),
            (parts("shop", ""), "name: missing"),
            (parts("Shop", "web"), "namespace: \"Shop\" is not a DNS label"),
            (parts("shop", "w.b"), "name: \"w.b\" is not a DNS label"),
            (
                ResolveRequest { service: "a.b".to_owned(), ..parts("shop", "") },
                "service: given along with namespace or name",
            ),
            (twice, "port: the service's text names one too"),
            (named("web"), "service: \"web\" is not NAME.NAMESPACE, NAME.NAMESPACE.svc or "),
            (named("a.b.c"), "service: \"a.b.c\" is not NAME.NAMESPACE"),
            (named("web.shop.svc.example.com"), "service: \"web.shop.svc.example.com\" is not"),
            (named(".svc.cluster.local"), "service: a name must not be empty"),
            (named("shop/"), "service: a name must not be empty"),
            (named("web.shop:"), "service: port: a name must not be empty"),
            (named("web.shop:0"), "service: port 0 is not in 1..=65535"),
            (named("web.shop:65536"), "service: port 65536 is not in 1..=65535"),
            (named("[::1]:80"), "service: \"[::1]\" is not a DNS label"),
            (named(&"a".repeat(318)), "service: 318 octets long, the limit is 317"),
            (with(port(0)), "port: 0 is not in 1..=65535"),
            (with(port(65_536)), "port: 65536 is not in 1..=65535"),
            (with(port_name("")), "port_name: a name must not be empty"),
            (client(257, 0, 0), "client.id: 257 octets long, the limit is 256"),
            (client(0, 254, 0), "client.node: 254 octets long, the limit is 253"),
            (client(0, 0, 254), "client.zone: 254 octets long, the limit is 253"),
        ];
        for (request, expected) in cases {
            let error = Ask::resolve(request, &zones()).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{expected}: {error}");
        }
    }
}
