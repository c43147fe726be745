//! Cases of the guard as data, and random histories that hold it to its word.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use portolan_model::{
    Conditions, DnsName, Endpoint, Service, ServiceAccess, ServiceEntry, ServiceKey, ServiceKind,
    Slice, Snapshot,
};

use super::*;

const LIMITS: GuardLimits = GuardLimits {
    services_percent: 50,
    services_min: 4,
    endpoints_min: 3,
    window: Duration::from_secs(60),
    hold: Some(Duration::from_secs(600)),
};

/// Services as text: `a:3` has three ready endpoints, `t3` terminating, `n3` not ready, `cname` is
/// an ExternalName; `@9` has the cluster IP 10.96.0.9.
fn snapshot(text: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for word in text.split_whitespace() {
        let (name, what) = word.split_once(':').expect("name:what");
        let (what, address) = what.split_once('@').unwrap_or((what, ""));
        let (ready, leaving) =
            (Conditions::READY, Conditions { ready: false, ..Conditions::READY });
        let conditions = match what.chars().next() {
            Some('t') => Conditions { terminating: true, ..leaving },
            Some('n') => Conditions { serving: false, ..leaving },
            _ => ready,
        };
        let kind = match (what, address.parse::<u8>()) {
            ("cname", _) => ServiceKind::ExternalName(DnsName::parse("b.example").expect("valid")),
            (_, Ok(octet)) => ServiceKind::ClusterIp(vec![IpAddr::from([10, 96, 0, octet])]),
            _ => ServiceKind::Headless,
        };
        let count: u8 = what.trim_start_matches(['t', 'n']).parse().unwrap_or(0);
        let endpoint = |n| Endpoint { conditions, ..Endpoint::at(IpAddr::from([10, 0, 0, n])) };
        let endpoints = (0..count).map(endpoint).collect();
        let slice = Slice { name: "s".into(), cluster: None, ports: Vec::new(), endpoints };
        let key = ServiceKey::new("ns", name).expect("valid");
        let service = Arc::new(Service::new(key, kind, Vec::new()));
        snapshot.apply(Arc::new(ServiceEntry { service, slices: vec![Arc::new(slice)] }));
    }
    snapshot
}

fn shown(snapshot: &Snapshot) -> String {
    let word = |(key, entry): (&ServiceKey, &Arc<ServiceEntry>)| {
        let endpoints = &entry.slices[0].endpoints;
        let mark = match (&entry.service.kind, endpoints.first().map(|e| e.conditions)) {
            (ServiceKind::ExternalName(_), _) => return format!("{}:cname", key.name()),
            (_, Some(Conditions { ready: false, terminating: true, .. })) => "t",
            (_, Some(Conditions { ready: false, .. })) => "n",
            _ => "",
        };
        format!("{}:{mark}{}", key.name(), endpoints.len())
    };
    snapshot.services().map(word).collect::<Vec<_>>().join(" ")
}

fn keys(snapshot: &Snapshot, other: &Snapshot) -> BTreeSet<Key> {
    let mut keys = snapshot.differences(other);
    keys.retain(|key| matches!(key, Key::Service(_)));
    keys
}

/// A guard between a source and what is in force; checks what holds at every step.
struct World {
    guard: Guard,
    source: Snapshot,
    published: Snapshot,
    start: Moment,
}

