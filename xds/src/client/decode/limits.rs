//! `circuit_breakers`, and what a cluster says of adaptive concurrency -> [`Limits`] and
//! [`AdaptiveConcurrency`].
//!
//! What is not said is not limited: Envoy's own default of 1,024 connections, requests and requests
//! that wait is one of its, not one that the control plane asked for.

use std::time::Duration;

use portolan_model::policy::CircuitBreaker;
use portolan_model::traffic::{AdaptiveConcurrency, Limits};
use portolan_proto::envoy::adaptive_concurrency::adaptive_concurrency::ConcurrencyControllerConfig;
use portolan_proto::envoy::adaptive_concurrency::{
    AdaptiveConcurrency as EnvoyAdaptiveConcurrency, GradientControllerConfig,
};
use portolan_proto::envoy::cluster::CircuitBreakers;
use portolan_proto::envoy::cluster::circuit_breakers::Thresholds;
use portolan_proto::envoy::core::{Metadata, RoutingPriority};
use portolan_proto::envoy::protobuf::UInt32Value;

use super::{message, percent, positive, refuse, within};
use crate::resource::cluster::ADAPTIVE_CONCURRENCY;

/// Envoy's defaults: the most and the least requests in flight, time between adjustments (which it
/// has none for), time between measurements, tolerance in percent.
const MAX_CONCURRENCY: u32 = 1000;
const MIN_CONCURRENCY: u32 = 3;
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
const MIN_RTT_INTERVAL: Duration = Duration::from_secs(60);
const BUFFER: u32 = 25;

/// The limits of the default priority; those of the other one are passed over, as routes to it are
/// not told apart here.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn breakers(said: Option<&CircuitBreakers>) -> Result<Limits, String> {
    let Some(said) = said else { return Ok(Limits::standard()) };
    let alone = !said.per_host_thresholds.is_empty();
    refuse("circuit_breakers.per_host_thresholds", alone)?;
    let default = i32::from(RoutingPriority::Default);
    let thresholds = said.thresholds.iter().enumerate();
    match thresholds.into_iter().find(|(_, t)| t.priority == default) {
        Some((i, thresholds)) => convert(&format!("circuit_breakers.thresholds[{i}]"), thresholds),
        None => Ok(Limits::standard()),
    }
}

fn convert(field: &str, said: &Thresholds) -> Result<Limits, String> {
    let number = |value: Option<&UInt32Value>| value.map(|v| v.value);
    let mut limits = Limits::standard();
    limits.breaker = CircuitBreaker {
        connections: number(said.max_connections.as_ref()),
        pending_requests: number(said.max_pending_requests.as_ref()),
        requests: number(said.max_requests.as_ref()),
        retries: None,
    };
    match (&said.retry_budget, number(said.max_retries.as_ref())) {
        // The budget goes before the number, as with Envoy.
        (Some(budget), _) => {
            let field = format!("{field}.retry_budget");
            limits.retry_budget_percent = percent(
                &format!("{field}.budget_percent"),
                budget.budget_percent.as_ref(),
                limits.retry_budget_percent,
            )?;
            let least = number(budget.min_retry_concurrency.as_ref());
            limits.min_retries = least.unwrap_or(limits.min_retries);
        }
        // So many, however many requests there are.
        (None, Some(retries)) => {
            limits.breaker.retries = Some(retries);
            limits.retry_budget_percent = 0;
            limits.min_retries = retries;
        }
        (None, None) => {}
    }
    Ok(limits)
}

/// Envoy holds a listener to it, by a filter; here it is a cluster, whose metadata carry the
/// filter's own message under its name.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn adaptive(metadata: Option<&Metadata>) -> Result<Option<AdaptiveConcurrency>, String> {
    let any = metadata.and_then(|m| m.typed_filter_metadata.get(ADAPTIVE_CONCURRENCY));
    let Some(any) = any else { return Ok(None) };
    let field = format!("metadata.typed_filter_metadata[{ADAPTIVE_CONCURRENCY}]");
    let said: EnvoyAdaptiveConcurrency = message(any).map_err(|e| format!("{field}: {e}"))?;
    let enabled = said.enabled.and_then(|flag| flag.default_value);
    if enabled.is_some_and(|enabled| !enabled.value) {
        return Ok(None);
    }
    match said.concurrency_controller_config {
        Some(ConcurrencyControllerConfig::GradientControllerConfig(gradient)) => {
            gradient_controller(&format!("{field}.gradient_controller_config"), &gradient).map(Some)
        }
        None => Err(format!("{field}.gradient_controller_config: missing")),
    }
}

fn gradient_controller(
    field: &str,
    said: &GradientControllerConfig,
) -> Result<AdaptiveConcurrency, String> {
    let limit = said.concurrency_limit_params.unwrap_or_default();
    let rtt = said.min_rtt_calc_params.unwrap_or_default();
    let least = limit.min_concurrency_limit.as_ref().or(rtt.min_concurrency.as_ref());
    refuse(&format!("{field}.min_rtt_calc_params.fixed_value"), rtt.fixed_value.is_some())?;
    let field_of = |name: &str| format!("{field}.concurrency_limit_params.{name}");
    let max = limit.max_concurrency_limit.as_ref();
    let max = within(&field_of("max_concurrency_limit"), max, 1..=u32::MAX, MAX_CONCURRENCY)?;
    let default = MIN_CONCURRENCY.min(max);
    let min = within(&field_of("min_concurrency_limit"), least, 1..=max, default)?;
    Ok(AdaptiveConcurrency {
        min,
        max,
        interval: positive(
            &field_of("concurrency_update_interval"),
            limit.concurrency_update_interval.as_ref(),
            UPDATE_INTERVAL,
        )?,
        min_rtt_interval: positive(
            &format!("{field}.min_rtt_calc_params.interval"),
            rtt.interval.as_ref(),
            MIN_RTT_INTERVAL,
        )?,
        tolerance_percent: percent(
            &format!("{field}.min_rtt_calc_params.buffer"),
            rtt.buffer.as_ref(),
            BUFFER,
        )?,
    })
}
