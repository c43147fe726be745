//! `AccessPolicy`, an API of our own: who may do what at the endpoints of Services.

use serde::Deserialize;

use super::{PolicyTarget, object};

object!(
    /// Allows or denies requests to the endpoints of Services, where a proxy stands in front of them.
    AccessPolicy,
    AccessPolicySpec
);

/// `spec` of an [`AccessPolicy`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicySpec {
    /// The Services.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// `Allow` or `Deny`.
    pub action: String,
    /// `Enforce`, which is the default, or `LogOnly`.
    pub mode: Option<String>,
    /// What is allowed or denied; any of these.
    #[serde(default)]
    pub rules: Vec<AccessRule>,
}

/// Some requests; all that is said has to be so.
#[derive(Clone, Debug, Deserialize)]
pub struct AccessRule {
    /// Of one of these: `shop/web`, `shop/*`, `*`, or a SPIFFE id.
    #[serde(default)]
    pub identities: Vec<String>,
    /// By one of these methods.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Of one of these paths: `/a`, or `/a/*` and the like for what begins so.
    #[serde(default)]
    pub paths: Vec<String>,
}
