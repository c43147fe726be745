//! The one task that turns configurations into sockets and hands both to the workers.
//!
//! Owns the worker threads, the bindings and the order of a change: sockets of listeners that left
//! are closed, every worker takes the configuration, new sockets open, then the gate hears of it. In
//! a hot restart the process before is told to go between the last two.
//! Refuses to touch a connection.

mod bindings;
mod takeover;
mod threads;

use std::sync::Arc;

use portolan_model::Generation;
use portolan_model::traffic::TrafficConfig;
use portolan_runtime::restart::{Part, Request};
use portolan_runtime::{Gate, Lifecycle};
use tokio::sync::watch;

use crate::access::Writing;
use crate::config::ProxyConfig;
use crate::decision::Decisions;
use crate::error::ProxyError;
use crate::health::Board;
use crate::limit::Limiters;
use crate::metrics::ProxyMetrics;
use crate::state::live::Sources;
use crate::state::{Applied, StateHandle};
use crate::tls::Terminators;
use crate::trace::Tracer;
use crate::worker::Common;
use bindings::Bindings;
use takeover::{Due, Restarts};
use threads::Threads;

/// See [`crate::Proxy::run`].
#[expect(clippy::too_many_arguments, reason = "what a proxy is made of, each once")]
pub(crate) async fn run(
    config: Arc<ProxyConfig>,
    metrics: Arc<ProxyMetrics>,
    state: StateHandle,
    mut updates: watch::Receiver<Arc<TrafficConfig>>,
    gate: Gate,
    lifecycle: Lifecycle,
    restart: Option<Part>,
    tracer: Option<Tracer>,
) -> Result<(), ProxyError> {
    let health = Arc::new(Board::new(config.workers.get()));
    let limiters = Arc::new(Limiters::new(config.workers.get()));
    metrics.attach(&health, &limiters);
    let writing = match &config.access_log {
        Some(log) => {
            let writing = Writing::start(log, config.workers.get(), Arc::clone(&metrics.access));
            Some(
                writing
                    .map_err(|source| ProxyError::AccessLog { to: log.to.to_string(), source })?,
            )
        }
        None => None,
    };
    let log = writing.as_ref().map(|writing| &writing.log);
    let terminators = Arc::new(Terminators::default());
    let decisions = Arc::new(Decisions::new(config.decisions));
    let common = Common {
        health: Arc::clone(&health),
        limiters: Arc::clone(&limiters),
        terminators: Arc::clone(&terminators),
        decisions: Arc::clone(&decisions),
        tracer,
    };
    let mut threads = Threads::start(&config, &metrics, &common, log, &lifecycle)?;
    let (restarts, inherited) = Restarts::new(restart);

    let mut supervisor = Supervisor {
        bindings: Bindings::new(inherited),
        restarts,
        config: Arc::default(),
        applied: None,
        in_office: false,
        metrics,
        health,
        limiters,
        terminators,
        decisions,
        state,
        gate,
    };
    let first = Arc::clone(&updates.borrow_and_update());
    // The empty value a channel is made with is not yet a configuration.
    if *first != TrafficConfig::default() {
        supervisor.apply(first, &threads).await;
    }
    let mut source_open = true;
    while !lifecycle.is_draining() {
        tokio::select! {
            biased;
            () = lifecycle.draining() => {}
            worker = threads.ended() => {
                // A worker ends by itself only while it drains.
                if lifecycle.is_draining() {
                    break;
                }
                return Err(ProxyError::WorkerEnded { worker });
            }
            changed = updates.changed(), if source_open => {
                source_open = changed.is_ok();
                if source_open {
                    let next = Arc::clone(&updates.borrow_and_update());
                    supervisor.apply(next, &threads).await;
                }
            }
            () = supervisor.bindings.retry_due() => supervisor.retry(&threads).await,
            due = supervisor.restarts.due() => match due {
                Due::Settle => supervisor.settle(&threads).await,
                Due::Request(request) => supervisor.on_request(request, &threads).await,
            },
        }
    }
    threads.join().await;
    if let Some(writing) = writing {
        writing.finish().await;
    }
    Ok(())
}

struct Supervisor {
    bindings: Bindings,
    restarts: Restarts,
    config: Arc<TrafficConfig>,
    applied: Option<Generation>,
    /// Whether there is no process before this one, or it has been told to go.
    in_office: bool,
    metrics: Arc<ProxyMetrics>,
    health: Arc<Board>,
    limiters: Arc<Limiters>,
    terminators: Arc<Terminators>,
    decisions: Arc<Decisions>,
    state: StateHandle,
    gate: Gate,
}

impl Supervisor {
    async fn apply(&mut self, config: Arc<TrafficConfig>, threads: &Threads) {
        self.bindings.close_removed(&config.listeners, threads).await;
        self.health.apply(&config);
        self.limiters.apply(&config);
        self.terminators.apply(&config);
        threads.configure(&config).await;
        self.config = config;
        self.settle(threads).await;
    }

    /// Opens what the configuration in force wants, and takes over from the process before if that
    /// is due.
    async fn settle(&mut self, threads: &Threads) {
        let config = Arc::clone(&self.config);
        // What needs nothing of the process before does not wait for it to go.
        self.bindings.open_changed(&config.listeners, threads, &self.metrics).await;
        if self.restarts.waits(&config) {
            return self.show(threads);
        }
        if !self.in_office {
            self.in_office = true;
            let groups = self.bindings.take_office(&config.listeners);
            self.restarts.succeed(groups).await;
            self.bindings.open_changed(&config.listeners, threads, &self.metrics).await;
        }
        let generation = match (config.generation, self.applied) {
            (Some(generation), _) => generation,
            (None, Some(last)) => last.next(),
            (None, None) => Generation(1),
        };
        self.applied = Some(generation);
        self.show(threads);
        self.gate.applied(generation);
        tracing::debug!(%generation, "proxy applied a configuration");
    }

    async fn on_request(&self, request: Request, threads: &Threads) {
        // Whoever asked may have gone; the same below.
        match request {
            Request::Offer(answer) => {
                let _gone = answer.send(self.bindings.offer(threads).await);
            }
            Request::Leave(groups, done) => {
                self.bindings.leave(&groups, threads).await;
                let _gone = done.send(());
            }
        }
    }

    async fn retry(&mut self, threads: &Threads) {
        self.bindings.retry(threads, &self.metrics).await;
        self.show(threads);
    }

    fn show(&self, threads: &Threads) {
        self.state.store(Applied {
            generation: self.applied,
            config: Arc::clone(&self.config),
            listeners: self.bindings.view(),
            sources: Some(Sources {
                workers: threads.commands(),
                health: Arc::clone(&self.health),
                limiters: Arc::clone(&self.limiters),
                decisions: Arc::clone(&self.decisions),
            }),
        });
    }
}
