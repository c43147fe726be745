//! The endpoints of a service as values, and how a watch's responses change them. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_proto::v1;
use portolan_proto::v1::watch_response::Kind;

/// The endpoints of one port of a service at one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// Number of the snapshot they are from. It starts anew when the control plane does.
    pub generation: u64,
    /// The port; `None` where there is none.
    pub port: Option<Port>,
    /// The endpoints by address.
    pub endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
    /// Why there is neither port nor endpoint, if so.
    pub absence: Option<Absence>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The service's own port number.
    pub number: u16,
    /// The port's name, if it has one.
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// One endpoint that may be sent traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is on its way out and still answers. Such endpoints are used only while none is
    /// ready.
    pub is_terminating: bool,
    /// Its share of the traffic relative to the others, at least 1.
    pub weight: u32,
    /// The zone it runs in, if known.
    pub zone: Option<String>,
    /// The node it runs on, if known.
    pub node: Option<String>,
    /// Name of the pod behind it, if known.
    pub pod: Option<String>,
    /// Its own host name under the service's name, if it has one.
    pub hostname: Option<String>,
}

/// Why there is no set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// What is missing.
    pub reason: v1::absent::Reason,
    /// The same in words.
    pub message: String,
}

/// A response that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResponse {
    /// An endpoint without an address that can be used.
    #[error("endpoint address {ip:?} port {port} is none")]
    Address {
        /// What stood in place of the IP address.
        ip: String,
        /// What stood in place of the port.
        port: u32,
    },
    /// A set or its part without a port.
    #[error("a set without a port")]
    Port,
    /// Changes of a set that was never sent.
    #[error("changes came before the set they change")]
    Order,
    /// A kind that this client does not know.
    #[error("a response of an unknown kind")]
    Kind,
}

/// A set while a watch's responses come in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    set: Option<EndpointSet>,
}

impl Draft {
    /// Takes in a response; the set once it is whole.
    pub(crate) fn apply(
        &mut self,
        response: v1::WatchResponse,
    ) -> Result<Option<&EndpointSet>, InvalidResponse> {
        let generation = response.generation;
        match response.kind.ok_or(InvalidResponse::Kind)? {
            Kind::Full(full) => {
                let mut set = EndpointSet { generation, ..EndpointSet::default() };
                set.port = Some(full.port.ok_or(InvalidResponse::Port)?.try_into()?);
                set.insert(full.endpoints)?;
                self.set = Some(set);
            }
            Kind::Delta(delta) => {
                let set = self.set.as_mut().ok_or(InvalidResponse::Order)?;
                set.generation = generation;
                set.insert(delta.upserted)?;
                for gone in &delta.removed {
                    set.endpoints.remove(&address(Some(gone))?);
                }
            }
            Kind::Absent(absent) => {
                let (reason, message) = (absent.reason(), absent.message);
                let absence = Some(Absence { reason, message });
                self.set = Some(EndpointSet { generation, absence, ..EndpointSet::default() });
            }
            Kind::Heartbeat(_) => {
                if let Some(set) = &mut self.set {
                    set.generation = generation;
                }
            }
        }
        Ok(self.set.as_ref().filter(|_| !response.more))
    }
}

impl EndpointSet {
    /// Whether another set says the same, whatever its generation.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let absent = |set: &Self| set.absence.as_ref().map(|absence| absence.reason);
        self.port == other.port
            && self.endpoints == other.endpoints
            && absent(self) == absent(other)
    }

    fn insert(&mut self, endpoints: Vec<v1::Endpoint>) -> Result<(), InvalidResponse> {
        for endpoint in endpoints {
            let endpoint = Endpoint::try_from(endpoint)?;
            self.endpoints.insert(endpoint.address, Arc::new(endpoint));
        }
        Ok(())
    }
}

impl TryFrom<v1::ResolveResponse> for EndpointSet {
    type Error = InvalidResponse;

    fn try_from(response: v1::ResolveResponse) -> Result<Self, InvalidResponse> {
        let port = response.port.ok_or(InvalidResponse::Port)?.try_into()?;
        let generation = response.generation;
        let mut set = Self { generation, port: Some(port), ..Self::default() };
        set.insert(response.endpoints)?;
        Ok(set)
    }
}

impl TryFrom<v1::Port> for Port {
    type Error = InvalidResponse;

