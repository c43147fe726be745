//! Ring hash and Maglev: evenness, what moves when endpoints come and go, and bounded loads.

use super::*;

const KEYS: u64 = 100_000;

fn balancing(balancer: Balancer) -> Balancing {
    // Points enough for a ring to be even.
    Balancing { ring: (65_536, 1 << 20), ..rule(balancer) }
}

fn key(number: u64) -> u64 {
    hash::of(&[&number.to_le_bytes()])
}

/// The endpoint's number for each key.
fn owners(fleet: &Fleet, numbers: &[usize], balancer: Balancer) -> Vec<usize> {
    let mut balance = fleet.balance(&balancing(balancer));
    let pick = |number| fleet.pick_for(&mut balance, Some(key(number)), None);
    (0..KEYS).map(pick).map(|at| numbers[at.expect("somebody serves")]).collect()
}

fn fleet(numbers: &[usize]) -> Fleet {
    let targets = numbers.iter().map(|number| target(*number, 0, 1)).collect();
    Fleet::of(vec![Locality::default()], targets)
}

#[test]
fn keys_are_shared_by_weight() {
    // Points are random on a ring: their number's root is the error. A table of Maglev's is exact.
    for (balancer, tolerance) in [(Balancer::RingHash, 0.08), (Balancer::Maglev, 0.04)] {
        for weights in [&[1_u32; 10][..], &[1, 2, 4], &[1; 50]] {
            let fleet = Fleet::flat(weights);
            let all: Vec<usize> = (0..weights.len()).collect();
            let owners = owners(&fleet, &all, balancer);
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (at, weight) in weights.iter().enumerate() {
                let share = count(owners.iter().filter(|o| **o == at).count()) / 1e5;
                let fair = f64::from(*weight) / total;
                let off = (share / fair - 1.0).abs();
                // The sample's own error comes on top.
                let allowed = tolerance + 4.0 / (fair * 1e5).sqrt();
                assert!(off < allowed, "{balancer:?} {weights:?} {at}: {share} {fair}");
            }
        }
    }
}

#[test]
fn a_hash_keeps_its_endpoint_whatever_else_is_asked() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let fleet = Fleet::flat(&[1; 20]);
        let (mut one, mut other) =
            (fleet.balance(&balancing(balancer)), fleet.balance(&balancing(balancer)));
        for number in 0..1_000 {
            let picked = fleet.pick_for(&mut one, Some(key(number)), None);
            fleet.pick_for(&mut other, Some(key(number * 7)), None);
            assert_eq!(fleet.pick_for(&mut other, Some(key(number)), None), picked, "{balancer:?}");
        }
    }
}

/// Shares of all keys that moved: those of the endpoint that left or to the one that joined, others.
fn moved(before: &[usize], after: &[usize], changed: usize) -> (f64, f64) {
    let (mut its, mut others) = (0, 0);
    for (old, new) in before.iter().zip(after) {
        if old != new && (*old == changed || *new == changed) {
            its += 1;
        } else if old != new {
            others += 1;
        }
    }
    (count(its) / 1e5, count(others) / 1e5)
}

#[test]
fn few_keys_move_when_an_endpoint_leaves_or_joins() {
    let nineteen: Vec<usize> = (0..20).filter(|n| *n != 7).collect();
    let twenty: Vec<usize> = (0..20).collect();
    for (balancer, others_allowed) in [(Balancer::RingHash, 0.0), (Balancer::Maglev, 0.03)] {
        let less = owners(&fleet(&nineteen), &nineteen, balancer);
        let more = owners(&fleet(&twenty), &twenty, balancer);
        for (about, before, after) in [("leaves", &more, &less), ("joins", &less, &more)] {
            let (its, others) = moved(before, after, 7);
            assert!((its - 0.05).abs() < 0.008, "{balancer:?} {about}: {its}");
            assert!(others <= others_allowed, "{balancer:?} {about}: {others}");
        }
    }
}

