//! The session's transitions as a table: what each event does in each state, by the section of the
//! xDS protocol document that says so. The cases are in `cases.txt`; what they lead to is in
//! `transitions.txt`, which `PORTOLAN_UPDATE=1` writes anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use portolan_model::Balancer;
use portolan_xds::catalog::Name;
use portolan_xds::resource::{Encoded, ResourceType, version_text};
use portolan_xds::server::session::{
    InterestChange, Names, Outcome, Request, Resources, Response, Session, Variant,
};
use portolan_xds::viewer::Viewer;

use super::support::{Told, World, balanced, entry, entry_in};

/// Names a stream may be subscribed to.
const MAX_NAMES: usize = 10;

/// A row of the table: events that lead to a state, and one that happens in it.
struct Case {
    section: &'static str,
    rule: &'static str,
    variant: Variant,
    given: &'static str,
    when: &'static str,
}

/// The rows, a case of both variants twice.
fn cases() -> Vec<Case> {
    let (mut cases, mut section) = (Vec::new(), "");
    for line in include_str!("cases.txt").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        } else if !line.is_empty() && !line.starts_with('#') {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [variants, rule, given, when] = fields[..] else { panic!("{line}") };
            cases.extend(variants.split(' ').map(|variant| {
                let variant = match variant {
                    "sotw" => Variant::Sotw,
                    "delta" => Variant::Delta,
                    _ => panic!("{variant} is no variant"),
                };
                Case { section, rule, variant, given, when }
            }));
        }
    }
    cases
}

/// A client that does as it is told, its stream and its server.
struct Script {
    variant: Variant,
    told: Told,
    world: World,
    viewer: Viewer,
    /// What it asked for, the newest nonce and version, and what it holds, by type.
    asked: BTreeMap<ResourceType, Vec<String>>,
    nonces: BTreeMap<ResourceType, String>,
    versions: BTreeMap<ResourceType, String>,
    held: BTreeMap<ResourceType, BTreeMap<Name, u64>>,
    /// Versions of each resource in the order they were sent.
    seen: BTreeMap<(ResourceType, Name), Vec<u64>>,
    /// What the last event led to.
    outcome: String,
}

impl Script {
    fn new(variant: Variant) -> Self {
        let mut world = World::default();
        world.apply(entry("web", 80, &[(1, true)])).apply(entry("db", 5432, &[(2, true)]));
        Self {
            variant,
            told: Told::new(Session::new(variant, None, MAX_NAMES)),
            world,
            viewer: Viewer::default(),
            asked: BTreeMap::new(),
            nonces: BTreeMap::new(),
            versions: BTreeMap::new(),
            held: BTreeMap::new(),
            seen: BTreeMap::new(),
            outcome: String::new(),
        }
    }

