//! `v1` Pod -> model pod: its addresses, while it has some.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod as K8sPod, PodStatus};
use portolan_model::Pod;

use super::{check_label, check_subdomain};
use crate::object::Fault;

/// Phases of a pod that has ended: its addresses may be another's by now.
const ENDED: [&str; 2] = ["Succeeded", "Failed"];

/// Converts a pod; an address that is none is passed over and said. One that has ended, or has no
/// address yet, comes out without addresses.
pub(super) fn convert(pod: &K8sPod) -> Result<(Pod, Vec<Fault>), Fault> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    check_label("metadata.namespace", namespace)?;
    check_subdomain("metadata.name", name)?;
    let mut faults = Vec::new();
    let status = pod.status.as_ref().filter(|status| !has_ended(status));
    let addresses = status.map(|status| addresses(status, &mut faults)).unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node: Option<Arc<str>> = node.filter(|name| !name.is_empty()).map(Into::into);
    Ok((Pod { namespace: namespace.into(), name: name.into(), addresses, node }, faults))
}

fn has_ended(status: &PodStatus) -> bool {
    status.phase.as_deref().is_some_and(|phase| ENDED.contains(&phase))
}

/// `podIPs`, else `podIP`, which servers older than dual stack have alone.
fn addresses(status: &PodStatus, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().enumerate();
    let mut listed: Vec<(String, &str)> =
        all.map(|(i, ip)| (format!("status.podIPs[{i}].ip"), ip.ip.as_str())).collect();
    if listed.is_empty() {
        let one = status.pod_ip.as_deref().filter(|text| !text.is_empty());
        listed.extend(one.map(|text| ("status.podIP".to_owned(), text)));
    }
    let mut addresses = Vec::with_capacity(listed.len());
    for (field, text) in listed {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => faults.push(Fault::warning(field, format!("{text:?} is not an IP address"))),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_has_its_addresses_until_it_has_ended_and_bad_ones_are_said() {
        let cases: &[(&str, Value, &[&str], &[&str])] = &[
            ("nothing known", json!({}), &[], &[]),
            ("no address yet", json!({ "phase": "Pending", "podIP": "" }), &[], &[]),
            ("one", json!({ "phase": "Running", "podIP": "10.0.0.1" }), &["10.0.0.1"], &[]),
            ("no phase", json!({ "podIP": "10.0.0.1" }), &["10.0.0.1"], &[]),
            (
                "its node is lost",
                json!({ "phase": "Unknown", "podIP": "fd00::1" }),
                &["fd00::1"],
                &[],
            ),
            (
                "dual stack",
                json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }),
                &["10.0.0.1", "fd00::1"],
                &[],
            ),
            ("done", json!({ "phase": "Succeeded", "podIP": "10.0.0.1" }), &[], &[]),
            ("failed", json!({ "phase": "Failed", "podIP": "10.0.0.999" }), &[], &[]),
            ("not an address", json!({ "podIP": "10.0.0.999" }), &[], &["status.podIP"]),
            (
                "a bad one beside a good one",
                json!({ "podIPs": [{ "ip": "x" }, { "ip": "fd00::1" }] }),
                &["fd00::1"],
                &["status.podIPs[0].ip"],
            ),
        ];
        for (about, status, addresses, fields) in cases {
            let pod = json!({ "metadata": { "name": "a.b-1" }, "status": status });
            let pod: K8sPod = serde_json::from_value(pod).expect("a pod");
            let (pod, faults) = convert(&pod).expect("a good name");
            let found: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let said: Vec<&str> = faults.iter().filter_map(|f| f.field.as_deref()).collect();
            assert_eq!(found, *addresses, "{about}");
            assert_eq!(said, *fields, "{about}");
            assert_eq!((&*pod.namespace, &*pod.name), ("default", "a.b-1"));
        }
    }
}
