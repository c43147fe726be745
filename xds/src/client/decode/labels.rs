//! `Struct` -> labels: the strings of `envoy.lb`, by which subsets and hashing tell endpoints apart.

use std::collections::BTreeMap;

use portolan_proto::envoy::core::Metadata;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Struct, Value};

/// The namespace of metadata that balancers read.
const ENVOY_LB: &str = "envoy.lb";

/// What metadata asks of endpoints, every value of it.
///
/// # Errors
/// When a value is not a string: nothing would meet it.
pub(super) fn asked(
    field: &str,
    metadata: Option<&Metadata>,
) -> Result<BTreeMap<String, String>, String> {
    match metadata.and_then(|m| m.filter_metadata.get(ENVOY_LB)) {
        Some(labels) => of(&format!("{field}.filter_metadata[{ENVOY_LB}]"), labels),
        None => Ok(BTreeMap::new()),
    }
}

/// Every value of a struct.
///
/// # Errors
/// When one is not a string.
pub(super) fn of(field: &str, labels: &Struct) -> Result<BTreeMap<String, String>, String> {
    let label = |(name, value): (&String, &Value)| match &value.kind {
        Some(Kind::StringValue(text)) => Ok((name.clone(), text.clone())),
        _ => Err(format!("{field}.{name}: only strings are supported")),
    };
    labels.fields.iter().map(label).collect()
}

/// What an endpoint says of itself; values that are not strings are passed over, since nothing here
/// asks for them. `None` when nothing is left.
pub(super) fn said(metadata: Option<&Metadata>) -> Option<BTreeMap<String, String>> {
    let labels = metadata?.filter_metadata.get(ENVOY_LB)?;
    let strings = labels.fields.iter().filter_map(|(name, value)| match &value.kind {
        Some(Kind::StringValue(text)) => Some((name.clone(), text.clone())),
        _ => None,
    });
    let strings: BTreeMap<String, String> = strings.collect();
    (!strings.is_empty()).then_some(strings)
}
