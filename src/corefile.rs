//! Reads a CoreDNS Corefile and writes what it asks for as our configuration, with a note for
//! whatever is lost or differs. Pure: no file is opened, no variable is looked up.

mod access;
mod cache;
mod forward;
mod hosts;
mod importer;
mod key;
mod kubernetes;
mod listen;
mod names;
mod observe;
mod parse;
mod plugins;
mod rewrite;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod values;

use std::fmt;

use importer::Importer;

/// What came of a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// A configuration file.
    pub(crate) toml: String,
    /// What is lost or differs, by line.
    pub(crate) notes: Vec<Note>,
}

/// Something in the Corefile that has no counterpart, or one that behaves differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Line of the Corefile, from 1; of a snippet's definition where it comes from one.
    pub(crate) line: usize,
    /// The directive, as `log { class error }` when it is about one line of a block.
    pub(crate) directive: String,
    /// What is lost or differs.
    pub(crate) text: String,
}

/// Why a file is not a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CorefileError {
    /// Line of the Corefile, from 1.
    pub(crate) line: usize,
    /// What is wrong there.
    pub(crate) reason: String,
}

/// Turns a Corefile into our configuration.
///
/// # Errors
/// When the file is not a Corefile: the first line at which it fails, and why.
pub(crate) fn import(text: &str) -> Result<Import, CorefileError> {
    let file = parse::parse(text)?;
    let mut importer = Importer::new(&file)?;
    importer.run(&file);
    let (settings, mut notes) = importer.finish();
    notes.sort_by_key(|note| note.line);
    notes.dedup();
    Ok(Import { toml: settings.to_toml(), notes })
}

impl CorefileError {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.directive, self.text)
    }
}

impl fmt::Display for CorefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for CorefileError {}
