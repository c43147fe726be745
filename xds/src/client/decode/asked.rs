//! What tables, hosts and routes ask of HTTP filters (`typed_per_filter_config`): faults, limits of rate,
//! leave for pages of other origins and sessions are done here, anything else is refused unless it is off or may be left out.

mod cors;
mod per_client;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{Abort, Cors, Fault, RateLimit, Route, Session};
use portolan_proto::envoy::core::RuntimeFractionalPercent;
use portolan_proto::envoy::fault::FaultDelay;
use portolan_proto::envoy::fault::fault_delay::FaultDelaySecifier;
use portolan_proto::envoy::http_codec::TokenBucket;
use portolan_proto::envoy::http_cors::CorsPolicy;
use portolan_proto::envoy::http_fault::fault_abort::ErrorType;
use portolan_proto::envoy::http_fault::{FaultAbort, HttpFault};
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::FilterConfig;
use portolan_proto::envoy::stateful_session::StatefulSessionPerRoute;
use prost::Name;

use super::condition;
use super::{duration, message, refuse, time};

/// What is asked of filters that are done here. What a route says of one stands in the place of what
/// its host says, and that of what its table says.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    fault: Option<Named<Fault>>,
    rate_limit: Option<Named<RateLimit>>,
    cors: Option<Named<Cors>>,
    session: Option<Named<Session>>,
}

/// What is asked of a filter, and the filter's name, by which it is switched off.
#[derive(Debug)]
struct Named<T> {
    name: Arc<str>,
    asked: Option<Arc<T>>,
}

impl<T> Named<T> {
    fn content(named: Option<&Self>) -> Option<Arc<T>> {
        named?.asked.clone()
    }
}

impl<T> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), asked: self.asked.clone() }
    }
}

/// Longest time that a fault makes a request wait.
const MAX_DELAY: Duration = Duration::from_secs(3600);

impl Asked {
    /// Reads what one level asks for, over what the level around it does.
    ///
    /// # Errors
    /// The first field that is malformed or not supported.
    pub(super) fn over(&self, prefix: &str, said: &HashMap<String, Any>) -> Result<Self, String> {
        let mut asked = self.clone();
        // In order, so that the same resource has the same reason.
        let mut said: Vec<(&String, &Any)> = said.iter().collect();
        said.sort_unstable_by_key(|(name, _)| *name);
        let mut own = Self::default();
        for (name, any) in said {
            let field = format!("{prefix}typed_per_filter_config[{name}]");
            if is_off(any).map_err(|error| format!("{field}: {error}"))? {
                asked.fault.take_if(|fault| *fault.name == **name);
                asked.rate_limit.take_if(|limit| *limit.name == **name);
                asked.cors.take_if(|cors| *cors.name == **name);
                asked.session.take_if(|session| *session.name == **name);
            } else {
                own.read(&field, name, any)?;
            }
        }
        asked.fault = own.fault.or(asked.fault);
        asked.rate_limit = own.rate_limit.or(asked.rate_limit);
        asked.cors = own.cors.or(asked.cors);
        asked.session = own.session.or(asked.session);
        Ok(asked)
    }

    /// A route with what is asked for it.
    pub(super) fn on(&self, route: Route) -> Route {
        Route {
            fault: Named::content(self.fault.as_ref()),
            rate_limit: Named::content(self.rate_limit.as_ref()),
            cors: Named::content(self.cors.as_ref()),
            session: Named::content(self.session.as_ref()),
            ..route
        }
    }

    fn read(&mut self, field: &str, name: &str, any: &Any) -> Result<(), String> {
        let named = |error: String| format!("{field}: {error}");
        let url = &any.type_url;
        if *url == FilterConfig::type_url() {
            let wrapped: FilterConfig = message(any).map_err(named)?;
            return match &wrapped.config {
                Some(inner) if inner.type_url != FilterConfig::type_url() => {
                    let read = self.read(&format!("{field}.config"), name, inner);
                    if wrapped.is_optional { Ok(()) } else { read }
                }
                _ => refuse(field, !wrapped.is_optional),
            };
        }
        if *url == HttpFault::type_url() {
            let asked = fault(field, &message(any).map_err(named)?)?.map(Arc::new);
            return once(field, &mut self.fault, Named { name: name.into(), asked });
        }
        if *url == LocalRateLimit::type_url() {
            let asked = rate_limit(field, &message(any).map_err(named)?)?.map(Arc::new);
            return once(field, &mut self.rate_limit, Named { name: name.into(), asked });
        }
        if *url == CorsPolicy::type_url() {
            let asked = cors::convert(field, &message(any).map_err(named)?)?.map(Arc::new);
            return once(field, &mut self.cors, Named { name: name.into(), asked });
        }
        if *url == StatefulSessionPerRoute::type_url() {
            let asked = session::convert(field, &message(any).map_err(named)?)?.map(Arc::new);
            return once(field, &mut self.session, Named { name: name.into(), asked });
        }
        refuse(field, true)
    }
}

/// Whether a filter is switched off.
fn is_off(any: &Any) -> Result<bool, String> {
    Ok(any.type_url == FilterConfig::type_url() && message::<FilterConfig>(any)?.disabled)
}

