//! Who may do what at the endpoints of a service, where a proxy stands in front of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::ServiceKey;
use crate::policy::Account;

/// What holds at the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccess {
    /// The service.
    pub service: ServiceKey,
    /// By port, in order of their names. Whoever is denied by one does not pass; where one allows,
    /// only those pass that one allows.
    pub ports: BTreeMap<u16, Vec<AccessList>>,
}

/// A list of what is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessList {
    /// Namespace and name of its object.
    pub name: Arc<str>,
    /// What it lists is denied, not allowed.
    pub denies: bool,
    /// It is only counted what it would do.
    pub log_only: bool,
    /// What it lists.
    pub entries: Vec<AccessEntry>,
}

/// Some requests; all that is said has to be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessEntry {
    /// Of one of these; empty: of anybody, whoever he is.
    pub identities: Vec<IdentityMatch>,
    /// By one of these methods; empty: by any.
    pub methods: Vec<Arc<str>>,
    /// Of one of these paths; empty: of any.
    pub paths: Vec<PathPattern>,
}

/// Who someone has proven to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IdentityMatch {
    /// Whoever has proven anything.
    Anyone,
    /// A service account of the trust domain.
    Account(Account),
    /// Any service account of a namespace of the trust domain.
    Namespace(Arc<str>),
    /// A SPIFFE id.
    Id(Arc<str>),
}

/// Some paths, compared after normalization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathPattern {
    /// This one.
    Exact(Arc<str>),
    /// What begins so.
    Prefix(Arc<str>),
}

impl AccessEntry {
    /// Whether it is about more than who someone is.
    #[must_use]
    pub fn is_of_http(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }
}