#[test]
fn only_its_keys_move_while_an_endpoint_is_unhealthy_and_all_come_back() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let fleet = Fleet::flat(&[1; 10]);
        let mut balance = fleet.balance(&balancing(balancer));
        let mut owners = || -> Vec<usize> {
            let picks = (0..20_000).map(|n| fleet.pick_for(&mut balance, Some(key(n)), None));
            picks.flatten().collect()
        };
        let before = owners();
        fleet.healthy[3].set(false);
        balance.on_health_changed();
        let mut owners = || -> Vec<usize> {
            let picks = (0..20_000).map(|n| fleet.pick_for(&mut balance, Some(key(n)), None));
            picks.flatten().collect()
        };
        let during = owners();
        for (old, new) in before.iter().zip(&during) {
            assert!(if *old == 3 { *new != 3 } else { new == old }, "{balancer:?}: {old} {new}");
        }
        // Its keys spread over all the others.
        let heirs: Vec<usize> = (0..10)
            .map(|at| before.iter().zip(&during).filter(|(o, n)| **o == 3 && **n == at).count())
            .collect();
        let mean = heirs.iter().sum::<usize>() / 9;
        let even = heirs.iter().enumerate().all(|(at, h)| at == 3 || h.abs_diff(mean) < mean / 2);
        assert!(even, "{balancer:?}: {heirs:?}");
        fleet.set_healthy(&balance, 3, true);
        let after = (0..20_000).map(|n| fleet.pick_for(&mut balance, Some(key(n)), None));
        assert_eq!(after.flatten().collect::<Vec<_>>(), before, "{balancer:?}");
    }
}

#[test]
fn when_hardly_anybody_is_left_a_hash_still_finds_the_same_endpoint() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let fleet = Fleet::flat(&[1; 500]);
        let mut balance = Balance::new(
            &Balancing { panic_threshold: 0, ..rule(balancer) },
            &fleet.set,
            None,
            None,
            SEED,
        );
        fleet.healthy.iter().enumerate().for_each(|(at, h)| h.set(at == 5 || at == 300));
        let mut seen = [0, 0];
        for number in 0..500 {
            let picked = fleet.pick_for(&mut balance, Some(key(number)), None);
            assert_eq!(fleet.pick_for(&mut balance, Some(key(number)), None), picked);
            seen[usize::from(picked == Some(300))] += 1;
            assert!(picked == Some(5) || picked == Some(300), "{picked:?}");
        }
        assert!(seen.iter().all(|s| *s > 100), "{balancer:?}: {seen:?}");
    }
}

#[test]
fn a_bound_spreads_a_hot_key_and_no_bound_does_not() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        for (factor, most) in [(None, 100), (Some(100), 10), (Some(125), 13), (Some(200), 20)] {
            let fleet = Fleet::flat(&[1; 10]);
            let with_bound = Balancing { hash_balance_factor: factor, ..balancing(balancer) };
            let mut balance = fleet.balance(&with_bound);
            for _ in 0..100 {
                let at = fleet.pick_for(&mut balance, Some(key(1)), None).expect("somebody serves");
                fleet.loads[at].begin(fleet.now.get());
            }
            let greatest = fleet.loads.iter().map(Load::in_flight).max();
            assert_eq!(greatest, Some(most), "{balancer:?} {factor:?}");
        }
    }
}

#[test]
fn a_named_key_stands_for_the_address() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let named = |number: usize, name: usize| {
            let labels = BTreeMap::from([("hash_key".to_owned(), format!("pod-{name}"))]);
            Target { labels: Some(Arc::new(labels)), ..target(number, 0, 1) }
        };
        let fleet = |shift| {
            let targets = (0..5).map(|n| named(n + shift, n)).collect();
            Fleet::of(vec![Locality::default()], targets)
        };
        let all = [0, 1, 2, 3, 4];
        let moved = owners(&fleet(100), &all, balancer);
        assert_eq!(owners(&fleet(0), &all, balancer), moved, "{balancer:?}: other addresses");
    }
}

#[test]
fn a_table_is_kept_while_health_changes() {
    let fleet = Fleet::flat(&[1; 100]);
    let mut balance = fleet.balance(&balancing(Balancer::Maglev));
    fleet.pick(&mut balance);
    let before = balance.whole.tables.first();
    fleet.set_healthy(&balance, 3, false);
    fleet.pick(&mut balance);
    assert_eq!(balance.whole.tables.first(), before);
    let mut next =
        Balance::new(&balancing(Balancer::Maglev), &fleet.set, Some(&balance), None, SEED);
    fleet.pick(&mut next);
    assert_eq!(next.whole.tables.first(), before);
}
