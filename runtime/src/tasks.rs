//! Owner of a process's long-lived tasks. A task that ends unasked ends the process, loudly.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

use crate::causes::chain;
use crate::lifecycle::Lifecycle;

/// Any error a task may end with; the crates' own enums stay inside as the source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    lifecycle: Lifecycle,
    set: JoinSet<(&'static str, Result<(), BoxError>)>,
    /// Serve until the very end: not waited for while draining.
    background: JoinSet<(&'static str, Result<(), BoxError>)>,
}

/// Why a process ended other than by a clean drain.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A task returned an error, or returned although nothing had asked it to.
    #[error("task {task} ended: {reason}")]
    Task {
        /// Name of the task.
        task: &'static str,
        /// What it ended with.
        reason: String,
    },
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panic(#[source] JoinError),
    /// What was in flight did not finish in time, or a second signal came.
    #[error("{unfinished} task(s) were aborted before they had drained")]
    Aborted {
        /// How many tasks were still running.
        unfinished: usize,
    },
}

impl Tasks {
    /// An owner without tasks.
    #[must_use]
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, set: JoinSet::new(), background: JoinSet::new() }
    }

    /// Starts a task that is expected to run until draining has begun.
    pub fn spawn<F, E>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.set.spawn(async move { (name, future.await.map_err(Into::into)) });
    }

    /// Starts a task that serves until the process ends: draining does not wait for it.
    pub fn spawn_background<F, E>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.background.spawn(async move { (name, future.await.map_err(Into::into)) });
    }

    /// Runs until every task has ended. Once draining has begun they have `drain_deadline` for
    /// it; what is left then is aborted.
    ///
    /// # Errors
    /// The first reason for which the process did not end by a clean drain.
    pub async fn run(mut self, drain_deadline: Duration) -> Result<(), Ended> {
        let mut failed = None;
        while !self.lifecycle.is_draining() {
            let ended = tokio::select! {
                // First, so that a task which ended because of the drain is not taken for one
                // that ended unasked.
                biased;
                () = self.lifecycle.draining() => break,
                Some(joined) = self.background.join_next() => Some(joined),
                joined = self.set.join_next() => joined,
            };
            match ended {
                None => break,
                Some(result) => {
                    failed = Some(unasked(result));
                    self.lifecycle.drain();
                }
            }
        }
        self.lifecycle.drain();
        let finished = tokio::select! {
            // First, so that tasks which ended because of the abort are not taken for drained.
            biased;
            () = self.lifecycle.aborted() => Err(None),
            result = drain(&mut self.set) => result,
            () = tokio::time::sleep(drain_deadline) => Err(None),
        };
        let unfinished = self.set.len();
        self.lifecycle.abort();
        self.set.shutdown().await;
        self.background.shutdown().await;
        match (failed, finished) {
            (Some(ended), _) | (None, Err(Some(ended))) => Err(ended),
            (None, Err(None)) if unfinished > 0 => Err(Ended::Aborted { unfinished }),
            (None, Ok(()) | Err(None)) => Ok(()),
        }
    }
}

type Joined = Result<(&'static str, Result<(), BoxError>), JoinError>;

fn unasked(result: Joined) -> Ended {
    match result {
        Ok((task, Ok(()))) => {
            Ended::Task { task, reason: "it returned although nothing had asked it to".to_owned() }
        }
        Ok((task, Err(error))) => Ended::Task { task, reason: chain(&*error) },
        Err(panic) => Ended::Panic(panic),
    }
}

async fn drain(
    set: &mut JoinSet<(&'static str, Result<(), BoxError>)>,
) -> Result<(), Option<Ended>> {
    let mut first = None;
    while let Some(result) = set.join_next().await {
        match result {
            Ok((_, Ok(()))) => {}
            other => first = first.or(Some(unasked(other))),
        }
    }
    first.map_or(Ok(()), |ended| Err(Some(ended)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_unasked_ends_the_process() {
        let lifecycle = Lifecycle::new();
        let mut tasks = Tasks::new(lifecycle.clone());
        tasks.spawn("short", async { Err::<(), _>(std::io::Error::other("gone")) });
        let other = lifecycle.clone();
        tasks.spawn("long", async move {
            other.draining().await;
            Ok::<(), std::io::Error>(())
        });
        let ended = tasks.run(Duration::from_secs(5)).await.expect_err("an unasked end");
        assert_eq!(ended.to_string(), "task short ended: gone");
        assert!(lifecycle.is_aborted());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_drain_in_time_is_aborted() {
        let lifecycle = Lifecycle::new();
        let mut tasks = Tasks::new(lifecycle.clone());
        tasks.spawn("stuck", std::future::pending::<Result<(), std::io::Error>>());
        lifecycle.drain();
        let ended = tasks.run(Duration::from_secs(5)).await.expect_err("aborted");
        assert!(matches!(ended, Ended::Aborted { unfinished: 1 }), "{ended}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clean_drain_is_no_error() {
        let lifecycle = Lifecycle::new();
        let mut tasks = Tasks::new(lifecycle.clone());
        let other = lifecycle.clone();
        tasks.spawn("role", async move {
            other.draining().await;
            Ok::<(), std::io::Error>(())
        });
        lifecycle.drain();
        tasks.run(Duration::from_secs(5)).await.expect("clean");
    }
}
