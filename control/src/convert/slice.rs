//! `discovery.k8s.io/v1` EndpointSlice -> [`SliceDraft`], with the checks an API server makes.
//!
//! One difference: loopback addresses are allowed, since backends of a manifest folder may well
//! run on this machine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{
    Endpoint as K8sEndpoint, EndpointPort, EndpointSlice as K8sSlice,
};
use portolan_model::name::validate_label;
use portolan_model::{Conditions, Endpoint, Hints, Scope, ServiceKey, Slice, SlicePort};

use super::{check_label, check_subdomain, invalid_name, port_number, protocol};
use crate::addresses::Family;
use crate::object::Fault;
use crate::rejection::Severity;

/// Label that names a slice's service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label that names the service of a slice that several clusters share (KEP-1645). It goes before
/// [`SERVICE_NAME_LABEL`], which some implementations set on the same slice for a service of
/// their own making.
const SET_SERVICE_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// Label that names the cluster such a slice comes from (KEP-1645).
const SOURCE_CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";
/// Most addresses an endpoint may list (Kubernetes' own limit).
const MAX_ADDRESSES: usize = 100;

/// A slice and the service it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceDraft {
    /// The service, in the slice's own namespace.
    pub service: ServiceKey,
    /// The slice.
    pub slice: Arc<Slice>,
}

/// Converts a slice.
///
/// # Errors
/// The first field that forbids it.
pub fn convert(slice: &K8sSlice) -> Result<(SliceDraft, Vec<Fault>), Fault> {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or("default");
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    check_slice_name(namespace, name)?;
    let service = service_key(slice, namespace)?;
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => {
            let reason = "FQDN slices are deprecated in Kubernetes and not served";
            return Err(Fault::rejected("addressType", reason));
        }
        other => {
            let reason = format!("{other:?} is not IPv4 or IPv6");
            return Err(Fault::rejected("addressType", reason));
        }
    };
    let mut warnings = Vec::new();
    let ports = ports(slice.ports.as_deref().unwrap_or_default(), &mut warnings)?;
    let mut endpoints = Vec::new();
    for (i, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let field = format!("endpoints[{i}]");
        let pod = pod(&field, endpoint, namespace, &mut warnings);
        convert_endpoint(&field, endpoint, family, pod.as_ref(), &mut endpoints)?;
    }
    endpoints.sort_by(|a, b| (a.address, &a.hostname).cmp(&(b.address, &b.hostname)));
    let cluster = match service.scope() {
        Scope::Cluster => None,
        Scope::ClusterSet => Some(source_cluster(slice)?.into()),
    };
    let slice = Arc::new(Slice { name: name.into(), cluster, ports, endpoints });
    Ok((SliceDraft { service, slice }, warnings))
}

/// Whether the slice names a service and lists addresses.
pub(crate) fn is_of_a_service(slice: &K8sSlice) -> bool {
    let named = [SERVICE_NAME_LABEL, SET_SERVICE_LABEL].iter().any(|l| label(slice, l).is_some());
    named && slice.address_type != "FQDN"
}

/// A slice's name is a DNS subdomain (RFC 1123): labels joined by dots.
fn check_slice_name(namespace: &str, name: &str) -> Result<(), Fault> {
    check_label("metadata.namespace", namespace)?;
    check_subdomain("metadata.name", name)
}

fn label<'a>(slice: &'a K8sSlice, name: &str) -> Option<&'a str> {
    let value = slice.metadata.labels.as_ref()?.get(name)?;
    Some(value.as_str()).filter(|v| !v.is_empty())
}

fn source_cluster(slice: &K8sSlice) -> Result<&str, Fault> {
    let field = format!("metadata.labels[{SOURCE_CLUSTER_LABEL}]");
    let Some(cluster) = label(slice, SOURCE_CLUSTER_LABEL) else {
        return Err(Fault::rejected(field, "missing, the slice names no cluster"));
    };
    validate_label(cluster).map_err(invalid_name(&field))?;
    Ok(cluster)
}

fn service_key(slice: &K8sSlice, namespace: &str) -> Result<ServiceKey, Fault> {
    if let Some(name) = label(slice, SET_SERVICE_LABEL) {
        let field = format!("metadata.labels[{SET_SERVICE_LABEL}]");
        let key = ServiceKey::new(namespace, name).map_err(invalid_name(&field))?;
        return Ok(key.within(Scope::ClusterSet));
    }
    let field = format!("metadata.labels[{SERVICE_NAME_LABEL}]");
    let Some(name) = label(slice, SERVICE_NAME_LABEL) else {
        return Err(Fault::rejected(field, "missing, the slice names no service"));
    };
    ServiceKey::new(namespace, name).map_err(invalid_name(&field))
}

