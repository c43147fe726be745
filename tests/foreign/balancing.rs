//! How endpoints are chosen, as foreign control planes say it: by the older fields and by the list of
//! policies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_proto::envoy::Percent;
use portolan_proto::envoy::cluster::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use portolan_proto::envoy::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig, LeastRequestLbConfig,
    lb_subset_config::LbSubsetSelector,
};
use portolan_proto::envoy::cluster::{Cluster, LoadBalancingPolicy, load_balancing_policy::Policy};
use portolan_proto::envoy::core::{HealthStatus, Metadata, TypedExtensionConfig};
use portolan_proto::envoy::endpoint::ClusterLoadAssignment;
use portolan_proto::envoy::lb;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Any, UInt64Value};
use portolan_proto::envoy::protobuf::{Struct, Value};
use portolan_proto::envoy::route::RouteAction;
use portolan_proto::envoy::route::route_action::HashPolicy;
use portolan_proto::envoy::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier,
};

use crate::backend::{Backend, addresses};
use crate::control_plane::resources::{
    action, all, any, assignment, duration, eds_cluster, endpoint, locality, manager, number,
    places, route, table,
};
use crate::control_plane::{CDS, ControlPlane, EDS};
use crate::kit::{ROUTES, WEB, World, counts, until};

/// A cluster with a list of policies, of which the first is not known here.
fn listed(policy: Any) -> Cluster {
    let unknown =
        Any { type_url: "type.googleapis.com/example.Balancer".to_owned(), value: Vec::new() };
    let policies = [unknown, policy].map(|config| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: config.type_url.clone(),
            typed_config: Some(config),
        }),
    });
    Cluster {
        load_balancing_policy: Some(LoadBalancingPolicy { policies: policies.into() }),
        ..eds_cluster(WEB)
    }
}

fn field(policy: LbPolicy) -> Cluster {
    Cluster { lb_policy: policy.into(), ..eds_cluster(WEB) }
}

