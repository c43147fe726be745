//! `load_balancing_policy`, and the fields from before it -> [`Balancing`]. Of a list the first
//! policy that is known here is taken (gRFC A52); what is asked of that one and not done is refused.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::traffic::{Balancing, LocalityMode, SlowStart};
use portolan_proto::envoy::Percent;
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::cluster::cluster::common_lb_config::LocalityConfigSpecifier as OldLocality;
use portolan_proto::envoy::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, ring_hash_lb_config,
};
use portolan_proto::envoy::core::RuntimeDouble;
use portolan_proto::envoy::protobuf::{self, UInt32Value, UInt64Value};

use super::{duration, percent, subset};

mod policies;

/// Most endpoints drawn for a request, whatever is asked for (as gRFC A48 has it).
pub(super) const MAX_CHOICES: u32 = 10;
/// Most points of a ring (Envoy's own bound).
const MAX_RING: u64 = 8 * 1024 * 1024;
/// Largest table of Maglev (Envoy's own bound).
const MAX_TABLE: u64 = 5_000_011;
/// Envoy's defaults for `routing_enabled`, in percent, `min_cluster_size`, and `min_weight_percent`.
const ZONE_AWARE: (u32, u64) = (100, 6);
const MIN_WEIGHT: u32 = 10;

/// How a cluster picks.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(cluster: &Cluster) -> Result<Balancing, String> {
    let base = common(cluster.common_lb_config.as_ref())?;
    let mut balancing = match &cluster.load_balancing_policy {
        Some(list) => policies::first("load_balancing_policy", list, &base, 0)?
            .ok_or("load_balancing_policy: no policy is supported")?,
        None => fields(cluster, base)?,
    };
    if let (None, Some(config)) = (&balancing.subsets, &cluster.lb_subset_config) {
        balancing.subsets = subset::of_field("lb_subset_config", config)?;
    }
    Ok(balancing)
}

/// What stands beside either way to name a balancer.
fn common(config: Option<&CommonLbConfig>) -> Result<Balancing, String> {
    let mut base = Balancing::of(Balancer::RoundRobin);
    let Some(config) = config else { return Ok(base) };
    let field = "common_lb_config";
    let threshold = config.healthy_panic_threshold.as_ref();
    base.panic_threshold =
        percent(&format!("{field}.healthy_panic_threshold"), threshold, base.panic_threshold)?;
    match &config.locality_config_specifier {
        Some(OldLocality::LocalityWeightedLbConfig(_)) => base.locality = LocalityMode::Weighted,
        Some(OldLocality::ZoneAwareLbConfig(zones)) => {
            let field = format!("{field}.zone_aware_lb_config");
            super::refuse(&format!("{field}.fail_traffic_on_panic"), zones.fail_traffic_on_panic)?;
            base.locality = zone_aware(
                &field,
                zones.routing_enabled.as_ref(),
                zones.min_cluster_size.as_ref(),
            )?;
        }
        None => {}
    }
    if let Some(hashing) = &config.consistent_hashing_lb_config {
        let field = format!("{field}.consistent_hashing_lb_config");
        let by_name = hashing.use_hostname_for_hashing;
        super::refuse(&format!("{field}.use_hostname_for_hashing"), by_name)?;
        base.hash_balance_factor = balance_factor(&field, hashing.hash_balance_factor.as_ref())?;
    }
    Ok(base)
}

/// `lb_policy` and the configuration beside it.
fn fields(cluster: &Cluster, base: Balancing) -> Result<Balancing, String> {
    let config = cluster.lb_config.as_ref();
    let policy = LbPolicy::try_from(cluster.lb_policy)
        .map_err(|_| format!("lb_policy: {} is not a policy", cluster.lb_policy))?;
    let mut balancing = base;
    match (policy, config) {
        (LbPolicy::RoundRobin, config) => {
            if let Some(LbConfig::RoundRobinLbConfig(c)) = config {
                balancing.slow_start =
                    old_slow_start("round_robin_lb_config", c.slow_start_config.as_ref())?;
            }
        }
        (LbPolicy::LeastRequest, config) => {
            balancing.balancer = Balancer::LeastRequest;
            if let Some(LbConfig::LeastRequestLbConfig(c)) = config {
                let field = "least_request_lb_config";
                balancing.choices = choices(field, c.choice_count.as_ref())?;
                balancing.slow_start = old_slow_start(field, c.slow_start_config.as_ref())?;
            }
        }
        (LbPolicy::Random, _) => balancing.balancer = Balancer::Random,
        (LbPolicy::RingHash, config) => {
            balancing.balancer = Balancer::RingHash;
            if let Some(LbConfig::RingHashLbConfig(c)) = config {
                let field = "ring_hash_lb_config";
                let other = c.hash_function != i32::from(ring_hash_lb_config::HashFunction::XxHash);
                super::refuse(&format!("{field}.hash_function"), other)?;
                let (least, most) = (c.minimum_ring_size.as_ref(), c.maximum_ring_size.as_ref());
                balancing.ring = ring(field, least, most)?;
            }
        }
        (LbPolicy::Maglev, config) => {
            balancing.balancer = Balancer::Maglev;
            if let Some(LbConfig::MaglevLbConfig(c)) = config {
                balancing.table = table("maglev_lb_config", c.table_size.as_ref())?;
            }
        }
        (LbPolicy::LoadBalancingPolicyConfig | LbPolicy::ClusterProvided, _) => {
            return Err(format!("lb_policy: {} is not supported", policy.as_str_name()));
        }
    }
    Ok(balancing)
}

