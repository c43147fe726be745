//! How a cluster picks: the list of policies, the fields from before it, what stands beside both.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::traffic::{Balancing, Fallback, LocalityMode, SlowStart, SubsetKeys};
use portolan_proto::envoy::cluster::cluster::common_lb_config::{
    ConsistentHashingLbConfig as OldHashing, LocalityConfigSpecifier as OldLocality,
    LocalityWeightedLbConfig, ZoneAwareLbConfig as OldZones,
};
use portolan_proto::envoy::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig, LeastRequestLbConfig, MaglevLbConfig,
    RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig as OldSlowStart,
    lb_subset_config::LbSubsetSelector, ring_hash_lb_config,
};
use portolan_proto::envoy::cluster::load_balancing_policy::Policy;
use portolan_proto::envoy::cluster::{Cluster, LoadBalancingPolicy};
use portolan_proto::envoy::core::{RuntimeDouble, TypedExtensionConfig};
use portolan_proto::envoy::lb::client_side_weighted_round_robin::ClientSideWeightedRoundRobin;
use portolan_proto::envoy::lb::common::locality_lb_config::{
    LocalityConfigSpecifier, ZoneAwareLbConfig,
};
use portolan_proto::envoy::lb::common::{
    ConsistentHashingLbConfig, LocalityLbConfig, SlowStartConfig,
};
use portolan_proto::envoy::lb::least_request::{LeastRequest, least_request::SelectionMethod};
use portolan_proto::envoy::lb::maglev::Maglev;
use portolan_proto::envoy::lb::pick_first::PickFirst;
use portolan_proto::envoy::lb::random::Random;
use portolan_proto::envoy::lb::ring_hash::{RingHash, ring_hash::HashFunction};
use portolan_proto::envoy::lb::round_robin::RoundRobin;
use portolan_proto::envoy::lb::subset::{Subset, subset};
use portolan_proto::envoy::lb::wrr_locality::WrrLocality;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::typed_struct::TypedStruct;
use portolan_xds::client::decode;
use portolan_xds::resource::peak_ewma::{self, PeakEwma};

use crate::clusters::eds;
use crate::{any, long, number, secs, share, texts, yes};

fn list(policies: Vec<Any>) -> LoadBalancingPolicy {
    let policy = |any| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: "one".into(),
            typed_config: Some(any),
        }),
    };
    LoadBalancingPolicy { policies: policies.into_iter().map(policy).collect() }
}

fn taken(cluster: &Cluster) -> Result<Balancing, String> {
    let decoded = decode::cluster::decode(&any(cluster));
    decoded.map(|(_, (cluster, _))| cluster.balancing).map_err(|e| e.to_string())
}

fn of_list(policies: Vec<Any>) -> Result<Balancing, String> {
    taken(&Cluster { load_balancing_policy: Some(list(policies)), ..eds() })
}

fn unknown() -> Any {
    Any { type_url: "type.googleapis.com/example.Other".into(), value: vec![1] }
}

fn start() -> Option<SlowStartConfig> {
    Some(SlowStartConfig {
        slow_start_window: secs(30),
        aggression: Some(RuntimeDouble { default_value: 1.5, runtime_key: "k".into() }),
        min_weight_percent: share(20.0),
    })
}

fn started() -> Option<SlowStart> {
    Some(SlowStart {
        window: Duration::from_secs(30),
        aggression_milli: NonZeroU32::new(1500).expect("above 0"),
        min_weight_percent: 20,
    })
}

fn zones(percent: f64, size: u64) -> Option<LocalityLbConfig> {
    let zones = ZoneAwareLbConfig {
        routing_enabled: share(percent),
        min_cluster_size: long(size),
        ..ZoneAwareLbConfig::default()
    };
    Some(LocalityLbConfig {
        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)),
    })
}

fn with(balancer: Balancer, change: impl FnOnce(&mut Balancing)) -> Balancing {
    let mut balancing = Balancing::of(balancer);
    change(&mut balancing);
    balancing
}

