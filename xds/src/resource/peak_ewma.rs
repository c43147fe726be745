//! Our own balancing policy in a list of policies: peak EWMA, for which xDS has no type that every
//! client was built with.
//!
//! It goes as a `TypedStruct`: whoever was not built with the type inside passes it over (gRFC A52;
//! Envoy and gRPC look its name up among their policies), and Envoy can still print it.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::traffic::SlowStart;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Any, Struct, Value};
use portolan_proto::typed_struct::TypedStruct;
use prost::{Message, Name};

use super::pack;

/// Type URL of the policy.
pub const TYPE_URL: &str = "type.googleapis.com/portolan.v1.PeakEwma";

const CHOICES: &str = "choice_count";
const WINDOW: &str = "slow_start_window_ms";
const AGGRESSION: &str = "slow_start_aggression_milli";
const MIN_WEIGHT: &str = "slow_start_min_weight_percent";

/// What the policy says; all of it may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeakEwma {
    /// Endpoints drawn, of which the better one is taken.
    pub choices: u32,
    /// Whether endpoints that are new begin with less.
    pub slow_start: Option<SlowStart>,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { choices: 2, slow_start: None }
    }
}

/// Encodes it.
#[must_use]
pub fn encode(policy: &PeakEwma) -> Any {
    let mut fields = vec![(CHOICES, u64::from(policy.choices))];
    if let Some(start) = &policy.slow_start {
        fields.push((WINDOW, u64::try_from(start.window.as_millis()).unwrap_or(u64::MAX)));
        fields.push((AGGRESSION, start.aggression_milli.get().into()));
        fields.push((MIN_WEIGHT, start.min_weight_percent.into()));
    }
    // Through a span of seconds, since there is no conversion from one to the other.
    let number =
        |n: u64| Value { kind: Some(Kind::NumberValue(Duration::from_secs(n).as_secs_f64())) };
    let fields = fields.into_iter().map(|(name, n)| (name.to_owned(), number(n))).collect();
    pack(&TypedStruct { type_url: TYPE_URL.to_owned(), value: Some(Struct { fields }) })
}

/// Reads it; `None` when it is something else.
///
/// # Errors
/// The first field that is malformed or not known.
pub fn decode(any: &Any) -> Result<Option<PeakEwma>, String> {
    if any.type_url != TypedStruct::type_url() {
        return Ok(None);
    }
    let message =
        TypedStruct::decode(&*any.value).map_err(|e| format!("not a TypedStruct: {e}"))?;
    if message.type_url != TYPE_URL {
        return Ok(None);
    }
    let mut policy = PeakEwma::default();
    let mut start = SlowStart {
        window: Duration::ZERO,
        aggression_milli: NonZeroU32::new(1000).unwrap_or(NonZeroU32::MIN),
        min_weight_percent: 10,
    };
    for (name, value) in message.value.unwrap_or_default().fields {
        let bad = || format!("{name}: {:?} is not a number it may have", value.kind);
        let whole = whole(&value).ok_or_else(bad)?;
        match &*name {
            CHOICES => policy.choices = u32::try_from(whole).map_err(|_| bad())?,
            WINDOW => start.window = Duration::from_millis(whole),
            AGGRESSION => {
                let milli = u32::try_from(whole).ok().and_then(NonZeroU32::new);
                start.aggression_milli = milli.ok_or_else(bad)?;
            }
            MIN_WEIGHT => {
                let percent = u32::try_from(whole).ok().filter(|p| *p <= 100);
                start.min_weight_percent = percent.ok_or_else(bad)?;
            }
            _ => return Err(format!("{name}: not known")),
        }
    }
    policy.slow_start = (!start.window.is_zero()).then_some(start);
    Ok(Some(policy))
}

/// A whole number of at most 32 bits, which a double holds exactly.
fn whole(value: &Value) -> Option<u64> {
    let Some(Kind::NumberValue(number)) = value.kind else { return None };
    let span = Duration::try_from_secs_f64(number).ok().filter(|s| s.subsec_nanos() == 0)?;
    Some(span.as_secs()).filter(|n| *n <= u64::from(u32::MAX))
}
