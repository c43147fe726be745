//! The thread that writes the access log.
//!
//! Sleeps until there is something, gathers for a moment, writes all of it at once. Owns the file:
//! opened anew when asked, and when another or none has its name. A write that fails is counted,
//! and what was to be written is lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::log::{Log, LogMetrics};
use super::{AccessLog, AccessTo};

/// How long records are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// How long the end waits for the last records to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// The access log while it is written. Dropping it lets the thread end by itself.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) log: Arc<Log>,
    ended: oneshot::Receiver<()>,
    /// Hears of SIGHUP while this lives.
    _hangups: JoinSet<()>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.log.close();
    }
}

impl Writing {
    /// Opens the log and starts its thread; to be called within a runtime.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system has no thread.
    pub(crate) fn start(
        config: &AccessLog,
        workers: usize,
        metrics: Arc<LogMetrics>,
    ) -> io::Result<Self> {
        let out = Out::open(&config.to)?;
        let hangup = match &config.to {
            AccessTo::File(_) => Some(signal(SignalKind::hangup())?),
            AccessTo::Stdout | AccessTo::Stderr => None,
        };
        let log = Arc::new(Log::new(config, workers, metrics));
        let (end, ended) = oneshot::channel::<()>();
        let to_write = Arc::clone(&log);
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
                run(&to_write, out);
                // Nobody waits when the proxy was dropped.
                let _ = end.send(());
            })?;
        // Set once, here.
        let _ = log.writer.set(thread.thread().clone());
        // Records may have come before the thread was known.
        log.wake();
        let mut hangups = JoinSet::new();
        if let Some(signal) = hangup {
            hangups.spawn(reopen_on(signal, Arc::clone(&log)));
        }
        Ok(Self { log, ended, _hangups: hangups })
    }

    /// Writes what is there, and waits for that for a while.
    pub(crate) async fn finish(mut self) {
        self.log.close();
        if tokio::time::timeout(PATIENCE, &mut self.ended).await.is_err() {
            tracing::warn!("the end of the access log could not be written in time");
        }
    }
}

async fn reopen_on(mut signal: Signal, log: Arc<Log>) {
    while signal.recv().await.is_some() {
        log.reopen.store(true, Ordering::Release);
        log.wake();
    }
}

fn run(log: &Log, mut out: Out) {
    let mut spare = Vec::new();
    loop {
        let closing = log.closing.load(Ordering::Acquire);
        if log.reopen.swap(false, Ordering::AcqRel) {
            out.reopen(&log.metrics);
        }
        spare = log.take(spare, |bytes| out.write(bytes, &log.metrics));
        if closing {
            return;
        }
        std::thread::park();
        if !log.closing.load(Ordering::Acquire) {
            std::thread::park_timeout(GATHER);
        }
    }
}

/// Where it goes.
struct Out {
    file: File,
    path: Option<PathBuf>,
    /// The last write failed, which was said.
    failing: bool,
}

impl Out {
    fn open(to: &AccessTo) -> io::Result<Self> {
        // Files of their own: no lock is shared with others who write there.
        let (file, path) = match to {
            AccessTo::Stdout => (File::from(io::stdout().as_fd().try_clone_to_owned()?), None),
            AccessTo::Stderr => (File::from(io::stderr().as_fd().try_clone_to_owned()?), None),
            AccessTo::File(path) => (append(path)?, Some(path.clone())),
        };
        Ok(Self { file, path, failing: false })
    }

    fn reopen(&mut self, metrics: &LogMetrics) {
        let Some(path) = &self.path else { return };
        match append(path) {
            Ok(file) => self.file = file,
            Err(error) => self.on_failure(&error, metrics),
        }
    }

    /// Whether another file, or none, has the name.
    fn has_moved(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        match (std::fs::metadata(path).map(id), self.file.metadata().map(id)) {
            (Ok(named), Ok(open)) => named != open,
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }

    fn write(&mut self, bytes: &[u8], metrics: &LogMetrics) {
        if self.has_moved() {
            self.reopen(metrics);
        }
        match self.file.write_all(bytes) {
            Ok(()) => self.failing = false,
            Err(error) => self.on_failure(&error, metrics),
        }
    }

    fn on_failure(&mut self, error: &io::Error, metrics: &LogMetrics) {
        metrics.failures.add(1);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "the access log cannot be written");
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
