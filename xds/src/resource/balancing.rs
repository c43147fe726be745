//! How endpoints are picked, in the words of a cluster, and what of a request is hashed for it, in
//! those of a route.

use std::time::Duration;

use portolan_model::policy::{HashOn, Tuning};
use portolan_model::traffic::SlowStart;
use portolan_model::{AppProtocol, Balancer, Service, ServicePort};
use portolan_proto::envoy::cluster::LoadBalancingPolicy;
use portolan_proto::envoy::cluster::cluster::CommonLbConfig;
use portolan_proto::envoy::cluster::load_balancing_policy::Policy;
use portolan_proto::envoy::core::{RuntimeDouble, TypedExtensionConfig};
use portolan_proto::envoy::lb::client_side_weighted_round_robin::ClientSideWeightedRoundRobin;
use portolan_proto::envoy::lb::common::{ConsistentHashingLbConfig, SlowStartConfig};
use portolan_proto::envoy::lb::least_request::LeastRequest;
use portolan_proto::envoy::lb::maglev::Maglev;
use portolan_proto::envoy::lb::pick_first::PickFirst;
use portolan_proto::envoy::lb::random::Random;
use portolan_proto::envoy::lb::ring_hash::{RingHash, ring_hash};
use portolan_proto::envoy::lb::round_robin::RoundRobin;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::route_action::HashPolicy;
use portolan_proto::envoy::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, FilterState, Header, PolicySpecifier,
};

use super::peak_ewma::{self, PeakEwma};
use super::policy::{number, percent};
use super::{duration, pack};
use crate::capability::Dialect;

/// The header that stands for the path, which xDS has no hash policy for.
pub(crate) const PATH: &str = ":path";
/// The key by which gRPC knows a channel (gRFC A42).
const CHANNEL_ID: &str = "io.grpc.channel_id";

/// The balancers of a service, in the order they are to be tried.
///
/// gRPC refuses most values of the old `lb_policy` field and skips policies it does not know, and
/// so does Envoy: the list ends in round robin, which all know (gRFC A52). None of them stands
/// within `wrr_locality`: a locality weighs as many as it has, so that picking among all endpoints
/// of a priority comes to the same, and gRPC for Node refuses a list whose inner one it does not
/// know.
pub(super) fn policies(
    service: &Service,
    port: &ServicePort,
    default: Balancer,
    dialect: Dialect,
) -> LoadBalancingPolicy {
    let default = default_of(port, default);
    let chosen = match (balancing(service, default), dialect) {
        // What gRPC cannot hash by would go to an endpoint drawn for each call.
        (
            (Balancer::RingHash | Balancer::Maglev, Some(HashOn::Cookie { .. } | HashOn::Path)),
            Dialect::Grpc,
        ) => default,
        // It has the message and no implementation, and its config dump breaks off at it.
        ((Balancer::PickFirst, _), Dialect::Envoy) => Balancer::RoundRobin,
        ((balancer, _), _) => balancer,
    };
    let tuning = &service.policy.tuning;
    let round_robin = configured(Balancer::RoundRobin, tuning);
    let list = match chosen {
        Balancer::RoundRobin => vec![round_robin],
        // What follows is for whoever does not know the first.
        Balancer::PeakEwma => {
            vec![
                configured(chosen, tuning),
                configured(Balancer::LeastRequest, tuning),
                round_robin,
            ]
        }
        Balancer::Maglev => {
            vec![configured(chosen, tuning), configured(Balancer::RingHash, tuning), round_robin]
        }
        other => vec![configured(other, tuning), round_robin],
    };
    LoadBalancingPolicy { policies: list.into_iter().map(|(name, any)| typed(name, any)).collect() }
}

/// Bytes are told apart by connections, which last, and not by answers: what goes by how long those
/// take says nothing of a TCP port.
fn default_of(port: &ServicePort, default: Balancer) -> Balancer {
    match (&port.app_protocol, default) {
        (Some(AppProtocol::Tcp), Balancer::PeakEwma) => Balancer::LeastRequest,
        (_, other) => other,
    }
}

