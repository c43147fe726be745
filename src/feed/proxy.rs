//! The feed behind `portolan get proxy`: an endpoint of a cluster of the proxy a line, from the page
//! `/debug/proxy`. Says what there is; nothing of what changes.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portolan_proxy::StateHandle;
use portolan_runtime::admin::{Admin, Question};
use serde_json::{Map, Value, json};

/// Adds the feed.
pub(crate) fn add(admin: Admin, state: &StateHandle) -> Admin {
    let state = state.clone();
    admin.with_feed("proxy", move |question| rows(state.clone(), question))
}

fn rows(state: StateHandle, question: Question) -> BoxStream<'static, String> {
    let made = async move {
        let page = serde_json::to_value(state.details().await).unwrap_or_default();
        stream::iter(lines(&page, &question))
    };
    stream::once(made).flatten().boxed()
}

/// A line for each endpoint of the clusters that are asked for, and for a cluster that has none.
fn lines(page: &Value, question: &Question) -> Vec<String> {
    let empty = Map::new();
    let clusters = page["clusters"].as_object().unwrap_or(&empty);
    let asked = clusters.iter().filter(|(name, _)| is_asked(name, question));
    let rows = asked.flat_map(|(name, endpoints)| {
        let of_cluster = &page["balancing"][name];
        let endpoints = endpoints.as_array().map(Vec::as_slice).unwrap_or_default();
        let none = endpoints.is_empty().then_some(&Value::Null);
        endpoints.iter().chain(none).map(move |endpoint| row(name, of_cluster, endpoint))
    });
    rows.map(|row| json!({ "type": "ADDED", "object": row }).to_string()).collect()
}

/// Clusters of services are called `namespace/service:port`.
fn is_asked(cluster: &str, question: &Question) -> bool {
    let (namespace, service) = cluster.split_once('/').unwrap_or(("", cluster));
    let name = service.rsplit_once(':').map_or(service, |(name, _)| name);
    question.namespace.as_ref().is_none_or(|asked| asked == namespace)
        && question.name.as_ref().is_none_or(|asked| asked == name || asked == service)
}

fn row(name: &str, cluster: &Value, endpoint: &Value) -> Value {
    let mut row = endpoint.as_object().cloned().unwrap_or_default();
    row.insert("cluster".to_owned(), name.into());
    row.insert("balancer".to_owned(), cluster["balancer"].clone());
    let mut priorities = cluster["priorities"].as_array().into_iter().flatten();
    let own = priorities.find(|priority| priority["priority"] == endpoint["priority"]);
    row.insert("load".to_owned(), own.map_or(Value::Null, |own| own["percent"].clone()));
    row.insert("panic".to_owned(), own.map_or(Value::Null, |own| own["panic"].clone()));
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_that_are_asked_for() {
        let page = json!({
            "clusters": {
                "shop/web:80": [
                    { "address": "10.0.0.1:80", "priority": 0 },
                    { "address": "10.0.0.2:80", "priority": 1 },
                ],
                "pay/web:80": [],
            },
            "balancing": { "shop/web:80": {
                "balancer": "random",
                "priorities": [{ "priority": 0, "percent": 100, "panic": true }],
            } },
        });
        let ask = |namespace: Option<&str>, name: Option<&str>| {
            let question = Question {
                namespace: namespace.map(str::to_owned),
                name: name.map(str::to_owned),
                watch: false,
            };
            lines(&page, &question)
        };
        assert_eq!(ask(None, None).len(), 3);
        assert_eq!(ask(Some("shop"), None).len(), 2);
        assert_eq!(ask(None, Some("web:80")).len(), 3);
        assert_eq!(ask(Some("shop"), Some("db")), [""; 0]);
        let row: Value = serde_json::from_str(&ask(Some("shop"), Some("web"))[0]).expect("JSON");
        let row = &row["object"];
        assert_eq!((&row["load"], &row["panic"]), (&json!(100), &json!(true)));
        assert_eq!((&row["cluster"], &row["balancer"]), (&json!("shop/web:80"), &json!("random")));
    }
}
