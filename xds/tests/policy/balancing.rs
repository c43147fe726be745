//! How endpoints are picked: the list of policies of a cluster, and what routes hash.

use std::time::Duration;

use portolan_model::policy::HashOn;
use portolan_model::{Balancer, Service};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::connection_hash_policy;
use portolan_proto::envoy::lb::pick_first::PickFirst;
use portolan_proto::envoy::lb::ring_hash::{RingHash, ring_hash::HashFunction};
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::listener::filter::ConfigType;
use portolan_proto::envoy::protobuf::{Any, Duration as Span};
use portolan_proto::envoy::route::route_action::hash_policy::PolicySpecifier;
use portolan_proto::envoy::tcp_proxy::TcpProxy;
use portolan_xds::client::decode;
use portolan_xds::resource::{Encoded, ResourceType, cluster, route};
use portolan_xds::{Dialect, ResourceConfig};
use prost::Message;

use crate::support::{config, entry};
use crate::{action, catalog, message};

/// `shop/web` after a change to it.
fn service(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = (*entry("web", 80, &[(1, true)]).service).clone();
    change(&mut service);
    service
}

fn encode(service: &Service, default: Balancer, dialect: Dialect) -> Encoded {
    let config = ResourceConfig { balancer: default, ..config() };
    cluster::encode(service, &service.ports[0], cluster::Way::Plain, &config, dialect)
}

fn cluster_of(encoded: &Encoded) -> Cluster {
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    Cluster::decode(&any.value[..]).expect("a cluster")
}

/// The configurations of the list, by the last part of their names.
fn policies(cluster: &Cluster) -> Vec<(String, Any)> {
    let list = cluster.load_balancing_policy.as_ref().expect("a list");
    let configs = list.policies.iter().filter_map(|p| p.typed_extension_config.clone());
    let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    configs.map(|c| (short(&c.name), c.typed_config.expect("a configuration"))).collect()
}

