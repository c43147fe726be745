//! The task that asks one endpoint how it is, for as long as the configuration names it.
//!
//! Owns when it asks: soon after it begins, sooner than the interval while an endpoint that has
//! never been well may still be starting, never in step with others, never more at once than there
//! are permits. Refuses to know what is asked (`probe`) and what the answer means (`threshold`).

use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::HealthCheck;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::counters::HealthMetrics;
use super::host::HostHealth;
use super::jitter;
use super::threshold::{Answer, Change, Standing};
use crate::metrics::Counter;

/// First checks are spread over this long (or a tenth of the interval, if that is less).
const SPREAD: Duration = Duration::from_millis(500);
/// An endpoint that has never been well is asked this often …
const SOON: Duration = Duration::from_secs(1);
/// … so many times, then at the interval.
const SOON_CHECKS: u32 = 15;
/// Shortest time between two checks of an endpoint.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// An interval is longer at random by up to this share of it, in percent.
const JITTER_PERCENT: u32 = 10;

/// What the tasks of all endpoints share.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    /// One for each check under way.
    pub(super) permits: Arc<Semaphore>,
    pub(super) metrics: Arc<HealthMetrics>,
    pub(super) cluster: Arc<str>,
}

/// Asks until the task is aborted.
pub(super) async fn run<F, A>(host: Arc<HostHealth>, rule: HealthCheck, bench: Bench, ask: F)
where
    F: Fn() -> A,
    A: Future<Output = Answer>,
{
    tokio::time::sleep(jitter::up_to(SPREAD.min(rule.interval / 10))).await;
    loop {
        let answer = {
            let Some(_permit) = bench.permit().await else { return };
            timeout(rule.timeout, ask()).await.unwrap_or_else(|_elapsed| {
                Answer::Unreachable(format!("no answer within {:?}", rule.timeout))
            })
        };
        let (change, standing) = host.on_check(&answer, &rule);
        bench.count(&host, &answer, change);
        let pause = pause(&rule, standing);
        tokio::time::sleep(pause.saturating_add(jitter::up_to(pause / 100 * JITTER_PERCENT))).await;
    }
}

/// Time to the next check, before jitter.
fn pause(rule: &HealthCheck, standing: Standing) -> Duration {
    let starting = !standing.ever_passed && standing.checks < SOON_CHECKS;
    if starting { rule.interval.min(SOON).max(MIN_PAUSE) } else { rule.interval.max(MIN_PAUSE) }
}

/// Counts a check as waiting while it lives.
struct Waiting<'a>(&'a Counter);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

