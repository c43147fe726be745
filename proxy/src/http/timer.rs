//! Deadlines that are moved far more often than they pass.
//!
//! A timer is registered once and left alone while deadlines move away from it; only when it fires,
//! or when a deadline is nearer than it, is it set anew. A request that ends in time costs it
//! nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once the deadline has passed; wakes no later than a moment after it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            // It may have been set for a deadline that was moved since.
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_met_whichever_way_it_was_moved() {
        let mut timer = Timer::default();
        for (set, expected) in [(5, 5), (20, 20), (1, 1), (30, 30)] {
            let start = Instant::now();
            let deadline = start + Duration::from_secs(set);
            // Something else is polled first with a deadline that does not pass.
            let far = start + Duration::from_secs(60);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, far))).await.is_pending());
            poll_fn(|cx| timer.poll(cx, deadline)).await;
            assert_eq!(start.elapsed().as_secs(), expected);
        }
    }
}
