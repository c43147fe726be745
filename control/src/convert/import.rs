//! `multicluster.x-k8s.io/v1alpha1` ServiceImport (KEP-1645) -> a service of the cluster set.

use k8s_openapi::api::core::v1::ServicePort as K8sPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::{Policy, Scope, ServiceKey, Traffic};
use serde::Deserialize;

use super::{AddressRequest, KindDraft, ServiceDraft, addresses, check_names, invalid_name, port};
use crate::object::Fault;

/// The object, as far as it is used; no crate that goes with ours has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// Passed over: what kind it is, is known before.
    pub api_version: Option<String>,
    /// Passed over.
    pub kind: Option<String>,
    /// Passed over: which clusters export it; slices say so themselves.
    pub status: Option<serde_json::Value>,
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is imported.
    pub spec: Option<ServiceImportSpec>,
}

/// `spec` of a [`ServiceImport`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Virtual addresses in this cluster.
    pub ips: Option<Vec<String>>,
    /// Ports, with the fields of a Service's.
    pub ports: Option<Vec<K8sPort>>,
    /// Passed over.
    pub ip_families: Option<Vec<String>>,
    /// Passed over.
    pub session_affinity: Option<String>,
    /// Passed over.
    pub session_affinity_config: Option<serde_json::Value>,
}

/// Converts an import.
pub(super) fn convert(import: &ServiceImport) -> Result<ServiceDraft, Fault> {
    let namespace = import.metadata.namespace.as_deref().unwrap_or("default");
    let name = import.metadata.name.as_deref().unwrap_or_default();
    check_names(namespace, name)?;
    let key = ServiceKey::new(namespace, name).map_err(invalid_name("metadata.name"))?;
    let spec = import.spec.as_ref().ok_or_else(|| Fault::rejected("spec", "missing"))?;
    let kind = match spec.type_.as_deref().unwrap_or_default() {
        "Headless" => KindDraft::Headless,
        "ClusterSetIP" => {
            KindDraft::ClusterIp(AddressRequest::Named(addresses("spec.ips", spec.ips.as_deref())?))
        }
        other => {
            let reason = format!("{other:?} is not ClusterSetIP or Headless");
            return Err(Fault::rejected("spec.type", reason));
        }
    };
    Ok(ServiceDraft {
        key: key.within(Scope::ClusterSet),
        kind,
        ports: port::convert(spec.ports.as_deref().unwrap_or_default())?,
        publish_not_ready: false,
        traffic: Traffic::default(),
        policy: Policy::default(),
    })
}
