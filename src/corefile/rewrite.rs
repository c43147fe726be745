//! The plugins that look up another name than the one asked for: `rewrite` and `autopath`.

use super::importer::{Importer, Scope};
use super::names;
use super::parse::{At, Directive};

/// Takes in a rule, written on one line or over the lines of a block.
pub(super) fn import(importer: &mut Importer, scope: &Scope, rewrite: &Directive) {
    let at = rewrite.at();
    let mut words = rewrite.words();
    for property in &rewrite.body {
        words.push(&property.name);
        words.extend(property.words());
    }
    let words = match words.as_slice() {
        ["continue", rest @ ..] => {
            importer.note(&at, "the first rule that fits is the last");
            rest
        }
        ["stop", rest @ ..] => rest,
        all => all,
    };
    match words {
        ["name", "suffix", from, to, answer @ ..] => {
            import_suffix(importer, scope, &at, (from, to));
            note_answer(importer, &at, answer);
        }
        ["name", "exact", from, to, answer @ ..] => {
            import_exact(importer, scope, &at, (from, to));
            note_answer(importer, &at, answer);
        }
        ["name", kind @ ("prefix" | "substring" | "regex"), ..] => {
            importer.note(&at, format!("left out: names are rewritten by suffix, not by {kind}"));
        }
        ["name", from, to] => import_exact(importer, scope, &at, (from, to)),
        ["name", ..] => importer.note(&at, "left out: expected a name and what stands for it"),
        [field, ..] => importer.note(&at, format!("left out: {field} is not rewritten")),
        [] => importer.note(&at, "left out: there is no rule"),
    }
}

/// Answers are rewritten back as with `answer auto`, asked for or not.
fn note_answer(importer: &mut Importer, at: &At, answer: &[&str]) {
    if !matches!(answer, [] | ["answer", "auto"]) {
        importer.note(at, "answers are rewritten back by the same suffixes, not as written");
    }
}

fn import_exact(importer: &mut Importer, scope: &Scope, at: &At, names: (&str, &str)) {
    if import_suffix(importer, scope, at, names) {
        importer.note(at, "names below it are rewritten as well");
    }
}

/// Whether it was taken over.
fn import_suffix(
    importer: &mut Importer,
    scope: &Scope,
    at: &At,
    (from, to): (&str, &str),
) -> bool {
    let name = |text: &str| match text {
        names::ROOT => Err(format!("{text:?} is the root")),
        _ => names::name(text.strip_prefix('.').unwrap_or(text)),
    };
    let (from, to) = match (name(from), name(to)) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(reason), _) | (_, Err(reason)) => {
            importer.note(at, format!("left out: {reason}"));
            return false;
        }
    };
    if from == to {
        importer.note(at, "left out: both names are the same");
        return false;
    }
    let listed = importer.settings.list("dns.rewrites");
    let same = |rule: &&str| rule.split_once('=').is_some_and(|(other, _)| other == from);
    if let Some(held) = listed.iter().copied().find(same) {
        let text = format!("left out: {held} already");
        importer.note(at, text);
        return false;
    }
    if !scope.zones.iter().any(|zone| names::is_within(&from, zone)) {
        let text = format!("names outside {} are rewritten as well", scope.zones.join(" "));
        importer.note(at, text);
    }
    importer.settings.push("dns.rewrites", format!("{from}={to}"));
    true
}

/// `autopath [ZONE…] RESOLV-CONF`.
pub(super) fn import_autopath(importer: &mut Importer, autopath: &Directive) {
    let at = autopath.at();
    match autopath.words().as_slice() {
        [zones @ .., "@kubernetes"] => {
            importer.set(&at, "dns.search", "complete");
            if !zones.is_empty() {
                importer.note(&at, "search paths of all pods are completed");
            }
        }
        [.., from] => {
            importer.note(&at, format!("left out: search paths are those of pods, not of {from}"));
        }
        [] => importer.note(&at, "left out: expected @kubernetes"),
    }
}
