//! The plugin `kubernetes`: the cluster's zones and how its names are answered.

use super::importer::{Importer, Scope, is_everything};
use super::names;
use super::parse::Directive;

/// Takes in the plugin.
pub(super) fn import(importer: &mut Importer, scope: &Scope, kubernetes: &Directive) {
    let at = kubernetes.at();
    importer.set(&at, "control.kubernetes", "on");
    let zones = importer.scope(&at, &kubernetes.args, scope);
    let shared = shared_zones(importer, kubernetes);
    let reverse: Vec<String> = zones.iter().filter(|z| names::is_reverse(z)).cloned().collect();
    for zone in zones.iter().filter(|z| !names::is_reverse(z) && !shared.contains(z)) {
        if zone == names::ROOT {
            importer.note(&at, "left out: the root cannot be the zone of a cluster");
        } else if !importer.settings.has("zone") {
            importer.set(&at, "zone", zone.as_str());
        } else if importer.settings.set("zone", zone.as_str().into()).is_err() {
            importer.settings.push("dns.extra_zones", zone);
        }
    }
    if !reverse.is_empty() {
        let text = format!("control.service_ranges cannot be derived from {}", reverse.join(" "));
        importer.note(&at, text);
    }
    if !kubernetes.body.iter().any(|p| p.name == "pods") {
        importer.set(&at, "dns.pods", "disabled");
    }
    if !reverse.is_empty() && !kubernetes.body.iter().any(|p| p.name == "fallthrough") {
        importer.note(&at, "reverse names that the cluster does not have are looked up further");
    }
    for property in &kubernetes.body {
        import_property(importer, kubernetes, property);
    }
    importer.own_zones.extend(zones);
}

/// Zones of `multicluster`: the first is ours to set.
fn shared_zones(importer: &mut Importer, kubernetes: &Directive) -> Vec<String> {
    let mut shared = Vec::new();
    for property in kubernetes.body.iter().filter(|p| p.name == "multicluster") {
        let at = kubernetes.at_property(property);
        let zones = importer.zones(&at, &property.args);
        for zone in zones.iter().filter(|z| *z != names::ROOT) {
            importer.set(&at, "cluster_set_zone", zone.as_str());
        }
        shared.extend(zones);
    }
    shared
}

fn import_property(importer: &mut Importer, kubernetes: &Directive, property: &Directive) {
    let at = kubernetes.at_property(property);
    match (property.name.as_str(), property.words().as_slice()) {
        ("multicluster", _) => {}
        ("pods", [mode @ ("disabled" | "insecure" | "verified")]) => {
            importer.set(&at, "dns.pods", *mode);
        }
        ("pods", _) => importer.note(&at, "left out: expected disabled, insecure or verified"),
        ("endpoint_pod_names", _) => importer.set(&at, "dns.endpoint_names", "pod"),
        ("ttl", [ttl, ..]) => {
            if let Some(ttl) = importer.number(&at, ttl, 0..=3600) {
                importer.set(&at, "dns.ttl_secs", ttl);
            }
        }
        ("kubeconfig", [file, context @ ..]) => {
            importer.set(&at, "control.kubeconfig", *file);
            if let [context, ..] = context {
                importer.set(&at, "control.context", *context);
            }
        }
        ("fallthrough", []) => importer.note(&at, FALLTHROUGH),
        ("fallthrough", _) => {
            let zones = importer.zones(&at, &property.args);
            if is_everything(&zones) || !zones.iter().all(|z| names::is_reverse(z)) {
                importer.note(&at, FALLTHROUGH);
            }
        }
        ("ignore", ["empty_service", ..]) => {
            importer.note(&at, "services without endpoints have an empty answer, not NXDOMAIN");
        }
        (name, _) => {
            let known = WITHOUT.iter().find(|(property, _)| *property == name);
            let text = known.map_or("no such property known here", |(_, text)| text);
            importer.note(&at, text);
        }
    }
}

const FALLTHROUGH: &str = "names in the cluster's zones that do not exist are not looked up \
                           further; reverse names are";

/// Properties without a counterpart, and what that means.
const WITHOUT: [(&str, &str); 12] = [
    ("apiserver_burst", "the pace of requests is built in"),
    ("apiserver_max_inflight", "the pace of requests is built in"),
    ("apiserver_qps", "the pace of requests is built in"),
    ("endpoint", "left out: the API is that of control.kubeconfig, else of the pod"),
    ("labels", "services of all labels are answered"),
    ("namespace_labels", "all namespaces are answered"),
    ("namespaces", "all namespaces are answered"),
    ("noendpoints", "endpoints are always watched and answered"),
    ("startup_timeout", "the dns role is ready once it has seen the whole cluster"),
    ("tls", "left out: certificates are those of control.kubeconfig"),
    ("transfer", "zones are not transferred"),
    ("zonal", "names below _zone are not answered"),
];
