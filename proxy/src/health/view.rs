//! Health for people: what the admin page shows of an endpoint. Decides nothing.

use std::net::SocketAddr;

use portolan_model::traffic::Outlier;
use serde::Serialize;
use tokio::time::Instant;

use super::ejection::Cause;
use super::host::{Flags, HostHealth};

/// How an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostView {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Whether it may be given requests.
    pub(crate) available: bool,
    /// Whether its first check has yet to end.
    pub(crate) pending: bool,
    /// Whether active checks find it unhealthy, or have not found it healthy yet.
    pub(crate) failed_check: bool,
    /// What was wrong with the last check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Its present time out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ejected: Option<EjectedView>,
    /// How often it was left out.
    pub(crate) ejections: u64,
    /// The next time out is the base times one more than this.
    pub(crate) multiplier: u32,
    /// Failures in a row.
    pub(crate) consecutive_errors: u32,
    /// 502, 503, 504 in a row.
    pub(crate) consecutive_gateway_errors: u32,
    /// Failures in a row that the proxy saw itself, where they count apart.
    pub(crate) consecutive_local_errors: u32,
    /// Requests that succeeded, where somebody judges by rates.
    pub(crate) succeeded: u64,
    /// Requests that failed, where somebody judges by rates.
    pub(crate) failed: u64,
}

/// A time out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EjectedView {
    /// Why.
    pub(crate) cause: Cause,
    /// What is left of it, in milliseconds; it ends with the interval after that.
    pub(crate) left_ms: u64,
}

impl HostView {
    pub(super) fn of(host: &HostHealth, outlier: Option<&Outlier>, now: Instant) -> Self {
        let record = host.with_record(|record| *record);
        let streak = host.streak();
        let counted = host.counted();
        let ejected = record.current.map(|current| {
            let left = outlier.and_then(|outlier| record.left(outlier, now)).unwrap_or_default();
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            EjectedView { cause: current.cause, left_ms }
        });
        Self {
            address: host.address,
            available: host.is_available(),
            pending: host.is_pending(),
            failed_check: host.has(Flags::UNHEALTHY),
            reason: host.reason(),
            ejected,
            ejections: record.ejections,
            multiplier: record.multiplier,
            consecutive_errors: streak.errors,
            consecutive_gateway_errors: streak.gateway_errors,
            consecutive_local_errors: streak.local_errors,
            succeeded: counted.succeeded,
            failed: counted.failed,
        }
    }
}
