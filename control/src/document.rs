//! Text of a manifest file -> the objects in it, as plain values with their place.
//!
//! YAML with any number of documents, or JSON; `List` objects are opened up. Nothing here knows
//! what a Service is. Untrusted input: depth, size and alias expansion are bounded.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Largest manifest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;
/// Most YAML documents in a file.
const MAX_DOCUMENTS: usize = 1_000_000;
/// Deepest nesting of a document; Kubernetes' own objects stay below 20 outside of CRD schemas.
const MAX_DEPTH: usize = 64;

/// An object and where it stands in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Number of the YAML document, from 1.
    pub document: usize,
    /// Number within a `List`, from 1.
    pub item: Option<usize>,
    /// The object.
    pub value: Value,
}

/// Text that is not a sequence of YAML or JSON documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SyntaxError {
    /// Number of the document, from 1.
    pub document: usize,
    /// What is wrong, with line and column where the parser knows them.
    pub reason: String,
}

/// Reads a file's text.
///
/// # Errors
/// [`SyntaxError`] for the first document that cannot be parsed.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let mut documents = Vec::new();
    let chunks = split(text);
    if chunks.len() == 1 && text.trim_start().starts_with('{') {
        let value = parse_braces(text).map_err(|reason| SyntaxError { document: 1, reason })?;
        open_list(1, value, &mut documents);
        return Ok(documents);
    }
    let mut number = 0;
    for (first_line, chunk) in chunks {
        if is_blank(chunk) {
            continue;
        }
        number += 1;
        if number > MAX_DOCUMENTS {
            let reason = format!("more than {MAX_DOCUMENTS} documents in a file");
            return Err(SyntaxError { document: number, reason });
        }
        let value = parse_yaml(chunk, first_line)
            .map_err(|reason| SyntaxError { document: number, reason })?;
        if !value.is_null() {
            open_list(number, value, &mut documents);
        }
    }
    Ok(documents)
}

/// Splits at document markers: a line that starts with `---` and goes on with white space or ends
/// (YAML 1.2 §9.1.2; such a line cannot stand inside a scalar). Yields the number of each chunk's
/// first line, from 0.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            chunks.push((start_line, &text[start..offset]));
            start = offset;
            start_line = line_number;
        }
        offset += line.len();
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

fn is_blank(chunk: &str) -> bool {
    chunk.strip_prefix("---").unwrap_or(chunk).lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "..." || line.starts_with('%')
    })
}

/// A document's value with duplicate keys refused, whatever the format underneath.
struct Strict;

impl<'de> serde::Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Strict.deserialize(deserializer).map(Self)
    }
}

struct StrictValue(Value);

/// Reads JSON or, if it is none, YAML in its flow style; of what is neither it is said why it is no JSON.
fn parse_braces(text: &str) -> Result<Value, String> {
    let json = serde_json::from_str::<StrictValue>(text).map(|value| value.0);
    json.or_else(|error| match parse_yaml(text, 0) {
        Ok(value) if !error.is_data() => Ok(value),
        _ => Err(error.to_string()),
    })
}

fn parse_yaml(chunk: &str, first_line: usize) -> Result<Value, String> {
    // What an honest document can need is bounded by its size: every event takes a byte or more.
    let size = chunk.len().max(1024);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: size * 2,
            max_nodes: size * 2,
            max_total_scalar_bytes: size * 2,
            max_depth: MAX_DEPTH,
            max_aliases: 1000,
            max_anchors: 1000,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<StrictValue>(chunk, options).map(|v| v.0).map_err(|e| {
        let text = match e.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => twice(key),
            other => other.to_string(),
        };
        match e.location() {
            // The parser counts from the start of the chunk; say it in lines of the file.
            Some(at) => {
                let line = at.line().saturating_add(u64::try_from(first_line).unwrap_or(0));
                let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
                format!("line {line}, column {}: {reason}", at.column())
            }
            None => text,
        }
    })
}

fn twice(key: &str) -> String {
    format!("key {key:?} stands twice")
}

