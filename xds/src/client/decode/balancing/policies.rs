//! The policies of a list, one by one. Who is not known is passed over; what a known one asks for
//! and nobody here does is refused.

use portolan_model::Balancer;
use portolan_model::traffic::{Balancing, LocalityMode, SlowStart};
use portolan_proto::envoy::cluster::LoadBalancingPolicy;
use portolan_proto::envoy::lb::client_side_weighted_round_robin::ClientSideWeightedRoundRobin;
use portolan_proto::envoy::lb::common::locality_lb_config::LocalityConfigSpecifier;
use portolan_proto::envoy::lb::common::{
    ConsistentHashingLbConfig, LocalityLbConfig, SlowStartConfig,
};
use portolan_proto::envoy::lb::least_request::{LeastRequest, least_request::SelectionMethod};
use portolan_proto::envoy::lb::maglev::Maglev;
use portolan_proto::envoy::lb::random::Random;
use portolan_proto::envoy::lb::ring_hash::{RingHash, ring_hash::HashFunction};
use portolan_proto::envoy::lb::round_robin::RoundRobin;
use portolan_proto::envoy::lb::subset::Subset;
use portolan_proto::envoy::lb::wrr_locality::WrrLocality;
use portolan_proto::envoy::protobuf::Any;
use prost::{Message, Name};

use super::super::{message, refuse, subset};
use super::{balance_factor, choices, ring, slow_start, table, zone_aware};
use crate::resource::peak_ewma;

/// Envoy's own policies, by what follows this in the URL of their type.
const PREFIX: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.";
/// How deep lists may stand in lists.
const MAX_DEPTH: u32 = 8;

