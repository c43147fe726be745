//! `ReferenceGrant`: who may point at objects of a namespace from outside of it.

use serde::Deserialize;

use super::object;

object!(
    /// Lets objects of other namespaces refer to objects of its own.
    ReferenceGrant,
    ReferenceGrantSpec
);

/// `spec` of a [`ReferenceGrant`].
#[derive(Clone, Debug, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may; any of these.
    #[serde(default)]
    pub from: Vec<GrantFrom>,
    /// To what; any of these.
    #[serde(default)]
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, Deserialize)]
pub struct GrantFrom {
    /// Group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, Deserialize)]
pub struct GrantTo {
    /// Group; empty: the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// One object; nothing: all of the kind.
    pub name: Option<String>,
}