/// Opens `List` (and `ServiceList`, `EndpointSliceList`, …) into its items.
fn open_list(document: usize, value: Value, documents: &mut Vec<Document>) {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let is_list = kind.ends_with("List") && value.get("items").is_some_and(Value::is_array);
    if !is_list {
        documents.push(Document { document, item: None, value });
        return;
    }
    // The items of a typed list carry neither kind nor apiVersion: the list says both.
    let item_kind = kind.strip_suffix("List").filter(|k| !k.is_empty()).map(str::to_owned);
    let version = value.get("apiVersion").cloned();
    let Value::Object(mut list) = value else { return };
    let Some(Value::Array(items)) = list.remove("items") else { return };
    for (i, mut value) in items.into_iter().enumerate() {
        if let (Some(kind), Value::Object(object)) = (&item_kind, &mut value) {
            object.entry("kind").or_insert_with(|| kind.as_str().into());
            if let Some(version) = &version {
                object.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        documents.push(Document { document, item: Some(i + 1), value });
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML or JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(twice(&key)));
            }
            let value = access.next_value_seed(Strict)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(usize, Option<usize>, String)> {
        parse(text)
            .expect("valid")
            .into_iter()
            .map(|d| (d.document, d.item, d.value["kind"].as_str().unwrap_or("?").to_owned()))
            .collect()
    }

    #[test]
    fn documents_and_list_items_are_numbered_as_a_reader_counts_them() {
        let text = "# a comment\n---\nkind: A\n--- # next\nkind: List\nitems:\n- kind: B\n- kind: C\n\
                    ---\n\n---\nkind: D\ntext: |\n  --- not a marker\n";
        let expected = [(1, None, "A"), (2, Some(1), "B"), (2, Some(2), "C"), (3, None, "D")];
        assert_eq!(kinds(text), expected.map(|(d, i, k)| (d, i, k.to_owned())));
    }

    #[test]
    fn items_of_a_typed_list_take_the_lists_kind_and_version() {
        let text = r#"{"kind":"ServiceList","apiVersion":"v1","items":[{"metadata":{}}]}"#;
        let documents = parse(text).expect("valid");
        assert_eq!(documents[0].value["kind"], "Service");
        assert_eq!(documents[0].value["apiVersion"], "v1");
    }

    #[test]
    fn braces_begin_json_and_the_flow_style_of_yaml() {
        for text in [
            r#"{"kind": "A"}"#,
            r#"{kind: A}"#,
            "{kind: A, # of all\n}\n",
            r#"{"kind": A, more: [1]}"#,
            " {\n  kind: A}\n---\n",
        ] {
            assert_eq!(kinds(text), [(1, None, "A".to_owned())], "{text}");
        }
        let error = parse("{\n\"kind\": [\n").expect_err("neither");
        assert!(error.reason.contains("EOF"), "{error}");
        let both = "{kind: A}\n---\n{\"kind\": \"B\"}\n";
        assert_eq!(kinds(both), [(1, None, "A".to_owned()), (2, None, "B".to_owned())]);
        let json = "{\"kind\": \"A\"}\n---\n{\"kind\": \"B\"}\n";
        assert_eq!(kinds(json), [(1, None, "A".to_owned()), (2, None, "B".to_owned())]);
    }

    #[test]
    fn a_syntax_error_names_document_and_line_of_the_file() {
        let error = parse("kind: A\n---\nkind: B\n  x: [1\n").expect_err("broken");
        assert_eq!(error.document, 2);
        assert!(error.reason.starts_with("line "), "{error}");
        let twice = parse("kind: A\nkind: B\n").expect_err("duplicate key");
        assert!(twice.reason.contains("kind"), "{twice}");
        let json = parse(r#"{"a":1,"a":2}"#).expect_err("duplicate key");
        assert!(json.reason.contains("key \"a\" stands twice"), "{json}");
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let p = i - 1;
            bomb.push_str(&format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n"));
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(10_000)).is_err());
        assert!(parse(&format!("{{\"a\":{}", "[".repeat(10_000))).is_err());
    }
}
