//! Tells when a folder may have changed, once the changes have settled.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Quiet time after the last event before files are read: editors and `kubectl` write a file in
/// several steps, and a set of files one after the other.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest time that a stream of events can hold off the reload.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);

/// A watch on a folder or file. Events carry no data: a single pending flag is the whole queue.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    event: Arc<Notify>,
    /// The folder the watcher is on; a watch stays with a folder that is moved away.
    identity: Option<Identity>,
    /// Kept for its lifetime; `None` where the system refuses a watch and only the poll works.
    watcher: Option<RecommendedWatcher>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Watch {
    /// Starts watching; falls back to polling alone, and says so, where that is refused.
    #[must_use]
    pub fn start(path: &Path) -> Self {
        let event = Arc::new(Notify::new());
        let mut watch = Self { path: path.to_owned(), event, identity: None, watcher: None };
        watch.follow();
        watch
    }

    /// Watches what the path leads to now, if that is another folder than before.
    fn follow(&mut self) {
        // A file is watched through its folder: editors replace it by renaming another over it.
        let (folder, mode) = if self.path.is_dir() {
            (self.path.as_path(), RecursiveMode::Recursive)
        } else {
            let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
        };
        let identity = std::fs::metadata(folder).map(|m| (m.dev(), m.ino())).ok();
        if identity.is_none() || identity == self.identity {
            return;
        }
        let sender = self.event.clone();
        let handler = move |result: notify::Result<notify::Event>| {
            // Reading a file is no change; whatever else, and an error, is a reason to look.
            if !matches!(result, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                sender.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .and_then(|mut watcher| watcher.watch(folder, mode).map(|()| watcher))
            .inspect_err(|error| {
                tracing::warn!(path = %folder.display(), %error, "no file events, polling only");
            });
        if self.identity.is_some() {
            // Something may have changed between the last look and the new watch.
            self.event.notify_one();
        }
        self.identity = identity;
        self.watcher = watcher.ok();
    }

    /// Returns after a change has settled, or after `poll` without any.
    pub async fn changed(&mut self, poll: Duration) {
        self.follow();
        if tokio::time::timeout(poll, self.event.notified()).await.is_err() {
            return;
        }
        let limit = Instant::now() + SETTLE_LIMIT;
        loop {
            let quiet = (Instant::now() + SETTLE).min(limit);
            if timeout_at(quiet, self.event.notified()).await.is_err() {
                return;
            }
            if Instant::now() >= limit {
                sleep_until(limit).await;
                return;
            }
        }
    }
}
