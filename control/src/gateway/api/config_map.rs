//! `ConfigMap`, as far as it holds certificate authorities.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// Texts by name, of which one is of use: `ca.crt`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMap {
    /// Passed over: what kind it is, is known before.
    pub api_version: Option<String>,
    /// Passed over.
    pub kind: Option<String>,
    /// Passed over.
    pub immutable: Option<bool>,
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The texts.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// Passed over: authorities are text.
    #[serde(default)]
    pub binary_data: BTreeMap<String, serde::de::IgnoredAny>,
}