/// A balancer with its settings: the last part of its name, and its message.
fn configured(balancer: Balancer, tuning: &Tuning) -> (&'static str, Any) {
    let slow_start_config = tuning.slow_start.as_ref().map(slow_start);
    let config = match balancer {
        Balancer::RoundRobin => pack(&RoundRobin { slow_start_config, ..RoundRobin::default() }),
        Balancer::LeastRequest => pack(&LeastRequest {
            choice_count: tuning.choices.and_then(number),
            slow_start_config,
            ..LeastRequest::default()
        }),
        Balancer::RingHash => {
            pack(&RingHash { consistent_hashing_lb_config: hashing(tuning), ..xx_hash_ring() })
        }
        Balancer::ClientSideWeightedRoundRobin => pack(&ClientSideWeightedRoundRobin {
            slow_start_config,
            ..ClientSideWeightedRoundRobin::default()
        }),
        // Shuffled, so that clients do not all pick the same one.
        Balancer::PickFirst => pack(&PickFirst { shuffle_address_list: true }),
        Balancer::Random => pack(&Random::default()),
        Balancer::PeakEwma => peak_ewma::encode(&PeakEwma {
            choices: tuning.choices.unwrap_or(PeakEwma::default().choices),
            slow_start: tuning.slow_start,
        }),
        Balancer::Maglev => {
            pack(&Maglev { consistent_hashing_lb_config: hashing(tuning), ..Maglev::default() })
        }
    };
    (balancer.word(), config)
}

fn hashing(tuning: &Tuning) -> Option<ConsistentHashingLbConfig> {
    tuning.hash_balance_factor.map(|factor| ConsistentHashingLbConfig {
        hash_balance_factor: number(factor),
        ..ConsistentHashingLbConfig::default()
    })
}

fn slow_start(wanted: &SlowStart) -> SlowStartConfig {
    let milli = Duration::from_millis(wanted.aggression_milli.get().into());
    SlowStartConfig {
        slow_start_window: Some(duration(wanted.window)),
        aggression: Some(RuntimeDouble {
            default_value: milli.as_secs_f64(),
            // Envoy refuses one without a key; nobody sets this one.
            runtime_key: "portolan.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: percent(wanted.min_weight_percent),
    }
}

/// What stands beside the list; `None` where nothing is asked for.
pub(super) fn common(tuning: &Tuning) -> Option<CommonLbConfig> {
    tuning.panic_threshold.map(|threshold| CommonLbConfig {
        healthy_panic_threshold: percent(threshold),
        ..CommonLbConfig::default()
    })
}

/// What Envoy hashes of an HTTP request.
pub(super) fn hashed(on: &HashOn, terminal: bool) -> HashPolicy {
    let specifier = match on {
        HashOn::Header(name) => header(name),
        HashOn::Cookie { name, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.map(duration),
            path: if ttl.is_some() { "/".to_owned() } else { String::new() },
            ..Cookie::default()
        }),
        HashOn::SourceIp => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        HashOn::Path => header(PATH),
    };
    HashPolicy { terminal, policy_specifier: Some(specifier) }
}

/// What gRPC hashes of a call. It knows headers and its own channel alone (gRFC A42).
pub(super) fn hashed_call(on: &HashOn, terminal: bool) -> Option<HashPolicy> {
    let specifier = match on {
        HashOn::Header(name) => header(name),
        HashOn::Cookie { .. } | HashOn::Path => return None,
        HashOn::SourceIp => {
            PolicySpecifier::FilterState(FilterState { key: CHANNEL_ID.to_owned() })
        }
    };
    Some(HashPolicy { terminal, policy_specifier: Some(specifier) })
}

fn balancing(service: &Service, default: Balancer) -> (Balancer, Option<&HashOn>) {
    service.policy.balancing(service.traffic.affinity_secs.is_some(), default)
}

/// gRPC takes no other function than this, and refuses the default (gRFC A42).
fn xx_hash_ring() -> RingHash {
    RingHash { hash_function: ring_hash::HashFunction::XxHash.into(), ..RingHash::default() }
}

fn header(name: &str) -> PolicySpecifier {
    PolicySpecifier::Header(Header { header_name: name.to_owned(), ..Header::default() })
}

fn typed(balancer: &str, config: Any) -> Policy {
    // Envoy may have one of the same name, for another message.
    let own = balancer == Balancer::PeakEwma.word();
    let whose = if own { "portolan" } else { "envoy" };
    Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: format!("{whose}.load_balancing_policies.{balancer}"),
            typed_config: Some(config),
        }),
    }
}
