//! What a pick costs. A measurement, not a check: run it alone, in a release build, with
//! `--ignored --nocapture`.

use std::hint::black_box;

use super::*;

/// The best of many short rounds is taken, so that what else runs on the machine counts little.
const ROUNDS: u32 = 200;
const PICKS: u32 = 5_000;

#[test]
#[ignore = "a measurement: run it alone in a release build"]
fn nanoseconds_per_pick() {
    for (word, balancer) in Balancer::WORDS {
        let mut line = String::new();
        for size in [10, 100, 1_000, 10_000] {
            line += &format!("{:>9.1}", nanos(balancer, &vec![1; size]));
        }
        let weights: Vec<u32> = (0..1_000).map(|n| n % 7 + 1).collect();
        println!("{word:>34} {line}   weighted 1000: {:>6.1}", nanos(balancer, &weights));
    }
}

fn nanos(balancer: Balancer, weights: &[u32]) -> f64 {
    let fleet = Fleet::flat(weights);
    let mut balance = fleet.balance(&Balancing::of(balancer));
    for (at, load) in fleet.loads.iter().enumerate() {
        load.begin(fleet.now.get());
        load.observe(
            fleet.now.get(),
            Duration::from_micros(900 + u64::from(small(at))),
            Outcome::Answered,
        );
        if at % 2 == 0 {
            load.end();
        }
    }
    fleet.pick(&mut balance);
    let (labels, now) = (BTreeMap::new(), fleet.now.get() + Duration::from_millis(3));
    let mut best = f64::MAX;
    for round in 0..ROUNDS {
        let begin = std::time::Instant::now();
        for number in 0..PICKS {
            let hash = u64::from(round * PICKS + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let ask = Ask { hash: Some(hash), labels: &labels, avoid: None, now };
            black_box(balance.pick(black_box(&ask), &fleet));
        }
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
    }
    best
}