impl Bench {
    /// Leave to ask; `None` never, as the semaphore is not closed.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Some(permit);
        }
        self.metrics.checks_delayed.add(1);
        self.metrics.checks_waiting.add(1);
        let _waiting = Waiting(&self.metrics.checks_waiting);
        self.permits.acquire().await.ok()
    }

    fn count(&self, host: &HostHealth, answer: &Answer, change: Change) {
        let (counter, reason) = match answer {
            Answer::Passed => (&self.metrics.checks_passed, ""),
            Answer::Unhealthy(reason) => (&self.metrics.checks_unhealthy, reason.as_str()),
            Answer::Unreachable(reason) => (&self.metrics.checks_unreachable, reason.as_str()),
        };
        counter.add(1);
        let (cluster, endpoint) = (&*self.cluster, host.address);
        match change {
            Change::Healthy => {
                self.metrics.became_healthy.add(1);
                tracing::info!(cluster, %endpoint, "health checks find an endpoint healthy");
            }
            Change::Unhealthy => {
                self.metrics.became_unhealthy.add(1);
                tracing::warn!(cluster, %endpoint, reason, "health checks find an endpoint unhealthy");
            }
            Change::None | Change::Pending => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use portolan_model::policy::Probe;
    use tokio::task::{JoinSet, LocalSet};
    use tokio::time::Instant;

    use super::*;
    use crate::health::detector::Detector;

    const RULE: HealthCheck = HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };

    fn bench(permits: usize) -> Bench {
        let permits = Arc::new(Semaphore::new(permits));
        Bench { permits, metrics: Arc::default(), cluster: "web".into() }
    }

    fn host(bench: &Bench) -> Arc<HostHealth> {
        let detector = Detector::new(Arc::clone(&bench.cluster), Arc::clone(&bench.metrics));
        let address = "10.0.0.1:80".parse().expect("an address");
        Arc::new(HostHealth::new(address, Arc::new(detector), true))
    }

    /// Runs a script of answers and returns when each was asked for. `+` passed, `!` "not well",
    /// `-` no connection, `.` silence.
    async fn play(script: &str, bench: &Bench) -> (Arc<HostHealth>, Vec<Duration>) {
        let (start, host) = (Instant::now(), host(bench));
        let asked = RefCell::new(Vec::new());
        let done = Cell::new(false);
        let ask = || {
            let symbol = script.chars().nth(asked.borrow().len());
            asked.borrow_mut().push(start.elapsed());
            done.set(symbol.is_none());
            async move {
                match symbol {
                    Some('+') => Answer::Passed,
                    Some('!') => Answer::Unhealthy("answered 503".to_owned()),
                    Some('-') => Answer::Unreachable("refused".to_owned()),
                    _ => std::future::pending().await,
                }
            }
        };
        let ended = async {
            while !done.get() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = run(Arc::clone(&host), RULE, bench.clone(), ask) => {}
            () = ended => {}
        }
        (host, asked.take())
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_asked_soon_then_at_the_interval() {
        let (_, asked) = play("---++-++", &bench(1)).await;
        assert!(asked[0] <= SPREAD, "{asked:?}");
        let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (n, gap) in gaps.iter().enumerate() {
            // It has never passed: sooner. Later failures do not make it "starting" again.
            let base = if n < 3 { SOON } else { RULE.interval };
            let most = base + base / 10 + Duration::from_millis(5);
            assert!(*gap >= base && *gap <= most, "gap {n}: {gap:?}");
        }
        let (_, asked) = play(&"-".repeat(20), &bench(1)).await;
        let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[13] < SOON * 2 && gaps[14] >= RULE.interval, "not for ever: {gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_counted_and_change_the_endpoint() {
        let bench = bench(1);
        let metrics = &bench.metrics;
        let (host, _) = play("-", &bench).await;
        assert!(!host.is_available() && !host.is_pending());
        assert_eq!(host.reason().as_deref(), Some("refused"));
        let (host, _) = play("+", &bench).await;
        assert!(host.is_available());
        let (host, _) = play("+!", &bench).await;
        assert!(!host.is_available());
        assert_eq!(host.reason().as_deref(), Some("answered 503"));
        let (host, _) = play("+..", &bench).await;
        assert!(host.is_available(), "two of three");
        let (host, _) = play("+...", &bench).await;
        assert!(!host.is_available());
        assert_eq!(host.reason().as_deref(), Some("no answer within 2s"));
        let counted = [&metrics.checks_passed, &metrics.checks_unhealthy];
        assert_eq!(counted.map(Counter::get), [4, 1]);
        assert_eq!(metrics.checks_unreachable.get(), 6);
        assert_eq!((metrics.became_healthy.get(), metrics.became_unhealthy.get()), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_checks_than_permits_run_at_once() {
        let bench = bench(2);
        let (now, most, asked) = <(Rc<Cell<u32>>, Rc<Cell<u32>>, Rc<Cell<u32>>)>::default();
        let tasks = LocalSet::new();
        for _ in 0..10 {
            let (now, most, asked) = (Rc::clone(&now), Rc::clone(&most), Rc::clone(&asked));
            let ask = move || {
                let (now, most, asked) = (Rc::clone(&now), Rc::clone(&most), Rc::clone(&asked));
                async move {
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    now.set(now.get() - 1);
                    asked.set(asked.get() + 1);
                    Answer::Passed
                }
            };
            drop(tasks.spawn_local(run(host(&bench), RULE, bench.clone(), ask)));
        }
        let _timeout = tokio::time::timeout(Duration::from_secs(9), tasks).await;
        assert_eq!((most.get(), asked.get()), (2, 10));
        let metrics = &bench.metrics;
        assert_eq!(metrics.checks_waiting.get(), 0);
        assert!(metrics.checks_delayed.get() >= 7, "{}", metrics.checks_delayed.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_is_aborted_gives_its_permit_back() {
        let bench = bench(1);
        let mut tasks = JoinSet::new();
        let host = host(&bench);
        tasks.spawn(run(host, RULE, bench.clone(), std::future::pending::<Answer>));
        tokio::time::sleep(SPREAD * 2).await;
        assert_eq!(bench.permits.available_permits(), 0);
        tasks.shutdown().await;
        assert_eq!(bench.permits.available_permits(), 1);
    }
}
