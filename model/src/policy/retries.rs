//! When a request is sent again, and with which pauses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a request is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Tries after the first, 1 to 10.
    pub attempts: u32,
    /// What is a reason to try again.
    pub on: Vec<RetryOn>,
    /// The answers that [`RetryOn::StatusCodes`] is about, in ascending order.
    #[serde(default)]
    pub status_codes: Vec<u16>,
    /// Limit on each try.
    pub per_try_timeout: Option<Duration>,
    /// Pauses before tries that the policy asks for; `None`: they are made at once, each at an
    /// endpoint that has not failed the request.
    #[serde(default)]
    pub back_off: Option<BackOff>,
    /// A try that has had its time goes on beside the next one (Envoy
    /// `HedgePolicy.hedge_on_per_try_timeout`).
    #[serde(default)]
    pub hedge: bool,
}

impl Retries {
    /// How long a try has before there is another one beside it; `None` if there is none.
    #[must_use]
    pub fn hedges_after(&self) -> Option<Duration> {
        self.per_try_timeout.filter(|_| self.hedge)
    }
}

/// Pauses that grow from try to try (Envoy `RetryBackOff`): before the n-th one after the first
/// anything up to `base` times 2^n - 1, evenly spread, and never more than `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackOff {
    /// The longest first pause.
    pub base: Duration,
    /// The longest of all.
    pub max: Duration,
}

impl BackOff {
    /// The pause before the n-th try after the first, by any number.
    #[must_use]
    pub fn pause(self, n: u32, number: u64) -> Duration {
        let grown = 2_u32.saturating_pow(n).saturating_sub(1);
        let most = self.base.saturating_mul(grown).min(self.max);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(number.checked_rem(nanos.saturating_add(1)).unwrap_or(0))
    }
}

/// Statuses of answers that [`Retries::status_codes`] may name: of final responses (RFC 9110 §15).
pub const RETRIABLE_STATUSES: std::ops::RangeInclusive<u16> = 200..=599;

/// A reason to try a request again, by Envoy's word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The endpoint refused the stream before it began.
    RefusedStream,
    /// The connection ended without an answer.
    Reset,
    /// The same before the request was written, so that the endpoint cannot have seen it.
    ResetBeforeRequest,
    /// An answer of 502, 503 or 504.
    GatewayError,
    /// An answer of 500 or above.
    #[serde(rename = "5xx")]
    ServerError,
    /// An answer of 409, which is all that Envoy means by it.
    #[serde(rename = "retriable-4xx")]
    Conflict,
    /// An answer with one of [`Retries::status_codes`].
    #[serde(rename = "retriable-status-codes")]
    StatusCodes,
    /// gRPC status CANCELLED.
    Cancelled,
    /// gRPC status DEADLINE_EXCEEDED.
    DeadlineExceeded,
    /// gRPC status INTERNAL.
    Internal,
    /// gRPC status RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// gRPC status UNAVAILABLE.
    Unavailable,
}

impl RetryOn {
    /// Every reason with its word.
    pub const WORDS: [(&str, Self); 13] = [
        ("connect-failure", Self::ConnectFailure),
        ("refused-stream", Self::RefusedStream),
        ("reset", Self::Reset),
        ("reset-before-request", Self::ResetBeforeRequest),
        ("gateway-error", Self::GatewayError),
        ("5xx", Self::ServerError),
        ("retriable-4xx", Self::Conflict),
        ("retriable-status-codes", Self::StatusCodes),
        ("cancelled", Self::Cancelled),
        ("deadline-exceeded", Self::DeadlineExceeded),
        ("internal", Self::Internal),
        ("resource-exhausted", Self::ResourceExhausted),
        ("unavailable", Self::Unavailable),
    ];

    /// Envoy's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, reason)| *reason == self);
        found.map_or("", |(word, _)| word)
    }
}
