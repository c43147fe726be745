//! Which version of HTTP a client speaks, by the first bytes it sends (RFC 9113 §3.4).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use crate::stream::Stream;

/// What a client that knows we speak HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for the first read: a usual request's head.
const ROOM: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads until the version is certain, and says what was read; `None` if the client ends, or
/// `closing` completes while nothing has come. `first` was read already.
pub(super) async fn detect(
    stream: &mut Stream,
    first: &[u8],
    closing: impl Future<Output = ()>,
) -> Option<(Version, Bytes)> {
    let mut read = BytesMut::from(first);
    if !read.is_empty()
        && let Some(version) = version(&read)
    {
        return Some((version, read.freeze()));
    }
    let mut closed = pin!(closing);
    loop {
        let count = poll_fn(|cx| {
            // No room is held for a connection that is silent.
            if stream.poll_read_ready(cx).is_ready() {
                read.reserve(ROOM);
                if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut *stream), cx, &mut read) {
                    return Poll::Ready(read);
                }
            }
            let ended = read.is_empty() && closed.as_mut().poll(cx).is_ready();
            if ended { Poll::Ready(Ok(0)) } else { Poll::Pending }
        });
        match count.await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        if let Some(version) = version(&read) {
            return Some((version, read.freeze()));
        }
    }
}

fn version(start: &[u8]) -> Option<Version> {
    let known = start.len().min(PREFACE.len());
    if start[..known] != PREFACE[..known] {
        Some(Version::Http1)
    } else if known == PREFACE.len() {
        Some(Version::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_certain_at_the_first_byte_that_differs() {
        for (start, expected) in [
            (&b"G"[..], Some(Version::Http1)),
            (b"P", None),
            (b"PO", Some(Version::Http1)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI * HTTP/1.1\r\n", Some(Version::Http1)),
            (PREFACE, Some(Version::Http2)),
        ] {
            assert_eq!(version(start), expected, "{start:?}");
        }
    }
}
