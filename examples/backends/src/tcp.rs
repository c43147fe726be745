//! The TCP backend: greets nobody, sends every line back behind its own name (`db-1: hello`).
//! A client that closes its sending half still gets every answer.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use portolan_runtime::Lifecycle;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;

use crate::Identity;
use crate::accept::{MAX_CONNECTIONS, accept};

/// Longest line, in bytes with its end; a longer one ends the connection.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Serves on a bound socket until the process drains; a connection then ends after the line in
/// flight.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    lifecycle: Lifecycle,
) -> Result<(), io::Error> {
    let prefix: Arc<str> = format!("{}: ", identity.endpoint).into();
    accept(listener, &lifecycle, MAX_CONNECTIONS, |stream| {
        let (prefix, lifecycle) = (Arc::clone(&prefix), lifecycle.clone());
        async move {
            if let Err(error) = answer_lines(stream, &prefix, &lifecycle).await {
                // Peers come and go in the middle of things.
                tracing::debug!(%error, "a backend's connection ended early");
            }
        }
    })
    .await
}

async fn answer_lines(
    mut stream: TcpStream,
    prefix: &str,
    lifecycle: &Lifecycle,
) -> Result<(), io::Error> {
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading);
    let mut answer = Vec::new();
    loop {
        answer.clear();
        answer.extend_from_slice(prefix.as_bytes());
        let more = tokio::select! {
            more = read_line(&mut reading, &mut answer) => more?,
            () = lifecycle.draining() => false,
        };
        if !more {
            return writing.shutdown().await;
        }
        writing.write_all(&answer).await?;
    }
}

/// Appends the next line, ended with `\n` even where the last one was not; false at the end.
async fn read_line(
    reading: &mut (impl AsyncBufRead + Unpin),
    answer: &mut Vec<u8>,
) -> Result<bool, io::Error> {
    let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
    let read = reading.take(limit).read_until(b'\n', answer).await?;
    if read == 0 {
        return Ok(false);
    }
    if answer.last() != Some(&b'\n') {
        if read == MAX_LINE_BYTES {
            let reason = format!("a line longer than {MAX_LINE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        answer.push(b'\n');
    }
    Ok(true)
}
