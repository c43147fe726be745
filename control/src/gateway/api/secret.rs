//! `v1` Secret of type `kubernetes.io/tls`.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A certificate and its key. Nothing of what is in it goes into a log or an error.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Passed over: what kind it is, is known before.
    pub api_version: Option<String>,
    /// Passed over.
    pub kind: Option<String>,
    /// Passed over: it is the one that is used.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Passed over.
    pub immutable: Option<bool>,
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `tls.crt` and `tls.key`, in base 64.
    #[serde(default)]
    pub data: BTreeMap<String, Text>,
    /// The same as they are.
    #[serde(default)]
    pub string_data: BTreeMap<String, Text>,
}

/// A text that is not shown, not even where it is wrong.
#[derive(Clone)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("expected a string")),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}