impl World {
    fn new(limits: GuardLimits) -> Self {
        let start = Moment { at: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let (source, published) = (Snapshot::default(), Snapshot::default());
        Self { guard: Guard::new(limits), source, published, start }
    }

    fn step(&mut self, secs: u64, next: Snapshot, what: &str) -> Passed {
        let touched = keys(&self.source, &next);
        self.source = next;
        let now = self.start.after(Duration::from_secs(secs)).expect("soon");
        let passed = self.guard.pass(&self.published, &self.source, touched, now);
        assert_eq!(passed.changed, keys(&self.published, &passed.content), "{what}");
        for key in keys(&self.source, &passed.content) {
            let Key::Service(key) = key else { continue };
            assert!(self.guard.held().contains_key(&key), "{what}: {key} differs and is not held");
        }
        for (key, hold) in self.guard.held() {
            let (new, kept) = (self.source.lookup(key), passed.content.lookup(key));
            let kept = kept.unwrap_or_else(|| panic!("{what}: {key} is held and not in force"));
            assert_eq!(hold.loss == Loss::Gone, new.is_none(), "{what}: {key}");
            assert!(new.is_none_or(|new| new.service == kept.service && has_ready(kept)), "{what}");
        }
        self.published = passed.content.clone();
        passed
    }

    fn held(&self) -> String {
        let names: Vec<&str> = self.guard.held().keys().map(|key| &**key.name()).collect();
        names.join(" ")
    }
}

/// What the source has at a time, what is in force then, and what of it is held.
type Step = (u64, &'static str, &'static str, &'static str);

const CASES: &[(&str, &[Step])] = &[
    (
        "all endpoints of a service go at once, and one comes back",
        &[
            (0, "a:3 b:1", "a:3 b:1", ""),
            (1, "a:0 b:2", "a:3 b:2", "a"),
            (2, "a:n2 b:1", "a:3 b:1", "a"),
            (3, "a:1 b:1", "a:1 b:1", ""),
        ],
    ),
    ("all become unready", &[(0, "a:3", "a:3", ""), (1, "a:n3", "a:3", "a")]),
    (
        "all are terminating",
        &[(0, "a:3", "a:3", ""), (1, "a:t3", "a:t3", ""), (2, "a:0", "a:0", "")],
    ),
    ("too few to be held", &[(0, "a:2", "a:2", ""), (1, "a:0", "a:0", "")]),
    ("most go, not all", &[(0, "a:9", "a:9", ""), (1, "a:1", "a:1", "")]),
    ("they lead elsewhere by now", &[(0, "a:3", "a:3", ""), (1, "a:cname", "a:cname", "")]),
    (
        "in steps within the window: what is left is kept",
        &[(0, "a:9", "a:9", ""), (9, "a:2", "a:2", ""), (60, "a:0", "a:2", "a")],
    ),
    (
        "in steps over more than the window",
        &[(0, "a:9", "a:9", ""), (9, "a:2", "a:2", ""), (70, "a:0", "a:0", "")],
    ),
    ("a service is deleted", &[(0, "a:3 b:1", "a:3 b:1", ""), (1, "b:1", "b:1", "")]),
    (
        "a held service is deleted",
        &[(0, "a:3 b:1", "a:3 b:1", ""), (1, "a:0 b:1", "a:3 b:1", "a"), (2, "b:1", "b:1", "")],
    ),
    (
        "most services go; others come, change and go on",
        &[
            (0, "a:1 b:1 c:1 d:1", "a:1 b:1 c:1 d:1", ""),
            (1, "e:1", "a:1 b:1 c:1 d:1 e:1", "a b c d"),
            (2, "a:2 e:2", "a:2 b:1 c:1 d:1 e:2", "b c d"),
            (3, "b:2 c:0 e:1", "b:2 c:1 d:1 e:1", "c d"),
            (4, "a:0 b:2 c:1 d:2 e:1", "a:0 b:2 c:1 d:2 e:1", ""),
        ],
    ),
    (
        "half of them may go",
        &[(0, "a:1 b:1 c:1 d:1", "a:1 b:1 c:1 d:1", ""), (1, "a:1 b:1", "a:1 b:1", "")],
    ),
    (
        "most go within the window: what went before is back",
        &[
            (0, "a:1 b:1 c:1 d:1", "a:1 b:1 c:1 d:1", ""),
            (1, "a:1 b:1", "a:1 b:1", ""),
            (61, "b:1", "a:1 b:1 c:1 d:1", "a c d"),
        ],
    ),
    (
        "most go over more than the window",
        &[
            (0, "a:1 b:1 c:1 d:1", "a:1 b:1 c:1 d:1", ""),
            (1, "a:1 b:1", "a:1 b:1", ""),
            (62, "b:1", "b:1", ""),
        ],
    ),
    (
        "services that come and go by the way are no reason",
        &[
            (0, "a:1 b:1 c:1 d:1 e:1", "a:1 b:1 c:1 d:1 e:1", ""),
            (1, "a:1 b:1 c:1 d:1 f:1", "a:1 b:1 c:1 d:1 f:1", ""),
            (2, "a:1 b:1 c:1 d:1 g:1", "a:1 b:1 c:1 d:1 g:1", ""),
            (3, "a:1 b:1 c:1 d:1 h:1", "a:1 b:1 c:1 d:1 h:1", ""),
            (4, "a:1 b:1 c:1 d:1", "a:1 b:1 c:1 d:1", ""),
        ],
    ),
    (
        "most services lose their endpoints, few as they are",
        &[
            (0, "a:1 b:1 c:1 d:1 e:0", "a:1 b:1 c:1 d:1 e:0", ""),
            (1, "a:0 b:1 c:1 d:1 e:0", "a:0 b:1 c:1 d:1 e:0", ""),
            (2, "a:0 b:0 c:0 d:1 e:0", "a:1 b:1 c:1 d:1 e:0", "a b c"),
        ],
    ),
    ("too few services to be held", &[(0, "a:1 b:1 c:1", "a:1 b:1 c:1", ""), (1, "", "", "")]),
    (
        "the time is over",
        &[
            (0, "a:1 b:1 c:1 d:3", "a:1 b:1 c:1 d:3", ""),
            (10, "", "a:1 b:1 c:1 d:3", "a b c d"),
            (609, "", "a:1 b:1 c:1 d:3", "a b c d"),
            (610, "", "", ""),
            (611, "e:1 f:1", "e:1 f:1", ""),
            (612, "e:1", "e:1", ""),
        ],
    ),
    (
        "another service has the address of one that is held",
        &[
            (0, "a:1@1 b:1@2 c:1@3 d:1@4 g:1@5", "a:1 b:1 c:1 d:1 g:1", ""),
            (1, "a:1@1 e:1@4", "a:1 b:1 c:1 e:1 g:1", "b c g"),
            (2, "a:1@1 e:1@4 f:1@2", "a:1 c:1 e:1 f:1 g:1", "c g"),
        ],
    ),
];

#[test]
fn what_is_held_is_what_is_gone_at_once_and_nothing_else() {
    for (what, steps) in CASES {
        let mut world = World::new(LIMITS);
        for (secs, next, in_force, held) in *steps {
            let what = format!("{what}, after {secs} s");
            world.step(*secs, snapshot(next), &what);
            assert_eq!(shown(&world.published), *in_force, "{what}");
            assert_eq!(world.held(), *held, "{what}");
        }
    }
}

#[test]
fn each_rule_can_be_turned_off() {
    let all = "a:3 b:3 c:3 d:3";
    let off = [
        (GuardLimits { services_percent: 0, ..LIMITS }, "", "a b"),
        (GuardLimits { services_min: 0, ..LIMITS }, "", "a b"),
        (GuardLimits { endpoints_min: 0, ..LIMITS }, "a b c d", ""),
        (GuardLimits { services_percent: 0, endpoints_min: 0, ..LIMITS }, "", ""),
    ];
    for (limits, of_source, of_endpoints) in off {
        for (next, held) in [("", of_source), ("a:0 b:0 c:3 d:3", of_endpoints)] {
            let mut world = World::new(limits);
            world.step(0, snapshot(all), "all");
            world.step(1, snapshot(next), next);
            assert_eq!(world.held(), held, "{limits:?}: {next:?}");
        }
    }
    let mut world = World::new(GuardLimits { hold: None, ..LIMITS });
    world.step(0, snapshot(all), "all");
    world.step(1, snapshot(""), "none");
    world.step(10_000_000, snapshot(""), "much later");
    assert_eq!((world.held().as_str(), world.guard.due()), ("a b c d", None));
}

#[test]
fn what_is_released_is_in_force_as_the_source_has_it_and_is_no_reason_to_hold_again() {
    let mut world = World::new(LIMITS);
    world.step(0, snapshot("a:1 b:1 c:1 d:1"), "all");
    let passed = world.step(1, snapshot(""), "none");
    assert_eq!((passed.begun.len(), passed.changed.len()), (4, 0));
    let lost = SourceLoss { loss: Loss::Gone, lost: 4, of: 4 };
    assert_eq!(world.guard.source(), Some(lost));
    let key = |name| ServiceKey::new("ns", name).expect("valid");
    assert!(world.guard.release(&key("b")) && !world.guard.release(&key("b")));
    let passed = world.step(2, snapshot(""), "one released");
    assert_eq!(passed.ended, [(key("b"), End::Released)]);
    assert_eq!((shown(&world.published), world.held()), ("a:1 c:1 d:1".into(), "a c d".into()));
    for name in ["a", "c", "d"] {
        assert!(world.guard.release(&key(name)));
    }
    world.step(3, snapshot(""), "all released");
    assert_eq!((shown(&world.published), world.guard.source()), (String::new(), None));
    world.step(4, snapshot("e:1 f:1 g:1"), "others come");
    world.step(5, snapshot("e:1"), "two of them go");
    assert_eq!(shown(&world.published), "e:1");
}

#[test]
fn what_belongs_to_a_service_stays_as_long_as_the_service_does() {
    let key = |name: &str| ServiceKey::new("ns", name).expect("valid");
    let with_access = |text: &str, of: &[(&str, u16)]| {
        let mut snapshot = snapshot(text);
        for (name, port) in of {
            let (service, ports) = (key(name), [(*port, Vec::new())].into());
            snapshot.set_access(&key(name), Some(Arc::new(ServiceAccess { service, ports })));
        }
        snapshot
    };
    let port =
        |snapshot: &Snapshot, name| Some(*snapshot.access(&key(name))?.ports.first_key_value()?.0);
    let mut guard = Guard::new(LIMITS);
    let start = Moment { at: Instant::now(), wall: SystemTime::UNIX_EPOCH };
    let mut world = (Snapshot::default(), Snapshot::default());
    let mut step = |guard: &mut Guard, secs, next: Snapshot| {
        let now = start.after(Duration::from_secs(secs)).expect("soon");
        let touched = world.0.differences(&next);
        let passed = guard.pass(&world.1, &next, touched, now);
        // A namespace is looked at again whenever a service of it is.
        let of_services = |mut keys: BTreeSet<Key>| {
            keys.retain(|key| !matches!(key, Key::Namespace(_)));
            keys
        };
        let differ = of_services(world.1.differences(&passed.content));
        assert_eq!(of_services(passed.changed.clone()), differ, "after {secs} s");
        world = (next, passed.content.clone());
        passed.content
    };
    let all = with_access("a:1 b:1 c:1 d:3", &[("a", 1), ("b", 1), ("d", 1)]);
    step(&mut guard, 0, all);
    // The compiler takes policies of services that are gone away with them.
    let content = step(&mut guard, 1, with_access("d:3", &[("d", 1)]));
    assert_eq!((port(&content, "a"), port(&content, "b")), (Some(1), Some(1)));
    // What is not held goes by the source, and so does what is held and there.
    let content = step(&mut guard, 2, with_access("d:0 e:1", &[("d", 2), ("e", 2)]));
    assert_eq!((port(&content, "d"), port(&content, "e")), (Some(2), Some(2)));
    assert!(guard.held().contains_key(&key("d")));
    // One is back, with another policy; one goes for good.
    let back = with_access("a:1 d:0 e:1", &[("a", 3), ("d", 2), ("e", 2)]);
    let content = step(&mut guard, 3, back.clone());
    assert_eq!((port(&content, "a"), port(&content, "b")), (Some(3), Some(1)));
    assert!(guard.release(&key("b")));
    let content = step(&mut guard, 4, back);
    assert_eq!((content.lookup(&key("b")).is_none(), port(&content, "b")), (true, None));
    assert_eq!(port(&content, "a"), Some(3));
}

/// Numbers that look random, the same for each seed (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn whatever_happens_only_what_is_held_differs_from_the_source_and_released_nothing_does() {
    let mut holds = 0;
    for seed in 1..=300 {
        let mut numbers = Numbers(seed);
        let mut world = World::new(LIMITS);
        let mut secs = 0;
        for _ in 0..60 {
            secs += [0, 1, 20, 61, 700][usize::try_from(numbers.below(5)).expect("small")];
            let (sparse, mut text) = (numbers.below(3), String::new());
            for name in ["a", "b", "c", "d", "e", "f", "g"] {
                let what = ["0", "1", "3", "5", "t3", "n3", "cname"];
                let what = what[usize::try_from(numbers.below(7)).expect("small")];
                if numbers.below(3) >= sparse {
                    text.push_str(&format!("{name}:{what}@{} ", numbers.below(200)));
                }
            }
            let passed = world.step(secs, snapshot(&text), &format!("seed {seed}: {text}"));
            holds += passed.begun.len();
            if numbers.below(8) == 0 {
                let held: Vec<ServiceKey> = world.guard.held().keys().cloned().collect();
                for key in held {
                    assert!(world.guard.release(&key));
                }
                world.step(secs, world.source.clone(), &format!("seed {seed}: released"));
                assert!(keys(&world.source, &world.published).is_empty(), "seed {seed}");
                assert!(world.guard.addresses.is_empty() && world.guard.source.is_none());
            }
        }
    }
    assert!(holds > 1000, "only {holds} holds were seen");
}