    /// Carries out commands, apart by `;`.
    fn run(&mut self, commands: &str) {
        for command in commands.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            let mut words = command.split_whitespace();
            let verb = words.next().expect("not empty");
            let words: Vec<&str> = words.collect();
            self.outcome.clear();
            if !self.on_world(verb, &words) && !self.on_stream(verb, &words) {
                self.on_client(verb, &words);
            }
        }
    }

    /// What happens to what there is to serve.
    fn on_world(&mut self, verb: &str, words: &[&str]) -> bool {
        let world = &mut self.world;
        match (verb, words) {
            ("publish", []) => world.publish(),
            ("endpoints", [name, octet]) => {
                let octet = octet.parse().expect("an octet");
                world.apply(entry(name, 80, &[(octet, true)])).publish();
            }
            ("balance", [name]) => {
                let entry = balanced(&entry(name, 80, &[(1, true)]), Balancer::RoundRobin);
                world.apply(entry).publish();
            }
            ("bank", []) => {
                world.apply(entry_in("bank", "vault", 443, &[(9, true)])).publish();
            }
            ("delete", [name]) => world.delete(name).publish(),
            ("put", [kind, name]) => world.put(of(kind), name, Some(sized(name, 1, 0))),
            ("put-big", [kind, name]) => world.put(of(kind), name, Some(sized(name, 3_000_000, 0))),
            ("put-ttl", [kind, name]) => world.put(of(kind), name, Some(sized(name, 1, 30))),
            ("drop", [kind, name]) => world.put(of(kind), name, None),
            _ => return false,
        }
        true
    }

    /// What happens to the stream apart from requests.
    fn on_stream(&mut self, verb: &str, words: &[&str]) -> bool {
        let session = &mut self.told.session;
        match (verb, words) {
            ("take", []) => {
                while let Some(response) = self.next() {
                    self.request(response.kind, Vec::new(), None);
                }
            }
            ("send", []) => while self.next().is_some() {},
            ("release", []) => session.release(),
            ("keep-alive", []) => session.keep_alive(),
            ("reads-errors", []) => {
                self.viewer.capabilities = crate::support::reads_errors();
            }
            ("reads-ttl", []) => self.viewer.ttl = true,
            ("sees-only", [namespace]) => {
                self.viewer.namespaces = Some(Arc::new([Arc::from(*namespace)].into()));
            }
            ("stream", [kind]) => self.open(Some(of(kind))),
            ("reconnect", []) => self.open(None),
            ("restart", []) => {
                self.held.clear();
                self.versions.clear();
                self.open(None);
            }
            _ => return false,
        }
        self.told.session.on_viewer(self.viewer.clone());
        true
    }

    fn open(&mut self, only: Option<ResourceType>) {
        self.told = Told::new(Session::new(self.variant, only, MAX_NAMES));
        self.nonces.clear();
        self.asked.clear();
    }

    /// What the client says.
    fn on_client(&mut self, verb: &str, words: &[&str]) {
        let kind = words.first().map(|word| of(word)).expect("a type");
        let names: Vec<String> = words[1..].iter().map(ToString::to_string).collect();
        match verb {
            "ask" | "ack" => self.request(kind, names, None),
            "nack" => self.request(kind, Vec::new(), Some(names.join(" "))),
            "cross" => {
                let nonce = self.nonces.insert(kind, "0-0".to_owned());
                self.request(kind, names, None);
                self.nonces.extend(nonce.map(|nonce| (kind, nonce)));
            }
            "long-name" => self.request(kind, vec!["x".repeat(2000)], None),
            "names" => {
                let count: u32 = names[0].parse().expect("a count");
                self.request(kind, (0..count).map(|n| n.to_string()).collect(), None);
            }
            _ => panic!("{verb}?"),
        }
    }

    /// Without names it asks for what it asked for; `(none)` stands for an empty list. In the
    /// incremental variant a `-` before a name takes it out, and a request that only asks
    /// has no nonce.
    fn request(&mut self, kind: ResourceType, names: Vec<String>, error: Option<String>) {
        let first = !self.asked.contains_key(&kind);
        let nonce = self.nonces.get(&kind).cloned().unwrap_or_default();
        let said = !names.is_empty();
        let names: Vec<String> = names.into_iter().filter(|name| name != "(none)").collect();
        let asked = self.asked.entry(kind).or_default();
        if said || first {
            asked.clone_from(&names);
        }
        let (names, nonce) = match self.variant {
            Variant::Sotw => (Names::Exactly(asked.clone()), nonce),
            Variant::Delta => {
                let (unsubscribe, subscribe): (Vec<String>, Vec<String>) =
                    names.into_iter().partition(|name| name.starts_with('-'));
                let unsubscribe = unsubscribe.iter().map(|name| name[1..].to_owned()).collect();
                let held = self.held.get(&kind).into_iter().flatten();
                let held = held.map(|(name, v)| (name.to_string(), version_text(*v))).collect();
                let nonce = if said { String::new() } else { nonce };
                (Names::Change { subscribe, unsubscribe, held }, nonce)
            }
        };
        let version = self.versions.get(&kind).cloned().unwrap_or_default();
        let type_url = kind.type_url().to_owned();
        let request = Request { type_url, names, version, nonce, error };
        self.outcome = match self.told.session.on_request(request, 1) {
            Ok(outcome) => said_of(&outcome),
            Err(violation) => format!("ends the stream: {violation}"),
        };
    }

    /// The next response, as the client holds it once it takes it.
    fn next(&mut self) -> Option<Response> {
        let response = self.told.next_response(&self.world)?;
        self.nonces.insert(response.kind, response.nonce.clone());
        self.versions.insert(response.kind, response.version.clone());
        let held = self.held.entry(response.kind).or_default();
        for (name, encoded) in contents(&response) {
            held.insert(name.clone(), encoded.version);
            let seen = self.seen.entry((response.kind, name)).or_default();
            if !seen.contains(&encoded.version) {
                seen.push(encoded.version);
            }
        }
        for name in &response.removed {
            held.remove(name);
        }
        Some(response)
    }

    fn said_by(&self, response: &Response) -> String {
        let alive = matches!(response.resources, Resources::Alive(_));
        let mut parts = vec![response.kind.name().to_owned()];
        for (name, encoded) in contents(response) {
            let seen = &self.seen[&(response.kind, name.clone())];
            let at = seen.iter().position(|version| *version == encoded.version);
            let at = at.expect("it was noted when it was sent") + 1;
            parts.push(if alive { format!("~{name}") } else { format!("{name}@{at}") });
        }
        parts.extend(response.removed.iter().map(|name| format!("-{name}")));
        parts.extend(response.errors.iter().map(|(_, why)| format!("!({why})")));
        if parts.len() == 1 {
            parts.push("(nothing)".to_owned());
        }
        parts.join(" ")
    }

    /// What is known of the client, a line for each type.
    fn state(&self) -> Vec<String> {
        let report = self.told.session.report(&self.world.catalog);
        let mut lines: BTreeMap<ResourceType, Vec<String>> = BTreeMap::new();
        for (name, status) in self.told.session.status() {
            let line = lines.entry(of(name)).or_insert_with(|| vec![name.to_owned()]);
            line.extend(status.wildcard.then(|| "*".to_owned()));
        }
        for resource in report {
            let state = format!("{}={:?}", resource.name, resource.state).to_lowercase();
            lines.entry(resource.kind).or_default().push(state);
        }
        let mut lines: Vec<String> = lines.into_values().map(|line| line.join(" ")).collect();
        let session = &self.told.session;
        lines.extend(session.is_holding().then(|| "(routes are held back)".to_owned()));
        lines.extend(session.is_settled().then(|| "(settled)".to_owned()));
        lines
    }
}

