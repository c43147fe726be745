//! Drives a load: as much as there is room for (closed loop), or one every so often whether or not
//! the last is done (open loop; what had to wait counts from when it was due).

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::meter::Meter;
use crate::poll::{Poll, Ready};

/// More work than this that waits for room is not a load that the proxy carries.
const MAX_WAITING: usize = 1_000_000;

/// The token of the backend's own poll in the load's.
pub const BACKEND: u64 = u64::MAX;

/// What runs in the same thread as the load.
pub struct Rig<'a> {
    pub backend: &'a mut Backend,
    /// Never sleeps, so that no proxy's CPU time goes into waking it. A backend and a client
    /// elsewhere in a network would not cost the proxy that either.
    pub spins: bool,
}

pub trait Load {
    /// Starts one piece of work. `false`: there is no room now.
    fn start(&mut self, poll: &Poll, due: Instant, meter: &mut Meter) -> bool;
    /// Sends what was started.
    fn flush(&mut self, poll: &Poll, meter: &mut Meter);
    fn on_ready(&mut self, poll: &Poll, ready: Ready, meter: &mut Meter);
}

/// Until the meter's end. `rate` per second; `None` is the closed loop.
pub fn run(
    poll: &mut Poll,
    load: &mut impl Load,
    meter: &mut Meter,
    rate: Option<f64>,
    rig: &mut Rig<'_>,
) -> io::Result<usize> {
    let mut ready = Vec::new();
    let start = Instant::now();
    let mut number = 0_u64;
    let mut waiting = VecDeque::new();
    loop {
        let now = Instant::now();
        if meter.tick(now) {
            return Ok(waiting.len());
        }
        let mut until = meter.edge();
        match rate {
            None => while load.start(poll, now, meter) {},
            Some(rate) => {
                let due_at = |n: u64| start + Duration::from_secs_f64(n as f64 / rate);
                while due_at(number) <= now && waiting.len() < MAX_WAITING {
                    waiting.push_back(due_at(number));
                    number += 1;
                }
                while let Some(due) = waiting.front()
                    && load.start(poll, *due, meter)
                {
                    waiting.pop_front();
                }
                until = until.min(due_at(number));
            }
        }
        load.flush(poll, meter);
        rig.backend.turn()?;
        if rig.spins {
            poll.look(&mut ready)?;
        } else {
            poll.wait(until, &mut ready)?;
        }
        for event in ready.iter().filter(|event| event.token != BACKEND) {
            load.on_ready(poll, *event, meter);
        }
    }
}
