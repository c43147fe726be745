//! Owns the true answer to each request for objects, and the state behind the server's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::faults::{Call, Script};
use super::kinds::Route;
use super::select::Filter;
use super::store::Store;
use super::watch::{Beginning, Watches, Wish};
use super::wire::{self, Body, Page, Refusal, bookmark, event, full, no_such_path, respond};
use super::write::{Writer, missing};

const NO_WATCH_LIST: &str =
    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
const NEEDS_MATCH: &str = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
const NEEDS_INITIAL: &str =
    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";

/// Everything behind the server's one lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) watches: Watches,
    pub(super) script: Script,
    pub(super) has_streaming_lists: bool,
    pub(super) has_gone_as_status: bool,
    /// Kinds whose API is not there.
    pub(super) absent: BTreeSet<&'static str>,
    /// Tokens that are good, and whose.
    pub(super) tokens: BTreeMap<String, String>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            store: Store::new(),
            watches: Watches::default(),
            script: Script::default(),
            has_streaming_lists: true,
            has_gone_as_status: false,
            absent: BTreeSet::new(),
            tokens: BTreeMap::new(),
        }
    }

    pub(super) fn answer(
        &mut self,
        parts: &Parts,
        call: &Call,
        route: &Route,
        body: &Bytes,
    ) -> Response<Body> {
        if self.absent.contains(route.kind.kind) {
            return no_such_path();
        }
        let answer = match call.verb {
            "get" => self.get(route),
            "list" => self.list(call, route),
            "watch" => self.watch(call, route),
            "create" if route.kind.kind == "TokenReview" => self.review(body),
            _ => self.write(parts, call, route, body),
        };
        answer.unwrap_or_else(Refusal::into_response)
    }

    fn get(&self, route: &Route) -> Result<Response<Body>, Refusal> {
        let name = route.name.as_deref().unwrap_or_default();
        let namespace = route.namespace.as_deref().unwrap_or_default();
        let stored = self.store.get(route.kind, namespace, name);
        let stored = stored.ok_or_else(|| missing(route.kind, name))?;
        Ok(wire::json(200, &stored.object))
    }

    /// Whose a token is; nothing is stored.
    fn review(&self, body: &Bytes) -> Result<Response<Body>, Refusal> {
        let mut review: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("no JSON: {error}")))?;
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        review["status"] = match self.tokens.get(token) {
            Some(user) => json!({ "authenticated": true, "user": { "username": user } }),
            None => json!({ "authenticated": false, "error": "invalid bearer token" }),
        };
        Ok(wire::json(201, &review))
    }

    fn list(&mut self, call: &Call, route: &Route) -> Result<Response<Body>, Refusal> {
        let filter = filter(call, route)?;
        let limit: usize = number(call, "limit")?.unwrap_or_default();
        let token = call.param("continue");
        let page = if token.is_empty() {
            self.check_list_version(call)?;
            self.store.list(route.kind, &filter, limit)
        } else {
            self.store.list_on(route.kind, token, limit)?
        };
        let Page { items, version, next, remaining } = page;
        let items = items.iter().map(AsRef::as_ref);
        Ok(Page { items, version, next, remaining }.into_response(route.kind))
    }

    fn check_list_version(&self, call: &Call) -> Result<(), Refusal> {
        let (asked, current) =
            (number(call, "resourceVersion")?.unwrap_or(0), self.store.version());
        if asked > current {
            let message = format!("Too large resource version: {asked}, current: {current}");
            let mut refusal = Refusal::new(504, "Timeout", message);
            refusal.retry_after_secs = Some(1);
            return Err(refusal);
        }
        if call.param("resourceVersionMatch") == "Exact" && asked < current {
            return Err(Refusal::expired(format!("The resourceVersion {asked} is too old.")));
        }
        Ok(())
    }

    fn watch(&mut self, call: &Call, route: &Route) -> Result<Response<Body>, Refusal> {
        self.check_watch(call)?;
        let timeout = number(call, "timeoutSeconds")?.filter(|secs| *secs > 0);
        let mut wish = Wish {
            kind: route.kind,
            filter: filter(call, route)?,
            wants_bookmarks: call.has("allowWatchBookmarks", "true"),
            after: number(call, "resourceVersion")?.unwrap_or_default(),
            deadline: timeout.map(|secs| Instant::now() + Duration::from_secs(secs)),
        };
        let body = match self.beginning(call, &mut wish) {
            Ok(beginning) => self.watches.open(wish, beginning),
            Err(refusal) if self.has_gone_as_status => return Err(refusal),
            Err(refusal) => full(event("ERROR", &refusal.status())),
        };
        Ok(respond(200, "application/json", body))
    }

    /// All there is, for those who ask for it or name no version; else what came after theirs.
    /// Errors with 410 if some of that is forgotten.
    fn beginning(&self, call: &Call, wish: &mut Wish) -> Result<Beginning, Refusal> {
        let wants_initial = call.has("sendInitialEvents", "true");
        let version = self.store.version();
        if !wants_initial && wish.after > 0 {
            let changes = self.store.since(wish.after, wish.kind)?;
            let events = changes.filter_map(|change| change.seen_by(&wish.filter)).collect();
            return Ok(Beginning { events, bookmark: None });
        }
        let objects = self.store.all(wish.kind).filter(|object| wish.filter.matches(object));
        let events = objects.map(|object| ("ADDED", Arc::clone(object))).collect();
        let ends_initial = wants_initial && wish.wants_bookmarks;
        wish.after = version;
        Ok(Beginning { events, bookmark: ends_initial.then(|| bookmark(wish.kind, version, true)) })
    }

    /// What the real server's validation of watch options refuses, in its words.
    fn check_watch(&self, call: &Call) -> Result<(), Refusal> {
        let asks_initial = !call.param("sendInitialEvents").is_empty();
        let version_match = call.param("resourceVersionMatch");
        let mut causes = Vec::new();
        if asks_initial && version_match != "NotOlderThan" {
            causes.push(("resourceVersionMatch", NEEDS_MATCH));
        }
        if asks_initial && !self.has_streaming_lists {
            causes.push(("sendInitialEvents", NO_WATCH_LIST));
        }
        if !asks_initial && !version_match.is_empty() {
            causes.push(("resourceVersionMatch", NEEDS_INITIAL));
        }
        if causes.is_empty() {
            return Ok(());
        }
        let list: Vec<String> =
            causes.iter().map(|(field, text)| format!("{field}: Forbidden: {text}")).collect();
        let list = if list.len() == 1 { list.concat() } else { format!("[{}]", list.join(", ")) };
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {list}");
        let causes = causes.iter().map(|(field, text)| {
            let message = format!("Forbidden: {text}");
            json!({ "reason": "FieldValueForbidden", "message": message, "field": field })
        });
        let mut refusal = Refusal::new(422, "Invalid", message);
        refusal.details = json!({
            "group": "meta.k8s.io", "kind": "ListOptions", "causes": causes.collect::<Vec<_>>(),
        });
        Err(refusal)
    }

    fn write(
        &mut self,
        parts: &Parts,
        call: &Call,
        route: &Route,
        body: &Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let form = parts.headers.get(CONTENT_TYPE).and_then(|form| form.to_str().ok());
        let form = form.unwrap_or_default().split(';').next().unwrap_or_default();
        let is_apply = form == "application/apply-patch+yaml";
        if !is_apply && !form.is_empty() && !form.ends_with("json") {
            let message = format!("{form:?} is not among the accepted media types");
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
        let body: Value = match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(_) if call.verb == "delete" && body.is_empty() => json!({}),
            Err(error) => return Err(Refusal::bad_request(format!("no JSON: {error}"))),
        };
        let manager = match call.param("fieldManager") {
            "" if !is_apply => "unknown",
            manager => manager,
        };
        let writer = Writer { route, manager, is_forced: call.has("force", "true") };
        let store = &mut self.store;
        let outcome = match (call.verb, form) {
            ("create", _) => writer.create(store, body),
            ("update", _) => writer.replace(store, body),
            ("delete", _) => writer.delete(store, &body),
            (_, "application/apply-patch+yaml") => writer.apply(store, body),
            (_, "application/merge-patch+json" | "application/strategic-merge-patch+json") => {
                writer.merge(store, &body)
            }
            _ => Err(Refusal::new(415, "UnsupportedMediaType", format!("not a patch: {form:?}"))),
        }?;
        if let Some(change) = &outcome.change {
            self.watches.publish(change);
        }
        Ok(wire::json(outcome.code, &outcome.answer))
    }
}

/// None for a method that the path does not have.
pub(super) fn call(parts: &Parts, route: &Route) -> Option<Call> {
    let query = wire::query(parts.uri.query().unwrap_or_default());
    let is_watch =
        query.iter().any(|(key, value)| key == "watch" && (value == "true" || value == "1"));
    let is_placed = !route.kind.is_namespaced || route.namespace.is_some();
    let verb = match (&parts.method, &route.name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if is_watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, None) if is_placed => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        _ => return None,
    };
    let (namespace, name) = (route.namespace.clone(), route.name.clone());
    Some(Call { number: 0, verb, kind: route.kind.kind, namespace, name, query })
}

fn filter(call: &Call, route: &Route) -> Result<Filter, Refusal> {
    let (labels, fields) = (call.param("labelSelector"), call.param("fieldSelector"));
    Filter::parse(route.namespace.as_deref(), labels, fields)
}

fn number<N: std::str::FromStr>(call: &Call, key: &str) -> Result<Option<N>, Refusal> {
    match call.param(key) {
        "" => Ok(None),
        text => {
            let number = text.parse().map(Some);
            number.map_err(|_| Refusal::bad_request(format!("{key} is no number: {text:?}")))
        }
    }
}
