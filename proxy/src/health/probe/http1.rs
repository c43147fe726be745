//! A GET by HTTP/1.1, and of its answer the status alone.

use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{MAX_HEAD, ProbeError, USER_AGENT};
use crate::stream::Stream;

/// Asks, and returns the status once the answer's head is whole. Interim answers (1xx) are passed
/// over; all heads together are held to [`MAX_HEAD`].
pub(super) async fn get(
    mut stream: Stream,
    host: &HeaderValue,
    path: &PathAndQuery,
) -> Result<u16, ProbeError> {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: ").into_bytes();
    request.extend_from_slice(host.as_bytes());
    let rest = format!("\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n");
    request.extend_from_slice(rest.as_bytes());
    stream.write_all(&request).await?;
    let mut limited = stream.take(u64::from(MAX_HEAD));
    let mut read = Vec::with_capacity(1024);
    loop {
        if limited.read_buf(&mut read).await? == 0 {
            let full = limited.limit() == 0;
            return Err(if full { ProbeError::HeadTooLong } else { ProbeError::Closed });
        }
        if let Some(status) = final_status(&read)? {
            return Ok(status);
        }
    }
}

/// The status of the first answer that is not interim; `None` while its head is not whole.
fn final_status(mut read: &[u8]) -> Result<Option<u16>, ProbeError> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        let begins = b"HTTP/1.";
        if !read.iter().zip(begins).all(|(got, wanted)| got == wanted) {
            return Err(ProbeError::NotHttp);
        }
        let Some(end) = read.windows(END.len()).position(|w| w == END) else { return Ok(None) };
        let (head, rest) = read.split_at(end + END.len());
        match status(head).ok_or(ProbeError::NotHttp)? {
            100..=199 => read = rest,
            status => return Ok(Some(status)),
        }
    }
}

/// RFC 9112 §4: `HTTP/1.x SP 3DIGIT`, then a space or the end of the line.
fn status(head: &[u8]) -> Option<u16> {
    let [b'0' | b'1', b' ', a, b, c, b' ' | b'\r', ..] = head.strip_prefix(b"HTTP/1.")? else {
        return None;
    };
    let digit = |d: &u8| d.is_ascii_digit().then(|| u16::from(d - b'0'));
    let status = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    (status >= 100).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Result<Option<u16>, ()>;

    #[test]
    fn the_final_status_is_found_however_the_answer_comes() {
        #[rustfmt::skip]
        let cases: [(&[u8], Found); 14] = [
            (b"", Ok(None)),
            (b"HTTP", Ok(None)),
            (b"HTTP/1.1 200 OK\r\n", Ok(None)),
            (b"HTTP/1.1 200 OK\r\n\r\n", Ok(Some(200))),
            (b"HTTP/1.0 503\r\na: b\r\n\r\nbody", Ok(Some(503))),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Ok(None)),
            (b"HTTP/1.1 103 \r\na: b\r\n\r\nHTTP/1.1 204 \r\n\r\n", Ok(Some(204))),
            (b"HTTP/1.1 100 \r\n\r\nnonsense", Err(())),
            (b"HTTP/2 200\r\n\r\n", Err(())),
            (b"SSH-2.0-OpenSSH", Err(())),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Err(())),
            (b"HTTP/1.1 099 OK\r\n\r\n", Err(())),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", Err(())),
            (b"HTTP/1.\r\n\r\n", Err(())),
        ];
        for (read, expected) in cases {
            let found = final_status(read).map_err(|_| ());
            assert_eq!(found, expected, "{}", read.escape_ascii());
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut bytes = b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec();
        for i in 0..bytes.len() {
            for value in [0, b'\r', b' ', 0xff] {
                let old = std::mem::replace(&mut bytes[i], value);
                let _any = final_status(&bytes).is_ok();
                let _any = final_status(&bytes[..i]).is_ok();
                bytes[i] = old;
            }
        }
        assert_eq!(final_status(&bytes).ok().flatten(), Some(200));
    }
}
