//! What there is to serve over time. Histories are made once and shared by all seeds: encoding is
//! what a simulation would else spend its time on.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use portolan_model::Balancer;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier,
};
use portolan_xds::catalog::{Catalog, Changed, Name};
use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Listener, Route, Runtime};
use portolan_xds::resource::{Encoded, route};
use portolan_xds::viewer::Viewer;
use prost::Message;

use crate::support::{Dice, World, balanced, entry_in, reads_errors};

/// How many there are.
const HISTORIES: u64 = 64;
/// Publishes in each.
pub(crate) const CHAPTERS: usize = 14;

const NAMESPACES: [&str; 2] = ["shop", "bank"];
const SERVICES: [&str; 3] = ["web", "db", "api"];
/// Resources that are put in by hand.
const BY_HAND: [(ResourceType, &str); 8] = [
    (Runtime, "small"),
    (Runtime, "big-1"),
    (Runtime, "big-2"),
    (Runtime, "big-3"),
    (Cluster, "by-hand"),
    (Cluster, "shop/web:80"),
    (Endpoints, "by-hand"),
    (Listener, "by-hand"),
];

/// What one publish left behind.
pub(crate) struct Chapter {
    pub(crate) catalog: Catalog,
    pub(crate) changed: Changed,
}

/// A history, and the same from `turn` on as told by a server that was started there.
pub(crate) struct History {
    pub(crate) before: Vec<Chapter>,
    pub(crate) after: Vec<Chapter>,
    pub(crate) turn: usize,
    /// The clusters that each version of the HTTP route table leads to.
    pub(crate) routes: HashMap<u64, Vec<Name>>,
}

/// One of them.
pub(crate) fn of(seed: u64) -> &'static History {
    static ALL: OnceLock<Vec<OnceLock<History>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..HISTORIES).map(|_| OnceLock::new()).collect());
    let number = seed % HISTORIES;
    all[usize::try_from(number).expect("small")].get_or_init(|| make(number))
}

/// Who there is to see it.
pub(crate) fn viewers() -> [Viewer; 5] {
    let only = |namespace: &str| Some(Arc::new(BTreeSet::from([Arc::from(namespace)])));
    [
        Viewer::default(),
        Viewer { capabilities: reads_errors(), ..Viewer::default() },
        Viewer { ttl: true, ..Viewer::default() },
        Viewer { namespaces: only("shop"), ..Viewer::default() },
        Viewer { namespaces: only("bank"), capabilities: reads_errors(), ..Viewer::default() },
    ]
}

/// Names that may be asked for: of what there is at some time, and of what never is.
pub(crate) fn names(kind: ResourceType) -> &'static [Name] {
    static NAMES: OnceLock<Vec<Vec<Name>>> = OnceLock::new();
    let make = |kind: ResourceType| {
        let mut names: Vec<Name> = vec!["shop/none:1".into()];
        names.extend(BY_HAND.iter().filter(|(k, _)| *k == kind).map(|(_, name)| Name::from(*name)));
        for (namespace, service, port) in ports() {
            match kind {
                Cluster | Endpoints => names.push(format!("{namespace}/{service}:{port}").into()),
                Listener | Route => {
                    let target = format!("{service}.{namespace}.svc.cluster.local:{port}");
                    names.push(target.into());
                }
                _ => {}
            }
        }
        match kind {
            Listener => names.extend(["http".into(), "db".into()]),
            Route => names.push(route::HTTP_ROUTES.into()),
            ResourceType::Generation => names.push("generation".into()),
            _ => {}
        }
        names.sort();
        names.dedup();
        names
    };
    &NAMES.get_or_init(|| ResourceType::ALL.into_iter().map(make).collect())[kind.index()]
}

fn ports() -> impl Iterator<Item = (&'static str, &'static str, u16)> {
    NAMESPACES.into_iter().flat_map(|namespace| {
        SERVICES
            .into_iter()
            .flat_map(move |service| [80, 81].map(|port| (namespace, service, port)))
    })
}

fn make(number: u64) -> History {
    let mut dice = Dice::new(number ^ 0x0b00_c0de);
    let (mut world, mut second) = (World::default(), None::<World>);
    let turn = 1 + dice.below(CHAPTERS - 2);
    let mut history =
        History { before: Vec::new(), after: Vec::new(), turn, routes: HashMap::new() };
    for chapter in 0..CHAPTERS {
        // Both worlds see the same: each rolls the same dice.
        let mut same = dice.clone();
        change(&mut world, &mut dice, chapter == 0);
        history.before.push(told(&world, &mut history.routes));
        match &mut second {
            Some(second) => change(second, &mut same, false),
            None if chapter == turn => second = Some(world.restarted()),
            None => continue,
        }
        let second = second.as_ref().expect("was just made");
        history.after.push(told(second, &mut history.routes));
    }
    history
}

fn told(world: &World, routes: &mut HashMap<u64, Vec<Name>>) -> Chapter {
    for viewer in viewers() {
        let table = world.catalog.lookup_for(Route, route::HTTP_ROUTES, &viewer);
        let table = table.expect("there is always one");
        routes.entry(table.version).or_insert_with(|| clusters(&table));
    }
    Chapter { catalog: world.catalog.clone(), changed: world.changed().clone() }
}

fn change(world: &mut World, dice: &mut Dice, first: bool) {
    if !first && dice.one_in(3) {
        let (kind, name) = *dice.pick(&BY_HAND);
        let encoded = (dice.roll(3) > 0).then(|| by_hand(name, dice.roll(3)));
        world.put(kind, name, encoded);
        return;
    }
    let count = if first { 6 } else { 1 + dice.roll(3) };
    for _ in 0..count {
        let (namespace, service) = (*dice.pick(&NAMESPACES), *dice.pick(&SERVICES));
        if dice.one_in(4) {
            world.delete_in(namespace, service);
            continue;
        }
        // Few different contents, so that what was comes back.
        let port = 80 + u16::from(dice.one_in(4));
        let octet = |dice: &mut Dice| u8::try_from(1 + dice.roll(3)).expect("small");
        let endpoints: Vec<(u8, bool)> = (0..dice.roll(3)).map(|_| (octet(dice), true)).collect();
        let entry = entry_in(namespace, service, port, &endpoints);
        let turned = dice.one_in(3);
        let balancer = if turned { Balancer::RoundRobin } else { Balancer::LeastRequest };
        world.apply(balanced(&entry, balancer));
    }
    world.publish();
}

/// A resource of no meaning: three big ones are more than a response holds. Its version is made
/// up: hashing the big ones takes long without optimisation.
fn by_hand(name: &str, variation: u64) -> Encoded {
    static BIG: OnceLock<Bytes> = OnceLock::new();
    let big = name.starts_with("big");
    let any = if big {
        BIG.get_or_init(|| Bytes::from(vec![0; 1_800_000])).clone()
    } else {
        Bytes::from_static(&[0])
    };
    let small = Encoded::from_bytes(name, "by hand", &variation.to_le_bytes());
    let ttl_secs = if name == "small" { 30 } else { 0 };
    Encoded { any, ttl_secs, ..small }
}

fn clusters(table: &Encoded) -> Vec<Name> {
    let any = Any::decode(&*table.any).expect("an Any");
    let table = RouteConfiguration::decode(&*any.value).expect("a route table");
    let routes = table.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let cluster = |action: Option<Action>| match action {
        Some(Action::Route(route)) => match route.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => Some(Name::from(name)),
            _ => None,
        },
        _ => None,
    };
    routes.filter_map(|route| cluster(route.action)).collect()
}
