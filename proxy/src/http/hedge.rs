//! A request that goes to a further endpoint while the ones that have it take their time (Envoy
//! `HedgePolicy.hedge_on_per_try_timeout`).
//!
//! A try that has had its time goes on beside the next one. The first answer that is no reason to try
//! again is the client's, and all other tries are given up. What bounds them is what bounds tries one
//! after another: their number, the retry budget, and endpoints that have not had the request. While
//! there is more of the body to come, or more of it than can be sent again, there is one try at a time.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::account::Account;
use super::answering::Answering;
use super::body::{Shared, Source};
use super::exchange::Fail;
use super::forward::{Forward, MAX_TRIES};
use super::retrying::{self, Ended, Tried};
use super::stage::{Race, Stage};
use super::trying::Trying;
use crate::health::outcome::Outcome as Outlier;
use crate::http1::Length;
use crate::limit::breaker::Permit;
use crate::metrics::cluster::Retried;
use crate::worker::cluster::ClusterState;
use crate::worker::endpoint::Endpoint;

/// The shortest time of a try.
const LEAST_DELAY: Duration = Duration::from_millis(1);

/// What became of a try, and leave for another one in its place.
type Outcome = (Result<(), Ended>, Option<Permit>);

/// A try under way.
struct Running<'f> {
    number: usize,
    endpoint: Rc<Endpoint>,
    state: Rc<ClusterState>,
    since: Instant,
    worker: usize,
    /// Whether it was said of the endpoint that it takes too long.
    late: Rc<Cell<bool>>,
    future: Pin<Box<dyn Future<Output = Outcome> + 'f>>,
}

impl Running<'_> {
    /// Says once of its endpoint that it takes too long, in the place of what it will have answered.
    fn tell_late(&self) {
        if !self.late.replace(true) {
            self.endpoint.report(self.worker, Outlier::LocalError);
        }
    }
}

/// What there is to do next.
enum Event {
    /// This try has ended.
    Ended(usize, Outcome),
    /// This one has an answer for the client, which it goes on to send.
    Won(usize),
    /// It is time for another try.
    Due,
    /// The client is gone, or its body cannot be read.
    Gone(Fail),
}

/// Why another try is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    First,
    /// The last one failed.
    Failed,
    /// Those under way take their time.
    Slow,
}

/// Brings the response of the endpoint that is first to the client. `delay`: the time of a try before
/// there is another one beside it.
pub(super) async fn run(
    mut forward: Forward<'_>,
    delay: Duration,
    source: &mut Source<'_>,
    answer: &mut Answering<'_>,
) -> Result<(), Fail> {
    let attempts = forward.way.retries.as_ref().map_or(0, |retries| retries.attempts);
    let attempts = usize::try_from(attempts).unwrap_or(0);
    let most = MAX_TRIES.max(attempts + 1);
    let delay = delay.max(LEAST_DELAY);
    let length = source.length();
    let mut body = Shared::new(source, most);
    let race = Race {
        speaks: answer.speaks,
        answer: RefCell::new(Some(answer)),
        active: RefCell::default(),
        account: forward.account,
        begun: Cell::new(0),
        running: Cell::new(0),
    };
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut last: Option<Tried> = None;
    let mut next = Some((Instant::now(), Why::First));
    let mut sleep = pin!(sleep_until(Instant::now()));
    let _upstream = forward.shared.metrics.upstream();
    loop {
        if let Some((at, why)) = next.filter(|(at, _)| *at <= Instant::now()) {
            next = None;
            let state = match forward.cluster() {
                Ok(state) => state,
                Err(none) if running.is_empty() => return Err(none),
                Err(_) => continue,
            };
            if race.active.borrow().is_none() {
                *race.active.borrow_mut() = Some(forward.begin(&state)?);
            }
            let failed = last.as_ref().filter(|_| why == Why::Failed);
            let beside = !running.is_empty();
            let is_ready = body.is_ready(beside);
            if why == Why::Slow {
                running.iter().filter(|one| one.since + delay <= at).for_each(Running::tell_late);
                if !is_ready {
                    next = Some((at + delay, why));
                    continue;
                }
            }
            // No endpoint gets it that still has it.
            let again = failed.filter(|_| !beside);
            let endpoint = if is_ready { forward.pick(&state, &tried, again) } else { None };
            let permit = endpoint.is_some().then(|| leave(&mut forward, &state, why, failed));
            if let (Some(endpoint), Some(Ok(permit))) = (endpoint, permit)
                && let Some(source) = body.take()
            {
                let number = tried.len();
                tried.push(endpoint.address);
                race.begun.set(tried.len());
                let mut trying = Trying::begin(&endpoint, forward.shared, forward.account, None);
                let (late, since) = (trying.late(), trying.load.since());
                forward.account.on_cluster(&state);
                forward.account.on_try(&endpoint, since);
                let worker = forward.shared.number;
                let at = Rc::clone(&state);
                let future = one(&forward, at, (number, length), permit, source, trying, &race);
                running.push(Running { number, endpoint, state, since, worker, late, future });
                next = (tried.len() <= attempts).then(|| (since + delay, Why::Slow));
            }
            if running.is_empty() {
                return Err(Fail::Local(retrying::given_up(forward.asked, last)));
            }
        }
        race.running.set(running.len());
        if let Some((at, _)) = next {
            sleep.as_mut().reset(at);
        }
        let event = poll_fn(|cx| {
            let event = poll(cx, &mut running, &race, &mut body);
            match event {
                Poll::Pending if next.is_some() => sleep.as_mut().poll(cx).map(|()| Event::Due),
                event => event,
            }
        });
        match event.await {
            Event::Due => {}
            Event::Gone(fail) => return Err(fail),
            Event::Won(i) => {
                let winner = running.swap_remove(i);
                next = None;
                give_up(&mut running, forward.account);
                body.settle();
                running.push(winner);
            }
            Event::Ended(i, (attempted, granted)) => {
                let ended = running.swap_remove(i);
                if ended.number > 0 {
                    ended.state.metrics.on_retried(match &attempted {
                        Ok(()) => Retried::Success,
                        Err(_) => Retried::Failure,
                    });
                }
                let failed = match attempted {
                    Ok(()) => {
                        give_up(&mut running, forward.account);
                        return Ok(());
                    }
                    Err(Ended::Over(fail)) => return Err(fail),
                    // Its answer had begun.
                    Err(Ended::Tried(failed)) if race.is_won() => {
                        return Err(Fail::Local(retrying::given_up(forward.asked, Some(failed))));
                    }
                    Err(Ended::Tried(failed)) => failed,
                };
                let at = (ended.endpoint.address, ended.since);
                forward.account.on_one_failed(at, &failed.failure, failed.reused);
                let again = granted.is_some()
                    || tried.len() < most
                        && forward.is_reason(&failed.failure, tried.len(), length == Length::None);
                if again {
                    let pause = forward.pause(&failed, tried.len()).unwrap_or_default();
                    next = Some((Instant::now() + pause, Why::Failed));
                    forward.granted = granted;
                }
                // One that is to come has a reason already.
                let is_due = matches!(next, Some((_, Why::Failed)));
                if again || !is_due {
                    last = Some(failed);
                }
                if running.is_empty() && !is_due {
                    return Err(Fail::Local(retrying::given_up(forward.asked, last)));
                }
            }
        }
    }
}

