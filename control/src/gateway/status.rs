//! What became of an object of the Gateway API, in the specification's own conditions.

use std::net::IpAddr;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::draft::{GroupKind, Meta, ParentRef};
use crate::object::{Kind, ObjectId};

/// Who writes these statuses, and whose classes are ours.
pub const CONTROLLER: &str = "portolan.dev/gateway-controller";

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The object.
    pub id: ObjectId,
    /// Its `metadata.uid`, if it has one.
    pub uid: Option<Arc<str>>,
    /// Its `metadata.generation` that this is about.
    pub generation: Option<i64>,
    /// What became of it.
    pub of: Of,
}

/// What became of an object, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of a GatewayClass.
    Class(Vec<Condition>),
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of a route, or of a policy, whose parents are its targets.
    Route(RouteStatus),
}

/// What became of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Its class.
    pub class: Arc<str>,
    /// Of the whole.
    pub conditions: Vec<Condition>,
    /// The addresses it asked for and has.
    pub addresses: Vec<IpAddr>,
    /// Of each listener.
    pub listeners: Vec<ListenerStatus>,
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Arc<str>,
    /// The names it is for.
    pub hostname: Option<Arc<str>>,
    /// Kinds of routes, by group and kind, that may attach.
    pub kinds: Vec<GroupKind>,
    /// Routes that are attached.
    pub routes: usize,
    /// What became of it.
    pub conditions: Vec<Condition>,
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The hosts it is for.
    pub hostnames: Vec<Arc<str>>,
    /// At each of its parents.
    pub parents: Vec<ParentStatus>,
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent.
    pub parent: ParentRef,
    /// Whether it is there and ours, so that it is for us to say; of one that is not, we tell those
    /// who ask and nobody else.
    pub is_ours: bool,
    /// What became of it.
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

/// As Kubernetes writes it.
impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Condition", 4)?;
        s.serialize_field("type", self.kind)?;
        s.serialize_field("status", if self.holds { "True" } else { "False" })?;
        s.serialize_field("reason", self.reason)?;
        s.serialize_field("message", &self.message)?;
        s.end()
    }
}

impl Condition {
    /// One that holds.
    pub fn yes(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, holds: true, reason, message: String::new() }
    }

    /// One that does not.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }

    /// As it is written, but for the time.
    fn json(&self, generation: Option<i64>) -> Value {
        let mut said = json!(self);
        said["observedGeneration"] = json!(generation);
        said
    }
}

/// The condition of a kind.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

impl Status {
    /// Of the object of this description.
    pub(super) fn new(kind: Kind, meta: &Meta, of: Of) -> Self {
        let (namespace, name) = (meta.namespace.to_string(), meta.name.to_string());
        let id = ObjectId { kind, namespace, name };
        Self { id, uid: meta.uid.clone(), generation: meta.generation, of }
    }

    /// The object's `status` as it is written, but for the times of its conditions; of a route with
    /// our own entries alone.
    #[must_use]
    pub fn json(&self) -> Value {
        let conditions = |list: &[Condition]| -> Vec<Value> {
            list.iter().map(|condition| condition.json(self.generation)).collect()
        };
        match &self.of {
            Of::Class(list) => json!({ "conditions": conditions(list) }),
            Of::Gateway(gateway) => {
                let listeners: Vec<Value> = (gateway.listeners.iter())
                    .map(|listener| {
                        let kind =
                            |(group, kind): &GroupKind| json!({ "group": group, "kind": kind });
                        json!({
                            "name": listener.name,
                            "supportedKinds": listener.kinds.iter().map(kind).collect::<Vec<_>>(),
                            "attachedRoutes": listener.routes,
                            "conditions": conditions(&listener.conditions),
                        })
                    })
                    .collect();
                let address = |address: &IpAddr| json!({ "type": "IPAddress", "value": address });
                json!({
                    "addresses": gateway.addresses.iter().map(address).collect::<Vec<_>>(),
                    "conditions": conditions(&gateway.conditions),
                    "listeners": listeners,
                })
            }
            Of::Route(route) => {
                let (list, of_parent) = parent_words(self.id.kind);
                let parents: Vec<Value> = (route.parents.iter())
                    .filter(|parent| parent.is_ours)
                    .map(|status| {
                        json!({
                            of_parent: parent_json(&status.parent),
                            "controllerName": CONTROLLER,
                            "conditions": conditions(&status.conditions),
                        })
                    })
                    .collect();
                json!({ list: parents })
            }
        }
    }
}

/// Where the entries of an object's status stand, and what each is about: parents of routes, and what
/// the API calls the ancestors of policies.
pub fn parent_words(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::BackendTlsPolicy | Kind::AccessPolicy => ("ancestors", "ancestorRef"),
        _ => ("parents", "parentRef"),
    }
}

/// A reference to a parent, with what the route says of it.
fn parent_json(parent: &ParentRef) -> Value {
    let mut value = json!({ "group": parent.group, "kind": parent.kind, "name": parent.name });
    let said = [
        ("namespace", parent.says_namespace.then(|| json!(parent.namespace))),
        ("sectionName", parent.section.as_ref().map(|section| json!(section))),
        ("port", parent.port.map(|port| json!(port))),
    ];
    for (key, said) in said {
        if let Some(said) = said {
            value[key] = said;
        }
    }
    value
}
