//! Rules against one another on simulated servers: Poisson arrivals, queues, one server that is slow.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// What a server is like.
#[derive(Clone, Copy)]
enum Server {
    /// One request after the other, each for an exponential time with this mean, in microseconds.
    Queue(f64),
    /// All requests at once, each for about this long, in microseconds.
    Delay(f64),
}

struct Simulation<'a> {
    fleet: &'a Fleet,
    balance: &'a mut Balance,
    rng: Rng,
    /// Microseconds since the start, also across runs.
    clock: u64,
    free_at: Vec<u64>,
}

/// What came of a run.
struct Result {
    counts: Vec<usize>,
    latencies: Vec<u64>,
    most_in_flight: u32,
}

impl Result {
    fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }

    fn share(&self, at: usize) -> f64 {
        count(self.counts[at]) / count(self.counts.iter().sum())
    }
}

impl<'a> Simulation<'a> {
    fn new(fleet: &'a Fleet, balance: &'a mut Balance) -> Self {
        let free_at = vec![0; fleet.loads.len()];
        // Another seed than the balancer's: with the same numbers its draws would follow the arrivals.
        Self { fleet, balance, rng: Rng::seeded(SEED + 1), clock: 0, free_at }
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        let unit = number::float(self.rng.next() >> 11) / number::float(1 << 53);
        number::whole(-mean * (1.0 - unit).ln()).max(1)
    }

    fn service(&mut self, server: Server, at: usize) -> u64 {
        match server {
            Server::Queue(mean) => {
                let end = self.free_at[at].max(self.clock) + self.exponential(mean);
                self.free_at[at] = end;
                end - self.clock
            }
            Server::Delay(mean) => {
                let half = number::whole(mean / 2.0);
                half + self.rng.below(2 * half)
            }
        }
    }

    /// So many requests, `gap` microseconds apart in the mean, until the last has its answer.
    fn run(&mut self, requests: usize, gap: f64, server: impl Fn(usize) -> Server) -> Result {
        let origin = self.fleet.now.get();
        let begin = self.clock;
        let time = |clock: u64| origin + Duration::from_micros(clock - begin);
        let mut result = Result {
            counts: vec![0; self.fleet.loads.len()],
            latencies: Vec::new(),
            most_in_flight: 0,
        };
        let mut ends: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
        let mut finish = |fleet: &Fleet, (end, at, latency): (u64, usize, u64)| {
            let latency_time = Duration::from_micros(latency);
            fleet.loads[at].observe(time(end), latency_time, Outcome::Answered);
            fleet.loads[at].end();
            result.latencies.push(latency);
        };
        for _ in 0..requests {
            self.clock += self.exponential(gap);
            while ends.peek().is_some_and(|Reverse((end, ..))| *end <= self.clock) {
                let Some(Reverse(ended)) = ends.pop() else { break };
                finish(self.fleet, ended);
            }
            self.fleet.now.set(time(self.clock));
            let at = self.fleet.pick(self.balance).expect("somebody serves");
            result.counts[at] += 1;
            self.fleet.loads[at].begin(self.fleet.now.get());
            result.most_in_flight = result.most_in_flight.max(self.fleet.loads[at].in_flight());
            let latency = self.service(server(at), at);
            ends.push(Reverse((self.clock + latency, at, latency)));
        }
        while let Some(Reverse(ended)) = ends.pop() {
            self.clock = self.clock.max(ended.0);
            finish(self.fleet, ended);
        }
        self.fleet.now.set(time(self.clock));
        result
    }
}

fn run(
    balancer: Balancer,
    servers: usize,
    requests: usize,
    gap: f64,
    server: impl Fn(usize) -> Server,
) -> Result {
    let fleet = Fleet::flat(&vec![1; servers]);
    let mut balance = fleet.balance(&rule(balancer));
    Simulation::new(&fleet, &mut balance).run(requests, gap, server)
}

