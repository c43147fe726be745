//! `portolan config print`: every setting with its value in force, as a TOML file that can be used.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::reader::Shown;

/// The settings as TOML, with a comment each.
pub(crate) fn to_toml(shown: &[Shown]) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut tables = String::new();
    for setting in shown {
        let (section, key) = setting.path.rsplit_once('.').unwrap_or(("", &setting.path));
        if is_table_list(setting) {
            write_tables(&mut tables, setting);
            continue;
        }
        let text = sections.entry(section).or_default();
        let _infallible = write!(text, "# {}\n{key} = {}\n", setting.help, literal(&setting.value));
    }
    let mut out = String::new();
    for (section, text) in sections {
        if !section.is_empty() {
            let _infallible = write!(out, "\n[{section}]\n");
        }
        out.push_str(&text);
    }
    out.push_str(&tables);
    out
}

/// `listeners` is the one list of tables; tables come last in TOML.
fn is_table_list(setting: &Shown) -> bool {
    setting.path == "listeners"
}

fn write_tables(out: &mut String, setting: &Shown) {
    let _infallible = write!(out, "\n# {}\n", setting.help);
    let Value::Array(items) = &setting.value else { return };
    if items.is_empty() {
        out.push_str(
            "# [[listeners]]\n# name = \"http\"\n# address = \"127.0.0.1:8080\"\n\
             # protocol = \"http\"\n",
        );
    }
    for item in items {
        let _infallible = writeln!(out, "[[{}]]", setting.path);
        for (key, value) in item.as_object().into_iter().flatten() {
            let _infallible = writeln!(out, "{key} = {}", literal(value));
        }
    }
}

/// Strings, numbers and lists of them are written alike in JSON and TOML.
fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
