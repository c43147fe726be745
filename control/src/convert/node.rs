//! `v1` Node -> model node: where it is, and its addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node as K8sNode, NodeAddress};
use portolan_model::Node;

use super::check_subdomain;
use crate::object::Fault;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// Converts a node; an address that is none is passed over and said.
pub(super) fn convert(node: &K8sNode) -> Result<(Node, Vec<Fault>), Fault> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    check_subdomain("metadata.name", name)?;
    let labels = node.metadata.labels.as_ref();
    let label = |name: &str| {
        labels.and_then(|l| l.get(name)).filter(|v| !v.is_empty()).map(|v| v.as_str().into())
    };
    let listed = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let mut faults = Vec::new();
    let mut addresses = of_type(listed, "InternalIP", &mut faults);
    if addresses.is_empty() {
        addresses = of_type(listed, "ExternalIP", &mut faults);
    }
    let (zone, region) = (label(ZONE_LABEL), label(REGION_LABEL));
    Ok((Node { name: name.into(), zone, region, addresses }, faults))
}

fn of_type(listed: &[NodeAddress], kind: &str, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let wanted = listed.iter().enumerate().filter(|(_, address)| address.type_ == kind);
    let mut addresses = Vec::new();
    for (i, NodeAddress { address: text, .. }) in wanted {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => faults.push(Fault::warning(
                format!("status.addresses[{i}].address"),
                format!("{text:?} is not an IP address"),
            )),
        }
    }
    addresses
}
