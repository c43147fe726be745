//! Owns what patches do to fields: merging (RFC 7386), and who set which field last, which is what
//! server-side apply conflicts over. Lists count as one field: the strategic merging of list items
//! by their keys is not done, and a field that an apply no longer names stays as it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The last setter of each field, by its path (`.spec.holderIdentity`).
pub(super) type Owners = BTreeMap<String, String>;

/// Metadata that users own; the rest is the server's.
const OWNED_METADATA: [&str; 3] =
    [".metadata.labels", ".metadata.annotations", ".metadata.finalizers"];

/// Lays a patch over a value: null removes, objects merge, anything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("just made sure");
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// The fields that have an owner, with their values.
fn leaves(object: &Value) -> BTreeMap<String, &Value> {
    fn collect<'a>(path: String, value: &'a Value, found: &mut BTreeMap<String, &'a Value>) {
        match value.as_object() {
            Some(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    collect(format!("{path}.{key}"), value, found);
                }
            }
            _ => drop(found.insert(path, value)),
        }
    }
    let mut found = BTreeMap::new();
    collect(String::new(), object, &mut found);
    found.retain(|path, _| {
        let is_metadata = path.starts_with(".metadata");
        let is_type = path == ".kind" || path == ".apiVersion";
        !is_type && (!is_metadata || OWNED_METADATA.iter().any(|owned| path.starts_with(owned)))
    });
    found
}

/// Owners after a manager made `new` out of `old`: what it changed is its own.
pub(super) fn hand_over(owners: &Owners, old: &Value, new: &Value, manager: &str) -> Owners {
    let (old, new) = (leaves(old), leaves(new));
    let owner = |path: &String, value: &Value| match owners.get(path) {
        owner if old.get(path) == Some(&value) => owner.cloned(),
        _ => Some(manager.to_owned()),
    };
    new.iter().filter_map(|(path, value)| Some((path.clone(), owner(path, value)?))).collect()
}

/// Fields that an apply by this manager would take from another: their paths and owners.
pub(super) fn conflicts(
    owners: &Owners,
    old: &Value,
    applied: &Value,
    manager: &str,
) -> Vec<(String, String)> {
    let old = leaves(old);
    let changed = leaves(applied).into_iter().filter(|(path, value)| old.get(path) != Some(value));
    changed
        .filter_map(|(path, _)| {
            let owner = owners.get(&path).filter(|owner| *owner != manager)?;
            Some((path, owner.clone()))
        })
        .collect()
}

/// Makes a manager the owner of what it applied and nobody owned.
pub(super) fn claim(owners: &mut Owners, applied: &Value, manager: &str) {
    for (path, _) in leaves(applied) {
        owners.entry(path).or_insert_with(|| manager.to_owned());
    }
}
