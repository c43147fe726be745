//! Adaptive concurrency against a simulated server, in paused time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::*;

const MS: Duration = Duration::from_millis(1);
const CLIENTS: usize = 100;

/// A server that works on `capacity` requests at once, each for `service` milliseconds; others
/// queue there. All clients together want far more than that.
struct Simulation {
    gradient: Arc<Gradient>,
    places: Semaphore,
    service: Cell<u32>,
    /// When each request ended and how long it took, since the last look.
    ended: RefCell<Vec<(Duration, u32)>>,
}

impl Simulation {
    fn start(capacity: usize, service: u32, tasks: &LocalSet) -> Rc<Self> {
        let config = AdaptiveConcurrency {
            min: 3,
            max: 1000,
            interval: 100 * MS,
            min_rtt_interval: Duration::from_secs(10),
            tolerance_percent: 25,
        };
        let simulation = Rc::new(Self {
            gradient: Arc::new(Gradient::new(config, 2)),
            places: Semaphore::new(capacity),
            service: Cell::new(service),
            ended: RefCell::default(),
        });
        for client in 0..CLIENTS {
            let simulation = Rc::clone(&simulation);
            drop(tasks.spawn_local(async move { simulation.client(client).await }));
        }
        simulation
    }

    async fn client(&self, client: usize) {
        loop {
            let Some(sampled) = self.gradient.try_begin(client % 2) else {
                // Turned away: another client's turn.
                tokio::time::sleep(MS * 20).await;
                continue;
            };
            let begun = Instant::now();
            let Ok(place) = self.places.acquire().await else { return };
            tokio::time::sleep(MS * self.service.get()).await;
            drop(place);
            let limit = self.gradient.limit.load(Ordering::Relaxed);
            self.ended.borrow_mut().push((begun.elapsed(), limit));
            sampled.record();
        }
    }

    /// Runs so many seconds and returns: requests per second, the 99th percentile of the round
    /// trip, and the median limit that requests ended at.
    async fn run(&self, tasks: &LocalSet, seconds: u32) -> (u32, Duration, u32) {
        self.ended.borrow_mut().clear();
        let time = Duration::from_secs(u64::from(seconds));
        tasks.run_until(tokio::time::sleep(time)).await;
        let ended = self.ended.borrow();
        let (mut times, mut limits): (Vec<_>, Vec<_>) = ended.iter().copied().unzip();
        times.sort_unstable();
        limits.sort_unstable();
        let rate = u32::try_from(times.len()).expect("few") / seconds;
        let p99 = times[times.len() * 99 / 100];
        (rate, p99, limits[limits.len() / 2])
    }
}

#[tokio::test(start_paused = true)]
async fn concurrency_settles_near_what_the_server_can_do_at_once() {
    for capacity in [4_u32, 40] {
        let tasks = LocalSet::new();
        let places = usize::try_from(capacity).expect("small");
        let simulation = Simulation::start(places, 10, &tasks);
        simulation.run(&tasks, 4).await;
        let (rate, p99, limit) = simulation.run(&tasks, 12).await;
        let about = format!("capacity {capacity}: {rate}/s, p99 {p99:?}, limit {limit}");
        assert!((capacity..=capacity * 2 + 5).contains(&limit), "{about}");
        // 100 requests a second for each place; a tenth may go for measuring.
        assert!(rate >= capacity * 90, "{about}");
        assert!(p99 <= 30 * MS, "{about}");
        assert!(simulation.gradient.view().blocked > 0, "{about}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_a_server_that_slows_down_and_recovers() {
    let tasks = LocalSet::new();
    let simulation = Simulation::start(20, 10, &tasks);
    for (about, service) in [("first", 10), ("slower", 50), ("fast again", 10)] {
        simulation.service.set(service);
        simulation.run(&tasks, 14).await;
        let (rate, p99, limit) = simulation.run(&tasks, 11).await;
        let said = format!("{about}: {rate}/s, p99 {p99:?}, limit {limit}");
        assert!((20..=45).contains(&limit), "{said}");
        assert!(rate >= 20 * 1000 / service * 80 / 100, "{said}");
        assert!(p99 <= MS * service * 3 + 2 * MS, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_never_over_the_limit_and_dropped_ones_say_nothing() {
    let tasks = LocalSet::new();
    let simulation = Simulation::start(1, 10, &tasks);
    let gradient = Arc::clone(&simulation.gradient);
    drop(tasks);
    let held: Vec<_> = (0..10).filter_map(|_| gradient.try_begin(0)).collect();
    assert_eq!(held.len(), 3, "the least limit, while the round trip is measured");
    assert_eq!((gradient.view().in_flight, gradient.view().blocked), (3, 7));
    drop(held);
    let view = gradient.view();
    assert_eq!((view.in_flight, view.min_rtt_us, view.measuring), (0, 0, true));
    assert_eq!(gradient.histograms.iter().map(Histogram::count).sum::<u32>(), 0);
}
