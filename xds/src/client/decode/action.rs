//! `RouteAction` -> [`Route`]: the cluster, limits in time, retries, what is hashed, labels.

use std::time::Duration;

use portolan_model::policy::HashOn;
use portolan_model::traffic::{HashPolicy, PathMatch, Route};
use portolan_proto::envoy::route as rds;
use portolan_proto::envoy::route::RouteAction;
use portolan_proto::envoy::route::route_action::hash_policy::PolicySpecifier;
use portolan_proto::envoy::route::route_action::{
    ClusterSpecifier, HashPolicy as EnvoyHashPolicy, HostRewriteSpecifier,
};

use super::{duration, labels, refuse, retry, time};
use crate::resource::PATH;

/// Envoy's default for a route without `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most hash policies of a route.
const MAX_HASHES: usize = 16;

/// Converts a route to a cluster.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
    field: &str,
    said: &RouteAction,
    host: &rds::VirtualHost,
    path: PathMatch,
) -> Result<Route, String> {
    let Some(ClusterSpecifier::Cluster(cluster)) = &said.cluster_specifier else {
        return Err(format!("{field}: only `cluster` is supported yet"));
    };
    unsupported(field, said)?;
    let retries = said.retry_policy.as_ref().or(host.retry_policy.as_ref());
    Ok(Route {
        timeout: timeout(field, said)?,
        idle_timeout: time(&format!("{field}.idle_timeout"), said.idle_timeout.as_ref())?,
        retries: match retries {
            Some(policy) => retry::convert(&format!("{field}.retry_policy"), policy)?,
            None => None,
        },
        hash: hash(&format!("{field}.hash_policy"), &said.hash_policy)?,
        labels: labels::asked(&format!("{field}.metadata_match"), said.metadata_match.as_ref())?,
        ..Route::to(path, cluster.as_str().into())
    })
}

/// What would change a request on its way, or send it somewhere else as well.
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn unsupported(field: &str, said: &RouteAction) -> Result<(), String> {
    let kept = matches!(
        &said.host_rewrite_specifier,
        None | Some(HostRewriteSpecifier::AutoHostRewrite(
            portolan_proto::envoy::protobuf::BoolValue { value: false }
        ))
    );
    let asked = [
        ("prefix_rewrite", !said.prefix_rewrite.is_empty()),
        ("regex_rewrite", said.regex_rewrite.is_some()),
        ("path_rewrite", !said.path_rewrite.is_empty()),
        ("path_rewrite_policy", said.path_rewrite_policy.is_some()),
        ("host_rewrite_specifier", !kept),
        ("retry_policy_typed_config", said.retry_policy_typed_config.is_some()),
        ("cors", said.cors.is_some()),
        ("request_mirror_policies", !said.request_mirror_policies.is_empty()),
        ("internal_redirect_policy", said.internal_redirect_policy.is_some()),
        ("upgrade_configs", said.upgrade_configs.iter().any(|u| u.connect_config.is_some())),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))
}

/// No timeout means Envoy's default and a zero means none; what gRPC reads in its place
/// (gRFC A31) holds where it is shorter.
fn timeout(field: &str, said: &RouteAction) -> Result<Option<Duration>, String> {
    let whole = match &said.timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(value) => time(&format!("{field}.timeout"), Some(value))?,
    };
    let stream = said.max_stream_duration.as_ref().and_then(|d| d.max_stream_duration.as_ref());
    let stream = time(&format!("{field}.max_stream_duration"), stream)?;
    Ok(whole.into_iter().chain(stream).min())
}

fn hash(field: &str, policies: &[EnvoyHashPolicy]) -> Result<Vec<HashPolicy>, String> {
    if policies.len() > MAX_HASHES {
        return Err(format!("{field}: {} are more than {MAX_HASHES}", policies.len()));
    }
    let mut hash = Vec::with_capacity(policies.len());
    for (i, policy) in policies.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if let Some(on) = hash_on(&field, policy)? {
            hash.push(HashPolicy { on, terminal: policy.terminal });
        }
    }
    Ok(hash)
}

/// `None` for what makes no hash.
fn hash_on(field: &str, policy: &EnvoyHashPolicy) -> Result<Option<HashOn>, String> {
    match &policy.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            refuse(&format!("{field}.header.regex_rewrite"), header.regex_rewrite.is_some())?;
            match header.header_name.to_ascii_lowercase() {
                name if name.is_empty() => Err(format!("{field}.header.header_name: missing")),
                name if name == PATH => Ok(Some(HashOn::Path)),
                name => Ok(Some(HashOn::Header(name))),
            }
        }
        Some(PolicySpecifier::Cookie(cookie)) => {
            if cookie.name.is_empty() {
                return Err(format!("{field}.cookie.name: missing"));
            }
            let ttl = cookie.ttl.as_ref();
            let ttl = ttl.map(|ttl| duration(&format!("{field}.cookie.ttl"), ttl)).transpose()?;
            Ok(Some(HashOn::Cookie { name: cookie.name.clone(), ttl }))
        }
        Some(PolicySpecifier::ConnectionProperties(of)) => {
            Ok(of.source_ip.then_some(HashOn::SourceIp))
        }
        Some(PolicySpecifier::QueryParameter(_)) => {
            Err(format!("{field}.query_parameter: not supported"))
        }
        Some(PolicySpecifier::FilterState(_)) => {
            Err(format!("{field}.filter_state: not supported"))
        }
        None => Err(format!("{field}: missing")),
    }
}
