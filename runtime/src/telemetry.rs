//! Logs on standard error, metrics in the OpenMetrics text format.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Metric, Registry};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A log filter that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("log filter {filter:?}: {reason}")]
pub struct InvalidFilter {
    filter: String,
    reason: String,
}

/// The metrics of a process; names start with `portolan_`, except those that are known by another
/// name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

/// What our own metrics' names start with.
const PREFIX: &str = "portolan";

/// Starts logging to standard error.
///
/// # Errors
/// [`InvalidFilter`] when `filter` is not a tracing filter such as `info,portolan_xds=debug`.
pub fn init_logs(filter: &str, format: LogFormat) -> Result<(), InvalidFilter> {
    let invalid = |reason: String| InvalidFilter { filter: filter.to_owned(), reason };
    let env_filter = EnvFilter::try_new(filter).map_err(|e| invalid(e.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| invalid(e.to_string()))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No metrics yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::default())))
    }

    /// Adds a metric under `portolan_<name>`; counters get `_total` from the format itself.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.register_as(&format!("{PREFIX}_{name}"), help, metric);
    }

    /// Adds a metric under a name that dashboards know.
    pub fn register_as(&self, name: &str, help: &str, metric: impl Metric) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// Adds a collector that is asked at each scrape (for counters kept per core); its names get
    /// the prefix.
    pub fn register_collector(&self, collector: Box<dyn Collector>) {
        let mut registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        registry.sub_registry_with_prefix(PREFIX).register_collector(collector);
    }

    /// Adds a collector that gives whole names.
    pub fn register_collector_as(&self, collector: Box<dyn Collector>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// When a collector fails to write.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
