//! `v1` Node -> model node: where it is, its addresses and those of its pods.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node as K8sNode, NodeAddress, NodeSpec};
use portolan_model::Node;

use super::check_subdomain;
use crate::object::Fault;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// Converts a node; an address or range that is none is passed over and said.
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
    let pod_ranges = node.spec.as_ref().map(|s| pod_ranges(s, &mut faults)).unwrap_or_default();
    Ok((Node { name: name.into(), zone, region, addresses, pod_ranges }, faults))
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

/// `podCIDRs`, else `podCIDR`, which servers older than dual stack have alone.
fn pod_ranges(spec: &NodeSpec, faults: &mut Vec<Fault>) -> Vec<IpNet> {
    let all = spec.pod_cidrs.iter().flatten().enumerate();
    let mut listed: Vec<(String, &str)> =
        all.map(|(i, text)| (format!("spec.podCIDRs[{i}]"), text.as_str())).collect();
    if listed.is_empty() {
        let one = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
        listed.extend(one.map(|text| ("spec.podCIDR".to_owned(), text)));
    }
    let mut ranges = Vec::with_capacity(listed.len());
    for (field, text) in listed {
        match text.parse::<IpNet>() {
            Ok(range) => ranges.push(range.trunc()),
            Err(_) => {
                let reason = format!("{text:?} is not a range of IP addresses");
                faults.push(Fault::warning(field, reason));
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn ranges_of_pods_are_read_and_those_that_are_none_are_said() {
        let cases: &[(&str, Value, &[&str], &[&str])] = &[
            ("no range", json!({}), &[], &[]),
            ("an empty one", json!({ "podCIDR": "", "podCIDRs": [] }), &[], &[]),
            ("the old field alone", json!({ "podCIDR": "10.1.0.0/24" }), &["10.1.0.0/24"], &[]),
            (
                "both fields",
                json!({ "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"] }),
                &["10.1.0.0/24", "fd00::/64"],
                &[],
            ),
            ("host bits", json!({ "podCIDR": "10.1.0.7/24" }), &["10.1.0.0/24"], &[]),
            ("no prefix", json!({ "podCIDR": "10.1.0.0" }), &[], &["spec.podCIDR"]),
            (
                "a good one beside a bad one",
                json!({ "podCIDRs": ["10.1.0.0/33", "fd00::/64"] }),
                &["fd00::/64"],
                &["spec.podCIDRs[0]"],
            ),
        ];
        for (about, spec, ranges, fields) in cases {
            let spec: NodeSpec = serde_json::from_value(spec.clone()).expect("a spec");
            let mut faults = Vec::new();
            let found: Vec<String> =
                pod_ranges(&spec, &mut faults).iter().map(ToString::to_string).collect();
            let said: Vec<&str> = faults.iter().filter_map(|f| f.field.as_deref()).collect();
            assert_eq!(found, *ranges, "{about}");
            assert_eq!(said, *fields, "{about}");
        }
    }
}