fn ports(listed: &[EndpointPort], warnings: &mut Vec<Fault>) -> Result<Vec<SlicePort>, Fault> {
    let mut ports = Vec::with_capacity(listed.len());
    let mut names = BTreeSet::new();
    for (i, port) in listed.iter().enumerate() {
        let field = format!("ports[{i}]");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            validate_label(name).map_err(invalid_name(&format!("{field}.name")))?;
        }
        if !names.insert(name) {
            return Err(Fault::rejected(format!("{field}.name"), format!("{name:?} stands twice")));
        }
        let protocol = protocol(&format!("{field}.protocol"), port.protocol.as_deref())?;
        match port.port {
            Some(number) => ports.push(SlicePort {
                name: name.into(),
                protocol,
                port: port_number(&format!("{field}.port"), number)?,
            }),
            None => warnings.push(Fault::warning(
                format!("{field}.port"),
                "missing: a port without a number cannot be sent traffic",
            )),
        }
    }
    Ok(ports)
}

fn convert_endpoint(
    field: &str,
    endpoint: &K8sEndpoint,
    family: Family,
    pod: Option<&Arc<str>>,
    endpoints: &mut Vec<Endpoint>,
) -> Result<(), Fault> {
    if endpoint.addresses.is_empty() {
        return Err(Fault::rejected(format!("{field}.addresses"), "missing"));
    }
    if endpoint.addresses.len() > MAX_ADDRESSES {
        let reason =
            format!("{} addresses, the limit is {MAX_ADDRESSES}", endpoint.addresses.len());
        return Err(Fault::rejected(format!("{field}.addresses"), reason));
    }
    if let Some(hostname) = &endpoint.hostname {
        validate_label(hostname).map_err(invalid_name(&format!("{field}.hostname")))?;
    }
    let hints = hints(endpoint);
    for (i, text) in endpoint.addresses.iter().enumerate() {
        let address = address(&format!("{field}.addresses[{i}]"), text, family)?;
        endpoints.push(Endpoint {
            address,
            conditions: conditions(endpoint),
            hostname: endpoint.hostname.as_deref().map(Into::into),
            node: endpoint.node_name.as_deref().map(Into::into),
            pod: pod.cloned(),
            zone: endpoint.zone.as_deref().filter(|z| !z.is_empty()).map(Into::into),
            hints: hints.clone(),
        });
    }
    Ok(())
}

/// The pod that `targetRef` names, in the slice's own namespace. An API server takes any text there.
fn pod(
    field: &str,
    endpoint: &K8sEndpoint,
    namespace: &str,
    warnings: &mut Vec<Fault>,
) -> Option<Arc<str>> {
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"))?;
    if target.namespace.as_deref().is_some_and(|n| !n.is_empty() && n != namespace) {
        return None;
    }
    let name = target.name.as_deref().filter(|name| !name.is_empty())?;
    match check_subdomain(&format!("{field}.targetRef.name"), name) {
        Ok(()) => Some(name.into()),
        Err(fault) => {
            warnings.push(Fault { severity: Severity::Warning, ..fault });
            None
        }
    }
}

fn address(field: &str, text: &str, family: Family) -> Result<IpAddr, Fault> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| Fault::rejected(field, format!("{text:?} is not an IP address")))?;
    if Family::of(address) != family {
        let reason = format!("{address} does not fit addressType {family}");
        return Err(Fault::rejected(field, reason));
    }
    if address.is_unspecified() || address.is_multicast() {
        let reason = format!("{address} is not the address of one endpoint");
        return Err(Fault::rejected(field, reason));
    }
    Ok(address)
}

/// Hints without a zone or node are none (KEP-2433).
fn hints(endpoint: &K8sEndpoint) -> Option<Arc<Hints>> {
    let given = endpoint.hints.as_ref()?;
    let zones = given.for_zones.iter().flatten().map(|z| z.name.as_str().into()).collect();
    let nodes = given.for_nodes.iter().flatten().map(|n| n.name.as_str().into()).collect();
    let hints = Hints { zones, nodes };
    (hints != Hints::default()).then(|| Arc::new(hints))
}

/// Missing conditions mean ready (KEP-752); a missing `serving` means what `ready` says.
fn conditions(endpoint: &K8sEndpoint) -> Conditions {
    let given = endpoint.conditions.as_ref();
    let ready = given.and_then(|c| c.ready).unwrap_or(true);
    Conditions {
        ready,
        serving: given.and_then(|c| c.serving).unwrap_or(ready),
        terminating: given.and_then(|c| c.terminating).unwrap_or(false),
    }
}
