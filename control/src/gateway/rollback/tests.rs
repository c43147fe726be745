//! Which loads cost a backend its weight, which do not, and what takes that back.

use std::time::Duration;

use super::*;
use crate::gateway::draft::{Meta, RuleDraft, TargetRef};

const SECOND: Duration = Duration::from_secs(1);

fn wanted() -> RollbackDraft {
    RollbackDraft {
        success_margin: 5,
        latency_margin: Some(50),
        min_requests: 100,
        window: 10 * SECOND,
        attempt: None,
    }
}

fn route(weights: &[u32], wanted: RollbackDraft) -> RouteDraft {
    let backend = |(at, weight): (usize, &u32)| BackendDraft {
        target: TargetRef {
            group: "".into(),
            kind: "Service".into(),
            namespace: "shop".into(),
            name: format!("b{at}").into(),
            port: Some(80),
        },
        weight: *weight,
        edits: Default::default(),
    };
    RouteDraft {
        kind: Kind::HttpRoute,
        meta: Meta {
            created: 0,
            namespace: "shop".into(),
            name: "r".into(),
            uid: None,
            generation: None,
        },
        hostnames: Vec::new(),
        parents: Vec::new(),
        rules: vec![RuleDraft {
            name: None,
            matches: Vec::new(),
            redirect: None,
            edits: Default::default(),
            cors: None,
            session: None,
            mirrors: Vec::new(),
            backends: weights.iter().enumerate().map(backend).collect(),
            timeout: None,
            try_timeout: None,
            retries: None,
            unsupported: None,
        }],
        fault: None,
        rate_limit: None,
        hedge: None,
        rollback: Some(wanted),
    }
}

fn cluster(at: usize) -> ResourceName {
    format!("shop/b{at}:80").into()
}

fn split(route: &RouteDraft) -> Split {
    let backends = route.rules[0].backends.clone();
    Split {
        id: (route.kind, (route.meta.namespace.clone(), route.meta.name.clone()), 0),
        called: "rule 0".into(),
        wanted: route.rollback.clone().expect("there"),
        clusters: (0..backends.len()).map(|at| Some(cluster(at))).collect(),
        backends,
    }
}

fn judge(route: &RouteDraft) -> Judge {
    let mut judge = Judge { is_told: true, ..Judge::default() };
    judge.watch(vec![split(route)]);
    judge
}

/// Good and bad requests of each backend, and the time of each.
fn loads(all: &[(u32, u32, f64)]) -> Loads {
    let one = |(at, (good, bad, each)): (usize, &(u32, u32, f64))| {
        let timed = f64::from(*good + *bad);
        let (good, bad) = (f64::from(*good), f64::from(*bad));
        (cluster(at), Load { good, bad, timed, millis: timed * each })
    };
    all.iter().enumerate().map(one).collect()
}

/// What came of the same loads, told every second for so long.
fn after(judge: &mut Judge, begun: Instant, secs: u32, all: &[(u32, u32, f64)]) -> Vec<u32> {
    (0..secs).filter(|at| judge.on_loads(loads(all), begun + *at * SECOND)).collect()
}

#[test]
fn what_falls_behind_its_sibling_loses_its_weight_once() {
    // By second: what each backend does, when the canary is rolled back, and why.
    type Case = (&'static str, [(u32, u32, f64); 2], Option<(u32, &'static str)>);
    let cases: [Case; 9] = [
        ("as good", [(900, 9, 10.0), (100, 1, 10.0)], None),
        ("worse within the margin", [(900, 0, 10.0), (96, 4, 10.0)], None),
        ("worse", [(900, 0, 10.0), (90, 10, 10.0)], Some((2, "SuccessRate"))),
        ("worse, and few", [(900, 0, 10.0), (18, 2, 10.0)], Some((6, "SuccessRate"))),
        ("too few within the window", [(900, 0, 10.0), (7, 2, 10.0)], None),
        ("nothing to compare with", [(0, 0, 10.0), (0, 100, 10.0)], None),
        ("both are bad", [(450, 450, 10.0), (50, 50, 10.0)], None),
        ("slower within the margin", [(900, 0, 10.0), (100, 0, 15.0)], None),
        ("slower", [(900, 0, 10.0), (100, 0, 16.0)], Some((2, "Latency"))),
    ];
    for (about, all, expected) in cases {
        let route = route(&[90, 10], wanted());
        let mut judge = judge(&route);
        let when = after(&mut judge, Instant::now(), 30, &all);
        assert_eq!(when, expected.map(|(at, _)| at).into_iter().collect::<Vec<_>>(), "{about}");
        let rolled = judge.rolled(&route, 0);
        let found: Vec<_> = rolled.iter().map(|(at, rolled)| (*at, rolled.reason)).collect();
        assert_eq!(found, expected.map(|(_, why)| (1, why)).into_iter().collect::<Vec<_>>());
        let condition = judge.condition(&route).expect("asked for");
        assert_eq!(condition.holds, expected.is_some(), "{about}");
        assert_eq!(condition.reason, expected.map_or("Watching", |(_, why)| why), "{about}");
    }
}