/// Gives up all tries but the one that was first.
fn give_up(others: &mut Vec<Running<'_>>, account: &Account) {
    for other in others.drain(..) {
        account.on_given_up(other.endpoint.address, other.since);
    }
}

/// Looks at every try, and at the client.
fn poll(
    cx: &mut Context<'_>,
    running: &mut [Running<'_>],
    race: &Race<'_, '_>,
    body: &mut Shared<'_, '_>,
) -> Poll<Event> {
    let was_won = race.is_won();
    for (i, one) in running.iter_mut().enumerate() {
        if let Poll::Ready(outcome) = one.future.as_mut().poll(cx) {
            return Poll::Ready(Event::Ended(i, outcome));
        }
        if race.is_won() && !was_won {
            return Poll::Ready(Event::Won(i));
        }
    }
    if let Some(answer) = &mut *race.answer.borrow_mut()
        && (matches!(answer.out.poll_flush(cx), Poll::Ready(Err(_)))
            || answer.out.poll_refused(cx).is_ready())
    {
        return Poll::Ready(Event::Gone(Fail::Client));
    }
    body.poll(cx).map(|error| Event::Gone(error.map_or(Fail::Client, |error| Fail::unread(&error))))
}

/// Leave for a try.
fn leave(
    forward: &mut Forward<'_>,
    state: &ClusterState,
    why: Why,
    failed: Option<&Tried>,
) -> Result<Option<Permit>, ()> {
    if let Some(failed) = failed {
        return forward.allow(state, failed);
    }
    if why == Why::First {
        return Ok(None);
    }
    let permit = forward.charge(state).ok_or(())?;
    forward.shared.metrics.retries.add(1);
    forward.shared.metrics.hedges.add(1);
    Ok(Some(permit))
}

/// A try.
fn one<'f>(
    forward: &Forward<'f>,
    state: Rc<ClusterState>,
    (number, length): (usize, Length),
    permit: Option<Permit>,
    mut source: Source<'static>,
    mut trying: Trying<'f>,
    race: &'f Race<'_, '_>,
) -> Pin<Box<dyn Future<Output = Outcome> + 'f>> {
    let Forward { shared, way, asked, deadline, account, trailers, .. } = *forward;
    let mut head = forward.head.clone();
    Box::pin(async move {
        let (tries, upgrade, granted, head) = (number + 1, None, None, &mut head);
        let mut forward = Forward {
            shared,
            way,
            asked,
            head,
            upgrade,
            deadline,
            account,
            trailers,
            tries,
            granted,
        };
        let (first, mut stage) = (number == 0, Stage::Beside(race));
        let attempt =
            forward.attempt(&state, &mut trying, first, permit, length, &mut source, &mut stage);
        let attempted = attempt.await;
        if let Err(Ended::Tried(failed)) = &attempted {
            trying.on_failed(failed.failure.cause);
        }
        (attempted, forward.granted.take())
    })
}