/// A resource of no meaning.
fn sized(name: &str, size: usize, ttl_secs: u32) -> Encoded {
    let small = Encoded::from_bytes(name, "by hand", &[1]).with_ttl(ttl_secs);
    Encoded { any: Bytes::from(vec![0; size]), ..small }
}

fn of(kind: &str) -> ResourceType {
    ResourceType::from_name(kind).unwrap_or_else(|| panic!("{kind} is no type"))
}

fn contents(response: &Response) -> Vec<(Name, Encoded)> {
    match &response.resources {
        Resources::Some(list) | Resources::Alive(list) => list.clone(),
        Resources::All(map) => map.iter().map(|(n, e)| (n.clone(), e.clone())).collect(),
    }
}

fn said_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Subscribed(_) => "subscribed".to_owned(),
        Outcome::Acked(_) => "acked".to_owned(),
        Outcome::Nacked(nack) => format!("nacked: {}", nack.names.join(" ")),
        Outcome::Stale(_) => "ignored".to_owned(),
        Outcome::UnknownType => "unknown type".to_owned(),
    }
}

fn woken_for(change: &InterestChange) -> String {
    match change {
        InterestChange::Add(kind, name) => format!("+{} {name}", kind.name()),
        InterestChange::Remove(kind, name) => format!("-{} {name}", kind.name()),
        InterestChange::AddAll(kind) => format!("+{} *", kind.name()),
        InterestChange::RemoveAll(kind) => format!("-{} *", kind.name()),
    }
}

fn row(case: &Case, out: &mut String) {
    let mut script = Script::new(case.variant);
    if !case.given.contains("unpublished") {
        script.world.publish();
    }
    script.run(&case.given.replace("unpublished", ""));
    let before = script.state();
    drop(script.told.session.take_interest());
    script.run(case.when);
    let outcome = script.outcome.clone();
    let woken: Vec<String> = script.told.session.take_interest().iter().map(woken_for).collect();
    let mut sent = Vec::new();
    while let Some(response) = script.next() {
        sent.push(script.said_by(&response));
    }
    let variant = format!("{:?}", case.variant).to_lowercase();
    writeln!(out, "\n{variant}: {}", case.rule).expect("a string");
    let mut line = |title: &str, text: &str| {
        if !text.is_empty() {
            writeln!(out, "{}", format!("  {title:<11}{text}").trim_end()).expect("a string");
        }
    };
    line("given", case.given);
    before.iter().for_each(|state| line("", state));
    line("when", case.when);
    line("outcome", &outcome);
    line("woken for", &woken.join(", "));
    line("sent", if sent.is_empty() { "nothing" } else { "" });
    sent.iter().for_each(|response| line("sent", response));
    script.state().iter().enumerate().for_each(|(at, state)| {
        line(if at == 0 { "then" } else { "" }, state);
    });
}

#[test]
fn the_transitions_are_those_of_the_table() {
    let mut table = "# Generated: PORTOLAN_UPDATE=1 cargo test -p portolan-xds --test session\n\
        # @n: the n-th version sent; -x: x is gone or never was; !(…): why there is none; ~x: x\n\
        # lives on. What is sent is not answered yet in the state after it.\n"
        .to_owned();
    let mut section = "";
    for case in cases() {
        if case.section != section {
            section = case.section;
            writeln!(table, "\n\n## {section}").expect("a string");
        }
        row(&case, &mut table);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/session/transitions.txt");
    if std::env::var_os("PORTOLAN_UPDATE").is_some() {
        std::fs::write(&path, &table).expect("the table can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the table is there");
    for (number, (found, expected)) in table.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{}:{}", path.display(), number + 1);
    }
    assert_eq!(table.lines().count(), expected.lines().count(), "{}", path.display());
}
