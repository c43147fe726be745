//! Routes of the model in Envoy's words. What [`crate::client`] reads of them means the same again.

use std::collections::HashMap;

use portolan_model::policy::{Retries, RetryOn};
use portolan_model::traffic::{
    self, Action as Becomes, Edits, HeaderEdit, PathEdit, PathMatch, Pattern, Share, Substitution,
};
use portolan_proto::envoy::core::header_value_option::HeaderAppendAction;
use portolan_proto::envoy::core::{DataSource, HeaderValue, HeaderValueOption, data_source};
use portolan_proto::envoy::matcher::{RegexMatchAndSubstitute, RegexMatcher};
use portolan_proto::envoy::protobuf::{Any, UInt32Value};
use portolan_proto::envoy::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use portolan_proto::envoy::route::retry_policy::retry_host_predicate::ConfigType;
use portolan_proto::envoy::route::retry_policy::{RetryBackOff, RetryHostPredicate};
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::{
    self, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use portolan_proto::envoy::route::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::route::weighted_cluster::cluster_weight::HostRewriteSpecifier as ShareHost;
use portolan_proto::envoy::route::{
    DirectResponseAction, HedgePolicy, RedirectAction, RetryPolicy, Route, RouteAction,
    VirtualHost, WeightedCluster,
};

use super::{conditions, filters};
use crate::capability::Dialect;
use crate::resource::{balancing, duration};

/// How Envoy is told not to try an endpoint again.
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
const PREVIOUS_HOSTS_TYPE: &str =
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
/// How often its balancer is asked for another one.
const HOST_SELECTIONS: i64 = 5;

/// A virtual host.
pub(in crate::resource) fn host(host: &traffic::VirtualHost) -> VirtualHost {
    VirtualHost {
        name: host.name.to_string(),
        domains: host.domains.iter().map(ToString::to_string).collect(),
        routes: host.routes.iter().map(|one| route(one, Dialect::Envoy)).collect(),
        ..VirtualHost::default()
    }
}

/// A route.
pub(in crate::resource) fn route(route: &traffic::Route, dialect: Dialect) -> Route {
    let matched = conditions::encode(&route.path, route.conditions.as_deref(), dialect);
    let name = route.name.as_deref().unwrap_or_default().to_owned();
    let mut encoded = Route {
        name,
        r#match: Some(matched),
        typed_per_filter_config: match dialect {
            Dialect::Envoy => filters::encode(route),
            Dialect::Grpc => HashMap::new(),
        },
        ..Route::default()
    };
    match &route.action {
        Becomes::Forward(shares) => forward(route, shares, dialect, &mut encoded),
        Becomes::Redirect(redirect) => {
            fields(redirect.edits.as_deref(), &mut encoded);
            encoded.action = Some(Action::Redirect(self::redirect(redirect, &route.path)));
        }
        Becomes::Respond(respond) => {
            fields(respond.edits.as_deref(), &mut encoded);
            let body = (!respond.body.is_empty()).then(|| DataSource {
                specifier: Some(data_source::Specifier::InlineBytes(respond.body.to_vec())),
                ..DataSource::default()
            });
            encoded.action = Some(Action::DirectResponse(DirectResponseAction {
                status: respond.status.into(),
                body,
                ..DirectResponseAction::default()
            }));
        }
    }
    encoded
}

/// Changes of fields of a route as a whole.
fn fields(edits: Option<&Edits>, encoded: &mut Route) {
    let Some(edits) = edits else { return };
    (encoded.request_headers_to_remove, encoded.request_headers_to_add) = changes(&edits.request);
    (encoded.response_headers_to_remove, encoded.response_headers_to_add) =
        changes(&edits.response);
}

/// No timeout of the whole request unless the route has one: Envoy's default of 15 s would cut gRPC
/// streams.
fn forward(route: &traffic::Route, shares: &[Share], dialect: Dialect, encoded: &mut Route) {
    let limit = route.timeout.map(duration);
    let hash = route.hash.iter().filter_map(|policy| match dialect {
        Dialect::Envoy => Some(balancing::hashed(&policy.on, policy.terminal)),
        Dialect::Grpc => balancing::hashed_call(&policy.on, policy.terminal),
    });
    let mut action = RouteAction {
        timeout: Some(limit.unwrap_or_default()),
        idle_timeout: route.idle_timeout.map(duration),
        retry_policy: route.retries.as_ref().map(retry_policy),
        hedge_policy: route
            .retries
            .as_ref()
            .and_then(Retries::hedges_after)
            .map(|_| HedgePolicy { hedge_on_per_try_timeout: true, ..HedgePolicy::default() }),
        hash_policy: hash.collect(),
        request_mirror_policies: route.mirrors.iter().map(mirror).collect(),
        ..RouteAction::default()
    };
    if dialect == Dialect::Grpc {
        // What gRPC clients read in place of `timeout` (gRFC A31).
        action.max_stream_duration = limit.map(|limit| route_action::MaxStreamDuration {
            max_stream_duration: Some(limit),
            ..route_action::MaxStreamDuration::default()
        });
    }
    let path = shares.iter().find_map(|share| share.edits.as_ref()?.path.as_ref());
    match path.map(|edit| rewrite(edit, &route.path)) {
        Some(Rewrite::Prefix(prefix)) => action.prefix_rewrite = prefix,
        Some(Rewrite::Expression(expression)) => action.regex_rewrite = Some(expression),
        None => {}
    }
    if let [only] = shares {
        let host = only.edits.as_ref().and_then(|edits| edits.host.as_ref());
        action.host_rewrite_specifier =
            host.map(|host| HostRewriteSpecifier::HostRewriteLiteral(host.to_string()));
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(only.cluster.to_string()));
        fields(only.edits.as_deref(), encoded);
    } else {
        action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: shares.iter().map(share).collect(),
            ..WeightedCluster::default()
        }));
    }
    encoded.action = Some(Action::Route(action));
}

