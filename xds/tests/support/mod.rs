//! What the tests of the xDS crate share: snapshots and catalogs made from a few words.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    AppProtocol, Balancer, Changes, Conditions, DnsName, Endpoint, Generation, Key, Protocol,
    Service, ServiceEntry, ServiceKey, ServiceKind, ServicePort, ServiceRoutes, Slice, SlicePort,
    Snapshot,
};
use portolan_proto::envoy::discovery::DiscoveryResponse;
use portolan_proto::envoy::protobuf::Any;
use portolan_xds::catalog::{Catalog, Changed, Name};
use portolan_xds::resource::{Encoded, ResourceType};
use portolan_xds::server::session::{Resources, Response, Session};
use portolan_xds::{
    Agent, Capabilities, Feature, ListenerOptions, ListenerSpec, ListenerTarget, ResourceConfig,
};
use prost::Message;

/// A resource as it is sent.
pub(crate) fn any(encoded: &Encoded) -> Any {
    Any::decode(&encoded.any[..]).expect("an Any")
}

/// A small generator, so that a seed means the same everywhere (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// The same as an index.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides).expect("small");
        usize::try_from(self.roll(sides)).expect("small")
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Endpoints (last octet, ready), `count` of them at most.
pub(crate) fn some_endpoints(dice: &mut Dice, count: u64) -> Vec<(u8, bool)> {
    let octet = |dice: &mut Dice| u8::try_from(1 + dice.roll(20)).expect("small");
    (0..dice.roll(count + 1)).map(|_| (octet(dice), dice.roll(3) > 0)).collect()
}

/// The seeds to run: `PORTOLAN_SIM_SEEDS` as `FIRST..END` or one number, else these.
pub(crate) fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PORTOLAN_SIM_SEEDS") else { return default };
    let number = |text: &str| text.parse().expect("PORTOLAN_SIM_SEEDS is SEED or FIRST..END");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    }
}

/// Runs each seed, half of them on a core of their own; says which one failed.
pub(crate) fn run_seeds(seeds: std::ops::Range<u64>, run: impl Fn(u64) + Sync) {
    struct Running(u64);
    impl Drop for Running {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("to run it alone: PORTOLAN_SIM_SEEDS={}", self.0);
            }
        }
    }
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    std::thread::scope(|scope| {
        for half in [seeds.start..middle, middle..seeds.end] {
            let run = &run;
            scope.spawn(move || {
                for seed in half {
                    let _running = Running(seed);
                    run(seed);
                }
            });
        }
    });
}

/// A service with one port and these endpoints (last octet, ready).
pub(crate) fn entry(name: &str, port: u16, endpoints: &[(u8, bool)]) -> Arc<ServiceEntry> {
    entry_in("shop", name, port, endpoints)
}

/// The same in any namespace.
pub(crate) fn entry_in(
    namespace: &str,
    name: &str,
    port: u16,
    endpoints: &[(u8, bool)],
) -> Arc<ServiceEntry> {
    let key = ServiceKey::new(namespace, name).expect("a valid name");
    let kind = ServiceKind::ClusterIp(vec![IpAddr::from([10, 96, 0, 1])]);
    let port = ServicePort::new("main", Protocol::Tcp, port).speaking(AppProtocol::Http1);
    let service = Service::new(key, kind, vec![port]);
    let endpoints = endpoints.iter().map(|(octet, ready)| Endpoint {
        conditions: Conditions { ready: *ready, serving: *ready, terminating: false },
        zone: Some(format!("zone-{}", octet % 2).into()),
        ..Endpoint::at(IpAddr::from([10, 0, 0, *octet]))
    });
    let slice = Slice {
        name: format!("{name}-1").into(),
        cluster: None,
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

/// The same entry with another way of balancing: its cluster changes.
pub(crate) fn balanced(entry: &ServiceEntry, balancer: Balancer) -> Arc<ServiceEntry> {
    let mut changed = entry.clone();
    let mut service = (*changed.service).clone();
    service.policy.balancer = Some(balancer);
    changed.service = service.into();
    changed.into()
}

/// One HTTP listener, and one TCP listener to `shop/db:5432`.
pub(crate) fn config() -> ResourceConfig {
    let address = "127.0.0.1:8080".parse().expect("an address");
    let service = ServiceKey::new("shop", "db").expect("valid");
    ResourceConfig {
        zone: DnsName::parse("cluster.local").expect("valid"),
        cluster_set_zone: DnsName::parse("clusterset.local").expect("valid"),
        balancer: Balancer::LeastRequest,
        endpoints_ttl_secs: 0,
        listeners: vec![
            ListenerSpec {
                name: "http".into(),
                address,
                target: ListenerTarget::Http,
                tls: None,
                options: ListenerOptions::default(),
            },
            ListenerSpec {
                name: "db".into(),
                address,
                target: ListenerTarget::Tcp { service, port: 5432 },
                tls: None,
                options: ListenerOptions::default(),
            },
        ],
        gateway_address: std::net::Ipv4Addr::LOCALHOST.into(),
        load_reports: false,
        trust_domain: "test".to_owned(),
    }
}

/// A cluster that is written to and published step by step.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) catalog: Catalog,
    generation: Generation,
    touched: std::collections::BTreeSet<Key>,
    /// What each publish changed.
    log: Vec<Changed>,
}

/// A session, and how much it was told of a world.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) session: Session,
    seen: usize,
}