#[test]
fn of_a_list_the_first_that_is_known_is_taken_with_its_settings() {
    let hashing = ConsistentHashingLbConfig {
        hash_balance_factor: number(150),
        ..ConsistentHashingLbConfig::default()
    };
    let round = RoundRobin { slow_start_config: start(), locality_lb_config: zones(40.0, 9) };
    let least = LeastRequest {
        choice_count: number(4),
        slow_start_config: start(),
        ..LeastRequest::default()
    };
    let weighted = ClientSideWeightedRoundRobin {
        slow_start_config: start(),
        ..ClientSideWeightedRoundRobin::default()
    };
    let ring = RingHash {
        hash_function: HashFunction::XxHash.into(),
        minimum_ring_size: long(10),
        maximum_ring_size: long(100),
        consistent_hashing_lb_config: Some(hashing.clone()),
        ..RingHash::default()
    };
    let maglev = Maglev {
        table_size: long(251),
        consistent_hashing_lb_config: Some(hashing),
        ..Maglev::default()
    };
    let own = PeakEwma { choices: 3, slow_start: started() };
    let contrib = "type.googleapis.com/envoy.extensions.load_balancing_policies.peak_ewma.\
                   v3alpha.PeakEwma";
    let contrib = Any { type_url: contrib.into(), value: Vec::new() };
    let inner = WrrLocality { endpoint_picking_policy: Some(list(vec![unknown(), any(&least)])) };
    let none = WrrLocality { endpoint_picking_policy: Some(list(vec![unknown()])) };
    let leasts = with(Balancer::LeastRequest, |b| {
        b.choices = 4;
        b.slow_start = started();
    });
    let of = Balancing::of;
    let cases = [
        (
            "round robin",
            vec![any(&round)],
            with(Balancer::RoundRobin, |b| {
                b.slow_start = started();
                b.locality = LocalityMode::ZoneAware { percent: 40, min_size: 9 };
            }),
        ),
        (
            "no part in zones",
            vec![any(&Random { locality_lb_config: zones(0.0, 9) })],
            with(Balancer::Random, |b| b.locality = LocalityMode::Flat),
        ),
        ("least request", vec![any(&least)], leasts.clone()),
        (
            "more choices than there are",
            vec![any(&LeastRequest { choice_count: number(1000), ..LeastRequest::default() })],
            with(Balancer::LeastRequest, |b| b.choices = 10),
        ),
        (
            "weighted",
            vec![any(&weighted)],
            with(Balancer::ClientSideWeightedRoundRobin, |b| b.slow_start = started()),
        ),
        ("pick first", vec![any(&PickFirst::default())], of(Balancer::PickFirst)),
        (
            "ring hash",
            vec![any(&ring)],
            with(Balancer::RingHash, |b| {
                b.ring = (10, 100);
                b.hash_balance_factor = Some(150);
            }),
        ),
        (
            "maglev",
            vec![any(&maglev)],
            with(Balancer::Maglev, |b| {
                b.table = 251;
                b.hash_balance_factor = Some(150);
            }),
        ),
        (
            "peak EWMA",
            vec![peak_ewma::encode(&own)],
            with(Balancer::PeakEwma, |b| {
                b.choices = 3;
                b.slow_start = started();
            }),
        ),
        ("Envoy's peak EWMA", vec![contrib], of(Balancer::PeakEwma)),
        ("the second", vec![unknown(), any(&Random::default()), any(&round)], of(Balancer::Random)),
        ("within a list", vec![any(&inner)], leasts),
        ("a list of none", vec![any(&none), any(&Maglev::default())], of(Balancer::Maglev)),
    ];
    for (about, policies, expected) in cases {
        assert_eq!(of_list(policies), Ok(expected), "{about}");
    }
}

#[test]
fn the_fields_from_before_the_list_are_taken_too() {
    let start = OldSlowStart {
        slow_start_window: secs(30),
        aggression: Some(RuntimeDouble { default_value: 1.5, runtime_key: "k".into() }),
        min_weight_percent: share(20.0),
    };
    let round =
        LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(start.clone()) });
    let least = LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        choice_count: number(3),
        slow_start_config: Some(start),
        ..LeastRequestLbConfig::default()
    });
    let ring = LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: long(64),
        maximum_ring_size: long(128),
        ..RingHashLbConfig::default()
    });
    let maglev = LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: long(503) });
    let cases = [
        (LbPolicy::RoundRobin, None, Balancing::of(Balancer::RoundRobin)),
        (
            LbPolicy::RoundRobin,
            Some(round),
            with(Balancer::RoundRobin, |b| b.slow_start = started()),
        ),
        (
            LbPolicy::LeastRequest,
            Some(least),
            with(Balancer::LeastRequest, |b| {
                b.choices = 3;
                b.slow_start = started();
            }),
        ),
        (LbPolicy::Random, None, Balancing::of(Balancer::Random)),
        (LbPolicy::RingHash, None, Balancing::of(Balancer::RingHash)),
        (LbPolicy::RingHash, Some(ring), with(Balancer::RingHash, |b| b.ring = (64, 128))),
        (LbPolicy::Maglev, Some(maglev), with(Balancer::Maglev, |b| b.table = 503)),
    ];
    for (policy, config, expected) in cases {
        let cluster = Cluster { lb_policy: policy.into(), lb_config: config, ..eds() };
        assert_eq!(taken(&cluster), Ok(expected), "{policy:?}");
    }
}

