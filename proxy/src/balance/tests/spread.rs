//! Priorities, degraded endpoints, panic, localities and zones, by what is picked.

use super::*;

const PICKS: usize = 100_000;

/// Endpoints by zone, clients here in thousandths, percent that take part; shares by zone.
type ZoneCase = (&'static [usize], Option<u32>, u32, [f64; 3]);

/// Ten endpoints at each of two priorities.
fn two_priorities() -> Fleet {
    let localities = vec![locality("a", 0, None), locality("b", 1, None)];
    let targets = (0..20).map(|number| target(number, u32::from(number >= 10), 1)).collect();
    Fleet::of(localities, targets)
}

fn part(counts: &[usize], of: std::ops::Range<usize>) -> f64 {
    count(counts[of].iter().sum()) / count(counts.iter().sum())
}

fn assert_part(about: &str, part: f64, expected: f64) {
    // Four standard deviations of a share of 100,000.
    let allowed = 4.0 * (expected * (1.0 - expected) / 1e5).sqrt() + 1e-9;
    assert!((part - expected).abs() <= allowed, "{about}, seed {SEED}: {part}, not {expected}");
}

#[test]
fn load_goes_to_the_next_priority_as_the_first_fails() {
    for balancer in
        [Balancer::RoundRobin, Balancer::PeakEwma, Balancer::LeastRequest, Balancer::Maglev]
    {
        for (healthy, first) in [(10, 1.0), (8, 1.0), (7, 0.98), (5, 0.7), (1, 0.14), (0, 0.0)] {
            let fleet = two_priorities();
            fleet.healthy[healthy..10].iter().for_each(|h| h.set(false));
            let mut balance = fleet.balance(&rule(balancer));
            let counts = fleet.counts(&mut balance, PICKS);
            let about = format!("{balancer:?} with {healthy} of 10");
            assert_part(&about, part(&counts, 0..10), first);
            assert_eq!(counts[healthy..10].iter().sum::<usize>(), 0, "{about}");
        }
    }
}

#[test]
fn in_panic_health_is_not_minded_and_without_a_threshold_there_is_none() {
    let fleet = two_priorities();
    fleet.healthy[1..10].iter().chain(&fleet.healthy[11..]).for_each(|h| h.set(false));
    let mut balance = fleet.balance(&rule(Balancer::RoundRobin));
    let counts = fleet.counts(&mut balance, PICKS);
    assert_part("both in panic", part(&counts, 0..10), 0.5);
    assert!(counts.iter().all(|c| c.abs_diff(5_000) < 300), "{counts:?}");
    assert_eq!(balance.counters().panic, 100_000);
    assert!(balance.describe(&fleet, fleet.now.get()).priorities.iter().all(|p| p.panic));

    let mut balance =
        fleet.balance(&Balancing { panic_threshold: 0, ..rule(Balancer::RoundRobin) });
    let counts = fleet.counts(&mut balance, 10_000);
    assert_eq!(counts.iter().filter(|c| **c > 0).count(), 2, "{counts:?}");
    fleet.healthy.iter().for_each(|h| h.set(false));
    balance.on_health_changed();
    assert_eq!(fleet.pick(&mut balance), None);
}

fn with_health(health: &[Health]) -> Fleet {
    let targets = health.iter().enumerate();
    let targets = targets.map(|(n, health)| Target { health: *health, ..target(n, 0, 1) });
    Fleet::of(vec![Locality::default()], targets.collect())
}

#[test]
fn degraded_endpoints_come_after_healthy_ones_and_draining_ones_last() {
    use Health::{Degraded, Draining, Healthy, Unhealthy};
    #[rustfmt::skip]
    let cases: [(&[Health], &[f64]); 6] = [
        (&[Healthy, Degraded], &[70.0, 30.0]),
        (&[Healthy, Healthy, Healthy, Degraded], &[1.0, 1.0, 1.0, 0.0]),
        (&[Degraded, Degraded, Unhealthy], &[1.0, 1.0, 0.0]),
        (&[Unhealthy, Unhealthy, Draining], &[1.0, 1.0, 0.0]),
        (&[Draining, Draining], &[1.0, 1.0]),
        (&[Healthy, Draining], &[1.0, 0.0]),
    ];
    for (health, shares) in cases {
        let fleet = with_health(health);
        let counts = fleet.counts(&mut fleet.balance(&rule(Balancer::Random)), PICKS);
        assert_shares(&format!("{health:?}"), &counts, shares);
    }
}

#[test]
fn a_retry_goes_to_another_tier_when_its_own_has_nobody_left() {
    let fleet = two_priorities();
    let mut balance = fleet.balance(&rule(Balancer::RoundRobin));
    let picked = fleet.pick_for(&mut balance, None, Some(&|at| at < 10));
    assert!(picked.is_some_and(|at| at >= 10), "{picked:?}");
}

#[test]
fn localities_share_by_weight_as_far_as_they_are_healthy() {
    // Envoy's table: X of weight 1, Y of weight 2 and all healthy.
    for (healthy, x) in [(100, 33.33), (70, 32.89), (69, 32.57), (50, 25.93), (25, 14.89), (0, 0.0)]
    {
        let localities = vec![locality("x", 0, Some(1)), locality("y", 0, Some(2))];
        let targets = (0..200).map(|number| target(number, u32::from(number >= 100), 1)).collect();
        let fleet = Fleet::of(localities, targets);
        fleet.healthy[healthy..100].iter().for_each(|h| h.set(false));
        let balancing = Balancing::of(Balancer::RoundRobin);
        let counts = fleet.counts(&mut fleet.balance(&balancing), PICKS);
        assert_part(&format!("{healthy}% of X"), part(&counts, 0..100), x / 100.0);
    }
}

#[test]
fn localities_without_weights_and_flat_mode_leave_it_to_the_endpoints() {
    for (mode, weight, expected) in [
        (LocalityMode::Weighted, None, 0.25),
        (LocalityMode::Flat, Some(5), 0.25),
        (LocalityMode::Weighted, Some(1), 0.5),
    ] {
        let localities = vec![locality("x", 0, weight), locality("y", 0, weight)];
        let targets = (0..4).map(|number| target(number, u32::from(number > 0), 1)).collect();
        let fleet = Fleet::of(localities, targets);
        for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::Maglev] {
            let balancing = Balancing { locality: mode, ..Balancing::of(balancer) };
            let counts = fleet.counts(&mut fleet.balance(&balancing), PICKS);
            assert_part(&format!("{balancer:?} {mode:?}"), part(&counts, 0..1), expected);
        }
    }
}

