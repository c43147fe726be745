//! Owns label and field selectors: which objects a list or a watch is about. Refuses what it does
//! not understand, so that no test passes because a selector was ignored.

use serde_json::Value;

use super::wire::{Refusal, meta};

/// Fields that every kind can be selected by.
const FIELDS: [&str; 2] = ["metadata.name", "metadata.namespace"];

/// The objects of a kind that one request is about.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    namespace: Option<String>,
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    IsNot(String),
    Exists,
    Absent,
}

impl Filter {
    /// Errors with 400 on a selector beyond `=`, `==`, `!=`, `key` and `!key`.
    pub(super) fn parse(
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Refusal> {
        let (labels, fields) = (terms(labels)?, terms(fields)?);
        for term in &fields {
            // By its type as well a Secret is found, of which only those of one type are asked for here.
            if !FIELDS.contains(&term.key.as_str()) && term.key != "type" {
                return Err(Refusal::bad_request(format!(
                    "field label not supported: {}",
                    term.key
                )));
            }
        }
        Ok(Self { namespace: namespace.map(str::to_owned), labels, fields })
    }

    pub(super) fn has_selectors(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.namespace.as_deref().is_none_or(|namespace| meta(object, "namespace") == namespace)
            && self.labels.iter().all(|term| term.test.passes(labels[&term.key].as_str()))
            && self.fields.iter().all(|term| match term.key.strip_prefix("metadata.") {
                Some(field) => term.test.passes(Some(meta(object, field))),
                None => term.test.passes(object[&term.key].as_str()),
            })
    }
}

impl Test {
    fn passes(&self, value: Option<&str>) -> bool {
        match self {
            Self::Is(wanted) => value == Some(wanted),
            Self::IsNot(unwanted) => value != Some(unwanted),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

fn terms(selector: &str) -> Result<Vec<Term>, Refusal> {
    selector.split(',').map(str::trim).filter(|text| !text.is_empty()).map(term).collect()
}

fn term(text: &str) -> Result<Term, Refusal> {
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::IsNot(value.trim().to_owned()))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::Is(value.trim_start_matches('=').trim().to_owned()))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "()<>".contains(c)) {
        return Err(Refusal::bad_request(format!("unable to parse requirement: {text:?}")));
    }
    Ok(Term { key: key.to_owned(), test })
}
