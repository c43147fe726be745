//! The one task that turns configurations into sockets and hands both to the workers.
//!
//! Owns the worker threads, the bindings and the order of a change: sockets of listeners that left
//! are closed, every worker takes the configuration, new sockets open, then the gate hears of it.
//! Refuses to touch a connection.

mod bindings;
mod threads;

use std::sync::Arc;

use portolan_model::Generation;
use portolan_model::traffic::TrafficConfig;
use portolan_runtime::{Gate, Lifecycle};
use tokio::sync::watch;

use crate::access::Writing;
use crate::config::ProxyConfig;
use crate::error::ProxyError;
use crate::health::Board;
use crate::limit::Limiters;
use crate::metrics::ProxyMetrics;
use crate::state::live::Sources;
use crate::state::{Applied, StateHandle};
use bindings::Bindings;
use threads::Threads;

/// See [`crate::Proxy::run`].
pub(crate) async fn run(
    config: Arc<ProxyConfig>,
    metrics: Arc<ProxyMetrics>,
    state: StateHandle,
    mut updates: watch::Receiver<Arc<TrafficConfig>>,
    gate: Gate,
    lifecycle: Lifecycle,
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
    let mut threads = Threads::start(&config, &metrics, &health, &limiters, log, &lifecycle)?;
    let mut supervisor = Supervisor {
        bindings: Bindings::default(),
        config: Arc::default(),
        applied: None,
        metrics,
        health,
        limiters,
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
    config: Arc<TrafficConfig>,
    applied: Option<Generation>,
    metrics: Arc<ProxyMetrics>,
    health: Arc<Board>,
    limiters: Arc<Limiters>,
    state: StateHandle,
    gate: Gate,
}

impl Supervisor {
    async fn apply(&mut self, config: Arc<TrafficConfig>, threads: &Threads) {
        self.bindings.close_removed(&config.listeners, threads).await;
        self.health.apply(&config);
        self.limiters.apply(&config);
        threads.configure(&config).await;
        self.bindings.open_changed(&config.listeners, threads, &self.metrics).await;
        let generation = match (config.generation, self.applied) {
            (Some(generation), _) => generation,
            (None, Some(last)) => last.next(),
            (None, None) => Generation(1),
        };
        self.config = config;
        self.applied = Some(generation);
        self.show(threads);
        self.gate.applied(generation);
        tracing::debug!(%generation, "proxy applied a configuration");
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
            }),
        });
    }
}