/// Endpoints by zone, the proxy being in zone "a".
fn zones(sizes: &[usize], clients_milli: Option<u32>, balancing: &Balancing) -> (Fleet, Balance) {
    let names = ["a", "b", "c"];
    let localities = names.iter().map(|zone| locality(zone, 0, None)).collect();
    let mut targets = Vec::new();
    for (zone, size) in sizes.iter().enumerate() {
        for _ in 0..*size {
            targets.push(target(targets.len(), small(zone), 1));
        }
    }
    let fleet = Fleet::of(localities, targets);
    let place = Place { region: "".into(), zone: "a".into(), clients_milli };
    let balance = Balance::new(balancing, &fleet.set, None, Some(place), SEED);
    (fleet, balance)
}

fn zone_aware(balancer: Balancer, percent: u32) -> Balancing {
    let locality = LocalityMode::ZoneAware { percent, min_size: 6 };
    Balancing { locality, ..Balancing::of(balancer) }
}

#[test]
fn the_own_zone_serves_first_and_only_the_rest_leaves_it() {
    #[rustfmt::skip]
    let cases: [ZoneCase; 7] = [
        (&[4, 4, 4], None, 100, [1.0, 0.0, 0.0]),
        (&[8, 2, 2], None, 100, [1.0, 0.0, 0.0]),
        (&[2, 5, 5], None, 100, [0.5, 0.25, 0.25]),
        (&[2, 2, 8], None, 100, [0.5, 0.0, 0.5]),
        (&[5, 10, 5], Some(400), 100, [0.625, 0.375, 0.0]),
        // Half of the requests take part, the others go anywhere.
        (&[4, 4, 4], None, 50, [2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]),
        // Too few for zones to matter.
        (&[2, 2, 1], None, 100, [0.4, 0.4, 0.2]),
    ];
    for balancer in [Balancer::Random, Balancer::LeastRequest, Balancer::PeakEwma] {
        for (sizes, clients, percent, shares) in cases {
            let (fleet, mut balance) = zones(sizes, clients, &zone_aware(balancer, percent));
            let counts = fleet.counts(&mut balance, PICKS);
            let ends = [sizes[0], sizes[0] + sizes[1], counts.len()];
            let about = format!("{balancer:?} {sizes:?} {clients:?} {percent}%");
            assert_part(&about, part(&counts, 0..ends[0]), shares[0]);
            assert_part(&about, part(&counts, ends[0]..ends[1]), shares[1]);
            assert_part(&about, part(&counts, ends[1]..ends[2]), shares[2]);
        }
    }
}