fn old_slow_start(
    field: &str,
    config: Option<&portolan_proto::envoy::cluster::cluster::SlowStartConfig>,
) -> Result<Option<SlowStart>, String> {
    let Some(config) = config else { return Ok(None) };
    slow_start(
        &format!("{field}.slow_start_config"),
        config.slow_start_window.as_ref(),
        config.aggression.as_ref(),
        config.min_weight_percent.as_ref(),
    )
}

/// Without a window there is no slow start.
fn slow_start(
    field: &str,
    window: Option<&protobuf::Duration>,
    aggression: Option<&RuntimeDouble>,
    least: Option<&Percent>,
) -> Result<Option<SlowStart>, String> {
    let window = window.map(|w| duration(&format!("{field}.slow_start_window"), w)).transpose()?;
    let Some(window) = window.filter(|w| !w.is_zero()) else { return Ok(None) };
    let aggression = aggression.map_or(1.0, |a| a.default_value);
    let milli = Duration::try_from_secs_f64(aggression).ok();
    let milli = milli.and_then(|a| u32::try_from(a.as_millis()).ok()).and_then(NonZeroU32::new);
    Ok(Some(SlowStart {
        window,
        aggression_milli: milli
            .ok_or_else(|| format!("{field}.aggression: {aggression} is not above 0"))?,
        min_weight_percent: percent(&format!("{field}.min_weight_percent"), least, MIN_WEIGHT)?,
    }))
}

fn zone_aware(
    field: &str,
    enabled: Option<&Percent>,
    least: Option<&UInt64Value>,
) -> Result<LocalityMode, String> {
    let percent = percent(&format!("{field}.routing_enabled"), enabled, ZONE_AWARE.0)?;
    if percent == 0 {
        return Ok(LocalityMode::Flat);
    }
    let least = least.map_or(ZONE_AWARE.1, |v| v.value);
    Ok(LocalityMode::ZoneAware { percent, min_size: u32::try_from(least).unwrap_or(u32::MAX) })
}

fn choices(field: &str, count: Option<&UInt32Value>) -> Result<u32, String> {
    let count = super::within(&format!("{field}.choice_count"), count, 2..=u32::MAX, 2)?;
    Ok(count.min(MAX_CHOICES))
}

fn ring(
    field: &str,
    least: Option<&UInt64Value>,
    most: Option<&UInt64Value>,
) -> Result<(u64, u64), String> {
    let (least, most) = (least.map_or(1024, |v| v.value), most.map_or(MAX_RING, |v| v.value));
    if !(1..=MAX_RING).contains(&least) {
        return Err(format!("{field}.minimum_ring_size: {least} is not in 1..={MAX_RING}"));
    }
    if !(least..=MAX_RING).contains(&most) {
        return Err(format!("{field}.maximum_ring_size: {most} is not in {least}..={MAX_RING}"));
    }
    Ok((least, most))
}

fn table(field: &str, size: Option<&UInt64Value>) -> Result<u32, String> {
    let default = Balancing::of(Balancer::Maglev).table;
    let Some(UInt64Value { value }) = size else { return Ok(default) };
    let size = u32::try_from(*value).ok().filter(|_| *value <= MAX_TABLE);
    size.filter(|size| is_prime(*size))
        .ok_or_else(|| format!("{field}.table_size: {value} is not a prime of at most {MAX_TABLE}"))
}

fn is_prime(number: u32) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= number);
    number > 1 && divisors.all(|d| !number.is_multiple_of(d))
}

fn balance_factor(field: &str, factor: Option<&UInt32Value>) -> Result<Option<u32>, String> {
    let factor = factor.filter(|f| f.value != 0);
    let field = format!("{field}.hash_balance_factor");
    factor.map(|f| super::within(&field, Some(f), 100..=u32::MAX, 0)).transpose()
}
