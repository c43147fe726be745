//! Statuses of objects of the Gateway API, written to their `status` subresource.
//!
//! Of several replicas the holder of a Lease alone writes. What is written is what differs from what
//! the object has: the time of a condition that stays is kept, and so is what other controllers say
//! of a route.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use portolan_runtime::Lifecycle;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::Lease;
use crate::gateway::status::{CONTROLLER, Status, parent_words};
use crate::object::{Kind, ObjectId};
use crate::report::{ControlMetrics, Report};

/// Name of the Lease.
const LEASE: &str = "portolan-gateway-status";
/// Time before another try after the server refused one, and after it was asked too much.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// Time before another look at an object that somebody else has changed meanwhile.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);
/// Longest message of a condition, in characters (CRD).
const MAX_MESSAGE: usize = 32_768;

/// Writes statuses.
pub(super) struct Writer {
    client: Client,
    reports: watch::Receiver<Arc<Report>>,
    metrics: ControlMetrics,
    /// What was written last, or found to be there, of the objects that are there.
    written: HashMap<ObjectId, Status>,
    /// When those that were refused are tried again.
    refused: HashMap<ObjectId, Instant>,
    /// When the Lease is, if it could not be had.
    lease_refused: Option<Instant>,
    lease: Lease,
}

/// What became of one.
enum Outcome {
    /// It has its status.
    Done,
    /// It is not there: what comes next of it says so, or that it is there again.
    Gone,
    /// It is to be tried again after this long.
    Again(Duration),
}

impl Writer {
    /// Writes the statuses of these reports.
    pub(super) fn new(
        client: Client,
        reports: watch::Receiver<Arc<Report>>,
        identity: String,
        metrics: ControlMetrics,
    ) -> Self {
        let lease = Lease::new(client.clone(), LEASE, identity);
        Self {
            client,
            reports,
            metrics,
            written: HashMap::new(),
            refused: HashMap::new(),
            lease_refused: None,
            lease,
        }
    }

    /// Writes until draining, then gives the Lease back.
    pub(super) async fn run(mut self, lifecycle: Lifecycle) {
        loop {
            let pause = tokio::select! {
                biased;
                // A write under way is given up: whoever leads next writes it again.
                () = lifecycle.draining() => break,
                pause = self.round() => pause,
            };
            tokio::select! {
                () = lifecycle.draining() => break,
                () = sleep(pause) => {}
                changed = self.reports.changed() => if changed.is_err() { break },
                () = self.lease.changed() => {}
            }
        }
        self.lease.give_back().await;
    }

    /// Writes what is new; for how long to wait if something is to be tried again.
    async fn round(&mut self) -> Option<Duration> {
        let statuses = Arc::clone(&self.reports.borrow_and_update().statuses);
        let is_there =
            |id: &ObjectId| statuses.binary_search_by(|status| status.id.cmp(id)).is_ok();
        self.written.retain(|id, _| is_there(id));
        let now = Instant::now();
        self.refused.retain(|id, until| is_there(id) && *until > now);
        let is_new = |status: &&Status| self.written.get(&status.id) != Some(*status);
        let wanted: Vec<&Status> = statuses.iter().filter(is_new).collect();
        if wanted.is_empty() {
            return None;
        }
        // What was refused waits, however many reports come meanwhile.
        if let Some(until) = self.lease_refused.filter(|until| *until > now) {
            return Some(until - now);
        }
        self.lease_refused = None;
        match self.lease.leads().await {
            Ok(true) => {}
            // Whoever leads writes them. What we wrote may be out of date once we lead again.
            Ok(false) => {
                self.written.clear();
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "no statuses are written: the lease cannot be had");
                self.lease_refused = Some(now + AFTER_REFUSAL);
                return Some(AFTER_REFUSAL);
            }
        }
        let mut again: Option<Duration> = None;
        for status in wanted {
            let pause = match self.refused.get(&status.id) {
                Some(until) => *until - now,
                None => match self.write(status).await {
                    Outcome::Done => {
                        self.written.insert(status.id.clone(), status.clone());
                        continue;
                    }
                    Outcome::Gone => continue,
                    Outcome::Again(pause) => {
                        self.refused.insert(status.id.clone(), Instant::now() + pause);
                        pause
                    }
                },
            };
            again = Some(again.map_or(pause, |other| other.min(pause)));
        }
        again
    }

    async fn write(&self, status: &Status) -> Outcome {
        let api = self.api(&status.id);
        let name = &status.id.name;
        let found = match api.get(name).await {
            Ok(found) => found,
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Outcome::Gone,
            Err(error) => return self.refused(&status.id, &error),
        };
        let before = found.data.get("status").cloned().unwrap_or_default();
        let after = merged(status.id.kind, &before, &status.json(), &Timestamp::now().to_string());
        if after == before
            || (before.is_null() && after == json!({ parent_words(status.id.kind).0: [] }))
        {
            return Outcome::Done;
        }
        let mut object = found;
        object.data = json!({ "spec": object.data["spec"], "status": after });
        match api.replace_status(name, &PostParams::default(), &object).await {
            Ok(_) => {
                self.metrics.on_status(true);
                Outcome::Done
            }
            Err(kube::Error::Api(refused)) if refused.code == 409 => Outcome::Again(AFTER_CONFLICT),
            Err(error) => self.refused(&status.id, &error),
        }
    }

    fn refused(&self, id: &ObjectId, error: &kube::Error) -> Outcome {
        self.metrics.on_status(false);
        tracing::warn!(object = %id, %error, "it does not get its status");
        Outcome::Again(AFTER_REFUSAL)
    }

    fn api(&self, id: &ObjectId) -> Api<DynamicObject> {
        let (group, version) = id.kind.group_version();
        let kind = GroupVersionKind::gvk(group, version, id.kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&kind, id.kind.plural());
        match &*id.namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }
}

