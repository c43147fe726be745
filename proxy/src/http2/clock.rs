//! What time means for a connection: pings, a peer that takes no output, a preface or a head that
//! never ends, a drain that nobody confirms, and how long last words linger.
//!
//! One timer, which is there only while something waits for time; between two ticks it is known
//! by counts whether anything moved, so that no clock is read for each message.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::error::Error;
use super::handle::Shared;

/// How long a peer that was told of its fault may take to hear of it.
const LINGER: Duration = Duration::from_millis(500);
/// How long a peer may take to confirm that it has heard of a drain; streams it opened meanwhile
/// are served.
const DRAIN: Duration = Duration::from_secs(1);

/// What of a connection time is of concern to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) keepalive: Option<(Duration, Duration)>,
    pub(super) limit: Duration,
    /// A ping makes sense now.
    pub(super) pings: bool,
    pub(super) drains: bool,
    pub(super) over: bool,
    /// What is begun and not whole: the stream of a head, or 0 for the greeting.
    pub(super) unfinished: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Clock {
    timer: Option<Pin<Box<Sleep>>>,
    pub(super) reads: Count,
    pub(super) writes: Count,
    /// Since when output waits.
    stalled: Option<Instant>,
    /// What was unfinished at the last tick, and since when.
    unfinished: Option<(u32, Instant)>,
}

#[derive(Debug, Default)]
pub(super) struct Count {
    now: u64,
    /// At the last tick.
    before: u64,
}

impl Count {
    pub(super) fn add(&mut self) {
        self.now += 1;
    }

    /// Whether it grew since the last tick.
    fn tick(&mut self) -> bool {
        std::mem::replace(&mut self.before, self.now) != self.now
    }
}

impl Clock {
    /// What time brings, where `waits` says whether output waits for the peer; whether the
    /// connection is over by it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Rc<Shared>,
        waits: bool,
    ) -> Result<bool, Error> {
        let watch = shared.look(|connection| connection.watch());
        let needed = watch.keepalive.is_some()
            || watch.drains
            || watch.over
            || watch.unfinished.is_some()
            || waits;
        if !needed {
            (self.timer, self.stalled, self.unfinished) = (None, None, None);
            return Ok(false);
        }
        let period = match watch.keepalive {
            _ if watch.over => LINGER,
            _ if watch.drains => DRAIN.min(watch.limit),
            Some((interval, _)) => interval.min(watch.limit),
            None => watch.limit,
        };
        let mut timer = match self.timer.take() {
            Some(timer) => timer,
            None => {
                (self.reads.before, self.writes.before) = (self.reads.now, self.writes.now);
                Box::pin(tokio::time::sleep(period))
            }
        };
        if (watch.over || watch.drains) && timer.deadline() > Instant::now() + period {
            timer.as_mut().reset(Instant::now() + period);
        }
        let mut ended = false;
        while !ended && timer.as_mut().poll(cx).is_ready() {
            ended = watch.over;
            let next = self.tick(shared, &watch, waits)?.unwrap_or(period);
            timer.as_mut().reset(Instant::now() + next);
        }
        self.timer = Some(timer);
        Ok(ended)
    }

    /// When to look again, if not after a period.
    fn tick(
        &mut self,
        shared: &Rc<Shared>,
        watch: &Watch,
        waits: bool,
    ) -> Result<Option<Duration>, Error> {
        let (heard, moved) = (self.reads.tick(), self.writes.tick());
        let now = Instant::now();
        self.stalled = if waits && !moved { self.stalled.or(Some(now)) } else { None };
        if self.stalled.is_some_and(|since| now - since >= watch.limit) {
            return Err(Error::WriteTimeout);
        }
        self.unfinished = watch.unfinished.map(|what| match self.unfinished {
            Some((before, since)) if before == what => (what, since),
            _ => (what, now),
        });
        if self.unfinished.is_some_and(|(_, since)| now - since >= watch.limit) {
            return Err(Error::ReadTimeout);
        }
        shared.with(|connection| {
            connection.drain_finally();
            match watch.keepalive {
                Some(_) if heard => connection.heard(),
                Some(_) if connection.is_pinged() => return Err(Error::PingTimeout),
                Some((_, timeout)) if watch.pings => {
                    connection.ping();
                    return Ok(Some(timeout));
                }
                _ => {}
            }
            Ok(None)
        })
    }
}
