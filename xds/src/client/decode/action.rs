//! `RouteAction` -> [`Route`]: clusters and their shares, what is changed on the way, limits in time,
//! retries, what is hashed, labels.

use std::time::Duration;

use portolan_model::policy::HashOn;
use portolan_model::traffic::{
    Action, Edits, HashPolicy, Mirror, PathEdit, PathMatch, Route, Share,
};
use portolan_proto::envoy::route as rds;
use portolan_proto::envoy::route::route_action::hash_policy::PolicySpecifier;
use portolan_proto::envoy::route::route_action::{
    ClusterSpecifier, HashPolicy as EnvoyHashPolicy, HostRewriteSpecifier,
};
use portolan_proto::envoy::route::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::route::weighted_cluster::cluster_weight::HostRewriteSpecifier as ShareHost;
use portolan_proto::envoy::route::{RouteAction, WeightedCluster};

use super::edits::{self, Around, Level};
use super::{answer, condition, duration, labels, refuse, retry, time};
use crate::resource::PATH;

/// Envoy's default for a route without `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Most hash policies of a route.
const MAX_HASHES: usize = 16;
/// Most clusters of a route.
const MAX_SHARES: usize = 64;
/// Most copies of a request.
const MAX_MIRRORS: usize = 8;

/// Converts a route to clusters; `level` is what the route itself asks for.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
    field: &str,
    said: &RouteAction,
    host: &rds::VirtualHost,
    path: PathMatch,
    around: Around<'_>,
    level: &Level,
) -> Result<Route, String> {
    unsupported(field, said)?;
    let rewritten = Edits {
        host: match &said.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                answer::host(&format!("{field}.host_rewrite_literal"), host)?
            }
            _ => None,
        },
        path: match (said.prefix_rewrite.as_str(), &said.regex_rewrite) {
            ("", None) => None,
            ("", Some(said)) => Some(answer::replaced(&format!("{field}.regex_rewrite"), said)?),
            (prefix, None) => {
                Some(PathEdit::Matched(answer::target(&format!("{field}.prefix_rewrite"), prefix)?))
            }
            (_, Some(_)) => {
                return Err(format!("{field}: prefix_rewrite and regex_rewrite at the same time"));
            }
        },
        ..Edits::default()
    };
    let shares = match &said.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => {
            let changed = around.with(level, &Level::default());
            let edits = edits::shared(Edits {
                request: changed.request,
                response: changed.response,
                ..rewritten
            });
            vec![Share { cluster: cluster.as_str().into(), weight: 1, edits }]
        }
        Some(ClusterSpecifier::WeightedClusters(said)) => {
            shares(&format!("{field}.weighted_clusters"), said, around, level, &rewritten)?
        }
        _ => return Err(format!("{field}: only `cluster` and `weighted_clusters` are supported")),
    };
    let retries = said.retry_policy.as_ref().or(host.retry_policy.as_ref());
    Ok(Route {
        timeout: timeout(field, said)?,
        idle_timeout: time(&format!("{field}.idle_timeout"), said.idle_timeout.as_ref())?,
        retries: match retries {
            Some(policy) => {
                let hedge = said.hedge_policy.as_ref().or(host.hedge_policy.as_ref());
                let hedge = retry::hedges(&format!("{field}.hedge_policy"), hedge)?;
                retry::convert(&format!("{field}.retry_policy"), policy, hedge)?
            }
            None => None,
        },
        hash: hash(&format!("{field}.hash_policy"), &said.hash_policy)?,
        labels: labels::asked(&format!("{field}.metadata_match"), said.metadata_match.as_ref())?,
        mirrors: mirrors(&format!("{field}.request_mirror_policies"), said, host)?,
        action: Action::Forward(shares),
        ..Route::to(path, "".into())
    })
}

fn shares(
    field: &str,
    said: &WeightedCluster,
    around: Around<'_>,
    level: &Level,
    rewritten: &Edits,
) -> Result<Vec<Share>, String> {
    refuse(&format!("{field}.random_value_specifier"), said.random_value_specifier.is_some())?;
    let one = |(i, said)| share(&format!("{field}.clusters[{i}]"), said, around, level, rewritten);
    let shares: Vec<Share> = said.clusters.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    check_sum(field, &shares)?;
    Ok(shares)
}

