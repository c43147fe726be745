//! Reads settings from layers (flags over environment over file over default), one by one, so that
//! every problem is found in one go: values of the wrong type or range, and keys nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use portolan_model::DnsName;
use serde_json::Value;

/// A layer above the file: values as text.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// Setting to its value and the name it came by (`--flag` or `VARIABLE`).
    values: BTreeMap<String, (String, String)>,
}

/// The layers, and what was found while reading.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    flags: Texts,
    environment: Texts,
    file: Value,
    defaults: BTreeMap<&'static str, String>,
    used: BTreeSet<String>,
    problems: Vec<String>,
    shown: Vec<Shown>,
}

/// A setting as `portolan config print` shows it.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Dotted path.
    pub(crate) path: String,
    /// Value in force.
    pub(crate) value: Value,
    /// What it does.
    pub(crate) help: &'static str,
}

/// Prefix of environment variables: `dns.ttl_secs` is `PORTOLAN_DNS_TTL_SECS`.
const ENVIRONMENT_PREFIX: &str = "PORTOLAN_";

impl Texts {
    /// Sets a value; `origin` is how the user gave it.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<String>, origin: impl Into<String>) {
        self.values.insert(path.to_owned(), (value.into(), origin.into()));
    }

    /// Reads the variables whose names start with the prefix.
    pub(crate) fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let mut texts = Self::default();
        for (name, value) in variables {
            if let Some(setting) = name.strip_prefix(ENVIRONMENT_PREFIX)
                && !is_service_link(setting, &value)
            {
                // Underscores stand for dots as well: kept by the name, resolved when read.
                texts.set(setting, value, name.clone());
            }
        }
        texts
    }
}

/// Whether a variable is one that Kubernetes sets in every pod for a Service named `portolan-…`
/// (`enableServiceLinks`), and no setting of ours.
fn is_service_link(name: &str, value: &str) -> bool {
    // A Service named `portolan` itself leaves nothing before the words below.
    let name = &format!("_{name}");
    let protocol = |text: &str| ["TCP", "UDP", "SCTP"].iter().any(|p| text.starts_with(p));
    let port = name.split("_PORT_").last().and_then(|rest| rest.split_once('_'));
    let of_port = port
        .is_some_and(|(number, rest)| number.bytes().all(|b| b.is_ascii_digit()) && protocol(rest));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || (name.contains("_PORT_") && of_port)
}

impl Reader {
    /// Over these layers.
    pub(crate) fn new(flags: Texts, environment: Texts, file: Value) -> Self {
        Self { flags, environment, file, ..Self::default() }
    }