fn share(share: &Share) -> ClusterWeight {
    let mut encoded = ClusterWeight {
        name: share.cluster.to_string(),
        weight: Some(UInt32Value { value: share.weight }),
        ..ClusterWeight::default()
    };
    if let Some(edits) = &share.edits {
        (encoded.request_headers_to_remove, encoded.request_headers_to_add) =
            changes(&edits.request);
        (encoded.response_headers_to_remove, encoded.response_headers_to_add) =
            changes(&edits.response);
        let host = edits.host.as_ref();
        encoded.host_rewrite_specifier =
            host.map(|host| ShareHost::HostRewriteLiteral(host.to_string()));
    }
    encoded
}

fn mirror(mirror: &traffic::Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: mirror.cluster.to_string(),
        runtime_fraction: Some(conditions::fraction(mirror.millionths)),
        disable_shadow_host_suffix_append: !mirror.shadow_host,
        ..RequestMirrorPolicy::default()
    }
}

/// What is taken out, and what is put in.
fn changes(edits: &[HeaderEdit]) -> (Vec<String>, Vec<HeaderValueOption>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for edit in edits {
        let (name, value, action) = match edit {
            HeaderEdit::Remove(name) => {
                removed.push(name.to_string());
                continue;
            }
            HeaderEdit::Add(name, value) => (name, value, HeaderAppendAction::AppendIfExistsOrAdd),
            HeaderEdit::AddIfAbsent(name, value) => (name, value, HeaderAppendAction::AddIfAbsent),
            HeaderEdit::Set(name, value) => {
                (name, value, HeaderAppendAction::OverwriteIfExistsOrAdd)
            }
            HeaderEdit::Replace(name, value) => {
                (name, value, HeaderAppendAction::OverwriteIfExists)
            }
        };
        added.push(HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                // A percent sign begins a variable.
                value: value.replace('%', "%%"),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            keep_empty_value: true,
            ..HeaderValueOption::default()
        });
    }
    (removed, added)
}

/// A change of the path in Envoy's words.
enum Rewrite {
    Prefix(String),
    Expression(RegexMatchAndSubstitute),
}

/// Envoy puts the new prefix and the rest together as they are: where the prefix ends in a slash, one
/// too many would stand between.
fn rewrite(edit: &PathEdit, matched: &PathMatch) -> Rewrite {
    let expression = |regex: String, substitution: String| {
        let pattern = Some(RegexMatcher { regex, ..RegexMatcher::default() });
        Rewrite::Expression(RegexMatchAndSubstitute { pattern, substitution })
    };
    match (edit, matched) {
        (PathEdit::Matched(path), PathMatch::Under(prefix)) if path.ends_with('/') => {
            expression(format!("^{}/?", Pattern::literal(prefix)), Substitution::escaped(path))
        }
        (PathEdit::Matched(path), _) => Rewrite::Prefix(path.to_string()),
        (PathEdit::Whole(path), _) => expression("^/.*$".to_owned(), Substitution::escaped(path)),
        (PathEdit::Replaced(substitution), _) => {
            expression(substitution.pattern().to_owned(), substitution.with().to_owned())
        }
    }
}

fn redirect(redirect: &traffic::Redirect, matched: &PathMatch) -> RedirectAction {
    let code = match redirect.status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = redirect.path.as_ref().map(|edit| match (edit, rewrite(edit, matched)) {
        (PathEdit::Whole(path), _) => PathRewriteSpecifier::PathRedirect(path.to_string()),
        (_, Rewrite::Prefix(prefix)) => PathRewriteSpecifier::PrefixRewrite(prefix),
        (_, Rewrite::Expression(expression)) => PathRewriteSpecifier::RegexRewrite(expression),
    });
    let scheme = redirect.scheme.as_ref();
    RedirectAction {
        host_redirect: redirect.host.as_deref().unwrap_or_default().to_owned(),
        port_redirect: redirect.port.map(u32::from).unwrap_or_default(),
        response_code: code.into(),
        strip_query: redirect.strip_query,
        scheme_rewrite_specifier: scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        path_rewrite_specifier: path,
    }
}

/// Envoy and gRPC (gRFC A44) read the same list and skip the words they do not know; gRPC has no
/// limit on a single try. Envoy is told to try another endpoint, as our proxy and gRPC do by themselves.
fn retry_policy(retries: &Retries) -> RetryPolicy {
    let words: Vec<&str> = retries.on.iter().map(|reason| RetryOn::word(*reason)).collect();
    RetryPolicy {
        retry_on: words.join(","),
        num_retries: Some(UInt32Value { value: retries.attempts }),
        retriable_status_codes: retries.status_codes.iter().map(|code| u32::from(*code)).collect(),
        per_try_timeout: retries.per_try_timeout.map(duration),
        retry_back_off: retries.back_off.map(|back_off| RetryBackOff {
            base_interval: Some(duration(back_off.base)),
            max_interval: Some(duration(back_off.max)),
        }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: PREVIOUS_HOSTS.to_owned(),
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: PREVIOUS_HOSTS_TYPE.to_owned(),
                value: Vec::new(),
            })),
        }],
        host_selection_retry_max_attempts: HOST_SELECTIONS,
        ..RetryPolicy::default()
    }
}
