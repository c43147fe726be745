//! What our proxy makes of Envoy's messages: field by field, what is refused with which words, and
//! what comes back of what our own server says.

mod support;

#[path = "decode/access.rs"]
mod access;
#[path = "decode/clusters.rs"]
mod clusters;
#[path = "decode/endpoint_sets.rs"]
mod endpoint_sets;
#[path = "decode/gateways.rs"]
mod gateways;
#[path = "decode/health.rs"]
mod health;
#[path = "decode/inbound.rs"]
mod inbound;
#[path = "decode/listeners.rs"]
mod listeners;
#[path = "decode/policies.rs"]
mod policies;
#[path = "decode/routes.rs"]
mod routes;
#[path = "decode/routes_asked.rs"]
mod routes_asked;
#[path = "decode/same.rs"]
mod same;
#[path = "decode/tls.rs"]
mod tls;

use std::collections::HashMap;

use portolan_proto::envoy::Percent;
use portolan_proto::envoy::core::address::Address as AddressKind;
use portolan_proto::envoy::core::socket_address::PortSpecifier;
use portolan_proto::envoy::core::{Address, Metadata, SocketAddress};
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{
    Any, BoolValue, Duration, Struct, UInt32Value, UInt64Value, Value,
};
use prost::{Message, Name};

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn secs(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn long(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

fn share(value: f64) -> Option<Percent> {
    Some(Percent { value })
}

fn texts(labels: &[(&str, &str)]) -> Struct {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = labels.iter().map(|(name, text)| ((*name).to_owned(), value(text)));
    Struct { fields: fields.collect() }
}

fn lb_metadata(labels: Struct) -> Option<Metadata> {
    Some(Metadata {
        filter_metadata: HashMap::from([("envoy.lb".to_owned(), labels)]),
        ..Metadata::default()
    })
}

fn address(ip: &str, port: u32) -> Option<Address> {
    Some(Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    })
}
