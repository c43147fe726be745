//! What one client is to know of a service, and how that differs from what it knows. Pure.

use std::cmp::Ordering;
use std::net::SocketAddr;

use portolan_model::{
    Endpoint, Generation, Place, Protocol, ServiceEntry, ServiceKind, ServicePort,
};
use portolan_proto::v1::absent::Reason;
use portolan_proto::v1::endpoint::Readiness;
use portolan_proto::v1::watch_response::Kind;
use portolan_proto::v1::{
    Absent, Address, Delta, Endpoint as EndpointMessage, FullSet, Port, WatchResponse,
};

use super::ask::{Ask, PortChoice};
use super::hub::State;

/// Endpoints, or addresses of those gone, in one response. With the longest names there may be it
/// stays below the 4 MiB that gRPC takes unless told otherwise.
pub const ENDPOINTS_PER_RESPONSE: usize = 4000;
/// Ports of a service that are named where the one asked for is missing.
const PORTS_NAMED: usize = 10;

/// A service as one client sees it.
#[derive(Debug)]
pub enum View<'a> {
    /// There is nothing to see.
    Absent(Absent),
    /// The endpoints of a port.
    Present(Present<'a>),
}

/// The endpoints of a port as one client sees them.
#[derive(Debug)]
pub struct Present<'a> {
    entry: &'a ServiceEntry,
    port: &'a ServicePort,
    targets: Vec<(SocketAddr, &'a Endpoint)>,
}

impl<'a> View<'a> {
    /// What the client that asks sees of a service, which may not be there at all.
    #[must_use]
    pub fn of(state: &'a State, ask: &Ask) -> Self {
        let Some(entry) = &state.entry else {
            let message = format!("no service {} in generation {}", ask.key, state.generation);
            return absent(Reason::NoService, message);
        };
        if let ServiceKind::ExternalName(name) = &entry.service.kind {
            let message = format!("{} has no endpoints: it is a name for {name}", ask.key);
            return absent(Reason::ExternalName, message);
        }
        let Some(port) = chosen(&entry.service.ports, &ask.port) else {
            return absent(Reason::NoPort, no_such_port(entry, ask));
        };
        let zone = ask.place.zone.clone().or_else(|| state.zone.clone());
        let targets = entry.targets_at(port, &Place { zone, ..ask.place.clone() });
        Self::Present(Present { entry, port, targets })
    }

    /// What a client that knows `old` is to be sent; nothing where the two are the same. Large
    /// steps come in several responses.
    #[must_use]
    pub fn since(self, old: Option<&View<'_>>, generation: Generation) -> Vec<WatchResponse> {
        match (self, old) {
            (Self::Absent(new), Some(View::Absent(old))) if new.reason == old.reason => Vec::new(),
            (Self::Absent(new), _) => vec![response(generation, Kind::Absent(new))],
            (Self::Present(new), Some(View::Present(old))) if new.port() == old.port() => {
                let Delta { upserted, removed } = new.delta(old);
                if upserted.len() + removed.len() > new.targets.len() {
                    in_parts(generation, Some(new.port()), new.endpoints(), Vec::new())
                } else {
                    in_parts(generation, None, upserted, removed)
                }
            }
            (Self::Present(new), _) => {
                in_parts(generation, Some(new.port()), new.endpoints(), Vec::new())
            }
        }
    }
}

impl Present<'_> {
    /// The port.
    #[must_use]
    pub fn port(&self) -> Port {
        let key = &self.entry.service.key;
        Port {
            namespace: key.namespace().to_string(),
            service: key.name().to_string(),
            number: self.port.port.into(),
            name: self.port.endpoint_port_name().to_owned(),
            protocol: self.port.protocol.to_string(),
        }
    }

    /// Every endpoint, sorted by address.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointMessage> {
        self.targets.iter().map(|target| self.endpoint(*target)).collect()
    }

    fn endpoint(&self, (at, endpoint): (SocketAddr, &Endpoint)) -> EndpointMessage {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or("").to_owned();
        EndpointMessage {
            address: Some(address(at)),
            readiness: self.readiness(endpoint).into(),
            weight: 1,
            zone: text(&endpoint.zone),
            node: text(&endpoint.node),
            pod: text(&endpoint.pod),
            hostname: text(&endpoint.hostname),
        }
    }

    fn readiness(&self, endpoint: &Endpoint) -> Readiness {
        if self.entry.is_ready(endpoint) { Readiness::Ready } else { Readiness::Terminating }
    }

    /// One walk over both, which are sorted.
    fn delta(&self, old: &Present<'_>) -> Delta {
        let (mut new, mut before) = (&self.targets[..], &old.targets[..]);
        let mut delta = Delta::default();
        loop {
            let order = match (new.first(), before.first()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return delta,
            };
            if order == Ordering::Greater {
                delta.removed.push(address(before[0].0));
            } else if order == Ordering::Less || !self.is_same(new[0].1, old, before[0].1) {
                delta.upserted.push(self.endpoint(new[0]));
            }
            new = &new[usize::from(order.is_le())..];
            before = &before[usize::from(order.is_ge())..];
        }
    }

    fn is_same(&self, endpoint: &Endpoint, old: &Present<'_>, before: &Endpoint) -> bool {
        let seen =
            |e: &Endpoint| (e.zone.clone(), e.node.clone(), e.pod.clone(), e.hostname.clone());
        std::ptr::eq(endpoint, before)
            || (self.readiness(endpoint) == old.readiness(before) && seen(endpoint) == seen(before))
    }
}

