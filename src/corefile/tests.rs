//! Whole files: what they become, and every note word for word.

mod files;
mod plugins;

use super::*;

/// Settings without the header, and the notes.
fn imported(text: &str) -> (String, Vec<String>) {
    let import = import(text).expect("a Corefile");
    toml::from_str::<serde_json::Value>(&import.toml).expect("TOML");
    let settings = import.toml.lines().skip(1).map(str::trim).filter(|l| !l.is_empty());
    let notes = import.notes.iter().map(Note::to_string).collect();
    (settings.collect::<Vec<_>>().join("\n"), notes)
}

#[track_caller]
fn check(corefile: &str, settings: &[&str], notes: &[&str]) {
    let (found, found_notes) = imported(corefile);
    assert_eq!(found, settings.join("\n"), "{corefile}");
    assert_eq!(found_notes, notes, "{corefile}");
}

/// A root block on loopback with these lines from line 3 on: its settings but the addresses, its
/// notes.
#[track_caller]
fn check_block(body: &str, settings: &[&str], notes: &[&str]) {
    let corefile = format!(". {{\nbind 127.0.0.1\n{body}\n}}\n");
    let (found, found_notes) = imported(&corefile);
    let found: Vec<&str> =
        found.lines().filter(|l| *l != "[dns]" && *l != "addresses = [\"127.0.0.1:53\"]").collect();
    assert_eq!(found, settings, "{body}");
    assert_eq!(found_notes, notes, "{body}");
}