    /// Puts these in place of built-in defaults.
    pub(crate) fn with_defaults(mut self, defaults: &[(&'static str, String)]) -> Self {
        self.defaults = defaults.iter().cloned().collect();
        self
    }

    /// A setting of any type that is written as text.
    pub(crate) fn text<T>(&mut self, path: &str, default: &str, help: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text_with(path, default, help, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    /// A setting written as text, read by this function.
    pub(crate) fn text_with<T>(
        &mut self,
        path: &str,
        default: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.read(path, default.into(), help, |value| {
            let text = value.as_str().ok_or_else(|| expected("a string", value))?;
            parse(text).map_err(|e| format!("{text:?}: {e}"))
        })
    }

    /// A setting that may be left empty.
    pub(crate) fn optional(&mut self, path: &str, help: &'static str) -> Option<String> {
        self.text::<String>(path, "", help).filter(|text| !text.is_empty())
    }

    /// A list of such values; as a flag or variable they are separated by commas.
    pub(crate) fn texts<T>(&mut self, path: &str, default: &[&str], help: &'static str) -> Vec<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let parse = |value: &Value| -> Result<Vec<T>, String> {
            let items: Vec<String> = match value {
                Value::String(text) => text
                    .split(',')
                    .map(str::trim)
                    .filter(|t| !t.is_empty())
                    .map(Into::into)
                    .collect(),
                Value::Array(items) => items
                    .iter()
                    .map(|i| i.as_str().map(Into::into).ok_or_else(|| expected("strings", i)))
                    .collect::<Result<_, _>>()?,
                other => return Err(expected("a list of strings", other)),
            };
            items.iter().map(|i| i.parse().map_err(|e| format!("{i:?}: {e}"))).collect()
        };
        self.read(path, default.into(), help, parse).unwrap_or_default()
    }

    /// A list of domain names.
    pub(crate) fn names(
        &mut self,
        path: &str,
        default: &[&str],
        help: &'static str,
    ) -> Vec<DnsName> {
        let texts: Vec<String> = self.texts(path, default, help);
        let mut names = Vec::with_capacity(texts.len());
        for text in texts {
            match DnsName::parse(text.strip_suffix('.').unwrap_or(&text)) {
                Ok(name) => names.push(name),
                Err(error) => self.reject(path, &error.to_string()),
            }
        }
        names
    }

    /// A whole number within a range.
    pub(crate) fn integer<T>(
        &mut self,
        path: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
        help: &'static str,
    ) -> T
    where
        T: TryFrom<u64> + Default,
    {
        let parse = |value: &Value| -> Result<T, String> {
            let number = match value {
                Value::Number(n) => n.as_u64(),
                Value::String(text) => text.parse().ok(),
                _ => None,
            };
            number.filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok()).ok_or_else(
                || {
                    let wanted = format!("a whole number in {}..={}", range.start(), range.end());
                    expected(&wanted, value)
                },
            )
        };
        self.read(path, default.into(), help, parse).unwrap_or_default()
    }

    /// A share from 0 to 1, in millionths.
    pub(crate) fn share(&mut self, path: &str, default: f64, help: &'static str) -> u32 {
        let parse = |value: &Value| -> Result<u32, String> {
            let number = match value {
                Value::Number(n) => n.as_f64(),
                Value::String(text) => text.parse().ok(),
                _ => None,
            };
            let share = number.filter(|n| (0.0..=1.0).contains(n));
            let share = share.ok_or_else(|| expected("a number from 0 to 1", value))?;
            // As a time it is told in whole millionths.
            Ok(std::time::Duration::from_secs_f64(share).as_micros().try_into().unwrap_or(0))
        };
        self.read(path, default.into(), help, parse).unwrap_or_default()
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        path: &str,
        words: &[(&str, T)],
        help: &'static str,
    ) -> T {
        let parse = |value: &Value| -> Result<T, String> {
            let found = value.as_str().and_then(|text| words.iter().find(|(w, _)| *w == text));
            found.map(|(_, t)| *t).ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
                expected(&format!("one of {}", known.join(", ")), value)
            })
        };
        self.read(path, words[0].0.into(), help, parse).unwrap_or(words[0].1)
    }

    /// A list of tables, each read by its own rules; as text, one item per comma.
    pub(crate) fn tables<T>(
        &mut self,
        path: &str,
        help: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Vec<T> {
        let value = self.lookup(path, Value::Array(Vec::new()));
        self.show(path, &value.0, help);
        let items = match &value.0 {
            Value::Array(items) => items.clone(),
            Value::String(text) => text.split(',').map(|t| Value::from(t.trim())).collect(),
            other => {
                self.problem(path, &value.1, &expected("a list of tables", other));
                return Vec::new();
            }
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(item) => parsed.push(item),
                Err(reason) => self.problem(&format!("{path}[{i}]"), &value.1, &reason),
            }
        }
        parsed
    }

    /// Adds a problem that a check across settings found.
    pub(crate) fn reject(&mut self, path: &str, reason: &str) {
        self.problems.push(format!("{path}: {reason}"));
    }

    /// All settings read, or all problems.
    ///
    /// # Errors
    /// Every problem found, a line each.
    pub(crate) fn finish(mut self) -> Result<Vec<Shown>, Vec<String>> {
        let mut unknown = Vec::new();
        leaves("", &self.file, &self.used, &mut unknown);
        for path in unknown {
            self.problems.push(format!("{path}: unknown setting (in the file)"));
        }
        let variables: BTreeSet<String> = self.used.iter().map(|p| variable(p)).collect();
        for (name, (_, origin)) in &self.environment.values {
            if !variables.contains(name) {
                self.problems.push(format!("{origin}: unknown setting (in the environment)"));
            }
        }
        for (path, (_, origin)) in &self.flags.values {
            if !self.used.contains(path) {
                self.problems.push(format!("{path}: unknown setting (in {origin})"));
            }
        }
        if self.problems.is_empty() { Ok(self.shown) } else { Err(self.problems) }
    }

    fn read<T>(
        &mut self,
        path: &str,
        default: Value,
        help: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let (value, origin) = self.lookup(path, default);
        self.show(path, &value, help);
        match parse(&value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.problem(path, &origin, &reason);
                None
            }
        }
    }

    /// The value in force and where it came from.
    fn lookup(&mut self, path: &str, default: Value) -> (Value, String) {
        self.used.insert(path.to_owned());
        if let Some((text, origin)) = self.flags.values.get(path) {
            return (text.clone().into(), origin.clone());
        }
        if let Some((text, origin)) = self.environment.values.get(&variable(path)) {
            return (text.clone().into(), origin.clone());
        }
        let mut value = Some(&self.file);
        for part in path.split('.') {
            value = value.and_then(|v| v.get(part));
        }
        match value {
            Some(value) => (value.clone(), "the file".to_owned()),
            None => {
                let own = self.defaults.get(path).map(|text| text.clone().into());
                (own.unwrap_or(default), "the default".to_owned())
            }
        }
    }

    fn show(&mut self, path: &str, value: &Value, help: &'static str) {
        self.shown.push(Shown { path: path.to_owned(), value: value.clone(), help });
    }

    fn problem(&mut self, path: &str, origin: &str, reason: &str) {
        self.problems.push(format!("{path}: {reason} (in {origin})"));
    }
}