/// Refuses too many shares, and weights whose sum is too large or nothing.
pub(super) fn check_sum(field: &str, shares: &[Share]) -> Result<(), String> {
    if shares.len() > MAX_SHARES {
        return Err(format!("{field}: {} clusters are more than {MAX_SHARES}", shares.len()));
    }
    let sum = shares.iter().try_fold(0_u32, |sum, share| sum.checked_add(share.weight));
    match sum {
        None => Err(format!("{field}: the weights are more than {} together", u32::MAX)),
        Some(0) => Err(format!("{field}: no cluster has a weight")),
        Some(_) => Ok(()),
    }
}

/// A route's own take the place of its host's.
fn mirrors(
    field: &str,
    said: &RouteAction,
    host: &rds::VirtualHost,
) -> Result<Vec<Mirror>, String> {
    let own = &said.request_mirror_policies;
    let said = if own.is_empty() { &host.request_mirror_policies } else { own };
    if said.len() > MAX_MIRRORS {
        return Err(format!("{field}: {} are more than {MAX_MIRRORS}", said.len()));
    }
    let mut mirrors = Vec::with_capacity(said.len());
    for (i, said) in said.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let asked = [
            ("cluster_header", !said.cluster_header.is_empty()),
            ("request_headers_mutations", !said.request_headers_mutations.is_empty()),
            ("host_rewrite_literal", !said.host_rewrite_literal.is_empty()),
        ];
        asked
            .into_iter()
            .try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
        if said.cluster.is_empty() {
            return Err(format!("{field}.cluster: missing"));
        }
        // By default all of them, and all where there is no runtime to ask.
        let part = said.runtime_fraction.as_ref().and_then(|said| said.default_value.as_ref());
        let millionths = part.map_or(1_000_000, condition::part);
        let shadow_host = !said.disable_shadow_host_suffix_append;
        mirrors.push(Mirror { cluster: said.cluster.as_str().into(), millionths, shadow_host });
    }
    mirrors.retain(|mirror| mirror.millionths > 0);
    Ok(mirrors)
}

fn share(
    field: &str,
    said: &ClusterWeight,
    around: Around<'_>,
    level: &Level,
    rewritten: &Edits,
) -> Result<Share, String> {
    refuse(&format!("{field}.cluster_header"), !said.cluster_header.is_empty())?;
    refuse(&format!("{field}.metadata_match"), said.metadata_match.is_some())?;
    refuse(&format!("{field}.typed_per_filter_config"), !said.typed_per_filter_config.is_empty())?;
    if said.name.is_empty() {
        return Err(format!("{field}.name: missing"));
    }
    let asked = edits::Said {
        add: [&said.request_headers_to_add, &said.response_headers_to_add],
        remove: [&said.request_headers_to_remove, &said.response_headers_to_remove],
    };
    let changed = around.with(level, &Level::of(&format!("{field}."), &asked)?);
    let host = match &said.host_rewrite_specifier {
        None => rewritten.host.clone(),
        Some(ShareHost::HostRewriteLiteral(host)) => {
            answer::host(&format!("{field}.host_rewrite_literal"), host)?
        }
    };
    Ok(Share {
        cluster: said.name.as_str().into(),
        weight: said.weight.as_ref().map_or(0, |weight| weight.value),
        edits: edits::shared(Edits {
            request: changed.request,
            response: changed.response,
            host,
            path: rewritten.path.clone(),
        }),
    })
}

/// What would change a request on its way in a manner not known here, or send it somewhere else as well.
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn unsupported(field: &str, said: &RouteAction) -> Result<(), String> {
    let kept = matches!(
        &said.host_rewrite_specifier,
        None | Some(
            HostRewriteSpecifier::HostRewriteLiteral(_)
                | HostRewriteSpecifier::AutoHostRewrite(
                    portolan_proto::envoy::protobuf::BoolValue { value: false }
                )
        )
    );
    let asked = [
        ("path_rewrite", !said.path_rewrite.is_empty()),
        ("path_rewrite_policy", said.path_rewrite_policy.is_some()),
        ("host_rewrite_specifier", !kept),
        ("retry_policy_typed_config", said.retry_policy_typed_config.is_some()),
        ("cors", said.cors.is_some()),
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