/// Refuses the second of a kind.
fn once<T>(field: &str, place: &mut Option<Named<T>>, asked: Named<T>) -> Result<(), String> {
    if let Some(first) = place {
        return Err(format!("{field}: {} asks for one, too", first.name));
    }
    *place = Some(asked);
    Ok(())
}

/// `None` for one that does nothing.
fn fault(field: &str, said: &HttpFault) -> Result<Option<Fault>, String> {
    let asked = [
        ("upstream_cluster", !said.upstream_cluster.is_empty()),
        ("downstream_nodes", !said.downstream_nodes.is_empty()),
        ("max_active_faults", said.max_active_faults.is_some()),
        ("response_rate_limit", said.response_rate_limit.is_some()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let headers = said.headers.iter().enumerate();
    let fault = Fault {
        headers: headers
            .map(|(i, header)| condition::header(&format!("{field}.headers[{i}]"), header))
            .collect::<Result<_, _>>()?,
        delay: match &said.delay {
            Some(said) => delay(&format!("{field}.delay"), said)?,
            None => None,
        },
        abort: match &said.abort {
            Some(said) => abort(&format!("{field}.abort"), said)?,
            None => None,
        },
    };
    Ok((fault.delay.is_some() || fault.abort.is_some()).then_some(fault))
}

fn delay(field: &str, said: &FaultDelay) -> Result<Option<(Duration, u32)>, String> {
    let part = said.percentage.as_ref().map_or(0, condition::part);
    match &said.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            let fixed = duration(&format!("{field}.fixed_delay"), fixed)?;
            if fixed > MAX_DELAY {
                return Err(format!("{field}.fixed_delay: {fixed:?} is more than {MAX_DELAY:?}"));
            }
            Ok((part > 0).then_some((fixed, part)))
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            Err(format!("{field}.header_delay: not supported"))
        }
        None => Err(format!("{field}.fixed_delay: missing")),
    }
}

fn abort(field: &str, said: &FaultAbort) -> Result<Option<(Abort, u32)>, String> {
    refuse(&format!("{field}.response_body"), !said.response_body.is_empty())?;
    let part = said.percentage.as_ref().map_or(0, condition::part);
    let abort =
        match &said.error_type {
            Some(ErrorType::HttpStatus(status)) => {
                let valid =
                    u16::try_from(*status).ok().filter(|status| (200..600).contains(status));
                Abort::Http(valid.ok_or_else(|| {
                    format!("{field}.http_status: {status} is not one of 200 to 599")
                })?)
            }
            Some(ErrorType::GrpcStatus(status)) => {
                let valid = u8::try_from(*status).ok().filter(|status| *status <= 16);
                Abort::Grpc(valid.ok_or_else(|| {
                    format!("{field}.grpc_status: {status} is not one of 0 to 16")
                })?)
            }
            Some(ErrorType::HeaderAbort(_)) => {
                return Err(format!("{field}.header_abort: not supported"));
            }
            None => return Err(format!("{field}.error_type: missing")),
        };
    Ok((part > 0).then_some((abort, part)))
}

/// `None` for one that does nothing: without a bucket, or for no request (Envoy's default).
fn rate_limit(field: &str, said: &LocalRateLimit) -> Result<Option<RateLimit>, String> {
    let asked = [
        ("stage", said.stage != 0),
        (
            "local_rate_limit_per_downstream_connection",
            said.local_rate_limit_per_downstream_connection,
        ),
        ("local_cluster_rate_limit", said.local_cluster_rate_limit.is_some()),
        (
            "request_headers_to_add_when_not_enforced",
            !said.request_headers_to_add_when_not_enforced.is_empty(),
        ),
        ("response_headers_to_add", !said.response_headers_to_add.is_empty()),
        ("enable_x_ratelimit_headers", said.enable_x_ratelimit_headers != 0),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let of = |said: &Option<RuntimeFractionalPercent>| {
        let percent = said.as_ref().and_then(|percent| percent.default_value.as_ref());
        percent.map_or(0, condition::part)
    };
    let parts = [of(&said.filter_enabled), of(&said.filter_enforced)];
    let Some(bucket) = said.token_bucket.as_ref().filter(|_| !parts.contains(&0)) else {
        return Ok(None);
    };
    let each = each(&format!("{field}.token_bucket"), bucket)?;
    let per_client = per_client::read(field, said)?;
    // Envoy takes no other status than an error's.
    let status = said.status.as_ref().map_or(0, |status| status.code);
    let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status));
    let mut limit = RateLimit::new(bucket.max_tokens, each, status.unwrap_or(429));
    limit.resource_exhausted = said.rate_limited_as_resource_exhausted;
    limit.parts = parts;
    limit.per_client = per_client;
    Ok(Some(limit))
}

/// The time in which a token comes.
fn each(field: &str, bucket: &TokenBucket) -> Result<Duration, String> {
    let interval = time(&format!("{field}.fill_interval"), bucket.fill_interval.as_ref())?;
    let interval = interval.ok_or_else(|| format!("{field}.fill_interval: missing"))?;
    let fill = bucket.tokens_per_fill.as_ref().map_or(1, |fill| fill.value);
    let each = interval.checked_div(fill).filter(|each| !each.is_zero());
    each.ok_or_else(|| format!("{field}.tokens_per_fill: {fill} in {interval:?}"))
}
