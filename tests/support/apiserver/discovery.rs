//! Owns what clients such as kubectl ask before they ask for objects: versions, groups, resources,
//! health. These are no calls: they are neither counted nor meet a fault.

use std::collections::BTreeMap;

use http::Response;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::wire::{Body, full, json as answer_json, no_such_path, respond};

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// The answer for a path that leads to no objects.
pub(super) fn answer(path: &str, kinds: &[&'static Kind]) -> Response<Body> {
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match words.as_slice() {
        ["healthz" | "livez" | "readyz"] => return respond(200, "text/plain", full("ok")),
        ["version"] => Some(json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.0" })),
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ["apis"] => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups(kinds).into_values().collect::<Vec<_>>(),
        })),
        ["api", version] => resources("", version, kinds),
        ["apis", group] => groups(kinds).remove(group),
        ["apis", group, version] => resources(group, version, kinds),
        _ => None,
    };
    document.map_or_else(no_such_path, |document| answer_json(200, &document))
}

fn groups(kinds: &[&'static Kind]) -> BTreeMap<&'static str, Value> {
    let named = kinds.iter().filter(|kind| !kind.group.is_empty());
    let group = |kind: &&'static Kind| {
        let version = json!({ "groupVersion": kind.api_version(), "version": kind.version });
        let group = json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": kind.group,
            "versions": [version], "preferredVersion": version,
        });
        (kind.group, group)
    };
    named.map(group).collect()
}

fn resources(group: &str, version: &str, kinds: &[&'static Kind]) -> Option<Value> {
    let kinds: Vec<&&Kind> =
        kinds.iter().filter(|kind| (kind.group, kind.version) == (group, version)).collect();
    let api_version = kinds.first()?.api_version();
    let resource = |kind: &&&Kind| {
        json!({
            "name": kind.plural, "singularName": kind.kind.to_lowercase(), "kind": kind.kind,
            "namespaced": kind.is_namespaced, "verbs": VERBS,
        })
    };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version,
        "resources": kinds.iter().map(resource).collect::<Vec<_>>(),
    }))
}