#[test]
fn what_stands_beside_either_is_taken() {
    let old_zones =
        OldZones { routing_enabled: share(70.0), min_cluster_size: long(3), ..OldZones::default() };
    let weighted = OldLocality::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let of = |specifier| CommonLbConfig {
        locality_config_specifier: Some(specifier),
        ..CommonLbConfig::default()
    };
    let hashing = OldHashing { hash_balance_factor: number(120), ..OldHashing::default() };
    let cases = [
        (
            CommonLbConfig { healthy_panic_threshold: share(12.4), ..CommonLbConfig::default() },
            with(Balancer::RoundRobin, |b| b.panic_threshold = 12),
        ),
        (of(weighted), Balancing::of(Balancer::RoundRobin)),
        (
            of(OldLocality::ZoneAwareLbConfig(old_zones)),
            with(Balancer::RoundRobin, |b| {
                b.locality = LocalityMode::ZoneAware { percent: 70, min_size: 3 };
            }),
        ),
        (
            of(OldLocality::ZoneAwareLbConfig(OldZones::default())),
            with(Balancer::RoundRobin, |b| {
                b.locality = LocalityMode::ZoneAware { percent: 100, min_size: 6 };
            }),
        ),
        (
            CommonLbConfig {
                consistent_hashing_lb_config: Some(hashing),
                ..CommonLbConfig::default()
            },
            with(Balancer::RoundRobin, |b| b.hash_balance_factor = Some(120)),
        ),
    ];
    for (common, expected) in cases {
        let cluster = Cluster { common_lb_config: Some(common.clone()), ..eds() };
        assert_eq!(taken(&cluster), Ok(expected), "{common:?}");
    }
}

/// Selectors `stage` + `version` and `stage`, the latter with a fallback of its own.
fn parts() -> Vec<LbSubsetSelector> {
    let keys = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect();
    vec![
        LbSubsetSelector { keys: keys(&["version", "stage"]), ..LbSubsetSelector::default() },
        LbSubsetSelector {
            keys: keys(&["stage"]),
            fallback_policy: 1,
            ..LbSubsetSelector::default()
        },
    ]
}

#[test]
fn subsets_come_by_the_field_and_by_the_policy() {
    let config = LbSubsetConfig {
        fallback_policy: 2,
        default_subset: Some(texts(&[("stage", "prod")])),
        subset_selectors: parts(),
        ..LbSubsetConfig::default()
    };
    let same = |s: &LbSubsetSelector| subset::LbSubsetSelector {
        keys: s.keys.clone(),
        fallback_policy: s.fallback_policy,
        ..subset::LbSubsetSelector::default()
    };
    let policy = Subset {
        fallback_policy: 2,
        default_subset: Some(texts(&[("stage", "prod")])),
        subset_selectors: parts().iter().map(same).collect(),
        subset_lb_policy: Some(list(vec![any(&Random::default())])),
        ..Subset::default()
    };
    let by_field = Cluster {
        lb_policy: LbPolicy::Random.into(),
        lb_subset_config: Some(config.clone()),
        ..eds()
    };
    let fields = taken(&by_field).expect("taken");
    assert_eq!(Ok(fields.clone()), of_list(vec![any(&policy)]));
    assert_eq!(fields.balancer, Balancer::Random);
    let subsets = fields.subsets.expect("subsets");
    let prod = [("stage".to_owned(), "prod".to_owned())].into_iter().collect();
    assert_eq!(subsets.fallback, Fallback::Labels(prod));
    let of = |keys: &[&str], fallback| SubsetKeys {
        keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        fallback,
    };
    assert_eq!(
        subsets.selectors,
        [of(&["stage", "version"], None), of(&["stage"], Some(Fallback::Fail))]
    );
    for (number, expected) in [(0, Fallback::Fail), (1, Fallback::Any)] {
        let config = LbSubsetConfig { fallback_policy: number, ..config.clone() };
        let cluster = Cluster { lb_subset_config: Some(config), ..eds() };
        assert_eq!(taken(&cluster).expect("taken").subsets.map(|s| s.fallback), Some(expected));
    }
    let none = Cluster { lb_subset_config: Some(LbSubsetConfig::default()), ..eds() };
    assert_eq!(taken(&none).expect("taken").subsets, None, "no selector makes no parts");
}

