//! The embedded source: a folder (or one file) of manifests, watched and applied as one change.
//!
//! File events only say "look again": every look compares all files with what was read last, so a
//! lost event costs a delay and never a wrong state. A poll covers file systems without events.

pub mod scan;
pub mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::{Key, Snapshot};
use portolan_runtime::{Gate, Lifecycle, Publisher};

use crate::addresses::ServiceRanges;
use crate::holds::HoldsEnd;
use crate::index::Index;
use crate::loads::LoadsEnd;
use crate::manifests::Manifests;
use crate::object::Kind;
use crate::outlet::{GuardParts, Outlet};
use crate::rejection::{Origin, Rejection};
use crate::removal::GuardLimits;
use crate::report::{ControlMetrics, Report, Reports};
use scan::Scanner;
use watch::Watch;

/// How often the folder is looked at even without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A manifest folder as the source of a control loop.
#[derive(Debug)]
pub struct Folder {
    scanner: Scanner,
    manifests: Manifests,
    index: Index,
    reports: Reports,
    metrics: ControlMetrics,
    guard: GuardParts,
    loads: LoadsEnd,
}

/// Why a folder cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not there, or may not be read.
    #[error("cannot read manifests from {path}: {source}", path = path.display())]
    Read {
        /// The path given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A task of the loop broke off.
    #[error("the reload of {path} broke off: {source}", path = path.display())]
    Broken {
        /// The path given.
        path: PathBuf,
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl Folder {
    /// Opens a folder or file; nothing is read yet.
    ///
    /// # Errors
    /// When the path does not exist or may not be read.
    pub fn open(
        path: &Path,
        ranges: ServiceRanges,
        reports: Reports,
        metrics: ControlMetrics,
    ) -> Result<Self, FolderError> {
        let scanner = Scanner::open(path)
            .map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
        let manifests = Manifests::default();
        let (guard, loads) = (GuardParts::default(), LoadsEnd::default());
        Ok(Self { scanner, manifests, index: Index::new(ranges), reports, metrics, guard, loads })
    }

    /// With loads, by which backends of routes are compared.
    #[must_use]
    pub fn with_loads(mut self, loads: LoadsEnd) -> Self {
        if loads.is_on() {
            self.index.expect_loads();
        }
        self.loads = loads;
        self
    }

    /// With these limits of what may be gone at once, and commands for what is held back.
    #[must_use]
    pub fn with_guard(mut self, limits: GuardLimits, holds: HoldsEnd) -> Self {
        self.guard = GuardParts { limits, holds };
        self
    }

    /// Reads every file that changed and brings the index in line. Blocks on file I/O.
    pub fn reload(&mut self) -> (Snapshot, BTreeSet<Key>, Report) {
        let found = self.scanner.scan();
        let mut report = self.manifests.reload(found, &mut self.index);
        let (snapshot, touched) = self.index.commit();
        report.statuses = self.index.statuses();
        report.rejections.extend(self.manifests.not_in_force(&report.statuses));
        report.rejections.sort();
        (snapshot, touched, report)
    }

    /// Publishes the folder's content, and again whenever it changes, until draining.
    ///
    /// # Errors
    /// When a reload broke off; a file that cannot be read is a rejection, not an error.
    pub async fn run(
        mut self,
        publisher: Publisher,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> Result<(), FolderError> {
        let mut watch = Watch::start(self.scanner.root());
        let guard = std::mem::take(&mut self.guard);
        let mut loads = std::mem::take(&mut self.loads);
        let mut outlet = Outlet::new(publisher, gate, self.metrics.clone(), guard);
        loop {
            let started = Instant::now();
            let root = self.scanner.root().to_owned();
            let reloaded = tokio::task::spawn_blocking(move || {
                let result = self.reload();
                (self, result)
            });
            let (folder, (snapshot, touched, report)) =
                reloaded.await.map_err(|source| FolderError::Broken { path: root, source })?;
            self = folder;
            self.publish(&mut outlet, &snapshot, touched, report, started);
            let mut changed = pin!(watch.changed(POLL_INTERVAL));
            loop {
                tokio::select! {
                    () = &mut changed => break,
                    () = outlet.wake() => break,
                    told = loads.next() => {
                        self.index.on_loads(told, Instant::now());
                        if self.index.is_touched() {
                            break;
                        }
                    }
                    () = lifecycle.draining() => return Ok(()),
                }
            }
        }
    }

    fn publish(
        &self,
        outlet: &mut Outlet,
        snapshot: &Snapshot,
        touched: BTreeSet<Key>,
        mut report: Report,
        started: Instant,
    ) {
        let count = |kind| report.objects.of(kind);
        let (services, slices) = (count(Kind::Service), count(Kind::EndpointSlice));
        self.metrics.on_reload();
        let changed = touched.len();
        let admitted = outlet.admit(snapshot, touched);
        let held = outlet.rejections(&Origin::file(&Arc::from("folder")));
        let unserved = held.into_iter().map(|row| Rejection { subject: None, ..row });
        report.rejections.extend(unserved);
        self.reports.replace(report, &self.metrics);
        let Some(generation) = outlet.publish_changes(admitted, started.elapsed()) else { return };
        tracing::info!(
            %generation,
            changed,
            services,
            slices,
            took_ms = started.elapsed().as_millis(),
            "published"
        );
    }
}
