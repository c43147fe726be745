//! How endpoints are picked, in the words of a cluster, and what of a request is hashed for it, in
//! those of a route.

use portolan_model::policy::HashOn;
use portolan_model::{Balancer, Service};
use portolan_proto::envoy::cluster::LoadBalancingPolicy;
use portolan_proto::envoy::cluster::load_balancing_policy::Policy;
use portolan_proto::envoy::core::TypedExtensionConfig;
use portolan_proto::envoy::lb::client_side_weighted_round_robin::ClientSideWeightedRoundRobin;
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
    default: Balancer,
    dialect: Dialect,
) -> LoadBalancingPolicy {
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
    let first = match chosen {
        Balancer::RoundRobin => None,
        Balancer::LeastRequest => Some(("least_request", pack(&LeastRequest::default()))),
        Balancer::RingHash => Some(("ring_hash", pack(&xx_hash_ring()))),
        Balancer::ClientSideWeightedRoundRobin => Some((
            "client_side_weighted_round_robin",
            pack(&ClientSideWeightedRoundRobin::default()),
        )),
        // Shuffled, so that clients do not all pick the same one.
        Balancer::PickFirst => {
            Some(("pick_first", pack(&PickFirst { shuffle_address_list: true })))
        }
        Balancer::Random => Some(("random", pack(&Random::default()))),
        Balancer::PeakEwma => Some(("peak_ewma", peak_ewma::encode(&PeakEwma::default()))),
        Balancer::Maglev => Some(("maglev", pack(&Maglev::default()))),
    };
    // For whoever does not know the first.
    let next = match chosen {
        Balancer::PeakEwma => Some(("least_request", pack(&LeastRequest::default()))),
        Balancer::Maglev => Some(("ring_hash", pack(&xx_hash_ring()))),
        _ => None,
    };
    let last = ("round_robin", pack(&RoundRobin::default()));
    let policies = first.into_iter().chain(next).chain([last]);
    LoadBalancingPolicy { policies: policies.map(|(name, config)| typed(name, config)).collect() }
}

/// What Envoy hashes of an HTTP request; nothing unless a ring needs it.
pub(super) fn http_hash(service: &Service, default: Balancer) -> Vec<HashPolicy> {
    let specifier = balancing(service, default).1.map(|hash_on| match hash_on {
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
    });
    hash_policies(specifier)
}

/// What gRPC hashes of a call. It knows headers and its own channel alone (gRFC A42).
pub(super) fn call_hash(service: &Service, default: Balancer) -> Vec<HashPolicy> {
    let specifier = balancing(service, default).1.and_then(|hash_on| match hash_on {
        HashOn::Header(name) => Some(header(name)),
        HashOn::Cookie { .. } | HashOn::Path => None,
        HashOn::SourceIp => {
            Some(PolicySpecifier::FilterState(FilterState { key: CHANNEL_ID.to_owned() }))
        }
    });
    hash_policies(specifier)
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

fn hash_policies(specifier: Option<PolicySpecifier>) -> Vec<HashPolicy> {
    let policy =
        |specifier| HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() };
    specifier.map(policy).into_iter().collect()
}

fn typed(name: &str, config: Any) -> Policy {
    Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: format!("envoy.load_balancing_policies.{name}"),
            typed_config: Some(config),
        }),
    }
}
