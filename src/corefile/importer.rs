//! Walks the server blocks and gathers settings and notes; what can only be judged with all blocks
//! seen is kept until the end.

use serde_json::Value;

use super::access::BlockRules;
use super::cache::Cached;
use super::forward::Forwarding;
use super::key::Key;
use super::observe::Logged;
use super::parse::{At, Block, Directive, File, variable};
use super::settings::Settings;
use super::{CorefileError, Note, access, cache, forward, listen, names, observe, plugins};

/// What was found so far.
pub(super) struct Importer {
    pub(super) settings: Settings,
    notes: Vec<Note>,
    scopes: Vec<Scope>,
    /// Zones the cluster answers, reverse ones included.
    pub(super) own_zones: Vec<String>,
    /// Access rules, a group per block.
    pub(super) access: Vec<BlockRules>,
    /// Every cache there is.
    pub(super) caches: Vec<Cached>,
    /// What forwarding rules ask for that holds for all of them.
    pub(super) forwarding: Forwarding,
    /// Logs, one per block.
    pub(super) logged: Logged,
}

/// A server block as its plugins see it.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Its keys, with where each stands.
    pub(super) keys: Vec<(Key, At)>,
    /// Its zones.
    pub(super) zones: Vec<String>,
}

impl Importer {
    /// Ready to walk the file.
    ///
    /// # Errors
    /// When a server block's key is none.
    pub(super) fn new(file: &File) -> Result<Self, CorefileError> {
        let scopes = file.blocks.iter().map(Scope::new).collect::<Result<_, _>>()?;
        Ok(Self {
            settings: Settings::default(),
            notes: Vec::new(),
            scopes,
            own_zones: Vec::new(),
            access: Vec::new(),
            caches: Vec::new(),
            forwarding: Forwarding::default(),
            logged: Logged::default(),
        })
    }

    /// Takes in all blocks.
    pub(super) fn run(&mut self, file: &File) {
        for import in &file.imports {
            plugins::import(self, &Scope::everything(), import);
        }
        let scopes = std::mem::take(&mut self.scopes);
        for (block, scope) in file.blocks.iter().zip(&scopes) {
            let directives: Vec<Directive> =
                block.directives.iter().filter_map(|d| self.known(d)).collect();
            listen::import(self, scope, &directives);
            for directive in &directives {
                plugins::import(self, scope, directive);
            }
            forward::end_block(self, &directives);
            observe::end_block(self, &directives);
        }
        listen::finish(self, &scopes);
        forward::finish(self);
        cache::finish(self);
        access::finish(self, &scopes);
        observe::finish(self);
    }

    /// The settings and the notes, those in no order.
    pub(super) fn finish(self) -> (Settings, Vec<Note>) {
        (self.settings, self.notes)
    }

    /// Adds a note.
    pub(super) fn note(&mut self, at: &At, text: impl Into<String>) {
        let directive = at.label.clone();
        self.notes.push(Note { line: at.line, directive, text: text.into() });
    }

    /// Sets a setting that is one for all blocks; the first to ask for it has it.
    pub(super) fn set(&mut self, at: &At, path: &'static str, value: impl Into<Value>) {
        if let Err(held) = self.settings.set(path, value.into()) {
            self.note(at, format!("left out: {path} is one for all blocks and {held} already"));
        }
    }

    /// A whole number within bounds; else a note.
    pub(super) fn number(
        &mut self,
        at: &At,
        text: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let number = text.parse().ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            self.note(at, format!("left out: {text:?} is not a whole number in {from}..={to}"));
        }
        number
    }

    /// The zones that the words stand for; a note for each that is none.
    pub(super) fn zones(&mut self, at: &At, words: &[String]) -> Vec<String> {
        let mut zones = Vec::new();
        for word in words {
            match names::zones(word) {
                Ok(found) => zones.extend(found),
                Err(reason) => self.note(at, format!("left out: {reason}")),
            }
        }
        zones
    }

    /// The zones a plugin is about: its own, as far as the block has them, or the block's.
    pub(super) fn scope(&mut self, at: &At, words: &[String], scope: &Scope) -> Vec<String> {
        if words.is_empty() {
            return scope.zones.clone();
        }
        let mut zones: Vec<String> = Vec::new();
        for zone in self.zones(at, words) {
            for zone in names::narrowed(&zone, &scope.zones) {
                if !zones.contains(&zone) {
                    zones.push(zone);
                }
            }
        }
        zones
    }

    /// The directive without what needs a variable's value; `None` if all of it does.
    fn known(&mut self, directive: &Directive) -> Option<Directive> {
        let words = |d: &Directive| std::iter::once(&d.name).chain(&d.args).cloned().collect();
        let words: Vec<String> = words(directive);
        if let Some(name) = words.iter().find_map(|w| variable(w)) {
            self.note(&directive.at(), unknown(name));
            return None;
        }
        let mut body = Vec::with_capacity(directive.body.len());
        for property in &directive.body {
            match first_variable(property) {
                Some(name) => self.note(&directive.at_property(property), unknown(name)),
                None => body.push(property.clone()),
            }
        }
        Some(Directive { body, ..directive.clone() })
    }
}

impl Scope {
    fn new(block: &Block) -> Result<Self, CorefileError> {
        let mut scope = Self { keys: Vec::new(), zones: Vec::new() };
        for (text, line) in &block.keys {
            let key = Key::parse(text).map_err(|reason| CorefileError::new(*line, reason))?;
            for zone in &key.zones {
                if !scope.zones.contains(zone) {
                    scope.zones.push(zone.clone());
                }
            }
            scope.keys.push((key, At { line: *line, label: text.clone() }));
        }
        Ok(scope)
    }

    fn everything() -> Self {
        Self { keys: Vec::new(), zones: vec![names::ROOT.to_owned()] }
    }
}

/// Whether these zones are all names.
pub(super) fn is_everything(zones: &[String]) -> bool {
    zones.iter().any(|zone| zone == names::ROOT)
}

fn first_variable(directive: &Directive) -> Option<&str> {
    let words = std::iter::once(&directive.name).chain(&directive.args);
    words
        .filter_map(|w| variable(w))
        .next()
        .or_else(|| directive.body.iter().find_map(first_variable))
}

fn unknown(name: &str) -> String {
    format!("left out: the value of {name} is not known here")
}
