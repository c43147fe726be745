//! `v1` Service -> [`ServiceDraft`], with the checks an API server makes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as K8sService, ServiceSpec};
use portolan_model::{DnsName, Policy, ServiceKey, ServicePort, Traffic};

use super::{annotations, check_names, invalid_name, port, traffic};
use crate::addresses::Family;
use crate::object::Fault;

/// A service before its cluster IPs are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDraft {
    /// Its identity.
    pub key: ServiceKey,
    /// How clients reach it.
    pub kind: KindDraft,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Ways in from outside, and which endpoints a client is sent to.
    pub traffic: Traffic,
    /// The annotations under [`super::ANNOTATION_PREFIX`].
    pub policy: Policy,
}

/// How clients reach a service, before addresses are allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindDraft {
    /// Virtual addresses, named or to be found.
    ClusterIp(AddressRequest),
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`.
    ExternalName(DnsName),
}

/// Which virtual addresses a service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressRequest {
    /// These, as the manifest says.
    Named(Vec<IpAddr>),
    /// One of each of these families; all must be had.
    Families(Vec<Family>),
    /// One of the primary family.
    Single,
    /// One of each configured family.
    PreferDual,
    /// One of each family; both must be had.
    RequireDual,
}

/// Converts a service.
///
/// # Errors
/// The first field that forbids it.
pub fn convert(service: &K8sService) -> Result<(ServiceDraft, Vec<Fault>), Fault> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref().unwrap_or_default();
    check_names(namespace, name)?;
    let key = ServiceKey::new(namespace, name).map_err(invalid_name("metadata.name"))?;
    let spec = service.spec.as_ref().ok_or_else(|| Fault::rejected("spec", "missing"))?;
    let kind = kind(spec)?;
    if matches!(kind, KindDraft::ClusterIp(_)) && spec.ports.as_deref().is_none_or(<[_]>::is_empty)
    {
        return Err(Fault::rejected("spec.ports", "missing, a service needs at least one port"));
    }
    let mut ports = port::convert(spec.ports.as_deref().unwrap_or_default())?;
    let mut warnings = Vec::new();
    let traffic = traffic::convert(service, spec, &mut warnings)?;
    let annotations = service.metadata.annotations.iter().flatten();
    let targets = port::targets(spec.ports.as_deref().unwrap_or_default());
    let policy = annotations::convert(annotations, &mut ports, &targets, &mut warnings)?;
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    Ok((ServiceDraft { key, kind, ports, publish_not_ready, traffic, policy }, warnings))
}

fn kind(spec: &ServiceSpec) -> Result<KindDraft, Fault> {
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => return external_name(spec),
        other => {
            let reason =
                format!("{other:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName");
            return Err(Fault::rejected("spec.type", reason));
        }
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return headless(spec);
    }
    let named = named_addresses(spec)?;
    let families = families(spec, &named)?;
    Ok(KindDraft::ClusterIp(if !named.is_empty() {
        AddressRequest::Named(named)
    } else if !families.is_empty() {
        AddressRequest::Families(families)
    } else {
        match spec.ip_family_policy.as_deref().unwrap_or("SingleStack") {
            "SingleStack" => AddressRequest::Single,
            "PreferDualStack" => AddressRequest::PreferDual,
            "RequireDualStack" => AddressRequest::RequireDual,
            other => {
                let reason =
                    format!("{other:?} is not SingleStack, PreferDualStack or RequireDualStack");
                return Err(Fault::rejected("spec.ipFamilyPolicy", reason));
            }
        }
    }))
}

fn headless(spec: &ServiceSpec) -> Result<KindDraft, Fault> {
    if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        let reason = "may not be None for a service of type NodePort or LoadBalancer";
        return Err(Fault::rejected("spec.clusterIP", reason));
    }
    match spec.cluster_ips.as_deref() {
        None | Some([]) => Ok(KindDraft::Headless),
        Some([only]) if only == "None" => Ok(KindDraft::Headless),
        Some(_) => Err(Fault::rejected("spec.clusterIPs", "must be [None] when clusterIP is None")),
    }
}

fn external_name(spec: &ServiceSpec) -> Result<KindDraft, Fault> {
    let field = "spec.externalName";
    let name = spec.external_name.as_deref().filter(|n| !n.is_empty()).ok_or_else(|| {
        Fault::rejected(field, "missing, a service of type ExternalName needs it")
    })?;
    if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None") {
        let reason = "may not be set for a service of type ExternalName";
        return Err(Fault::rejected("spec.clusterIP", reason));
    }
    DnsName::parse(name).map(KindDraft::ExternalName).map_err(invalid_name(field))
}

fn named_addresses(spec: &ServiceSpec) -> Result<Vec<IpAddr>, Fault> {
    let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(listed)) = (first, all.first())
        && first != listed
    {
        let reason = format!("{listed:?} differs from clusterIP {first:?}");
        return Err(Fault::rejected("spec.clusterIPs[0]", reason));
    }
    let texts: Vec<(String, &str)> = if all.is_empty() {
        first.map(|ip| ("spec.clusterIP".to_owned(), ip)).into_iter().collect()
    } else {
        all.iter()
            .enumerate()
            .map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip.as_str()))
            .collect()
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in texts {
        let address: IpAddr = text
            .parse()
            .map_err(|_| Fault::rejected(&*field, format!("{text:?} is not an IP address")))?;
        if addresses.iter().any(|a| Family::of(*a) == Family::of(address)) {
            let reason = format!("{address} is a second {} address", Family::of(address));
            return Err(Fault::rejected(field, reason));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn families(spec: &ServiceSpec, named: &[IpAddr]) -> Result<Vec<Family>, Fault> {
    let mut families = Vec::new();
    for (i, word) in spec.ip_families.iter().flatten().enumerate() {
        let field = format!("spec.ipFamilies[{i}]");
        let family = match word.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                return Err(Fault::rejected(field, format!("{other:?} is not IPv4 or IPv6")));
            }
        };
        if families.contains(&family) {
            return Err(Fault::rejected(field, format!("{family} stands twice")));
        }
        if let Some(address) = named.get(i)
            && Family::of(*address) != family
        {
            let reason = format!("{family} does not fit cluster IP {address}");
            return Err(Fault::rejected(field, reason));
        }
        families.push(family);
    }
    Ok(families)
}