/// A status as it is to be: ours, with the times of conditions that stay, and with what others say.
fn merged(kind: Kind, before: &Value, ours: &Value, now: &str) -> Value {
    let mut after = ours.clone();
    match kind {
        Kind::GatewayClass => {
            timed(&mut after["conditions"], &before["conditions"], now);
        }
        Kind::Gateway => {
            timed(&mut after["conditions"], &before["conditions"], now);
            for listener in after["listeners"].as_array_mut().into_iter().flatten() {
                let same = list(&before["listeners"]).find(|old| old["name"] == listener["name"]);
                let old = same.map(|old| old["conditions"].clone()).unwrap_or_default();
                timed(&mut listener["conditions"], &old, now);
            }
        }
        _ => {
            let (parents, of_parent) = parent_words(kind);
            let is_ours = |parent: &&Value| parent["controllerName"] == CONTROLLER;
            let others: Vec<Value> =
                list(&before[parents]).filter(|parent| !is_ours(parent)).cloned().collect();
            let Some(own) = after[parents].as_array_mut() else { return after };
            for parent in own.iter_mut() {
                let same = list(&before[parents])
                    .filter(is_ours)
                    .find(|old| old[of_parent] == parent[of_parent]);
                let old = same.map(|old| old["conditions"].clone()).unwrap_or_default();
                timed(&mut parent["conditions"], &old, now);
            }
            own.extend(others);
        }
    }
    after
}

/// Gives conditions the time since which they are so.
fn timed(conditions: &mut Value, before: &Value, now: &str) {
    let Some(conditions) = conditions.as_array_mut() else { return };
    for condition in conditions.iter_mut() {
        let old = list(before).find(|old| old["type"] == condition["type"]);
        let since = old
            .filter(|old| old["status"] == condition["status"])
            .and_then(|old| old["lastTransitionTime"].as_str())
            .unwrap_or(now);
        condition["lastTransitionTime"] = json!(since);
        if condition["observedGeneration"].is_null() {
            condition["observedGeneration"] = json!(0);
        }
        let long = condition["message"].as_str().filter(|text| text.len() > MAX_MESSAGE);
        if let Some(text) = long {
            let cut = text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned();
            condition["message"] = json!(cut);
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_while_a_condition_stays_and_others_are_left_alone() {
        let condition = |kind: &str, status: &str, time: Option<&str>| {
            let mut condition = json!({
                "type": kind, "status": status, "reason": "R", "message": "",
                "observedGeneration": 2,
            });
            if let Some(time) = time {
                condition["lastTransitionTime"] = json!(time);
            }
            condition
        };
        let parent = |name: &str, controller: &str, conditions: Vec<Value>| {
            json!({
                "parentRef": { "name": name }, "controllerName": controller,
                "conditions": conditions,
            })
        };
        let before = json!({ "parents": [
            parent("a", "other.test/x", vec![condition("Accepted", "False", Some("then"))]),
            parent("a", CONTROLLER, vec![
                condition("Accepted", "True", Some("then")),
                condition("ResolvedRefs", "True", Some("then")),
            ]),
            parent("gone", CONTROLLER, vec![condition("Accepted", "True", Some("then"))]),
        ]});
        let ours = json!({ "parents": [parent("a", CONTROLLER, vec![
            condition("Accepted", "True", None),
            condition("ResolvedRefs", "False", None),
        ])]});
        let expected = json!({ "parents": [
            parent("a", CONTROLLER, vec![
                condition("Accepted", "True", Some("then")),
                condition("ResolvedRefs", "False", Some("now")),
            ]),
            parent("a", "other.test/x", vec![condition("Accepted", "False", Some("then"))]),
        ]});
        assert_eq!(merged(Kind::HttpRoute, &before, &ours, "now"), expected);
        // Written once it is as it is to be.
        assert_eq!(merged(Kind::HttpRoute, &expected, &ours, "later"), expected);
    }
}
