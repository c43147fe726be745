//! `v1` Service -> [`ServiceDraft`], with the checks an API server makes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as K8sService, ServicePort as K8sPort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use portolan_model::name::validate_label;
use portolan_model::{AppProtocol, Balancer, DnsName, ServiceKey, ServicePort};

use super::{check_names, invalid_name, port_number, protocol};
use crate::addresses::Family;
use crate::object::Fault;

/// Prefix of the annotations that hold what Kubernetes has no field for.
pub const ANNOTATION_PREFIX: &str = "portolan.dev/";

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
    /// The `portolan.dev/balancer` annotation.
    pub balancer: Option<Balancer>,
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
    let ports = ports(spec, &kind)?;
    check_words(spec)?;
    let (balancer, warnings) = annotations(service);
    let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
    Ok((ServiceDraft { key, kind, ports, publish_not_ready, balancer }, warnings))
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

fn ports(spec: &ServiceSpec, kind: &KindDraft) -> Result<Vec<ServicePort>, Fault> {
    let listed = spec.ports.as_deref().unwrap_or_default();
    if listed.is_empty() && matches!(kind, KindDraft::ClusterIp(_)) {
        return Err(Fault::rejected("spec.ports", "missing, a service needs at least one port"));
    }
    let mut ports = Vec::with_capacity(listed.len());
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in listed.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        let converted = convert_port(&field, port, listed.len() > 1)?;
        if let Some(name) = &converted.name
            && !names.insert(name.clone())
        {
            return Err(Fault::rejected(format!("{field}.name"), format!("{name:?} stands twice")));
        }
        if !numbers.insert((converted.protocol, converted.port)) {
            let reason = format!("{}/{} stands twice", converted.port, converted.protocol);
            return Err(Fault::rejected(format!("{field}.port"), reason));
        }
        ports.push(converted);
    }
    Ok(ports)
}

fn convert_port(field: &str, port: &K8sPort, named: bool) -> Result<ServicePort, Fault> {
    let name = port.name.as_deref().filter(|n| !n.is_empty());
    match name {
        Some(name) => validate_label(name).map_err(invalid_name(&format!("{field}.name")))?,
        None if named => {
            let reason = "missing, every port needs a name when there are several";
            return Err(Fault::rejected(format!("{field}.name"), reason));
        }
        None => {}
    }
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            port_number(&format!("{field}.targetPort"), *number)?;
        }
        Some(IntOrString::String(text)) if text.is_empty() || text.len() > 15 => {
            let reason = format!("{text:?} is not a port name of 1 to 15 characters");
            return Err(Fault::rejected(format!("{field}.targetPort"), reason));
        }
        Some(IntOrString::String(_)) | None => {}
    }
    Ok(ServicePort {
        name: name.map(Into::into),
        protocol: protocol(&format!("{field}.protocol"), port.protocol.as_deref())?,
        port: port_number(&format!("{field}.port"), port.port)?,
        app_protocol: port.app_protocol.as_deref().map(AppProtocol::from_word),
    })
}

/// Words that an API server checks and that have a meaning in later stages: a misspelt one must
/// not pass for its default.
fn check_words(spec: &ServiceSpec) -> Result<(), Fault> {
    let fields = [
        ("spec.sessionAffinity", &spec.session_affinity, ["None", "ClientIP"]),
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy, ["Cluster", "Local"]),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy, ["Cluster", "Local"]),
    ];
    for (field, value, allowed) in fields {
        if let Some(word) = value.as_deref().filter(|w| !w.is_empty())
            && !allowed.contains(&word)
        {
            let reason = format!("{word:?} is not {} or {}", allowed[0], allowed[1]);
            return Err(Fault::rejected(field, reason));
        }
    }
    Ok(())
}

fn annotations(service: &K8sService) -> (Option<Balancer>, Vec<Fault>) {
    let mut balancer = None;
    let mut faults = Vec::new();
    for (name, value) in service.metadata.annotations.iter().flatten() {
        let Some(setting) = name.strip_prefix(ANNOTATION_PREFIX) else { continue };
        let field = format!("metadata.annotations[{name}]");
        if setting != "balancer" {
            faults.push(Fault::warning(field, "unknown setting; known: balancer"));
            continue;
        }
        balancer = Balancer::from_word(value);
        if balancer.is_none() {
            let reason = format!("{value:?} is not round_robin or least_request");
            faults.push(Fault::warning(field, reason));
        }
    }
    (balancer, faults)
}
