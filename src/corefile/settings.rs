//! The settings found so far and how they are written as TOML.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;

use serde_json::Value;

/// Dotted path to value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, Value>,
}

const HEADER: &str = "# Made from a CoreDNS Corefile by `portolan dns import-corefile`.\n";

impl Settings {
    /// Sets a value; one that stands already and differs stays, and is handed back.
    pub(super) fn set(&mut self, path: &'static str, value: Value) -> Result<(), Value> {
        match self.values.entry(path) {
            Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
            Entry::Occupied(entry) if *entry.get() == value => Ok(()),
            Entry::Occupied(entry) => Err(entry.get().clone()),
        }
    }

    /// Adds to a list what is not in it yet.
    pub(super) fn push(&mut self, path: &'static str, item: impl Into<String>) {
        let list = self.values.entry(path).or_insert_with(|| Value::Array(Vec::new()));
        let item = Value::from(item.into());
        if let Value::Array(items) = list
            && !items.contains(&item)
        {
            items.push(item);
        }
    }

    /// The items of a list; none when it is not set.
    pub(super) fn list(&self, path: &str) -> Vec<&str> {
        let items = self.values.get(path).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Whether it is set.
    pub(super) fn has(&self, path: &str) -> bool {
        self.values.contains_key(path)
    }

    /// As a configuration file.
    pub(super) fn to_toml(&self) -> String {
        let mut sections: BTreeMap<&str, String> = BTreeMap::new();
        for (path, value) in &self.values {
            let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
            let text = sections.entry(section).or_default();
            let _infallible = writeln!(text, "{key} = {}", literal(value));
        }
        let mut out = HEADER.to_owned();
        for (section, text) in sections {
            if !section.is_empty() {
                let _infallible = write!(out, "\n[{section}]\n");
            }
            out.push_str(&text);
        }
        out
    }
}

/// Strings and numbers are written alike in JSON and TOML, but for a DEL, which TOML wants escaped.
fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > 1 => {
            let lines = items.iter().map(|i| format!("    {},\n", literal(i)));
            format!("[\n{}]", lines.collect::<String>())
        }
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<String>()),
        other => other.to_string().replace('\u{7f}', "\\u007f"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_by_section() {
        let mut settings = Settings::default();
        assert_eq!(settings.set("zone", "a".into()), Ok(()));
        assert_eq!(settings.set("zone", "a".into()), Ok(()));
        assert_eq!(settings.set("zone", "b".into()), Err("a".into()));
        assert_eq!(settings.set("dns.nsid", "\"\u{7f}\n".into()), Ok(()));
        settings.push("dns.forward", ". 10.0.0.1");
        settings.push("dns.forward", ". 10.0.0.1");
        settings.push("dns.rewrites", "a=b");
        settings.push("dns.rewrites", "c=d");
        let expected = "zone = \"a\"\n\n[dns]\nforward = [\". 10.0.0.1\"]\n\
            nsid = \"\\\"\\u007f\\n\"\nrewrites = [\n    \"a=b\",\n    \"c=d\",\n]\n";
        assert_eq!(settings.to_toml(), format!("{HEADER}{expected}"));
        toml::from_str::<Value>(&settings.to_toml()).expect("TOML");
    }
}