    fn try_from(port: v1::Port) -> Result<Self, InvalidResponse> {
        let v1::Port { namespace, service, number, name, protocol } = port;
        let number = u16::try_from(number).map_err(|_| InvalidResponse::Port)?;
        Ok(Self { namespace, service, number, name: known(name), protocol })
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = InvalidResponse;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, InvalidResponse> {
        Ok(Self {
            address: address(endpoint.address.as_ref())?,
            is_terminating: endpoint.readiness() == v1::endpoint::Readiness::Terminating,
            weight: endpoint.weight.max(1),
            zone: known(endpoint.zone),
            node: known(endpoint.node),
            pod: known(endpoint.pod),
            hostname: known(endpoint.hostname),
        })
    }
}

fn known(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn address(address: Option<&v1::Address>) -> Result<SocketAddr, InvalidResponse> {
    let given = address.cloned().unwrap_or_default();
    let (ip, port) = (given.ip.parse::<IpAddr>(), u16::try_from(given.port));
    match (ip, port) {
        (Ok(ip), Ok(port)) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(InvalidResponse::Address { ip: given.ip, port: given.port }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, port: u32) -> v1::Address {
        v1::Address { ip: ip.to_owned(), port }
    }

    fn endpoint(ip: &str, port: u32) -> v1::Endpoint {
        v1::Endpoint { address: Some(at(ip, port)), ..v1::Endpoint::default() }
    }

    fn full(endpoints: Vec<v1::Endpoint>) -> Kind {
        Kind::Full(v1::FullSet { port: Some(v1::Port::default()), endpoints })
    }

    fn delta(upserted: Vec<v1::Endpoint>, removed: Vec<v1::Address>) -> Kind {
        Kind::Delta(v1::Delta { upserted, removed })
    }

    fn response(generation: u64, more: bool, kind: Kind) -> v1::WatchResponse {
        v1::WatchResponse { generation, more, kind: Some(kind) }
    }

    #[test]
    fn a_set_is_handed_out_when_it_is_whole() {
        let absent = v1::Absent { reason: 1, message: "no service".to_owned() };
        let cases = [
            (response(0, false, Kind::Heartbeat(v1::Heartbeat {})), None),
            (response(1, true, full(vec![endpoint("10.0.0.1", 80)])), None),
            (
                response(1, false, delta(vec![endpoint("::1", 80)], Vec::new())),
                Some("1: 10.0.0.1:80 [::1]:80"),
            ),
            (
                response(2, false, Kind::Heartbeat(v1::Heartbeat {})),
                Some("2: 10.0.0.1:80 [::1]:80"),
            ),
            (response(3, false, delta(Vec::new(), vec![at("10.0.0.1", 80)])), Some("3: [::1]:80")),
            (response(4, false, Kind::Absent(absent)), Some("4: no service")),
            (response(5, false, full(Vec::new())), Some("5:")),
        ];
        let mut draft = Draft::default();
        for (response, expected) in cases {
            let set = draft.apply(response).expect("it makes sense");
            let said = set.map(|set| {
                let mut text = format!("{}:", set.generation);
                let addresses = set.endpoints.keys().map(ToString::to_string);
                let words = set.absence.iter().map(|absence| absence.message.clone());
                for word in addresses.chain(words) {
                    text.push_str(&format!(" {word}"));
                }
                text
            });
            assert_eq!(said.as_deref(), expected);
        }
    }

    #[test]
    fn a_response_that_makes_no_sense_is_named() {
        let no_port = Kind::Full(v1::FullSet::default());
        let no_address = v1::Endpoint::default();
        for (kind, expected) in [
            (
                Some(full(vec![endpoint("nowhere", 80)])),
                "endpoint address \"nowhere\" port 80 is none",
            ),
            (
                Some(full(vec![endpoint("10.0.0.1", 0)])),
                "endpoint address \"10.0.0.1\" port 0 is none",
            ),
            (
                Some(full(vec![endpoint("10.0.0.1", 65_536)])),
                "endpoint address \"10.0.0.1\" port 65536 is none",
            ),
            (Some(full(vec![no_address])), "endpoint address \"\" port 0 is none"),
            (Some(no_port), "a set without a port"),
            (Some(delta(Vec::new(), Vec::new())), "changes came before the set they change"),
            (None, "a response of an unknown kind"),
        ] {
            let response = v1::WatchResponse { generation: 1, more: false, kind };
            let error = Draft::default().apply(response).expect_err(expected);
            assert_eq!(error.to_string(), expected);
        }
    }
}
