//! What every request to the API server goes through: an answer has to begin in time, and requests
//! do not follow one another faster than a rate.
//!
//! kube's watcher has neither: it waits for ever for an answer that does not come, and asks again
//! at once when a server ends each watch at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Layer, Service};

/// Limits on requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Longest time until an answer begins.
    pub answer: Duration,
    /// Requests per second, over all kinds.
    pub per_second: u32,
    /// Requests that may follow one another at once before the rate holds.
    pub burst: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { answer: Duration::from_secs(60), per_second: 50, burst: 100 }
    }
}

/// Puts a [`Guard`] around a client's service.
#[derive(Clone, Debug)]
pub struct GuardLayer {
    limits: RequestLimits,
    bucket: Arc<Mutex<Instant>>,
}

/// A service with limits on its requests.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

/// An answer that did not begin in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct NoAnswer(Duration);

impl GuardLayer {
    /// One layer is one budget: all that goes through it shares the rate.
    #[must_use]
    pub fn new(limits: RequestLimits) -> Self {
        Self { limits, bucket: Arc::new(Mutex::new(Instant::now())) }
    }

    /// When the next request may go out. The bucket is the time at which it is full again: each
    /// request moves it on, and may go ahead of it by the burst.
    fn reserve(&self) -> Instant {
        let each = Duration::from_secs(1) / self.limits.per_second.max(1);
        let now = Instant::now();
        let mut full_at = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = (*full_at).max(now) + each;
        full_at.checked_sub(each * self.limits.burst.max(1)).map_or(now, |at| at.max(now))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

impl<S, R> Service<R> for Guard<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (at, limit) = (self.layer.reserve(), self.layer.limits.answer);
        let answer = self.inner.call(request);
        Box::pin(async move {
            sleep_until(at).await;
            match timeout(limit, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_elapsed) => Err(NoAnswer(limit).into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_then_the_rate_holds() {
        let limits = RequestLimits { per_second: 10, burst: 5, ..RequestLimits::default() };
        let layer = GuardLayer::new(limits);
        let start = Instant::now();
        let waits: Vec<u128> = (0..8).map(|_| (layer.reserve() - start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 300]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(layer.reserve(), Instant::now(), "a pause fills the bucket again");
    }
}