/// The first policy of a list that is known here; `None` when none is.
pub(super) fn first(
    field: &str,
    list: &LoadBalancingPolicy,
    base: &Balancing,
    depth: u32,
) -> Result<Option<Balancing>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{field}: lists stand more than {MAX_DEPTH} deep in each other"));
    }
    for (i, policy) in list.policies.iter().enumerate() {
        let config = policy.typed_extension_config.as_ref().and_then(|c| c.typed_config.as_ref());
        let Some(any) = config else { continue };
        let field = format!("{field}.policies[{i}]");
        if let Some(found) = one(&field, any, base, depth)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn one(field: &str, any: &Any, base: &Balancing, depth: u32) -> Result<Option<Balancing>, String> {
    let Some(name) = any.type_url.strip_prefix(PREFIX) else {
        let own = peak_ewma::decode(any).map_err(|e| format!("{field}: {e}"))?;
        return Ok(own.map(|own| Balancing {
            balancer: Balancer::PeakEwma,
            choices: own.choices.clamp(2, super::MAX_CHOICES),
            slow_start: own.slow_start,
            ..base.clone()
        }));
    };
    match name {
        "wrr_locality.v3.WrrLocality" => {
            let policy: WrrLocality = read(field, any)?;
            let base = Balancing { locality: LocalityMode::Weighted, ..base.clone() };
            let field = format!("{field}.endpoint_picking_policy");
            let inner = policy.endpoint_picking_policy;
            inner.map_or(Ok(None), |list| first(&field, &list, &base, depth + 1))
        }
        "subset.v3.Subset" => {
            let policy: Subset = read(field, any)?;
            let subsets = subset::of_policy(field, &policy)?;
            let base = Balancing { subsets, ..base.clone() };
            let field = format!("{field}.subset_lb_policy");
            let inner = policy.subset_lb_policy;
            inner.map_or(Ok(None), |list| first(&field, &list, &base, depth + 1))
        }
        name => plain(field, name, any, base),
    }
}

/// One that holds no list in itself.
fn plain(
    field: &str,
    name: &str,
    any: &Any,
    base: &Balancing,
) -> Result<Option<Balancing>, String> {
    let of = |balancer| Balancing { balancer, ..base.clone() };
    let found = match name {
        "round_robin.v3.RoundRobin" => {
            let policy: RoundRobin = read(field, any)?;
            let mut found = of(Balancer::RoundRobin);
            found.slow_start = start(field, policy.slow_start_config.as_ref())?;
            locality(field, policy.locality_lb_config.as_ref(), &mut found)?;
            found
        }
        "least_request.v3.LeastRequest" => {
            least_request(field, &read(field, any)?, of(Balancer::LeastRequest))?
        }
        "random.v3.Random" => {
            let policy: Random = read(field, any)?;
            let mut found = of(Balancer::Random);
            locality(field, policy.locality_lb_config.as_ref(), &mut found)?;
            found
        }
        "ring_hash.v3.RingHash" => ring_hash(field, &read(field, any)?, of(Balancer::RingHash))?,
        "maglev.v3.Maglev" => maglev(field, &read(field, any)?, of(Balancer::Maglev))?,
        "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin" => {
            let policy: ClientSideWeightedRoundRobin = read(field, any)?;
            let apart = policy.enable_oob_load_report.is_some_and(|v| v.value);
            refuse(&format!("{field}.enable_oob_load_report"), apart)?;
            let mut found = of(Balancer::ClientSideWeightedRoundRobin);
            found.slow_start = start(field, policy.slow_start_config.as_ref())?;
            found
        }
        "pick_first.v3.PickFirst" => of(Balancer::PickFirst),
        // Of a build with what Envoy has beside its core; how fast it forgets is up to the proxy.
        "peak_ewma.v3alpha.PeakEwma" => of(Balancer::PeakEwma),
        _ => return Ok(None),
    };
    Ok(Some(found))
}

fn read<M: Message + Name + Default>(field: &str, any: &Any) -> Result<M, String> {
    message(any).map_err(|reason| format!("{field}: {reason}"))
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn least_request(
    field: &str,
    policy: &LeastRequest,
    mut found: Balancing,
) -> Result<Balancing, String> {
    let full = policy.selection_method != i32::from(SelectionMethod::NChoices);
    refuse(&format!("{field}.selection_method"), full)?;
    let full = policy.enable_full_scan.is_some_and(|v| v.value);
    refuse(&format!("{field}.enable_full_scan"), full)?;
    found.choices = choices(field, policy.choice_count.as_ref())?;
    found.slow_start = start(field, policy.slow_start_config.as_ref())?;
    locality(field, policy.locality_lb_config.as_ref(), &mut found)?;
    Ok(found)
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn ring_hash(field: &str, policy: &RingHash, mut found: Balancing) -> Result<Balancing, String> {
    let other = policy.hash_function == i32::from(HashFunction::MurmurHash2);
    refuse(&format!("{field}.hash_function"), other)?;
    refuse(&format!("{field}.use_hostname_for_hashing"), policy.use_hostname_for_hashing)?;
    found.ring = ring(field, policy.minimum_ring_size.as_ref(), policy.maximum_ring_size.as_ref())?;
    if let Some(factor) = balance_factor(field, policy.hash_balance_factor.as_ref())? {
        found.hash_balance_factor = Some(factor);
    }
    hashing(field, policy.consistent_hashing_lb_config.as_ref(), &mut found)?;
    if policy.locality_weighted_lb_config.is_some() {
        found.locality = LocalityMode::Weighted;
    }
    Ok(found)
}

fn maglev(field: &str, policy: &Maglev, mut found: Balancing) -> Result<Balancing, String> {
    found.table = table(field, policy.table_size.as_ref())?;
    hashing(field, policy.consistent_hashing_lb_config.as_ref(), &mut found)?;
    if policy.locality_weighted_lb_config.is_some() {
        found.locality = LocalityMode::Weighted;
    }
    Ok(found)
}

fn hashing(
    field: &str,
    config: Option<&ConsistentHashingLbConfig>,
    found: &mut Balancing,
) -> Result<(), String> {
    let Some(config) = config else { return Ok(()) };
    let field = format!("{field}.consistent_hashing_lb_config");
    refuse(&format!("{field}.use_hostname_for_hashing"), config.use_hostname_for_hashing)?;
    refuse(&format!("{field}.hash_policy"), !config.hash_policy.is_empty())?;
    if let Some(factor) = balance_factor(&field, config.hash_balance_factor.as_ref())? {
        found.hash_balance_factor = Some(factor);
    }
    Ok(())
}

fn start(field: &str, config: Option<&SlowStartConfig>) -> Result<Option<SlowStart>, String> {
    let Some(config) = config else { return Ok(None) };
    slow_start(
        &format!("{field}.slow_start_config"),
        config.slow_start_window.as_ref(),
        config.aggression.as_ref(),
        config.min_weight_percent.as_ref(),
    )
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn locality(
    field: &str,
    config: Option<&LocalityLbConfig>,
    found: &mut Balancing,
) -> Result<(), String> {
    match config.and_then(|c| c.locality_config_specifier.as_ref()) {
        None => {}
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            found.locality = LocalityMode::Weighted;
        }
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) => {
            let field = format!("{field}.locality_lb_config.zone_aware_lb_config");
            refuse(&format!("{field}.fail_traffic_on_panic"), zones.fail_traffic_on_panic)?;
            refuse(&format!("{field}.force_local_zone"), zones.force_local_zone.is_some())?;
            let direct = zones.force_locality_direct_routing;
            refuse(&format!("{field}.force_locality_direct_routing"), direct)?;
            let (enabled, least) =
                (zones.routing_enabled.as_ref(), zones.min_cluster_size.as_ref());
            found.locality = zone_aware(&field, enabled, least)?;
        }
    }
    Ok(())
}
