//! The body of a stream's HTTP response: gRPC messages written frame by frame as HTTP/2 takes them,
//! then the status as trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::{Code, Status};

use super::outbox::Inbox;
use super::wire::Frames;

/// The body. What was taken out of the inbox and is not written yet is one message at most.
#[derive(Debug)]
pub(super) struct ResponseBody {
    inbox: Inbox,
    writing: Option<Frames>,
    ended: bool,
}

impl ResponseBody {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self { inbox, writing: None, ended: false }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(bytes) = self.writing.as_mut().and_then(Frames::next_frame) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            self.writing = None;
            match ready!(self.inbox.poll_next(cx)) {
                Some(Ok(response)) => self.writing = Some(Frames::of(response)),
                Some(Err(status)) => return Poll::Ready(Some(Ok(self.end(&status)))),
                None => return Poll::Ready(Some(Ok(self.end(&Status::new(Code::Ok, ""))))),
            }
        }
    }
}

impl ResponseBody {
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        // A message that is no header value is left out by it; the code stands in any case.
        if status.add_header(&mut trailers).is_err() {
            trailers.clear();
            trailers.insert("grpc-status", i32::from(status.code()).into());
        }
        Frame::trailers(trailers)
    }
}
