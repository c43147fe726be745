//! The head of a response that is waited for, in either version.

use std::task::{Context, Poll, ready};

use super::body::ReadError;
use crate::http1::{self, Length, Limits};
use crate::http2;
use crate::message::ResponseHead;

/// Where a response comes from.
pub(super) enum Answer<'a> {
    Http1(http1::Receiving<'a>),
    Http2(http2::RecvHead),
}

/// A head that was read.
pub(super) enum Got {
    Interim,
    Final { length: Length, keep_alive: bool, stream: Option<http2::RecvStream> },
}

impl Answer<'_> {
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: Limits,
        method: &[u8],
        head: &mut ResponseHead,
    ) -> Poll<Result<Got, ReadError>> {
        match self {
            Self::Http1(receiving) => {
                let read = ready!(receiving.poll_response(cx, limits, method, head))?;
                Poll::Ready(Ok(if head.status < 200 {
                    Got::Interim
                } else {
                    let (length, keep_alive) = (read.length, read.keep_alive);
                    Got::Final { length, keep_alive, stream: None }
                }))
            }
            Self::Http2(receiving) => Poll::Ready(Ok(match ready!(receiving.poll_head(cx))? {
                http2::Event::Informational(interim) => {
                    *head = interim;
                    Got::Interim
                }
                http2::Event::Final(read, stream) => {
                    *head = read;
                    let length = if stream.is_end() {
                        Length::None
                    } else {
                        stream.content_length().map_or(Length::Chunked, Length::Known)
                    };
                    Got::Final { length, keep_alive: true, stream: Some(stream) }
                }
            })),
        }
    }
}