#[test]
fn two_choices_keep_queues_short_where_chance_does_not() {
    // 50 servers at 90 % load: queues are geometric by chance, doubly exponential by two choices.
    let of = |balancer| run(balancer, 50, 100_000, 1000.0 / 45.0, |_| Server::Queue(1000.0));
    let (random, two) = (of(Balancer::Random), of(Balancer::LeastRequest));
    assert!(two.most_in_flight <= 12, "seed {SEED}: {}", two.most_in_flight);
    assert!(random.most_in_flight >= 40, "seed {SEED}: {}", random.most_in_flight);
    assert!(two.percentile(99) * 3 < random.percentile(99));
}

#[test]
fn peak_ewma_is_no_worse_than_two_choices_on_equal_servers() {
    let of = |balancer| run(balancer, 20, 100_000, 1000.0 / 14.0, |_| Server::Queue(1000.0));
    let (two, ewma) = (of(Balancer::LeastRequest), of(Balancer::PeakEwma));
    let (two_p99, ewma_p99) = (two.percentile(99), ewma.percentile(99));
    assert!(ewma_p99 * 2 < two_p99 * 3, "seed {SEED}: {ewma_p99} against {two_p99} µs");
    for at in 0..20 {
        assert!((0.035..0.065).contains(&ewma.share(at)), "{at}: {:?}", ewma.counts);
    }
}

#[test]
fn peak_ewma_leaves_a_slow_server_alone_and_beats_the_others() {
    // One of ten takes ten times as long.
    let slow = |at| if at == 4 { Server::Delay(10_000.0) } else { Server::Delay(1_000.0) };
    let of = |balancer| run(balancer, 10, 200_000, 200.0, slow);
    let ewma = of(Balancer::PeakEwma);
    let (two, turns) = (of(Balancer::LeastRequest), of(Balancer::RoundRobin));
    assert!((turns.share(4) - 0.1).abs() < 0.001);
    assert!(ewma.share(4) < 0.005, "seed {SEED}: {:?}", ewma.counts);
    assert!(two.share(4) > 5.0 * ewma.share(4), "{:?} {:?}", two.counts, ewma.counts);
    let (ewma, two, turns) = (ewma.percentile(99), two.percentile(99), turns.percentile(99));
    assert!(ewma * 4 < two && ewma * 4 < turns, "p99 {ewma}, {two}, {turns} µs");
}

#[test]
fn a_server_that_got_fast_again_gets_its_share_back() {
    let fleet = Fleet::flat(&[1; 10]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    let mut simulation = Simulation::new(&fleet, &mut balance);
    // One request in a millisecond: 20 seconds slow, 40 seconds to recover, then 20 to be counted.
    let slow = |at| if at == 4 { Server::Delay(20_000.0) } else { Server::Delay(2_000.0) };
    let during = simulation.run(20_000, 1_000.0, slow);
    assert!(during.share(4) < 0.01, "seed {SEED}: {:?}", during.counts);
    simulation.run(40_000, 1_000.0, |_| Server::Delay(2_000.0));
    let after = simulation.run(20_000, 1_000.0, |_| Server::Delay(2_000.0));
    assert!((0.07..0.13).contains(&after.share(4)), "seed {SEED}: {:?}", after.counts);
}

#[test]
fn a_server_that_stops_answering_gets_nothing_more() {
    let fleet = Fleet::flat(&[1; 5]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    let mut simulation = Simulation::new(&fleet, &mut balance);
    simulation.run(5_000, 500.0, |_| Server::Delay(1_000.0));
    // For 50 seconds server 2 keeps what it gets.
    let hung = |at| if at == 2 { Server::Delay(100_000_000.0) } else { Server::Delay(1_000.0) };
    let after = simulation.run(100_000, 500.0, hung);
    assert!(after.counts[2] < 20, "seed {SEED}: {:?}", after.counts);
}

#[test]
fn a_new_server_is_not_flooded() {
    let fleet = Fleet::flat(&[1; 5]);
    let mut balance = fleet.balance(&rule(Balancer::PeakEwma));
    let mut simulation = Simulation::new(&fleet, &mut balance);
    // All are unknown at first; nobody gets more than a few at once until they have answered.
    let result = simulation.run(2_000, 100.0, |_| Server::Delay(1_000.0));
    assert!(result.most_in_flight <= 10, "seed {SEED}: {}", result.most_in_flight);
}