fn variable(path: &str) -> String {
    path.replace('.', "_").to_ascii_uppercase()
}

fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {found}")
}

/// Paths of the file's values that nobody asked for.
fn leaves(prefix: &str, value: &Value, used: &BTreeSet<String>, unknown: &mut Vec<String>) {
    if used.contains(prefix) {
        return;
    }
    match value {
        Value::Object(map) if prefix.is_empty() || is_section(prefix, used) => {
            for (key, value) in map {
                let dot = if prefix.is_empty() { "" } else { "." };
                leaves(&format!("{prefix}{dot}{key}"), value, used, unknown);
            }
        }
        Value::Null if prefix.is_empty() => {}
        _ => unknown.push(prefix.to_owned()),
    }
}

fn is_section(prefix: &str, used: &BTreeSet<String>) -> bool {
    used.iter().any(|path| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reader(flags: &[(&str, &str)], env: &[(&str, &str)], file: Value) -> Reader {
        let mut texts = Texts::default();
        for (path, value) in flags {
            texts.set(path, *value, format!("--{path}"));
        }
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Reader::new(texts, Texts::from_environment(env), file)
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let file = json!({"dns": {"ttl_secs": 3}});
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Pairs, Value, u32); 4] = [
            (&[("dns.ttl_secs", "1")], &[("PORTOLAN_DNS_TTL_SECS", "2")], file.clone(), 1),
            (&[], &[("PORTOLAN_DNS_TTL_SECS", "2")], file.clone(), 2),
            (&[], &[], file, 3),
            (&[], &[], Value::Null, 4),
        ];
        for (flags, env, file, expected) in cases {
            let mut reader = reader(flags, env, file);
            assert_eq!(reader.integer::<u32>("dns.ttl_secs", 4, 0..=10, ""), expected);
            reader.finish().expect("no problems");
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_no_settings() {
        let links = [
            ("PORTOLAN_XDS_SERVICE_HOST", "10.96.0.9"),
            ("PORTOLAN_XDS_SERVICE_PORT", "15010"),
            ("PORTOLAN_XDS_SERVICE_PORT_GRPC_XDS", "15010"),
            ("PORTOLAN_XDS_PORT", "tcp://10.96.0.9:15010"),
            ("PORTOLAN_XDS_PORT_15010_TCP", "tcp://10.96.0.9:15010"),
            ("PORTOLAN_XDS_PORT_15010_TCP_ADDR", "10.96.0.9"),
            ("PORTOLAN_XDS_PORT_15010_TCP_PROTO", "tcp"),
            ("PORTOLAN_SERVICE_HOST", "10.96.0.9"),
            ("PORTOLAN_SERVICE_PORT", "53"),
            ("PORTOLAN_PORT", "udp://10.96.0.9:53"),
            ("PORTOLAN_PORT_53_UDP", "udp://10.96.0.9:53"),
        ];
        assert_eq!(reader(&[], &links, Value::Null).finish().map(|_| ()), Ok(()));
        let mistake = [("PORTOLAN_XDS_PORT", "15010")];
        assert!(reader(&[], &mistake, Value::Null).finish().is_err());
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let file = json!({"dns": {"ttl_secs": 99, "tll": 1}, "nds": {}, "log": {"format": 1}});
        let mut reader = reader(&[("x.y", "1")], &[("PORTOLAN_DSN", "1")], file);
        reader.integer::<u32>("dns.ttl_secs", 4, 0..=10, "");
        reader.word("log.format", &[("text", 1), ("json", 2)], "");
        assert_eq!(
            reader.finish().expect_err("problems"),
            [
                "dns.ttl_secs: expected a whole number in 0..=10, found 99 (in the file)",
                "log.format: expected one of text, json, found 1 (in the file)",
                "dns.tll: unknown setting (in the file)",
                "nds: unknown setting (in the file)",
                "PORTOLAN_DSN: unknown setting (in the environment)",
                "x.y: unknown setting (in --x.y)",
            ]
        );
    }
}