/// A world with one worker, this cluster, these endpoints and this action of its one route.
async fn world(cluster: &Cluster, endpoints: &ClusterLoadAssignment, action: RouteAction) -> World {
    let mut world = World::single().await;
    let routes = table(ROUTES, vec![route("/", action)]);
    world.serve(cluster, endpoints, &routes, &manager(ROUTES)).await;
    world.until("endpoints are there", |answer| answer.status == 200).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_each_its_turn_by_weight() {
    let backends = Backend::several(3).await;
    let mut weighted = assignment(WEB, &addresses(&backends));
    for (member, weight) in weighted.endpoints[0].lb_endpoints.iter_mut().zip([1, 2, 3]) {
        member.load_balancing_weight = number(weight);
    }
    let plain = assignment(WEB, &addresses(&backends));
    let listed = listed(any(&lb::round_robin::RoundRobin::default()));
    let cases = [
        (&eds_cluster(WEB), &plain, [10, 10, 10]),
        (&listed, &plain, [10, 10, 10]),
        (&field(LbPolicy::RoundRobin), &weighted, [5, 10, 15]),
        (&listed, &weighted, [5, 10, 15]),
    ];
    for (cluster, endpoints, expected) in cases {
        let world = world(cluster, endpoints, action(WEB)).await;
        let [a, b, c] = expected;
        let expected = counts(&[("a", a), ("b", b), ("c", c)]);
        assert_eq!(world.count(30, &[]).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn least_request_goes_to_who_has_least_to_do() {
    let mut config = LeastRequestLbConfig { choice_count: number(10), ..Default::default() };
    let mut old = field(LbPolicy::LeastRequest);
    old.lb_config = Some(LbConfig::LeastRequestLbConfig(config.clone()));
    config.choice_count = None;
    let new = lb::least_request::LeastRequest { choice_count: number(10), ..Default::default() };
    for cluster in [old, listed(any(&new))] {
        let backends = Backend::several(2).await;
        let world = world(&cluster, &assignment(WEB, &addresses(&backends)), action(WEB)).await;
        backends[0].hold();
        let before = backends[0].requests();
        let (busy, seen) = tokio::join!(world.count(64, &[]), async {
            until("one waits at the first", async || {
                if backends[0].requests() > before { Ok(()) } else { Err(String::new()) }
            })
            .await;
            let seen = world.count(20, &[]).await;
            backends[0].release();
            seen
        });
        assert!(busy.contains_key("a"), "{busy:?}");
        assert_eq!(seen, counts(&[("b", 20)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_goes_to_all_in_no_order() {
    for cluster in [field(LbPolicy::Random), listed(any(&lb::random::Random::default()))] {
        let backends = Backend::several(2).await;
        let world = world(&cluster, &assignment(WEB, &addresses(&backends)), action(WEB)).await;
        let mut order = Vec::new();
        for _ in 0..200 {
            order.push(world.get("/").await.endpoint);
        }
        let share = order.iter().filter(|name| *name == "a").count();
        // Six standard deviations.
        assert!((57..=143).contains(&share), "{share} of 200");
        let repeated = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!((50..=150).contains(&repeated), "{repeated} of 199 were at the one before");
    }
}

/// The policies that hash.
fn hashing() -> [Cluster; 4] {
    [
        field(LbPolicy::RingHash),
        field(LbPolicy::Maglev),
        listed(any(&lb::ring_hash::RingHash::default())),
        listed(any(&lb::maglev::Maglev::default())),
    ]
}

fn hash_by(specifier: PolicySpecifier) -> RouteAction {
    let policy = HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() };
    RouteAction { hash_policy: vec![policy], ..action(WEB) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_decides_where_hashing_policies_go() {
    const USERS: usize = 240;
    let by = Header { header_name: "X-User".to_owned(), ..Header::default() };
    for cluster in hashing() {
        let backends = Backend::several(4).await;
        let endpoints = assignment(WEB, &addresses(&backends));
        let by = hash_by(PolicySpecifier::Header(by.clone()));
        let world = world(&cluster, &endpoints, by).await;
        let mut of_user = BTreeMap::new();
        for user in 0..USERS {
            let user = format!("user-{user}");
            let seen = world.count(3, &[("x-user", &user)]).await;
            assert_eq!(seen.len(), 1, "{user} went to {seen:?}");
            of_user.insert(user, seen.into_keys().next());
        }
        let used: BTreeSet<_> = of_user.values().collect();
        assert!(used.len() >= 3, "{USERS} users went to {used:?}");
        // One that leaves takes along its own users alone.
        let version = world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[..3]))]));
        world.plane.acked(EDS, &version).await;
        until("the last has left", async || {
            let seen = world.count(8, &[]).await;
            if seen.contains_key("d") { Err(format!("{seen:?}")) } else { Ok(()) }
        })
        .await;
        let mut moved = 0;
        for (user, before) in &of_user {
            let seen = world.count(1, &[("x-user", user)]).await.into_keys().next();
            assert_ne!(seen.as_deref(), Some("d"), "{user}");
            moved += usize::from(seen != *before && before.as_deref() != Some("d"));
        }
        // A ring is filled up by those that stay, which moves a third of the 180 who were at them:
        // 60, with a standard deviation of 6. Counting anew would move 120.
        assert!(moved <= 90, "{moved} of {USERS} moved between endpoints that stayed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_or_a_cookie_that_is_there_keeps_a_client_at_its_endpoint() {
    for cluster in hashing() {
        let backends = Backend::several(4).await;
        let endpoints = assignment(WEB, &addresses(&backends));
        let by = hash_by(PolicySpecifier::ConnectionProperties(ConnectionProperties {
            source_ip: true,
        }));
        let by_address = world(&cluster, &endpoints, by).await;
        assert_eq!(by_address.count(20, &[]).await.len(), 1);

        let by_cookie = world(&cluster, &endpoints, hash_by(cookie(None))).await;
        let mut used = BTreeSet::new();
        for client in 0..12 {
            let cookie = format!("other=1; shop={client}");
            let seen = by_cookie.count(3, &[("cookie", &cookie)]).await;
            assert_eq!(seen.len(), 1, "client {client} went to {seen:?}");
            used.extend(seen.into_keys());
        }
        assert!(used.len() >= 2, "twelve clients went to {used:?}");
    }
}

fn cookie(ttl: Option<Duration>) -> PolicySpecifier {
    let ttl = ttl.and_then(duration);
    PolicySpecifier::Cookie(Cookie { name: "shop".to_owned(), ttl, ..Cookie::default() })
}

/// With a time to live the cookie is made where there is none (Envoy, "HashPolicy.Cookie").
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_given_and_keeps_a_client_at_its_endpoint() {
    let ttl = Some(Duration::from_secs(60));
    for cluster in hashing() {
        let backends = Backend::several(4).await;
        let endpoints = assignment(WEB, &addresses(&backends));
        let world = world(&cluster, &endpoints, hash_by(cookie(ttl))).await;
        let mut used = BTreeSet::new();
        for _ in 0..12 {
            let first = world.get("/").await;
            let cookie = first.cookie.split(';').next().expect("the first part").to_owned();
            assert!(cookie.starts_with("shop="), "{first:?}");
            assert!(first.cookie.contains("Max-Age=60"), "{first:?}");
            let seen = world.count(3, &[("cookie", &cookie)]).await;
            assert_eq!(seen, counts(&[(&first.endpoint, 3)]), "{first:?}");
            used.insert(first.endpoint);
        }
        assert!(used.len() >= 2, "twelve clients went to {used:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_priority_serves_while_the_higher_is_gone_or_sick() {
    let backends = Backend::several(3).await;
    let [a, b, c] = [0, 1, 2].map(|i| backends[i].address);
    let two = |first: Vec<_>| {
        let second = vec![endpoint(c, HealthStatus::Healthy)];
        places(WEB, vec![locality("a", 0, first), locality("b", 1, second)])
    };
    let member = endpoint;
    use HealthStatus::{Draining, Healthy, Unhealthy};
    let world =
        world(&eds_cluster(WEB), &two(vec![member(a, Healthy), member(b, Healthy)]), action(WEB))
            .await;
    let cases: Vec<(Vec<_>, &[&str])> = vec![
        (vec![member(a, Healthy), member(b, Healthy)], &["a", "b"]),
        // 50 % of the endpoints times 1.4 is 70 % of the load (Envoy, "Priority levels").
        (vec![member(a, Unhealthy), member(b, Healthy)], &["b", "c"]),
        (vec![member(a, Unhealthy), member(b, Unhealthy)], &["c"]),
        (vec![member(a, Draining), member(b, Unhealthy)], &["c"]),
        (vec![], &["c"]),
        (vec![member(a, Healthy)], &["a"]),
    ];
    for (first, expected) in cases {
        let version = world.plane.set(EDS, all([&two(first.clone())]));
        world.plane.acked(EDS, &version).await;
        until("those serve", async || {
            let seen = world.count(60, &[]).await;
            let fine = seen.keys().eq(expected);
            if fine { Ok(()) } else { Err(format!("{seen:?}, {expected:?} were to be")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_endpoint_gets_nothing_while_others_are_well() {
    let backends = Backend::several(4).await;
    use HealthStatus::{Healthy, Timeout, Unhealthy, Unknown};
    let states = [Healthy, Unhealthy, Unknown, Timeout];
    let members = backends.iter().zip(states).map(|(b, health)| endpoint(b.address, health));
    let endpoints = places(WEB, vec![locality("a", 0, members.collect())]);
    let mut calm = eds_cluster(WEB);
    calm.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..CommonLbConfig::default()
    });
    let world = world(&calm, &endpoints, action(WEB)).await;
    assert_eq!(world.count(20, &[]).await, counts(&[("a", 10), ("c", 10)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn localities_get_their_share_by_weight() {
    let backends = Backend::several(3).await;
    let [a, b, c] = [0, 1, 2].map(|i| endpoint(backends[i].address, HealthStatus::Healthy));
    let mut places = places(WEB, vec![locality("a", 0, vec![a]), locality("b", 0, vec![b, c])]);
    places.endpoints[0].load_balancing_weight = number(3);
    places.endpoints[1].load_balancing_weight = number(1);
    let weighted = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let mut old = eds_cluster(WEB);
    old.common_lb_config = Some(CommonLbConfig {
        locality_config_specifier: Some(weighted),
        ..CommonLbConfig::default()
    });
    let picking = LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: "round_robin".to_owned(),
                typed_config: Some(any(&lb::round_robin::RoundRobin::default())),
            }),
        }],
    };
    let wrr = lb::wrr_locality::WrrLocality { endpoint_picking_policy: Some(picking) };
    for cluster in [old, listed(any(&wrr))] {
        let world = world(&cluster, &places, action(WEB)).await;
        let seen = world.count(400, &[]).await;
        let share = seen.get("a").copied().unwrap_or_default();
        assert!((250..=350).contains(&share), "{share} of 400 are to be about 300: {seen:?}");
        let (b, c) = (seen["b"], seen["c"]);
        assert!(b.abs_diff(c) <= 30, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_route_choose_among_endpoints() {
    let backends = Backend::several(3).await;
    let labels = |version: &str| {
        let value = Value { kind: Some(Kind::StringValue(version.to_owned())) };
        let fields = [("version".to_owned(), value)].into();
        let of = [("envoy.lb".to_owned(), Struct { fields })].into();
        Some(Metadata { filter_metadata: of, ..Metadata::default() })
    };
    let mut endpoints = assignment(WEB, &addresses(&backends));
    for (member, version) in endpoints.endpoints[0].lb_endpoints.iter_mut().zip(["1", "2", "2"]) {
        member.metadata = labels(version);
    }
    let mut cluster = eds_cluster(WEB);
    cluster.lb_subset_config = Some(LbSubsetConfig {
        subset_selectors: vec![LbSubsetSelector {
            keys: vec!["version".to_owned()],
            ..LbSubsetSelector::default()
        }],
        ..LbSubsetConfig::default()
    });
    let cases: [(&str, &[(&str, usize)]); 3] =
        [("1", &[("a", 10)]), ("2", &[("b", 5), ("c", 5)]), ("3", &[("503 no_endpoints", 10)])];
    for (version, expected) in cases {
        let mut world = World::single().await;
        let labelled = RouteAction { metadata_match: labels(version), ..action(WEB) };
        let routes = table(ROUTES, vec![route("/", labelled)]);
        world.serve(&cluster, &endpoints, &routes, &manager(ROUTES)).await;
        until("the labels count", async || {
            let seen = world.count(10, &[]).await;
            if seen == counts(expected) { Ok(()) } else { Err(format!("{version}: {seen:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_changes_while_it_is_in_use() {
    let backends = Backend::several(3).await;
    let endpoints = assignment(WEB, &addresses(&backends));
    let by = Header { header_name: "x-user".to_owned(), ..Header::default() };
    let hashed = hash_by(PolicySpecifier::Header(by));
    let world = world(&eds_cluster(WEB), &endpoints, hashed).await;
    let user = [("x-user", "one")];
    for _ in 0..3 {
        for (cluster, used) in [(field(LbPolicy::RingHash), 1), (field(LbPolicy::RoundRobin), 3)] {
            let version = world.plane.set(CDS, all([&cluster]));
            world.plane.acked(CDS, &version).await;
            until("the policy counts", async || {
                let seen = world.count(9, &user).await;
                if seen.len() == used { Ok(()) } else { Err(format!("{seen:?}")) }
            })
            .await;
        }
    }
}

/// Two zones of the same size, and the proxy in one of them: nothing leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_stays_in_the_zone_where_that_is_asked_for() {
    let backends = Backend::several(4).await;
    let members = |from: usize| {
        let two = &backends[from..from + 2];
        two.iter().map(|b| endpoint(b.address, HealthStatus::Healthy)).collect()
    };
    let zones = places(WEB, vec![locality("a", 0, members(0)), locality("b", 0, members(2))]);
    let aware = ZoneAwareLbConfig {
        min_cluster_size: Some(UInt64Value { value: 1 }),
        ..ZoneAwareLbConfig::default()
    };
    let mut old = eds_cluster(WEB);
    old.common_lb_config = Some(CommonLbConfig {
        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(aware)),
        ..CommonLbConfig::default()
    });
    let plane = ControlPlane::start().await;
    let at = plane.address;
    let set = ["--set", "proxy.zone=b", "--set", "proxy.workers=1"];
    let mut world = World::under(plane, at, &set);
    let routes = table(ROUTES, vec![route("/", action(WEB))]);
    world.serve(&old, &zones, &routes, &manager(ROUTES)).await;
    world.until("endpoints are there", |answer| answer.status == 200).await;
    assert_eq!(world.count(20, &[]).await, counts(&[("c", 10), ("d", 10)]));
}

/// When most are sick they are all tried: sick ones may be well after all (Envoy, "Panic threshold").
#[tokio::test(flavor = "multi_thread")]
async fn when_most_are_sick_all_are_tried_unless_that_is_off() {
    let backends = Backend::several(4).await;
    use HealthStatus::{Healthy, Unhealthy};
    let members = backends.iter().zip([Healthy, Unhealthy, Unhealthy, Unhealthy]);
    let members = members.map(|(b, health)| endpoint(b.address, health)).collect();
    let endpoints = places(WEB, vec![locality("a", 0, members)]);
    let threshold = |value: Option<f64>| {
        let mut cluster = eds_cluster(WEB);
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: value.map(|value| Percent { value }),
            ..CommonLbConfig::default()
        });
        cluster
    };
    let all: &[(&str, usize)] = &[("a", 5), ("b", 5), ("c", 5), ("d", 5)];
    let well: &[(&str, usize)] = &[("a", 20)];
    for (value, expected) in [(None, all), (Some(50.0), all), (Some(20.0), well), (Some(0.0), well)]
    {
        let world = world(&threshold(value), &endpoints, action(WEB)).await;
        assert_eq!(world.count(20, &[]).await, counts(expected), "{value:?}");
    }
}
