//! `BackendTLSPolicy`: TLS to the endpoints of Services (GEP-1897).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::object;

object!(
    /// Has the endpoints of Services spoken to within TLS.
    BackendTlsPolicy,
    BackendTlsPolicySpec
);

/// `spec` of a [`BackendTlsPolicy`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsPolicySpec {
    /// The Services.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    /// What endpoints must be.
    pub validation: BackendTlsValidation,
    /// Passed over: what each implementation may define, and this one does not.
    pub options: Option<BTreeMap<String, String>>,
}

/// Something of the same namespace that a policy is for.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// Group; empty: the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The name of a port.
    pub section_name: Option<String>,
}

/// What endpoints must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsValidation {
    /// Objects with authorities.
    #[serde(default)]
    pub ca_certificate_refs: Vec<LocalRef>,
    /// `System`: the authorities that come with the system.
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known: Option<String>,
    /// The name that they are asked for and that their certificates are for.
    pub hostname: String,
    /// What their certificates are for instead.
    #[serde(default)]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// An object of the same namespace.
#[derive(Clone, Debug, Deserialize)]
pub struct LocalRef {
    /// Group; empty: the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// A name of a certificate.
#[derive(Clone, Debug, Deserialize)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The name, if it is one.
    pub hostname: Option<String>,
    /// The URI, if it is one.
    pub uri: Option<String>,
}