fn absent(reason: Reason, message: String) -> View<'static> {
    View::Absent(Absent { reason: reason.into(), message })
}

/// By number TCP goes first: a port may carry UDP under the same number.
fn chosen<'a>(ports: &'a [ServicePort], choice: &PortChoice) -> Option<&'a ServicePort> {
    let tcp = |number: u16| ports.iter().find(|p| p.port == number && p.protocol == Protocol::Tcp);
    match choice {
        PortChoice::Default => tcp(80).or_else(|| ports.first()),
        PortChoice::Number(number) => {
            tcp(*number).or_else(|| ports.iter().find(|p| p.port == *number))
        }
        PortChoice::Name(name) => ports.iter().find(|p| p.name.as_deref() == Some(name)),
    }
}

/// Such as `shop/web has no port 81; it has 80 (http), 443 (https)`.
fn no_such_port(entry: &ServiceEntry, ask: &Ask) -> String {
    let wanted = match &ask.port {
        PortChoice::Default => return format!("{} has no ports", ask.key),
        PortChoice::Number(number) => number.to_string(),
        PortChoice::Name(name) => format!("{name:?}"),
    };
    let ports = &entry.service.ports;
    let named = ports.iter().take(PORTS_NAMED).map(|port| {
        let protocol = (port.protocol != Protocol::Tcp).then(|| port.protocol.to_string());
        match (port.name.as_deref(), protocol) {
            (None, None) => port.port.to_string(),
            (Some(name), None) => format!("{} ({name})", port.port),
            (None, Some(protocol)) => format!("{} ({protocol})", port.port),
            (Some(name), Some(protocol)) => format!("{} ({name}, {protocol})", port.port),
        }
    });
    let mut list = named.collect::<Vec<_>>().join(", ");
    match ports.len() {
        0 => "none".clone_into(&mut list),
        count if count > PORTS_NAMED => {
            list.push_str(&format!(" and {} more", count - PORTS_NAMED));
        }
        _ => {}
    }
    format!("{} has no port {wanted}; it has {list}", ask.key)
}

fn address(at: SocketAddr) -> Address {
    Address { ip: at.ip().to_string(), port: at.port().into() }
}

fn response(generation: Generation, kind: Kind) -> WatchResponse {
    WatchResponse { generation: generation.0, more: false, kind: Some(kind) }
}

/// A step as responses of a bounded size. With a port the first of them is a full set. What comes
/// goes before what leaves.
fn in_parts(
    generation: Generation,
    port: Option<Port>,
    mut upserted: Vec<EndpointMessage>,
    mut removed: Vec<Address>,
) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    let mut full = port;
    while full.is_some() || !upserted.is_empty() || !removed.is_empty() {
        let rest = upserted.split_off(upserted.len().min(ENDPOINTS_PER_RESPONSE));
        let endpoints = std::mem::replace(&mut upserted, rest);
        if let Some(port) = full.take() {
            let set = FullSet { port: Some(port), endpoints };
            responses.push(response(generation, Kind::Full(set)));
            continue;
        }
        let room = (ENDPOINTS_PER_RESPONSE - endpoints.len()).min(removed.len());
        let rest = removed.split_off(room);
        let gone = std::mem::replace(&mut removed, rest);
        let delta = Delta { upserted: endpoints, removed: gone };
        responses.push(response(generation, Kind::Delta(delta)));
    }
    if let Some((_last, all_others)) = responses.split_last_mut() {
        for response in all_others {
            response.more = true;
        }
    }
    responses
}