#[test]
fn what_nobody_here_does_is_refused_by_name() {
    let field = "load_balancing_policy.policies[0]";
    let of = |name: &str, value: f64| {
        let value = portolan_proto::envoy::protobuf::value::Kind::NumberValue(value);
        let value = portolan_proto::envoy::protobuf::Value { kind: Some(value) };
        let fields = [(name.to_owned(), value)].into_iter().collect();
        any(&TypedStruct {
            type_url: peak_ewma::TYPE_URL.into(),
            value: Some(portolan_proto::envoy::protobuf::Struct { fields }),
        })
    };
    let full = SelectionMethod::FullScan.into();
    let murmur = HashFunction::MurmurHash2.into();
    let part = |change: fn(&mut LbSubsetSelector), config: LbSubsetConfig| {
        let mut selectors = parts();
        change(&mut selectors[0]);
        Cluster {
            lb_subset_config: Some(LbSubsetConfig { subset_selectors: selectors, ..config }),
            ..eds()
        }
    };
    let one = |any: Any| Cluster { load_balancing_policy: Some(list(vec![any])), ..eds() };
    #[rustfmt::skip]
    let cases = [
        (one(unknown()), "load_balancing_policy: no policy is supported".to_owned()),
        (one(any(&LeastRequest { selection_method: full, ..LeastRequest::default() })),
            format!("{field}.selection_method: not supported")),
        (one(any(&LeastRequest { choice_count: number(1), ..LeastRequest::default() })),
            format!("{field}.choice_count: 1 is not in 2..=4294967295")),
        (one(any(&RingHash { hash_function: murmur, ..RingHash::default() })),
            format!("{field}.hash_function: not supported")),
        (one(any(&RingHash { minimum_ring_size: long(9), maximum_ring_size: long(8), ..RingHash::default() })),
            format!("{field}.maximum_ring_size: 8 is not in 9..=8388608")),
        (one(any(&Maglev { table_size: long(65_536), ..Maglev::default() })),
            format!("{field}.table_size: 65536 is not a prime of at most 5000011")),
        (one(any(&ClientSideWeightedRoundRobin { enable_oob_load_report: yes(), ..ClientSideWeightedRoundRobin::default() })),
            format!("{field}.enable_oob_load_report: not supported")),
        (one(Any { value: vec![0xff], ..any(&Maglev::default()) }),
            format!("{field}: not a Maglev: failed to decode Protobuf message: invalid varint")),
        (one(of("decay", 1.0)), format!("{field}: decay: not known")),
        (one(of("choice_count", 1.5)),
            format!("{field}: choice_count: Some(NumberValue(1.5)) is not a number it may have")),
        (Cluster { lb_policy: LbPolicy::ClusterProvided.into(), ..eds() },
            "lb_policy: CLUSTER_PROVIDED is not supported".to_owned()),
        (Cluster { lb_policy: 99, ..eds() }, "lb_policy: 99 is not a policy".to_owned()),
        (Cluster {
            lb_policy: LbPolicy::RingHash.into(),
            lb_config: Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                hash_function: ring_hash_lb_config::HashFunction::MurmurHash2.into(),
                ..RingHashLbConfig::default()
            })),
            ..eds()
        }, "ring_hash_lb_config.hash_function: not supported".to_owned()),
        (Cluster {
            common_lb_config: Some(CommonLbConfig { healthy_panic_threshold: share(f64::NAN), ..CommonLbConfig::default() }),
            ..eds()
        }, "common_lb_config.healthy_panic_threshold: NaN is not in 0..=100".to_owned()),
        (part(|s| s.fallback_policy = 4, LbSubsetConfig::default()),
            "lb_subset_config.subset_selectors[0].fallback_policy: KEYS_SUBSET is not supported".to_owned()),
        (part(|s| s.keys.clear(), LbSubsetConfig::default()),
            "lb_subset_config.subset_selectors[0].keys: 0 is not in 1..=16".to_owned()),
        (part(|_| {}, LbSubsetConfig { panic_mode_any: true, ..LbSubsetConfig::default() }),
            "lb_subset_config.panic_mode_any: not supported".to_owned()),
        (part(|_| {}, LbSubsetConfig { fallback_policy: 2, ..LbSubsetConfig::default() }),
            "lb_subset_config.default_subset: missing".to_owned()),
    ];
    for (cluster, reason) in cases {
        assert_eq!(taken(&cluster), Err(format!("c: {reason}")));
    }
}

#[test]
fn lists_may_not_stand_in_each_other_without_end() {
    let mut inner = any(&Random::default());
    for _ in 0..50 {
        inner = any(&WrrLocality { endpoint_picking_policy: Some(list(vec![inner])) });
    }
    let error = of_list(vec![inner]).expect_err("too deep");
    assert!(error.ends_with("lists stand more than 8 deep in each other"), "{error}");
}
