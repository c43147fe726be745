//! Finds manifest files and tells which changed since the last look.
//!
//! `*.yaml`, `*.yml` and `*.json`, in sub-folders too, hidden names passed over (editors' files,
//! and the `..data` folders of mounted ConfigMaps, whose links are followed instead).

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::MAX_FILE_BYTES;
use crate::manifests::FileRead;

/// Deepest sub-folder that is looked at; also what ends a loop of links.
const MAX_DEPTH: usize = 16;
/// Most files that are read.
const MAX_FILES: usize = 20_000;

/// How the root itself is named where it is at fault.
const ROOT: &str = "./";

/// Remembers what was read, to read only what changed.
#[derive(Debug)]
pub struct Scanner {
    root: PathBuf,
    single: bool,
    seen: BTreeMap<Arc<str>, Fingerprint>,
}

/// What tells two versions of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Scanner {
    /// Checks that the path can be read.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            std::fs::read_dir(path)?;
        } else {
            std::fs::File::open(path)?;
        }
        Ok(Self { root: path.to_owned(), single: !metadata.is_dir(), seen: BTreeMap::new() })
    }

    /// The path given.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All manifest files, with the text of those that changed since the last call.
    pub fn scan(&mut self) -> BTreeMap<Arc<str>, FileRead> {
        let mut paths = BTreeMap::new();
        if self.single {
            let name = self.root.file_name().unwrap_or(self.root.as_os_str());
            paths.insert(name.to_string_lossy().into(), Ok(self.root.clone()));
        } else {
            collect(&self.root, "", 0, &mut paths);
        }
        let mut found = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (name, path) in paths {
            let read = match path {
                Ok(path) => self.read(&name, &path, &mut seen),
                Err(reason) => FileRead::FolderFailed(reason),
            };
            found.insert(name, read);
        }
        self.seen = seen;
        found
    }

    fn read(
        &self,
        name: &Arc<str>,
        path: &Path,
        seen: &mut BTreeMap<Arc<str>, Fingerprint>,
    ) -> FileRead {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return FileRead::Failed(format!("cannot be read: {error}")),
        };
        let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
        if metadata.len() > limit {
            let size = metadata.len();
            return FileRead::Failed(format!("{size} bytes, the limit is {limit}"));
        }
        let fingerprint = Fingerprint::of(&metadata);
        if self.seen.get(name) == Some(&fingerprint) {
            seen.insert(name.clone(), fingerprint);
            return FileRead::Unchanged;
        }
        match std::fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => {
                seen.insert(name.clone(), fingerprint);
                FileRead::Text(text)
            }
            Ok(Err(error)) => {
                let at = error.utf8_error().valid_up_to();
                FileRead::Failed(format!("not UTF-8 text: byte {at} is invalid"))
            }
            Err(error) => FileRead::Failed(format!("cannot be read: {error}")),
        }
    }
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Gathers the manifest files below a folder, by their name relative to the root.
fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    paths: &mut BTreeMap<Arc<str>, Result<PathBuf, String>>,
) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let name = if prefix.is_empty() { ROOT } else { prefix };
            paths.insert(name.into(), Err(format!("folder cannot be read: {error}")));
            return;
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let relative = format!("{prefix}{name}");
        // Follows links: a mounted ConfigMap is made of them.
        if path.is_dir() {
            if depth < MAX_DEPTH {
                collect(&path, &format!("{relative}/"), depth + 1, paths);
            }
        } else if is_manifest(&path) {
            if paths.len() >= MAX_FILES {
                let reason = format!("more than {MAX_FILES} manifest files; the rest is not read");
                paths.insert(ROOT.into(), Err(reason));
                return;
            }
            paths.insert(relative.into(), Ok(path));
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}
