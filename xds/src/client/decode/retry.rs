//! `RetryPolicy` -> [`Retries`]: Envoy's words, and what of the policy beside them is done here.
//!
//! Passed over is what holds here anyway: another try goes to an endpoint that has not failed the
//! request, so there is no limit on looking for one (`host_selection_retry_max_attempts`, the
//! predicate of previous hosts). Where no `retry_back_off` is said it goes at once.

use portolan_model::policy::{BackOff, RETRIABLE_STATUSES, Retries, RetryOn};
use portolan_proto::envoy::route::retry_policy::retry_host_predicate::ConfigType;
use portolan_proto::envoy::route::retry_policy::{RetryBackOff, RetryHostPredicate};
use portolan_proto::envoy::route::{HedgePolicy, RetryPolicy};

use super::{refuse, time};

/// Envoy's default for `num_retries`.
const DEFAULT_RETRIES: u32 = 1;
/// Most tries after the first, whatever is asked for.
const MAX_RETRIES: u32 = 10;
/// Word by which answers with a header of the endpoint's are tried again.
const RATE_LIMITED: &str = "envoy-ratelimited";
/// Word by which answers with one of `retriable_headers` are.
const HEADERS: &str = "retriable-headers";
/// The predicate that is always met here.
const PREVIOUS_HOSTS: [&str; 2] = [
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.config.retry.previous_hosts.v2.PreviousHostsPredicate",
];
/// Its name, which is enough without a configuration.
const PREVIOUS_HOSTS_NAME: &str = "envoy.retry_host_predicates.previous_hosts";

/// Converts a policy, `hedge` being what stands beside it; `None` when it names no reason. Words that Envoy does not know either are
/// skipped, as it and gRPC do.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
    field: &str,
    policy: &RetryPolicy,
    hedge: bool,
) -> Result<Option<Retries>, String> {
    let words: Vec<&str> = policy.retry_on.split(',').map(str::trim).collect();
    unsupported(field, policy, &words)?;
    let status_codes = status_codes(&format!("{field}.retriable_status_codes"), policy)?;
    let mut on: Vec<RetryOn> = Vec::new();
    for word in words {
        let known = RetryOn::WORDS.iter().find(|(known, _)| *known == word);
        if let Some((_, reason)) = known
            && !on.contains(reason)
        {
            on.push(*reason);
        }
    }
    if status_codes.is_empty() {
        on.retain(|reason| *reason != RetryOn::StatusCodes);
    }
    let attempts = policy.num_retries.as_ref().map_or(DEFAULT_RETRIES, |n| n.value);
    if on.is_empty() || attempts == 0 {
        return Ok(None);
    }
    let limit = policy.per_try_timeout.as_ref();
    Ok(Some(Retries {
        attempts: attempts.min(MAX_RETRIES),
        // The list means nothing without its word.
        status_codes: if on.contains(&RetryOn::StatusCodes) { status_codes } else { Vec::new() },
        on,
        per_try_timeout: time(&format!("{field}.per_try_timeout"), limit)?,
        back_off: match &policy.retry_back_off {
            Some(said) => Some(back_off(&format!("{field}.retry_back_off"), said)?),
            None => None,
        },
        hedge,
    }))
}

/// Whether a try that has had its time goes on beside the next one. Envoy does nothing else of it.
///
/// # Errors
/// A field that asks for more.
pub(super) fn hedges(field: &str, said: Option<&HedgePolicy>) -> Result<bool, String> {
    let Some(said) = said else { return Ok(false) };
    let several = said.initial_requests.as_ref().is_some_and(|first| first.value > 1);
    refuse(&format!("{field}.initial_requests"), several)?;
    let chance = said.additional_request_chance.as_ref().is_some_and(|chance| chance.numerator > 0);
    refuse(&format!("{field}.additional_request_chance"), chance)?;
    Ok(said.hedge_on_per_try_timeout)
}

fn back_off(field: &str, said: &RetryBackOff) -> Result<BackOff, String> {
    let base = time(&format!("{field}.base_interval"), said.base_interval.as_ref())?;
    let base = base.ok_or_else(|| format!("{field}.base_interval: missing"))?;
    // Envoy's default.
    let max = time(&format!("{field}.max_interval"), said.max_interval.as_ref())?;
    let max = max.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(format!("{field}.max_interval: {max:?} is less than the base"));
    }
    Ok(BackOff { base, max })
}

/// What would change what is tried again, where, or when.
fn unsupported(field: &str, policy: &RetryPolicy, words: &[&str]) -> Result<(), String> {
    if words.contains(&RATE_LIMITED) {
        return Err(format!("{field}.retry_on: {RATE_LIMITED} is not supported"));
    }
    let by_header = words.contains(&HEADERS) && !policy.retriable_headers.is_empty();
    let idle =
        time(&format!("{field}.per_try_idle_timeout"), policy.per_try_idle_timeout.as_ref())?;
    let asked = [
        ("retriable_headers", by_header),
        ("retriable_request_headers", !policy.retriable_request_headers.is_empty()),
        ("per_try_idle_timeout", idle.is_some()),
        ("retry_priority", policy.retry_priority.is_some()),
        ("retry_options_predicates", !policy.retry_options_predicates.is_empty()),
        ("rate_limited_retry_back_off", policy.rate_limited_retry_back_off.is_some()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    policy.retry_host_predicate.iter().enumerate().try_for_each(|(i, predicate)| {
        refuse(&format!("{field}.retry_host_predicate[{i}]"), !is_previous_hosts(predicate))
    })
}

fn is_previous_hosts(predicate: &RetryHostPredicate) -> bool {
    match &predicate.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            let name = any.type_url.rsplit('/').next().unwrap_or_default();
            PREVIOUS_HOSTS.contains(&name)
        }
        None => predicate.name == PREVIOUS_HOSTS_NAME,
    }
}

/// Those listed, each once and in ascending order.
fn status_codes(field: &str, policy: &RetryPolicy) -> Result<Vec<u16>, String> {
    let (least, most) = (RETRIABLE_STATUSES.start(), RETRIABLE_STATUSES.end());
    let codes = policy.retriable_status_codes.iter().map(|said| {
        let code = u16::try_from(*said).ok().filter(|code| RETRIABLE_STATUSES.contains(code));
        code.ok_or_else(|| format!("{field}: {said} is not in {least}..={most}"))
    });
    let mut codes: Vec<u16> = codes.collect::<Result<_, _>>()?;
    codes.sort_unstable();
    codes.dedup();
    Ok(codes)
}
