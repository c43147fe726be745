//! `LbSubsetConfig` and the policy `subset` -> [`Subsets`]: both say the same in two messages.

use portolan_model::traffic::{Fallback, SubsetKeys, Subsets};
use portolan_proto::envoy::cluster::cluster::LbSubsetConfig;
use portolan_proto::envoy::cluster::cluster::lb_subset_config::LbSubsetFallbackPolicy;
use portolan_proto::envoy::cluster::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy;
use portolan_proto::envoy::lb::subset::Subset;
use portolan_proto::envoy::protobuf::Struct;

use super::{labels, refuse};

/// Most sets of keys of a cluster, and most keys of one.
const MAX_SELECTORS: usize = 64;
const MAX_KEYS: usize = 16;

/// What of either message is read.
struct Said<'a> {
    fallback: i32,
    default: Option<&'a Struct>,
    selectors: Vec<Selector<'a>>,
}

/// What of either message's selectors is read.
struct Selector<'a> {
    keys: &'a [String],
    fallback: i32,
    single_host: bool,
}

/// Converts the field of the cluster; `None` when it makes no parts, as with Envoy.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn of_field(field: &str, config: &LbSubsetConfig) -> Result<Option<Subsets>, String> {
    refuse(&format!("{field}.panic_mode_any"), config.panic_mode_any)?;
    refuse(&format!("{field}.list_as_any"), config.list_as_any)?;
    refuse(&format!("{field}.metadata_fallback_policy"), config.metadata_fallback_policy != 0)?;
    let selectors = config.subset_selectors.iter().map(|s| Selector {
        keys: &s.keys,
        fallback: s.fallback_policy,
        single_host: s.single_host_per_subset,
    });
    let said = Said {
        fallback: config.fallback_policy,
        default: config.default_subset.as_ref(),
        selectors: selectors.collect(),
    };
    convert(field, &said)
}

/// Converts the policy, without the list of policies in it.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn of_policy(field: &str, policy: &Subset) -> Result<Option<Subsets>, String> {
    refuse(&format!("{field}.panic_mode_any"), policy.panic_mode_any)?;
    refuse(&format!("{field}.list_as_any"), policy.list_as_any)?;
    refuse(&format!("{field}.metadata_fallback_policy"), policy.metadata_fallback_policy != 0)?;
    let selectors = policy.subset_selectors.iter().map(|s| Selector {
        keys: &s.keys,
        fallback: s.fallback_policy,
        single_host: s.single_host_per_subset,
    });
    let said = Said {
        fallback: policy.fallback_policy,
        default: policy.default_subset.as_ref(),
        selectors: selectors.collect(),
    };
    convert(field, &said)
}

fn convert(field: &str, said: &Said<'_>) -> Result<Option<Subsets>, String> {
    if said.selectors.is_empty() {
        return Ok(None);
    }
    let count = said.selectors.len();
    if count > MAX_SELECTORS {
        return Err(format!("{field}.subset_selectors: {count} are more than {MAX_SELECTORS}"));
    }
    let selectors = said.selectors.iter().enumerate().map(|(i, selector)| {
        convert_selector(&format!("{field}.subset_selectors[{i}]"), selector, said.default)
    });
    let fallback = match LbSubsetFallbackPolicy::try_from(said.fallback) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => Fallback::Fail,
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => Fallback::Any,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) => default_subset(field, said.default)?,
        Err(_) => return Err(format!("{field}.fallback_policy: {} is no policy", said.fallback)),
    };
    Ok(Some(Subsets { selectors: selectors.collect::<Result<_, _>>()?, fallback }))
}

fn convert_selector(
    field: &str,
    selector: &Selector<'_>,
    default: Option<&Struct>,
) -> Result<SubsetKeys, String> {
    use LbSubsetSelectorFallbackPolicy as Policy;
    let count = selector.keys.len();
    if !(1..=MAX_KEYS).contains(&count) {
        return Err(format!("{field}.keys: {count} is not in 1..={MAX_KEYS}"));
    }
    refuse(&format!("{field}.single_host_per_subset"), selector.single_host)?;
    let fallback = match Policy::try_from(selector.fallback) {
        Ok(Policy::NotDefined) => None,
        Ok(Policy::NoFallback) => Some(Fallback::Fail),
        Ok(Policy::AnyEndpoint) => Some(Fallback::Any),
        Ok(Policy::DefaultSubset) => Some(default_subset(field, default)?),
        Ok(Policy::KeysSubset) => {
            return Err(format!("{field}.fallback_policy: KEYS_SUBSET is not supported"));
        }
        Err(_) => {
            return Err(format!("{field}.fallback_policy: {} is no policy", selector.fallback));
        }
    };
    let mut keys = selector.keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    Ok(SubsetKeys { keys, fallback })
}

fn default_subset(field: &str, default: Option<&Struct>) -> Result<Fallback, String> {
    let field = format!("{field}.default_subset");
    let labels = default.map(|labels| labels::of(&field, labels)).transpose()?;
    match labels.filter(|labels| !labels.is_empty()) {
        Some(labels) => Ok(Fallback::Labels(labels)),
        None => Err(format!("{field}: missing")),
    }
}