#[test]
fn a_zone_without_healthy_endpoints_is_left_and_taken_up_again() {
    let (fleet, mut balance) = zones(&[4, 4, 4], None, &zone_aware(Balancer::PeakEwma, 100));
    (0..4).for_each(|at| fleet.healthy[at].set(false));
    balance.on_health_changed();
    let counts = fleet.counts(&mut balance, 10_000);
    assert_eq!(part(&counts, 0..4), 0.0, "{counts:?}");
    (0..4).for_each(|at| fleet.healthy[at].set(true));
    balance.on_health_changed();
    assert_eq!(part(&fleet.counts(&mut balance, 10_000), 0..4), 1.0);
}

#[test]
fn a_loaded_zone_spills_only_as_much_as_keeps_it_twice_as_busy() {
    for balancer in [Balancer::LeastRequest, Balancer::PeakEwma] {
        let (fleet, mut balance) = zones(&[4, 4, 4], None, &zone_aware(balancer, 100));
        let mut give = |requests: usize| {
            for _ in 0..requests {
                let at = fleet.pick(&mut balance).expect("somebody serves");
                fleet.loads[at].begin(fleet.now.get());
            }
            let own: u32 = fleet.loads[..4].iter().map(Load::in_flight).sum();
            let others: u32 = fleet.loads[4..].iter().map(Load::in_flight).sum();
            (own, others)
        };
        // Four in flight at each is no load yet.
        assert_eq!(give(12), (12, 0), "{balancer:?}");
        let (own, others) = give(400);
        let ratio = (f64::from(own) / 4.0) / (f64::from(others) / 8.0);
        assert!((1.7..2.3).contains(&ratio), "{balancer:?}: {own} {others}, ratio {ratio}");
        assert!(balance.counters().spilled > 0);
        // Once that is done, all of it stays again.
        for load in &fleet.loads {
            (0..load.in_flight()).for_each(|_| load.end());
        }
        let spilled = balance.counters().spilled;
        assert_eq!(part(&fleet.counts(&mut balance, 1_000), 0..4), 1.0);
        assert_eq!(balance.counters().spilled, spilled);
    }
}

#[test]
fn the_description_says_weight_share_and_health() {
    let fleet = two_priorities();
    fleet.healthy[5..10].iter().for_each(|h| h.set(false));
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    let description = balance.describe(&fleet, fleet.now.get());
    assert_eq!(description.balancer, "peak_ewma");
    let percents: Vec<u32> = description.priorities.iter().map(|p| p.percent).collect();
    assert_eq!(percents, [70, 30]);
    let of = |at: usize| &description.endpoints[at];
    assert_eq!((of(0).percent, of(0).weight, of(0).healthy), (70, Some(1.0), true));
    assert_eq!((of(7).percent, of(7).weight, of(7).healthy), (0, None, false));
    assert_eq!((of(12).percent, of(12).priority), (30, 1));
    let json = serde_json::to_value(&description).expect("serialises");
    assert_eq!(json["endpoints"][0]["address"], "10.0.0.0:80");
}
