//! Ends the streams of services that would go on for as long as their client likes, so that they do
//! not hold up a drain: health watches and reflection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;

use super::shutting_down;

/// A service whose requests end once the token is cancelled, and whose responses end with
/// `UNAVAILABLE` when what was said before that has been read.
#[derive(Clone, Debug)]
pub(super) struct Ending<S> {
    inner: S,
    end: CancellationToken,
}

impl<S> Ending<S> {
    pub(super) fn new(inner: S, end: CancellationToken) -> Self {
        Self { inner, end }
    }

    fn body(&self, inner: Body, last: Option<Status>) -> EndingBody {
        let end = Some(Box::pin(self.end.clone().cancelled_owned()));
        EndingBody { inner, end, last }
    }
}

impl<S: NamedService> NamedService for Ending<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Ending<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // A stream is over when both sides have ended.
        let request = request.map(|inner| Body::new(self.body(inner, None)));
        let response = self.inner.call(request);
        let ending = self.body(Body::default(), Some(shutting_down()));
        Box::pin(async move {
            Ok(response.await?.map(|inner| Body::new(EndingBody { inner, ..ending })))
        })
    }
}

struct EndingBody {
    inner: Body,
    /// `None` once it has come.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What is said then.
    last: Option<Status>,
}

impl http_body::Body for EndingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let ended = end.as_mut().poll(cx).is_ready();
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if frame.is_ready() || !ended {
            return frame;
        }
        self.end = None;
        let trailers = self.last.take().map(|status| {
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
        });
        Poll::Ready(trailers)
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() || self.inner.is_end_stream()
    }
}
