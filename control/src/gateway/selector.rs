//! Label selectors (Kubernetes `LabelSelector`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::object::Fault;

/// What labels must be: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Reads a selector; an empty one takes all.
    ///
    /// # Errors
    /// The field that makes no sense.
    pub fn read(field: &str, said: &LabelSelector) -> Result<Self, Fault> {
        let equal = said.match_labels.iter().flatten().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        });
        let mut requirements: Vec<Requirement> = equal.collect();
        for (i, said) in said.match_expressions.iter().flatten().enumerate() {
            let field = format!("{field}.matchExpressions[{i}]");
            let values = said.values.clone().unwrap_or_default();
            let operator = match (&*said.operator, values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(Fault::rejected(format!("{field}.values"), "missing"));
                }
                ("Exists" | "DoesNotExist", false) => {
                    let reason = format!("must be empty with operator {}", said.operator);
                    return Err(Fault::rejected(format!("{field}.values"), reason));
                }
                (other, _) => {
                    let reason = format!("{other:?} is not In, NotIn, Exists or DoesNotExist");
                    return Err(Fault::rejected(format!("{field}.operator"), reason));
                }
            };
            requirements.push(Requirement { key: said.key.clone(), operator });
        }
        Ok(Self { requirements })
    }

    /// Whether it looks at no label but this.
    #[must_use]
    pub fn asks_only(&self, name: &str) -> bool {
        self.requirements.iter().all(|requirement| requirement.key == name)
    }

    /// Whether labels are so.
    #[must_use]
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|Requirement { key, operator }| {
            let value = labels.get(key);
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(said: serde_json::Value) -> Result<Selector, String> {
        let said = serde_json::from_value(said).expect("a selector");
        Selector::read("s", &said)
            .map_err(|f| format!("{}: {}", f.field.unwrap_or_default(), f.reason))
    }

    #[test]
    fn labels_are_told_apart_as_kubernetes_does() {
        let labels = [("team".to_owned(), "a".to_owned()), ("env".to_owned(), "prod".to_owned())];
        let labels = labels.into();
        let expression = |key: &str, operator: &str, values: &[&str]| {
            serde_json::json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": values}
            ]})
        };
        for (said, expected) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"matchLabels": {"team": "a"}}), true),
            (serde_json::json!({"matchLabels": {"team": "a", "env": "dev"}}), false),
            (expression("team", "In", &["b", "a"]), true),
            (expression("team", "In", &["b"]), false),
            (expression("none", "In", &["b"]), false),
            (expression("team", "NotIn", &["a"]), false),
            (expression("none", "NotIn", &["a"]), true),
            (expression("team", "Exists", &[]), true),
            (expression("none", "Exists", &[]), false),
            (expression("none", "DoesNotExist", &[]), true),
        ] {
            let shown = said.to_string();
            assert_eq!(selector(said).expect("valid").takes(&labels), expected, "{shown}");
        }
        for (said, error) in [
            (
                expression("a", "Is", &["b"]),
                "s.matchExpressions[0].operator: \"Is\" is not In, NotIn, Exists or DoesNotExist",
            ),
            (expression("a", "In", &[]), "s.matchExpressions[0].values: missing"),
            (
                expression("a", "Exists", &["b"]),
                "s.matchExpressions[0].values: must be empty with operator Exists",
            ),
        ] {
            assert_eq!(selector(said).expect_err("refused"), error);
        }
    }
}
