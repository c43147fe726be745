//! Each rule's distribution over endpoints that are all in one place and healthy.

use portolan_model::traffic::SlowStart;

use super::super::orca::OrcaReport;
use super::*;

const PICKS: usize = 100_000;
const MS: Duration = Duration::from_millis(1);

#[test]
fn idle_endpoints_are_picked_by_weight_under_every_rule_without_a_hash() {
    let lists: [&[u32]; 5] = [&[1; 10], &[1, 2, 3, 4], &[100, 1], &[5], &[7, 7, 7]];
    for balancer in [
        Balancer::RoundRobin,
        Balancer::Random,
        Balancer::LeastRequest,
        Balancer::PeakEwma,
        Balancer::RingHash,
        Balancer::Maglev,
    ] {
        for weights in lists {
            let fleet = Fleet::flat(weights);
            let counts = fleet.counts(&mut fleet.balance(&rule(balancer)), PICKS);
            if balancer == Balancer::RingHash {
                // A ring is only as even as its points.
                continue;
            }
            let shares: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
            assert_shares(&format!("{balancer:?} {weights:?}"), &counts, &shares);
        }
    }
}

#[test]
fn round_robin_is_exact() {
    for weights in [&[1_u32; 10][..], &[1, 2, 3, 4], &[10, 5, 1], &[97, 3]] {
        let fleet = Fleet::flat(weights);
        let counts = fleet.counts(&mut fleet.balance(&rule(Balancer::RoundRobin)), PICKS);
        let total: u32 = weights.iter().sum();
        for (counted, weight) in counts.iter().zip(weights) {
            let expected = PICKS * (*weight as usize) / (total as usize);
            assert!(counted.abs_diff(expected) <= 1, "{weights:?}: {counts:?}");
        }
    }
}

#[test]
fn an_endpoint_that_stays_keeps_its_turn_when_others_come_and_go() {
    let fleet = Fleet::flat(&[1; 4]);
    let mut balance = fleet.balance(&rule(Balancer::RoundRobin));
    let first: Vec<usize> = (0..3).filter_map(|_| fleet.pick(&mut balance)).collect();
    let last = (0..4).find(|at| !first.contains(at)).expect("one waits");
    // The first two leave; who waits longest is next, then the third.
    let left: Vec<usize> = (0..4).filter(|at| !first[..2].contains(at)).collect();
    let targets = left.iter().map(|at| target(*at, 0, 1)).collect();
    let after = Fleet::of(vec![Locality::default()], targets);
    let mut next =
        Balance::new(&rule(Balancer::RoundRobin), &after.set, Some(&balance), None, SEED);
    let picks: Vec<usize> =
        (0..2).filter_map(|_| after.pick(&mut next)).map(|at| left[at]).collect();
    assert_eq!(picks, [last, first[2]]);
    // A change of health does not reorder either.
    fleet.set_healthy(&balance, first[0], false);
    assert_eq!(fleet.pick(&mut balance), Some(last));
}

#[test]
fn whoever_is_to_be_avoided_is_not_picked_while_there_is_another() {
    for (_, balancer) in Balancer::WORDS {
        let fleet = Fleet::flat(&[1, 2, 3]);
        let mut balance = fleet.balance(&rule(balancer));
        for hash in 0..200 {
            let avoid = |at: usize| at != 1;
            let picked = fleet.pick_for(&mut balance, Some(hash), Some(&avoid));
            assert_eq!(picked, Some(1), "{balancer:?}");
        }
        assert_eq!(fleet.pick_for(&mut balance, None, Some(&|_| true)), None, "{balancer:?}");
        assert_eq!(balance.counters().none, 1);
        let nobody = Fleet::flat(&[]);
        assert_eq!(nobody.pick(&mut nobody.balance(&rule(balancer))), None, "{balancer:?}");
    }
}

#[test]
fn pick_first_stays_where_it_is_until_that_fails() {
    let fleet = Fleet::flat(&[1; 4]);
    let mut balance = fleet.balance(&rule(Balancer::PickFirst));
    assert_eq!(fleet.counts(&mut balance, 100), [100, 0, 0, 0]);
    assert_eq!(fleet.pick_for(&mut balance, None, Some(&|at| at == 0)), Some(1));
    assert_eq!(fleet.counts(&mut balance, 100), [0, 100, 0, 0], "the one that worked");
    fleet.set_healthy(&balance, 1, false);
    fleet.set_healthy(&balance, 3, false);
    assert_eq!(fleet.pick(&mut balance), Some(0));
    fleet.set_healthy(&balance, 1, true);
    assert_eq!(fleet.pick(&mut balance), Some(0), "what comes back does not take over");
}

#[test]
fn least_request_leaves_busy_endpoints_alone() {
    let fleet = Fleet::flat(&[1; 5]);
    let mut balance = fleet.balance(&rule(Balancer::LeastRequest));
    (0..5).for_each(|_| fleet.loads[2].begin(fleet.now.get()));
    let counts = fleet.counts(&mut balance, 50_000);
    // Never the better of two; the others share evenly.
    assert_shares("least request", &counts, &[1.0, 1.0, 0.0, 1.0, 1.0]);
}