#[test]
fn the_backend_with_the_most_weight_stays_however_bad_it_is() {
    let route = route(&[10, 80, 10, 0], wanted());
    let mut judge = judge(&route);
    let all = [(100, 0, 1.0), (10, 90, 1.0), (0, 100, 1.0), (0, 100, 1.0)];
    assert_eq!(after(&mut judge, Instant::now(), 5, &all), [2]);
    assert_eq!(judge.rolled(&route, 0).keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_rule_that_is_changed_is_judged_anew_and_by_nothing_that_was_before() {
    let bad = [(900, 0, 10.0), (0, 100, 10.0)];
    let first = route(&[90, 10], wanted());
    let attempt = RollbackDraft { attempt: Some("2".into()), ..wanted() };
    for next in [route(&[80, 20], wanted()), route(&[90, 10], attempt)] {
        let mut judge = judge(&first);
        let begun = Instant::now();
        assert_eq!(after(&mut judge, begun, 5, &bad), [2]);
        // The same again is no change.
        judge.watch(vec![split(&first)]);
        assert_eq!(judge.rolled(&first, 0).len(), 1);
        assert_eq!(judge.all().count(), 1);
        assert!(judge.rolled(&next, 0).is_empty(), "as soon as it is another one");
        judge.watch(vec![split(&next)]);
        assert_eq!(judge.all().count(), 0);
        // The interval in which it was changed is about both, and the next may be to some clients.
        assert!(after(&mut judge, begun + 5 * SECOND, 2, &bad).is_empty());
        let good = [(900, 0, 10.0), (100, 0, 10.0)];
        assert!(after(&mut judge, begun + 7 * SECOND, 20, &good).is_empty());
        judge.watch(Vec::new());
        assert!(judge.rolled(&next, 0).is_empty(), "the route is gone");
    }
}

#[test]
fn rules_that_come_and_go_beside_it_change_nothing() {
    let first = route(&[90, 10], wanted());
    let mut judge = judge(&first);
    assert_eq!(after(&mut judge, Instant::now(), 3, &[(900, 0, 1.0), (0, 100, 1.0)]), [2]);
    let mut next = first.clone();
    next.rules.insert(0, RuleDraft { backends: Vec::new(), ..first.rules[0].clone() });
    assert!(judge.rolled(&next, 0).is_empty());
    assert_eq!(judge.rolled(&next, 1).len(), 1);
    judge.watch(vec![Split { id: (next.kind, split(&first).id.1, 1), ..split(&first) }]);
    assert_eq!(judge.rolled(&next, 1).len(), 1);
}

#[test]
fn a_service_that_is_gone_for_a_while_takes_nothing_back() {
    let route = route(&[90, 10], wanted());
    let mut judge = judge(&route);
    assert_eq!(after(&mut judge, Instant::now(), 3, &[(900, 0, 1.0), (0, 100, 1.0)]), [2]);
    let mut gone = split(&route);
    gone.clusters[1] = None;
    judge.watch(vec![gone]);
    judge.watch(vec![split(&route)]);
    assert_eq!(judge.rolled(&route, 0).len(), 1);
}

#[test]
fn what_is_kept_and_watched_is_bounded() {
    let route = route(&[90, 10], wanted());
    let mut judge = judge(&route);
    let begun = Instant::now();
    for at in 0..1000 {
        let mut all = loads(&[(1, 0, 1.0), (1, 0, 1.0)]);
        all.insert("somebody/else:80".into(), Load::default());
        judge.on_loads(all, begun + at * SECOND);
    }
    assert!(judge.told.len() <= 10, "{}", judge.told.len());
    assert!(judge.told.iter().all(|(_, loads)| loads.len() == 2));
    let hour = RollbackDraft { window: 3600 * SECOND, ..wanted() };
    judge.watch(vec![Split { wanted: hour, ..split(&route) }]);
    let all = [(1, 0, 1.0), (1, 0, 1.0)];
    after(&mut judge, begun + 1000 * SECOND, 5000, &all);
    assert!(judge.told.len() <= 61, "{}", judge.told.len());
    let sum: f64 = judge.told.iter().map(|(_, loads)| loads[&cluster(1)].good).sum();
    assert!((3400.0..=3660.0).contains(&sum), "{sum}");
    let many = (0..=MAX_SPLITS).map(|at| Split {
        id: (Kind::HttpRoute, ("a".into(), format!("r{at}").into()), 0),
        ..split(&route)
    });
    let many: Vec<Split> = many.collect();
    assert!(judge.watch(many.clone()));
    assert!(!judge.watch(many));
    assert_eq!(judge.watched.len(), MAX_SPLITS);
    let named = |name: &str| {
        let mut route = route.clone();
        (route.meta.namespace, route.meta.name) = ("a".into(), name.into());
        route
    };
    let reason = |name: &str| judge.condition(&named(name)).map(|condition| condition.reason);
    assert_eq!(reason("r0"), Some("Watching"));
    assert_eq!(reason(&format!("r{MAX_SPLITS}")), Some("TooMany"));
    judge.is_told = false;
    assert_eq!(judge.condition(&route).map(|condition| condition.reason), Some("NoLoadReports"));
}
