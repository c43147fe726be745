//! `LocalRateLimit.descriptors` -> [`PerClient`]: a bucket for each address that requests are from, and for
//! nothing else that descriptors could tell apart.

use portolan_model::traffic::PerClient;
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::route::RateLimit;
use portolan_proto::envoy::route::rate_limit::action::ActionSpecifier;
use portolan_proto::envoy::route::rate_limit::{Action, action::RemoteAddress};

use super::super::refuse;

/// What Envoy calls the address that a request is from.
const KEY: &str = "remote_address";
/// Envoy's default, and the most that are kept here.
const DEFAULT_CLIENTS: u32 = 20;
const MAX_CLIENTS: u32 = 65_536;

pub(super) fn read(field: &str, said: &LocalRateLimit) -> Result<Option<PerClient>, String> {
    let (descriptors, rate_limits) = (&said.descriptors[..], &said.rate_limits[..]);
    if descriptors.is_empty() && rate_limits.is_empty() {
        return Ok(None);
    }
    let only = "only one of remote_address, of any value, is supported";
    let [descriptor] = descriptors else { return Err(format!("{field}.descriptors: {only}")) };
    let name = format!("{field}.descriptors[0]");
    let by_address = match &descriptor.entries[..] {
        [entry] => entry.key == KEY && entry.value.is_empty(),
        _ => false,
    };
    if !by_address {
        return Err(format!("{name}.entries: {only}"));
    }
    refuse(&format!("{name}.shadow_mode"), descriptor.shadow_mode)?;
    let action =
        Action { action_specifier: Some(ActionSpecifier::RemoteAddress(RemoteAddress {})) };
    let expected = RateLimit { actions: vec![action], ..RateLimit::default() };
    if *rate_limits != [expected] {
        return Err(format!("{field}.rate_limits: {only}"));
    }
    // By itself it says that the bucket of all is not asked.
    let alone = said.always_consume_default_token_bucket.is_some_and(|always| !always.value);
    refuse(&format!("{field}.always_consume_default_token_bucket"), alone)?;
    let bucket = descriptor.token_bucket.as_ref();
    let bucket = bucket.ok_or_else(|| format!("{name}.token_bucket: missing"))?;
    let most = said.max_dynamic_descriptors.as_ref().map_or(DEFAULT_CLIENTS, |most| most.value);
    if !(1..=MAX_CLIENTS).contains(&most) {
        let field = format!("{field}.max_dynamic_descriptors");
        return Err(format!("{field}: {most} is not in 1..={MAX_CLIENTS}"));
    }
    let each = super::each(&format!("{name}.token_bucket"), bucket)?;
    Ok(Some(PerClient { tokens: bucket.max_tokens, each, most }))
}
