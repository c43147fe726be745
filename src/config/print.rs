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
        if let Some(example) = example(setting) {
            write_tables(&mut tables, setting, example);
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

/// Lists of tables, each with an example; tables come last in TOML.
const TABLE_LISTS: [(&str, &str); 2] = [
    (
        "certificates",
        "# [[certificates]]\n# name = \"web\"\n# chain = \"tls.crt\"\n# key = \"tls.key\"\n",
    ),
    (
        "listeners",
        "# [[listeners]]\n# name = \"http\"\n# address = \"127.0.0.1:8080\"\n\
         # protocol = \"http\"\n",
    ),
];

fn example(setting: &Shown) -> Option<&'static str> {
    TABLE_LISTS.iter().find(|(path, _)| setting.path == *path).map(|(_, example)| *example)
}

fn write_tables(out: &mut String, setting: &Shown, example: &str) {
    let _infallible = write!(out, "\n# {}\n", setting.help);
    let Value::Array(items) = &setting.value else { return };
    if items.is_empty() {
        out.push_str(example);
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
