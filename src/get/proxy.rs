//! The cells of `portolan get proxy`.

use serde_json::Value;

/// How an endpoint is, in a word or two.
pub(super) fn state(row: &Value) -> String {
    let health = &row["health"];
    if row["address"].is_null() {
        return "no endpoints".to_owned();
    }
    if let Some(cause) = health["ejected"]["cause"].as_str() {
        let left = health["ejected"]["leftMs"].as_u64().unwrap_or(0).div_ceil(1000);
        return format!("ejected: {cause}, {left}s left");
    }
    if health["failedCheck"] == true {
        let reason = health["reason"].as_str().unwrap_or("no check has succeeded");
        return format!("unhealthy: {reason}");
    }
    match (row["healthy"].as_bool(), row["panic"].as_bool()) {
        (Some(false), _) => "unhealthy".to_owned(),
        (_, Some(true)) => "panic".to_owned(),
        (Some(true), _) => "healthy".to_owned(),
        // No worker has had a request for the cluster.
        (None, _) => "unused".to_owned(),
    }
}

/// A number to two places.
pub(super) fn number(value: &Value) -> String {
    value.as_f64().map(|number| format!("{number:.2}")).unwrap_or_default()
}

pub(super) fn percent(value: &Value) -> String {
    value.as_u64().map(|percent| format!("{percent}%")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_state_of_an_endpoint_is_said_in_words() {
        let with = |mut row: Value| {
            row["address"] = json!("10.0.0.1:80");
            row
        };
        for (row, expected) in [
            (json!({}), "no endpoints"),
            (with(json!({})), "unused"),
            (with(json!({ "healthy": true })), "healthy"),
            (with(json!({ "healthy": false })), "unhealthy"),
            (with(json!({ "healthy": true, "panic": true })), "panic"),
            (with(json!({ "health": { "failedCheck": true, "reason": "503" } })), "unhealthy: 503"),
            (
                with(
                    json!({ "health": { "ejected": { "cause": "successRate", "leftMs": 2100 } } }),
                ),
                "ejected: successRate, 3s left",
            ),
        ] {
            assert_eq!(state(&row), expected, "{row}");
        }
    }
}
