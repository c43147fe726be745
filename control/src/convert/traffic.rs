//! Ways into a service from outside the cluster, and which endpoints its clients are sent to.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service as K8sService, ServiceSpec};
use portolan_model::DnsName;
use portolan_model::service::{Distribution, Exposure, Traffic, TrafficPolicy};

use super::{addresses, port_number};
use crate::object::Fault;

/// Label that hands a service to another proxy than the cluster's own (kube-proxy's convention).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label that takes a service with a cluster IP out of proxying, as a headless one is
/// (kube-proxy's convention, for any value of it).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The proxy name by which a service asks for us.
const OWN_NAME: &str = "portolan";
/// What a `ClientIP` affinity lasts if it does not say, in seconds (Kubernetes API).
const AFFINITY_SECS: i32 = 10_800;
/// Longest affinity the API allows, in seconds.
const MAX_AFFINITY_SECS: i32 = 86_400;

/// Reads what a service says of its traffic.
pub(super) fn convert(
    service: &K8sService,
    spec: &ServiceSpec,
    warnings: &mut Vec<Fault>,
) -> Result<Traffic, Fault> {
    let labels = service.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|l| l.get(name)).map(String::as_str);
    let (load_balancer_ips, load_balancer_hosts) = load_balancer(service, spec, warnings);
    Ok(Traffic {
        exposure: exposure(spec),
        external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref())?,
        load_balancer_ips,
        load_balancer_hosts,
        affinity_secs: affinity(spec)?,
        internal: policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external: policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
        distribution: distribution(spec.traffic_distribution.as_deref(), warnings),
        health_check_node_port: match spec.health_check_node_port {
            None | Some(0) => None,
            Some(number) => Some(port_number("spec.healthCheckNodePort", number)?),
        },
        proxy_name: label(PROXY_NAME_LABEL)
            .filter(|name| *name != OWN_NAME)
            .or_else(|| label(HEADLESS_LABEL).map(|_| "headless"))
            .map(Into::into),
    })
}

fn exposure(spec: &ServiceSpec) -> Exposure {
    match spec.type_.as_deref() {
        Some("NodePort") => Exposure::NodePort,
        Some("LoadBalancer") => Exposure::LoadBalancer,
        // Any other word has been refused before.
        _ => Exposure::ClusterIP,
    }
}

/// What the load balancer was given; while that is nothing, what was asked for.
fn load_balancer(
    service: &K8sService,
    spec: &ServiceSpec,
    warnings: &mut Vec<Fault>,
) -> (Vec<IpAddr>, Vec<DnsName>) {
    let (mut ips, mut hosts) = (Vec::new(), Vec::new());
    if exposure(spec) != Exposure::LoadBalancer {
        return (ips, hosts);
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    for (i, ingress) in status.iter().flat_map(|l| l.ingress.iter().flatten()).enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{i}].{name}");
        if let Some(text) = ingress.ip.as_deref().filter(|t| !t.is_empty()) {
            match text.parse() {
                Ok(ip) => ips.push(ip),
                Err(_) => warnings
                    .push(Fault::warning(field("ip"), format!("{text:?} is not an IP address"))),
            }
        }
        if let Some(text) = ingress.hostname.as_deref().filter(|t| !t.is_empty()) {
            match DnsName::parse(text) {
                Ok(host) => hosts.push(host),
                Err(error) => {
                    warnings.push(Fault::warning(field("hostname"), error.to_string()));
                }
            }
        }
    }
    if let (true, true, Some(text)) =
        (ips.is_empty(), hosts.is_empty(), spec.load_balancer_ip.as_deref())
    {
        match text.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) if text.is_empty() => {}
            Err(_) => warnings.push(Fault::warning(
                "spec.loadBalancerIP",
                format!("{text:?} is not an IP address"),
            )),
        }
    }
    (ips, hosts)
}

fn affinity(spec: &ServiceSpec) -> Result<Option<u32>, Fault> {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => return Ok(None),
        "ClientIP" => {}
        other => {
            let reason = format!("{other:?} is not None or ClientIP");
            return Err(Fault::rejected("spec.sessionAffinity", reason));
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let secs = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECS);
    let allowed = (1..=MAX_AFFINITY_SECS).contains(&secs);
    u32::try_from(secs).ok().filter(|_| allowed).map(Some).ok_or_else(|| {
        let reason = format!("{secs} is not in 1..={MAX_AFFINITY_SECS}");
        Fault::rejected("spec.sessionAffinityConfig.clientIP.timeoutSeconds", reason)
    })
}

/// A misspelt word must not pass for its default.
fn policy(field: &str, word: Option<&str>) -> Result<TrafficPolicy, Fault> {
    match word.unwrap_or_default() {
        "" | "Cluster" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        other => Err(Fault::rejected(field, format!("{other:?} is not Cluster or Local"))),
    }
}

/// A preference that is not known is none: the API leaves the field open to implementations.
fn distribution(word: Option<&str>, warnings: &mut Vec<Fault>) -> Option<Distribution> {
    match word? {
        "" => None,
        "PreferClose" | "PreferSameZone" => Some(Distribution::PreferSameZone),
        "PreferSameNode" => Some(Distribution::PreferSameNode),
        other => {
            let reason = format!("{other:?} is not PreferSameZone, PreferSameNode or PreferClose");
            warnings.push(Fault::warning("spec.trafficDistribution", reason));
            None
        }
    }
}
