//! Annotations under `portolan.dev/` -> policy. A bad value costs its own setting alone.

mod balance;
mod health;
mod identity;
mod limits;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use portolan_model::policy::{Policy, Timeouts};
use portolan_model::{Protocol, ServicePort};

use crate::object::Fault;
use identity::APP_PORT_OF_PORT;
use values::{duration, protocol};

/// Prefix of the annotations that hold what Kubernetes has no field for.
pub const PREFIX: &str = "portolan.dev/";

/// Most things that are said of one object, and longest reason in bytes.
const MAX_WARNINGS: usize = 32;
const MAX_REASON: usize = 1500;

/// Settings that are known, for the message about one that is not.
const KNOWN: &[&str] = &[
    "adaptive-concurrency",
    "adaptive-concurrency-interval",
    "adaptive-concurrency-max",
    "adaptive-concurrency-min",
    "adaptive-concurrency-min-rtt-interval",
    "adaptive-concurrency-tolerance-percent",
    "app-port",
    "balancer",
    "balancer-choices",
    "connect-timeout",
    "connection-idle-timeout",
    "connection-max-age",
    "connection-max-requests",
    "hash-balance-percent",
    "hash-on",
    "health-check",
    "health-check-healthy-threshold",
    "health-check-interval",
    "health-check-timeout",
    "health-check-unhealthy-threshold",
    "idle-timeout",
    "max-connections",
    "max-pending-requests",
    "max-requests",
    "max-retries",
    "mtls",
    "outlier-consecutive-errors",
    "outlier-consecutive-gateway-errors",
    "outlier-consecutive-local-errors",
    "outlier-ejection-jitter",
    "outlier-ejection-time",
    "outlier-failure-percent",
    "outlier-interval",
    "outlier-max-ejection-time",
    "outlier-max-percent",
    "outlier-minimum-hosts",
    "outlier-request-volume",
    "outlier-success-rate-stdev",
    "panic-percent",
    "protocol",
    "proxy-protocol",
    "request-timeout",
    "retry-attempts",
    "retry-back-off",
    "retry-back-off-max",
    "retry-budget-min",
    "retry-budget-percent",
    "retry-hedge",
    "retry-on",
    "retry-per-try-timeout",
    "retry-status-codes",
    "service-accounts",
    "slow-start",
    "slow-start-aggression",
    "slow-start-min-percent",
];

/// What stands behind `protocol`, and behind `protocol.<port>` for one port by name or number.
const PROTOCOL: &str = "protocol";
const PROTOCOL_OF_PORT: &str = "protocol.";

/// Reads the policy, and the protocols that override those of the ports. `targets` are the numbers of
/// `targetPort`, by port.
///
/// # Errors
/// A setting without which more would be let in than was meant.
pub(super) fn convert<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
    ports: &mut [ServicePort],
    targets: &[Option<u16>],
    warnings: &mut Vec<Fault>,
) -> Result<Policy, Fault> {
    let mut settings = Settings { values: BTreeMap::new(), warnings };
    for (name, value) in annotations {
        if let Some(setting) = name.strip_prefix(PREFIX) {
            settings.values.insert(setting, value);
        }
    }
    if settings.values.is_empty() {
        return Ok(Policy::default());
    }
    settings.refuse_unknown();
    settings.protocols(ports);
    let (balancer, hash_on) = settings.balancing();
    let (circuit_breaker, retry_budget) = settings.limits();
    Ok(Policy {
        tuning: settings.tuning(balancer, hash_on.is_some()),
        balancer,
        hash_on,
        timeouts: Timeouts {
            connect: settings.take("connect-timeout", duration),
            request: settings.take("request-timeout", duration),
            idle: settings.take("idle-timeout", duration),
        },
        retries: settings.retries(),
        health_check: settings.health_check(ports),
        outlier_detection: settings.outlier_detection(),
        circuit_breaker,
        retry_budget,
        adaptive_concurrency: settings.adaptive_concurrency(),
        connections: settings.connections(),
        mutual_tls: settings.mutual_tls()?,
        inbound: settings.inbound(ports, targets),
    })
}

struct Settings<'a, 'w> {
    values: BTreeMap<&'a str, &'a str>,
    warnings: &'w mut Vec<Fault>,
}

impl<'a> Settings<'a, '_> {
    fn refuse_unknown(&mut self) {
        let known = |name: &str| {
            KNOWN.contains(&name)
                || name.starts_with(PROTOCOL_OF_PORT)
                || name.starts_with(APP_PORT_OF_PORT)
        };
        let unknown: Vec<&str> = self.values.keys().copied().filter(|n| !known(n)).collect();
        for name in unknown {
            self.warn(name, format!("unknown setting; known: {}", KNOWN.join(", ")));
            self.values.remove(name);
        }
    }

    /// Bound: what a stranger wrote can neither fill the log nor the memory.
    fn warn(&mut self, name: &str, reason: impl Into<String>) {
        if self.warnings.len() >= MAX_WARNINGS {
            return;
        }
        let mut reason: String = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        self.warnings.push(Fault::warning(format!("metadata.annotations[{PREFIX}{name}]"), reason));
    }

    /// The value of a setting, read by this function; `None` when it is not given, or is bad.
    fn take<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.values.remove(name)?;
        match read(text.trim()) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.warn(name, reason);
                None
            }
        }
    }

    /// Says of settings that hang on another one that they have no effect without it.
    fn without(&mut self, main: &str, prefix: &str) {
        let idle: Vec<&str> =
            self.values.keys().copied().filter(|name| name.starts_with(prefix)).collect();
        for name in idle {
            self.values.remove(name);
            self.warn(name, format!("has no effect without {PREFIX}{main}"));
        }
    }

    /// The protocol of all TCP ports, then of single ones.
    fn protocols(&mut self, ports: &mut [ServicePort]) {
        if let Some(protocol) = self.take(PROTOCOL, protocol) {
            for port in ports.iter_mut().filter(|p| p.protocol == Protocol::Tcp) {
                port.app_protocol = Some(protocol.clone());
            }
        }
        let single: Vec<&'a str> =
            self.values.keys().copied().filter(|n| n.starts_with(PROTOCOL_OF_PORT)).collect();
        for name in single {
            let wanted = &name[PROTOCOL_OF_PORT.len()..];
            let is_it = |port: &ServicePort| {
                port.name.as_deref() == Some(wanted) || port.port.to_string() == wanted
            };
            match ports.iter_mut().find(|port| port.protocol == Protocol::Tcp && is_it(port)) {
                Some(port) => {
                    if let Some(protocol) = self.take(name, protocol) {
                        port.app_protocol = Some(protocol);
                    }
                }
                None => {
                    self.values.remove(name);
                    self.warn(name, format!("there is no TCP port {wanted:?}"));
                }
            }
        }
    }
}
