//! Owns creating, replacing, patching and deleting as requests ask for it, with the conflicts that
//! optimistic concurrency and server-side apply are to meet. Deliberately absent: validation by
//! kind, subresources but for replacing a status, finalizers, graceful deletion, namespaces that must exist.

use std::sync::Arc;

use serde_json::{Value, json};

use super::fields::{Owners, claim, conflicts, hand_over, merge};
use super::kinds::{Kind, Route};
use super::store::{Change, Store, Stored, placed};
use super::wire::{Refusal, meta};

const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// A write that was done: what to answer, and what to tell the watches.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) code: u16,
    pub(super) answer: Arc<Value>,
    /// None if everything was so already: then no version passes.
    pub(super) change: Option<Arc<Change>>,
}

/// Who writes, and how.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    pub(super) route: &'a Route,
    pub(super) manager: &'a str,
    pub(super) is_forced: bool,
}

impl Writer<'_> {
    fn kind(&self) -> &'static Kind {
        self.route.kind
    }

    fn namespace(&self) -> &str {
        self.route.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.route.name.as_deref().unwrap_or_default()
    }

    pub(super) fn create(&self, store: &mut Store, body: Value) -> Result<Outcome, Refusal> {
        let mut object = self.checked(body)?;
        if meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty() {
            let name = format!("{}{:05x}", meta(&object, "generateName"), store.fresh_id());
            object["metadata"]["name"] = name.into();
        }
        let name = meta(&object, "name").to_owned();
        if name.is_empty() {
            let message = "metadata.name: Required value: name or generateName is required";
            return Err(Refusal::new(422, "Invalid", message));
        }
        if store.get(self.kind(), self.namespace(), &name).is_some() {
            let message = format!("{} {name:?} already exists", self.kind().resource());
            return Err(Refusal::new(409, "AlreadyExists", message).about(self.kind(), &name));
        }
        if !meta(&object, "resourceVersion").is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::bad_request(message));
        }
        let metadata = object["metadata"].as_object_mut().expect("placed");
        metadata.remove("uid");
        metadata.remove("creationTimestamp");
        let owners = hand_over(&Owners::new(), &json!({}), &object, self.manager);
        Ok(self.commit(store, 201, object, owners, &name))
    }

    pub(super) fn replace(&self, store: &mut Store, body: Value) -> Result<Outcome, Refusal> {
        let mut object = self.checked(body)?;
        object["metadata"]["name"] = self.name().into();
        let stored = self.current(store)?;
        self.check_version(&object, &stored.object)?;
        if self.route.is_status {
            let status = object["status"].take();
            object = Value::clone(&stored.object);
            object["status"] = status;
        }
        let owners = hand_over(&stored.owners, &stored.object, &object, self.manager);
        Ok(self.finish(store, &stored, object, owners))
    }

    /// A merge patch. Strategic merge patches are taken as such, too.
    pub(super) fn merge(&self, store: &mut Store, patch: &Value) -> Result<Outcome, Refusal> {
        let stored = self.current(store)?;
        self.check_version(patch, &stored.object)?;
        let mut object = Value::clone(&stored.object);
        merge(&mut object, patch);
        let owners = hand_over(&stored.owners, &stored.object, &object, self.manager);
        Ok(self.finish(store, &stored, object, owners))
    }

    /// A server-side apply: creates, or merges without taking what others set unless forced.
    pub(super) fn apply(&self, store: &mut Store, applied: Value) -> Result<Outcome, Refusal> {
        if self.manager.is_empty() {
            return Err(Refusal::bad_request("fieldManager is required for apply patch"));
        }
        let mut applied = self.checked(applied)?;
        applied["metadata"]["name"] = self.name().into();
        let Ok(stored) = self.current(store) else {
            return self.create(store, applied);
        };
        self.check_version(&applied, &stored.object)?;
        let lost = conflicts(&stored.owners, &stored.object, &applied, self.manager);
        if !lost.is_empty() && !self.is_forced {
            return Err(self.contested(&lost));
        }
        let mut object = Value::clone(&stored.object);
        merge(&mut object, &applied);
        let mut owners = hand_over(&stored.owners, &stored.object, &object, self.manager);
        claim(&mut owners, &applied, self.manager);
        Ok(self.finish(store, &stored, object, owners))
    }

    pub(super) fn delete(&self, store: &mut Store, options: &Value) -> Result<Outcome, Refusal> {
        let stored = self.current(store)?;
        let uid = meta(&stored.object, "uid");
        for field in ["resourceVersion", "uid"] {
            let wanted = options["preconditions"][field].as_str();
            if wanted.is_some_and(|wanted| wanted != meta(&stored.object, field)) {
                let message = format!("Precondition failed: {field} does not match");
                return Err(Refusal::conflict(self.kind(), self.name(), &message));
            }
        }
        let details = json!({
            "name": self.name(), "group": self.kind().group, "kind": self.kind().plural, "uid": uid,
        });
        let answer = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details,
        });
        let change = store.remove(self.kind(), self.namespace(), self.name());
        Ok(Outcome { code: 200, answer: Arc::new(answer), change })
    }

    /// The body as an object of the path's kind, in its namespace.
    fn checked(&self, body: Value) -> Result<Value, Refusal> {
        if !body.is_object() {
            return Err(Refusal::bad_request("the body is no JSON object"));
        }
        let kind = self.kind();
        let typed = [("kind", kind.kind.to_owned()), ("apiVersion", kind.api_version())];
        for (field, wanted) in typed {
            let given = body[field].as_str().unwrap_or(&wanted);
            if given != wanted {
                let message = format!("the {field} of the body is {given:?}, not {wanted:?}");
                return Err(Refusal::bad_request(message));
            }
        }
        let paths = [("namespace", self.namespace()), ("name", self.name())];
        for (field, wanted) in paths {
            let given = meta(&body, field);
            if !given.is_empty() && !wanted.is_empty() && given != wanted {
                let message = format!(
                    "the {field} of the object ({given}) does not match the {field} on the URL \
                     ({wanted})"
                );
                return Err(Refusal::bad_request(message));
            }
        }
        Ok(placed(body, kind, self.namespace()))
    }

    fn current(&self, store: &Store) -> Result<Stored, Refusal> {
        let name = self.name();
        store
            .get(self.kind(), self.namespace(), name)
            .cloned()
            .ok_or_else(|| missing(self.kind(), name))
    }

    fn check_version(&self, given: &Value, stored: &Value) -> Result<(), Refusal> {
        let version = meta(given, "resourceVersion");
        if version.is_empty() || version == meta(stored, "resourceVersion") {
            return Ok(());
        }
        Err(Refusal::conflict(self.kind(), self.name(), STALE))
    }

    fn contested(&self, lost: &[(String, String)]) -> Refusal {
        let api = self.kind().api_version();
        let list: Vec<String> = (lost.iter())
            .map(|(path, owner)| format!("conflict with {owner:?} using {api}: {path}"))
            .collect();
        let message = format!("Apply failed with {} conflict: {}", lost.len(), list.join(", "));
        let mut refusal = Refusal::new(409, "Conflict", message);
        let causes = lost.iter().map(|(path, owner)| {
            let message = format!("conflict with {owner:?} using {api}");
            json!({ "reason": "FieldManagerConflict", "message": message, "field": path })
        });
        refusal.details = json!({ "causes": causes.collect::<Vec<_>>() });
        refusal
    }

    /// Commits what became of an object, if it is no longer what it was.
    fn finish(&self, store: &mut Store, was: &Stored, object: Value, owners: Owners) -> Outcome {
        let mut object = placed(object, self.kind(), self.namespace());
        for field in ["name", "uid", "creationTimestamp", "resourceVersion"] {
            object["metadata"][field] = was.object["metadata"][field].clone();
        }
        for field in ["kind", "apiVersion"] {
            object[field] = was.object[field].clone();
        }
        if object == *was.object && owners == was.owners {
            return Outcome { code: 200, answer: Arc::clone(&was.object), change: None };
        }
        self.commit(store, 200, object, owners, self.name())
    }

    fn commit(
        &self,
        store: &mut Store,
        code: u16,
        object: Value,
        owners: Owners,
        name: &str,
    ) -> Outcome {
        let change = store.put(self.kind(), object, owners);
        let stored = store.get(self.kind(), self.namespace(), name).expect("just put");
        Outcome { code, answer: Arc::clone(&stored.object), change: Some(change) }
    }
}

pub(super) fn missing(kind: &Kind, name: &str) -> Refusal {
    let message = format!("{} {name:?} not found", kind.resource());
    Refusal::new(404, "NotFound", message).about(kind, name)
}
