//! The worker threads of a server: started together, stopped together, always joined.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::Worker;
use crate::error::DnsError;

/// How threads learn that they are to stop.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: AtomicBool,
    aborted: AtomicBool,
}

/// Running threads. Dropping it stops them at once and joins them.
#[derive(Debug)]
pub(crate) struct Pool {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    ended: mpsc::Receiver<Ended>,
}

/// A thread that ended: its name, and the error if it ended by one.
type Ended = (String, io::Result<()>);

/// Reports the end of a thread, by panic as well.
struct Report {
    name: String,
    result: Option<io::Result<()>>,
    to: mpsc::Sender<Ended>,
}

impl Pool {
    /// Starts a thread for each worker.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub(crate) fn start(workers: Vec<Worker>) -> Result<Self, DnsError> {
        let setup = |what| move |source| DnsError::Setup { what, source };
        let stop = Arc::<Stop>::default();
        let (to, ended) = mpsc::channel(workers.len().max(1));
        let mut pool = Self { stop, threads: Vec::with_capacity(workers.len()), ended };
        for worker in workers {
            let report = Report { name: worker.name.clone(), result: None, to: to.clone() };
            let stop = pool.stop.clone();
            let thread = std::thread::Builder::new()
                .name(worker.name.clone())
                .spawn(move || {
                    let mut report = report;
                    report.result = Some(worker.run(&stop));
                })
                .map_err(setup("a udp worker thread"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Waits for a worker to end unasked.
    pub(crate) async fn unasked(&mut self) -> DnsError {
        match self.ended.recv().await {
            Some((worker, Err(error))) => DnsError::Worker { worker, reason: error.to_string() },
            Some((worker, Ok(()))) => {
                DnsError::Worker { worker, reason: "it returned unasked".to_owned() }
            }
            None => DnsError::Unasked { task: "udp" },
        }
    }

    /// Lets the workers answer what has arrived, then joins them.
    ///
    /// # Errors
    /// When one of them failed meanwhile.
    pub(crate) async fn drain(mut self) -> Result<(), DnsError> {
        self.stop.signal();
        let mut first = Ok(());
        for _ in 0..self.threads.len() {
            if let Some((worker, Err(error))) = self.ended.recv().await {
                let error = DnsError::Worker { worker, reason: error.to_string() };
                first = first.and(Err(error));
            }
        }
        first
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.aborted.store(true, Ordering::Release);
        self.stop.signal();
        // A worker looks at the flag after each batch and each wait: 50 ms at most.
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a udp worker panicked");
            }
        }
    }
}

impl Stop {
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    fn signal(&self) {
        self.set.store(true, Ordering::Release);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(io::Error::other("it panicked")));
        // The queue has room for every thread; the pool being gone is the one way this fails.
        let _pool_gone = self.to.try_send((std::mem::take(&mut self.name), result));
    }
}
