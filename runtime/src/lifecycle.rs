//! Two steps out of a process: drain (finish what is in flight), then abort.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A handle every task holds to learn that the process is on its way out. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    drain: CancellationToken,
    abort: CancellationToken,
}

/// Installed signal handlers.
#[derive(Debug)]
pub struct Signals {
    lifecycle: Lifecycle,
    term: Signal,
    interrupt: Signal,
}

impl Lifecycle {
    /// A running process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Completes once draining has begun: accept nothing new, finish what is in flight.
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        self.drain.clone().cancelled_owned()
    }

    /// Completes once everything is to stop at once.
    pub fn aborted(&self) -> impl Future<Output = ()> + use<> {
        self.abort.clone().cancelled_owned()
    }

    /// Whether draining has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether everything is to stop at once.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// Begins draining; further calls change nothing.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Stops everything at once (and counts as draining).
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Installs the handlers of SIGTERM and SIGINT. From then on a signal waits for
    /// [`Signals::run`] instead of ending the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn catch_signals(&self) -> Result<Signals, std::io::Error> {
        Ok(Signals {
            lifecycle: self.clone(),
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl Signals {
    /// Turns a signal into drain, and a second one into abort. Runs until abort. A drain that
    /// something else began, such as a restart, is not cut short by the first.
    ///
    /// # Errors
    /// Never; the form is that of every task.
    pub async fn run(mut self) -> Result<(), std::convert::Infallible> {
        let mut seen = false;
        loop {
            let name = tokio::select! {
                _ = self.term.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                () = self.lifecycle.aborted() => return Ok(()),
            };
            if seen {
                tracing::warn!(signal = name, "second signal: aborting what is in flight");
                self.lifecycle.abort();
                return Ok(());
            }
            seen = true;
            tracing::info!(signal = name, "draining; a second signal aborts");
            self.lifecycle.drain();
        }
    }
}