impl Told {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, seen: 0 }
    }

    /// Tells it what was published since the last time.
    pub(crate) fn tell(&mut self, world: &World) {
        for changed in &world.log[self.seen..] {
            self.session.on_changes(&Changes::Keys(changed.clone()));
        }
        self.seen = world.log.len();
    }

    /// Tells it, and takes the response that is due.
    pub(crate) fn next_response(&mut self, world: &World) -> Option<Response> {
        self.tell(world);
        self.session.next_response(&world.catalog, 1)
    }
}

impl World {
    pub(crate) fn apply(&mut self, entry: Arc<ServiceEntry>) -> &mut Self {
        self.touched.insert(Key::Service(entry.service.key.clone()));
        self.snapshot.apply(entry);
        self
    }

    pub(crate) fn delete(&mut self, name: &str) -> &mut Self {
        self.delete_in("shop", name)
    }

    pub(crate) fn delete_in(&mut self, namespace: &str, name: &str) -> &mut Self {
        let key = ServiceKey::new(namespace, name).expect("valid");
        self.snapshot.delete(&key);
        self.touched.insert(Key::Service(key));
        self
    }

    pub(crate) fn set_routes(&mut self, key: &ServiceKey, routes: Option<Arc<ServiceRoutes>>) {
        self.snapshot.set_routes(key, routes);
        self.touched.insert(Key::Routes(key.clone()));
    }

    pub(crate) fn publish(&mut self) {
        let changes = if self.generation == Generation(0) {
            Changes::Everything
        } else {
            Changes::Keys(std::mem::take(&mut self.touched))
        };
        self.touched.clear();
        self.generation = self.generation.next();
        let snapshot = Arc::new(self.snapshot.at(self.generation));
        let (catalog, changed) = self.catalog.next(&snapshot, &changes, &config());
        self.catalog = catalog;
        self.log.push(changed);
    }

    /// Puts resources in by hand, or takes them out.
    pub(crate) fn put(&mut self, kind: ResourceType, name: &str, encoded: Option<Encoded>) {
        let (catalog, changed) = self.catalog.with_extra([(kind, name.into(), encoded)]);
        self.catalog = catalog;
        self.log.push(changed);
    }

    /// What the newest publish changed.
    pub(crate) fn changed(&self) -> &Changed {
        self.log.last().expect("something was published")
    }

    /// The same content in a server that has just started: its generations begin anew.
    pub(crate) fn restarted(&self) -> Self {
        let mut world = Self::default();
        for (_, entry) in self.snapshot.services() {
            world.apply(entry.clone());
        }
        world.publish();
        let extra = self.catalog.extra();
        let extra: Vec<_> = extra.map(|(k, n, e)| (k, n.clone(), Some(e.clone()))).collect();
        let (catalog, changed) = world.catalog.with_extra(extra);
        world.catalog = catalog;
        world.log.push(changed);
        world
    }

    /// The catalog of the same content built in one go.
    pub(crate) fn rebuilt(&self) -> Catalog {
        let snapshot = Arc::new(self.snapshot.at(self.generation));
        Catalog::default().next(&snapshot, &Changes::Everything, &config()).0
    }
}

/// The capabilities of a client that reads why there is no resource of a name.
pub(crate) fn reads_errors() -> &'static Capabilities {
    let agent = Agent { name: "gRPC C-core", version: Some((1, 85)), features: &[] };
    let capabilities = Capabilities::of(&agent);
    assert!(capabilities.takes(Feature::ResourceErrors));
    capabilities
}

/// Names and contents of a response.
pub(crate) fn resources(response: &Response) -> Vec<(Name, Encoded)> {
    match &response.resources {
        Resources::Some(list) => list.clone(),
        Resources::All(map) => map.iter().map(|(n, e)| (n.clone(), e.clone())).collect(),
        Resources::Alive(_) => Vec::new(),
    }
}

/// What a state-of-the-world client reads of a response.
pub(crate) fn on_the_wire(response: &Response) -> DiscoveryResponse {
    let decode = |bytes: &[u8]| Any::decode(bytes).expect("an encoded Any");
    DiscoveryResponse {
        version_info: response.version.clone(),
        nonce: response.nonce.clone(),
        type_url: response.kind.type_url().to_owned(),
        resources: resources(response).iter().map(|(_, r)| decode(&r.any)).collect(),
        ..DiscoveryResponse::default()
    }
}