/// What it is about, the service, the default, and what stands before round robin for Envoy and gRPC.
type ListCase = (&'static str, Service, Balancer, &'static [&'static str], &'static [&'static str]);

/// What it is about, what is hashed, what else the service says, and what Envoy and gRPC hash.
type HashCase =
    (&'static str, Option<HashOn>, fn(&mut Service), Option<&'static str>, Option<&'static str>);

fn cookie(ttl: Option<u64>) -> HashOn {
    HashOn::Cookie { name: "user".into(), ttl: ttl.map(Duration::from_secs) }
}

#[test]
fn every_list_of_policies_ends_in_round_robin_and_nobody_refuses_it() {
    use Balancer::{
        ClientSideWeightedRoundRobin, LeastRequest, Maglev, PeakEwma, PickFirst, Random, RingHash,
        RoundRobin,
    };
    let named = |balancer| service(|s| s.policy.balancer = Some(balancer));
    let hashed = |on: HashOn| service(|s| s.policy.hash_on = Some(on));
    let affine = service(|s| s.traffic.affinity_secs = Some(10_800));
    let plain = service(|_| {});
    let (ring, least): (&'static [&str], &'static [&str]) = (&["ring_hash"], &["least_request"]);
    let weighted: &[&str] = &["client_side_weighted_round_robin"];
    let maglev: &[&str] = &["maglev", "ring_hash"];
    let peak: &[&str] = &["peak_ewma", "least_request"];
    #[rustfmt::skip]
    let cases: [ListCase; 19] = [
        ("round robin", named(RoundRobin), LeastRequest, &[], &[]),
        ("least request", named(LeastRequest), RoundRobin, least, least),
        ("ring hash", named(RingHash), RoundRobin, ring, ring),
        ("weighted", named(ClientSideWeightedRoundRobin), LeastRequest, weighted, weighted),
        ("pick first, which Envoy has not", named(PickFirst), LeastRequest, &[], &["pick_first"]),
        ("random", named(Random), LeastRequest, &["random"], &["random"]),
        ("peak EWMA, else least request", named(PeakEwma), RoundRobin, peak, peak),
        ("maglev, else a ring", named(Maglev), LeastRequest, maglev, maglev),
        ("the default", plain.clone(), LeastRequest, least, least),
        ("the default is peak EWMA", plain.clone(), PeakEwma, peak, peak),
        // gRPC knows no path either.
        ("by path", hashed(HashOn::Path), LeastRequest, ring, least),
        ("by path, else peak EWMA", hashed(HashOn::Path), PeakEwma, ring, peak),
        ("the default is round robin", plain, RoundRobin, &[], &[]),
        ("a client keeps its endpoint", affine, LeastRequest, ring, ring),
        ("by header", hashed(HashOn::Header("x-user".into())), LeastRequest, ring, ring),
        ("by address", hashed(HashOn::SourceIp), LeastRequest, ring, ring),
        // gRPC knows no cookies.
        ("by cookie", hashed(cookie(None)), LeastRequest, ring, least),
        ("by cookie, else weighted", hashed(cookie(Some(60))), ClientSideWeightedRoundRobin, ring, weighted),
        ("by cookie, else round robin", hashed(cookie(None)), RoundRobin, ring, &[]),
    ];
    for (about, service, default, envoy, grpc) in cases {
        for (dialect, before) in Dialect::ALL.into_iter().zip([envoy, grpc]) {
            let encoded = encode(&service, default, dialect);
            let cluster = cluster_of(&encoded);
            let expected = [before, &["round_robin"]].concat();
            let names: Vec<String> = policies(&cluster).into_iter().map(|p| p.0).collect();
            assert_eq!(names, expected, "{about}, {dialect:?}");
            // gRPC refuses most values of the field from before the list.
            assert_eq!(cluster.lb_policy, 0, "{about}");
            // Our own proxy has them all and takes the first.
            let any = Any::decode(&encoded.any[..]).expect("an Any");
            let (_, (taken, _)) = decode::cluster::decode(&any).expect("our proxy takes it");
            let own = Balancer::WORDS.iter().find(|(word, _)| before.first() == Some(word));
            let own = own.map_or(RoundRobin, |(_, balancer)| *balancer);
            assert_eq!(taken.balancing.balancer, own, "{about}, {dialect:?}");
            // None of them is of a type that a client has to know (gRFC A52).
            let urls = policies(&cluster).into_iter().map(|p| p.1.type_url);
            let known = |url: &str| {
                url.starts_with("type.googleapis.com/envoy.extensions.load_balancing_policies.")
                    || url == "type.googleapis.com/xds.type.v3.TypedStruct"
            };
            assert!(urls.clone().all(|url| known(&url)), "{about}: {:?}", Vec::from_iter(urls));
        }
    }
}

#[test]
fn a_ring_has_the_one_function_that_grpc_knows_and_pick_first_shuffles() {
    let config = |balancer| {
        let service = service(|s| s.policy.balancer = Some(balancer));
        let cluster = cluster_of(&encode(&service, Balancer::RoundRobin, Dialect::Grpc));
        policies(&cluster).remove(0).1.value
    };
    let ring = RingHash::decode(&config(Balancer::RingHash)[..]).expect("a ring");
    assert_eq!(ring.hash_function, i32::from(HashFunction::XxHash));
    let first = PickFirst::decode(&config(Balancer::PickFirst)[..]).expect("pick first");
    assert!(first.shuffle_address_list, "clients do not all pick the same one");
}

#[test]
fn routes_hash_what_the_service_names_in_the_words_that_each_side_knows() {
    let header = || HashOn::Header("x-user".into());
    let cases: [HashCase; 9] = [
        ("nothing", None, |_| {}, None, None),
        ("a header", Some(header()), |_| {}, Some("header x-user"), Some("header x-user")),
        ("a cookie of theirs", Some(cookie(None)), |_| {}, Some("cookie user None "), None),
        ("a cookie of ours", Some(cookie(Some(60))), |_| {}, Some("cookie user Some(60) /"), None),
        ("the address", Some(HashOn::SourceIp), |_| {}, Some("address"), Some("channel")),
        ("the path", Some(HashOn::Path), |_| {}, Some("header :path"), None),
        (
            "maglev",
            None,
            |s| s.policy.balancer = Some(Balancer::Maglev),
            Some("address"),
            Some("channel"),
        ),
        (
            "the client's affinity",
            None,
            |s| s.traffic.affinity_secs = Some(10_800),
            Some("address"),
            Some("channel"),
        ),
        ("no ring", Some(header()), |s| s.policy.balancer = Some(Balancer::Random), None, None),
    ];
    for (about, hash_on, change, envoy, grpc) in cases {
        let catalog = catalog(|service| {
            service.policy.hash_on = hash_on;
            change(service);
        });
        for (table, expected) in
            [(route::HTTP_ROUTES, envoy), ("web.shop.svc.cluster.local:80", grpc)]
        {
            let hash = action(&catalog, table).hash_policy;
            let said: Vec<String> = hash.into_iter().map(|h| words(h.policy_specifier)).collect();
            assert_eq!(said, Vec::from_iter(expected.map(str::to_owned)), "{about}, {table}");
            let encoded = catalog.lookup(ResourceType::Route, table).expect("a table");
            let any = Any::decode(&encoded.any[..]).expect("an Any");
            // Our own proxy asks for the first alone.
            if table == route::HTTP_ROUTES {
                decode::route::decode(&any).expect("our proxy takes it");
            }
        }
    }
}

fn words(specifier: Option<PolicySpecifier>) -> String {
    match specifier {
        Some(PolicySpecifier::Header(header)) => format!("header {}", header.header_name),
        Some(PolicySpecifier::Cookie(cookie)) => {
            let ttl = cookie.ttl.map(|Span { seconds, .. }| seconds);
            format!("cookie {} {ttl:?} {}", cookie.name, cookie.path)
        }
        Some(PolicySpecifier::ConnectionProperties(of)) if of.source_ip => "address".to_owned(),
        Some(PolicySpecifier::FilterState(state)) if state.key == "io.grpc.channel_id" => {
            "channel".to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tcp_listener_hashes_the_address_of_its_client() {
    let catalog = catalog(|_| {});
    let listener: Listener = message(&catalog, ResourceType::Listener, "db");
    let filter = &listener.filter_chains[0].filters[0];
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    let proxy = TcpProxy::decode(&any.value[..]).expect("a TCP proxy");
    let specifiers: Vec<_> = proxy.hash_policy.iter().map(|h| h.policy_specifier.clone()).collect();
    let source_ip = connection_hash_policy::SourceIp {};
    let expected = connection_hash_policy::PolicySpecifier::SourceIp(source_ip);
    assert_eq!(specifiers, [Some(expected)]);
    let encoded = catalog.lookup(ResourceType::Listener, "db").expect("the listener");
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    decode::listener::decode(&any).expect("our proxy takes it");
}