#[test]
fn a_heavy_endpoint_gets_most_under_peak_ewma_until_it_is_busy() {
    let fleet = Fleet::flat(&[1, 3]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    for load in &fleet.loads {
        load.observe(fleet.now.get(), 10 * MS, Outcome::Answered);
        load.begin(fleet.now.get());
    }
    // The light one only when it is drawn twice.
    assert_shares("busy", &fleet.counts(&mut balance, 40_000), &[1.0, 15.0]);
    // Three times the load at three times the weight: nobody is better, draws go by weight.
    (0..2).for_each(|_| fleet.loads[1].begin(fleet.now.get()));
    assert_shares("even", &fleet.counts(&mut balance, 40_000), &[1.0, 3.0]);
}

#[test]
fn new_endpoints_count_as_fast_as_the_mean_and_are_tried_by_few_at_once() {
    let fleet = Fleet::flat(&[1; 2]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    fleet.loads[0].begin(fleet.now.get());
    fleet.loads[0].observe(fleet.now.get(), 20 * MS, Outcome::Answered);
    // 0 costs 40 ms with one more; 1 costs 20, then 4 times 40 with one in flight.
    assert_eq!(fleet.pick(&mut balance), Some(1));
    fleet.loads[1].begin(fleet.now.get());
    assert_eq!(fleet.pick(&mut balance), Some(0));
    let description = balance.describe(&fleet, fleet.now.get());
    assert_eq!(description.endpoints[0].ewma_ms.map(f64::round), Some(20.0));
    assert_eq!(description.endpoints[1].ewma_ms, None);
}

#[test]
fn a_failing_endpoint_is_avoided_by_peak_ewma_though_it_fails_fast() {
    let fleet = Fleet::flat(&[1; 4]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    let mut counts = [0_usize; 4];
    for _ in 0..20_000 {
        let at = fleet.pick(&mut balance).expect("somebody serves");
        counts[at] += 1;
        let now = fleet.now.get();
        fleet.loads[at].begin(now);
        fleet.advance(MS);
        let (latency, outcome) =
            if at == 3 { (MS / 10, Outcome::Failed) } else { (MS, Outcome::Answered) };
        fleet.loads[at].observe(fleet.now.get(), latency, outcome);
        fleet.loads[at].end();
    }
    // Twenty seconds: it is asked a few times, not five thousand times.
    assert!(counts[3] < 100, "{counts:?}");
}

#[test]
fn slow_start_ramps_a_new_endpoint_up() {
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::PeakEwma] {
        for (secs, warmth) in [(0, 0.1), (15, 0.25), (30, 0.5), (45, 0.75), (60, 1.0), (90, 1.0)] {
            let fleet = Fleet::flat(&[1; 10]);
            let slow_start = Some(SlowStart {
                window: Duration::from_secs(60),
                aggression_milli: 1000.try_into().expect("not 0"),
                min_weight_percent: 10,
            });
            let balancing = Balancing { slow_start, ..rule(balancer) };
            let mut balance = fleet.balance(&balancing);
            fleet.counts(&mut balance, 10);
            fleet.loads[4].rejoin(fleet.now.get());
            balance.on_health_changed();
            fleet.pick(&mut balance);
            // No change of health from here on: the plan is looked at again by itself.
            fleet.advance(Duration::from_secs(secs));
            let counts = fleet.counts(&mut balance, PICKS);
            let share = count(counts[4]) / count(PICKS);
            let expected = warmth / (9.0 + warmth);
            let off = (share - expected).abs() / expected;
            assert!(off < 0.08, "{balancer:?} after {secs} s: {share}, not {expected}");
        }
    }
}

#[test]
fn reported_load_shifts_turns_after_the_blackout_and_until_it_is_old() {
    let fleet = Fleet::flat(&[1; 4]);
    let mut balance = fleet.balance(&rule(Balancer::ClientSideWeightedRoundRobin));
    let report = |at: usize, qps: f64| {
        let report = OrcaReport { cpu_utilization: 0.5, qps, ..OrcaReport::default() };
        fleet.loads[at].report(&report, fleet.now.get());
    };
    let reports = || [(0, 100.0), (1, 200.0), (2, 300.0)].map(|(at, qps)| report(at, qps));
    reports();
    assert_eq!(fleet.counts(&mut balance, 4_000), [1_000; 4], "black-out");
    fleet.advance(Duration::from_secs(11));
    reports();
    let counts = fleet.counts(&mut balance, 80_000);
    for (counted, expected) in counts.iter().zip([10_000_usize, 20_000, 30_000, 20_000]) {
        assert!(counted.abs_diff(expected) <= 1, "who reports nothing has the mean: {counts:?}");
    }
    fleet.advance(Duration::from_secs(180));
    let counts = fleet.counts(&mut balance, 4_000);
    assert!(counts.iter().all(|c| c.abs_diff(1_000) <= 1), "expired: {counts:?}");
}

#[test]
fn flapping_in_a_large_cluster_does_not_make_a_plan_per_pick() {
    let fleet = Fleet::flat(&vec![1; 5_000]);
    let mut balance = fleet.balance(&rule(Balancer::LeastRequest));
    for round in 0..1_000 {
        fleet.set_healthy(&balance, 7, round % 2 == 0);
        fleet.advance(Duration::from_micros(100));
        fleet.pick(&mut balance);
    }
    let plans = balance.counters().plans;
    assert!((15..=25).contains(&plans), "one in 5 ms for 100 ms: {plans}");
    fleet.set_healthy(&balance, 7, false);
    fleet.advance(6 * MS);
    assert_eq!(fleet.counts(&mut balance, 20_000)[7], 0);
}
