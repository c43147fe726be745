//! TCP: framing, pipelining, a cap on connections, idle timeout, drain (RFC 7766).

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_runtime::Lifecycle;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::fast::{self, Outcome, Transport};
use crate::metrics::{Counters, DnsMetrics, Tally};
use crate::node::MESSAGE_MAX;
use crate::question::HEADER;
use crate::slow;
use crate::table::Table;

/// Octets read at once.
const READ: usize = 4096;
/// Answers are written out once they have grown to this many octets.
const WRITE: usize = 65_536;
/// Pause after `accept` failed, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

thread_local! {
    /// Where the fast path writes; only ever borrowed between two awaits.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MESSAGE_MAX]);
}

/// What all connections of one address share.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) metrics: Arc<DnsMetrics>,
    /// Connections that may still be opened, over all addresses.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) idle_timeout: Duration,
}

/// What the octets read so far amount to.
#[derive(Debug, PartialEq, Eq)]
enum Frame<'a> {
    Message(&'a [u8]),
    Partial,
    /// Too short to be a message: the peer speaks something else.
    Garbage,
}

/// Accepts until the process drains, then waits for the connections to end.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Tcp>, lifecycle: Lifecycle) {
    let mut connections = JoinSet::new();
    let mut draining = pin!(lifecycle.draining());
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => match shared.permits.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let (shared, lifecycle) = (shared.clone(), lifecycle.clone());
                        connections.spawn(async move {
                            shared.metrics.tcp_connections.inc();
                            let open = Open(&shared);
                            // A peer that went away is no concern of ours.
                            let _peer_gone = connection(stream, &shared, &lifecycle).await;
                            drop(open);
                            drop(permit);
                        });
                    }
                    // At the cap the new connection is closed: the old ones are being served.
                    Err(_at_the_cap) => {
                        shared.metrics.tcp_refused.inc();
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "dns tcp: accepting failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a dns tcp connection panicked");
    }
}

/// Counts a connection out, however it ends.
struct Open<'a>(&'a Tcp);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.tcp_connections.dec();
    }
}

async fn connection(mut stream: TcpStream, shared: &Tcp, lifecycle: &Lifecycle) -> io::Result<()> {
    // Answers are written whole: waiting to merge them only adds latency.
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut deadline = Instant::now() + shared.idle_timeout;
    let mut draining = pin!(lifecycle.draining());
    loop {
        let answered = answer_all(&mut stream, &mut input, &mut output, shared).await?;
        if answered.garbage || lifecycle.is_draining() {
            return Ok(());
        }
        // RFC 7766 §6.2.3: idle means without a query. Single octets do not count, so a peer that
        // sends them slowly gains nothing.
        if answered.messages > 0 {
            deadline = Instant::now() + shared.idle_timeout;
        }
        input.reserve(READ);
        let read = tokio::select! {
            biased;
            read = timeout_at(deadline, stream.read_buf(&mut input)) => read,
            () = &mut draining => return Ok(()),
        };
        match read {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

struct Answered {
    messages: usize,
    garbage: bool,
}

/// Answers every whole message of the input, in order (RFC 7766 §6.2.1.1).
async fn answer_all(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    output: &mut Vec<u8>,
    shared: &Tcp,
) -> io::Result<Answered> {
    let mut answered = Answered { messages: 0, garbage: false };
    let mut at = 0;
    loop {
        match next_frame(&input[at..]) {
            Frame::Message(message) => {
                answer(message, output, shared);
                at += 2 + message.len();
                answered.messages += 1;
                if output.len() >= WRITE {
                    write(stream, output, shared.idle_timeout).await?;
                }
            }
            Frame::Partial => break,
            Frame::Garbage => {
                answered.garbage = true;
                break;
            }
        }
    }
    input.drain(..at);
    write(stream, output, shared.idle_timeout).await?;
    Ok(answered)
}

/// RFC 1035 §4.2.2: two octets of length, then the message.
fn next_frame(bytes: &[u8]) -> Frame<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Frame::Partial };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < HEADER {
        return Frame::Garbage;
    }
    rest.get(..length).map_or(Frame::Partial, Frame::Message)
}

fn answer(message: &[u8], output: &mut Vec<u8>, shared: &Tcp) {
    let mut tally = Tally { requests: 1, ..Tally::default() };
    let table = shared.table.load();
    let rotation = fast::turn(shared.counters.rotation.fetch_add(1, Ordering::Relaxed));
    SCRATCH.with_borrow_mut(|scratch| {
        match fast::respond(&table, message, scratch, Transport::Tcp, rotation) {
            Outcome::Answered(length) => {
                tally.fast += 1;
                tally.response(scratch[3] & 0x0f);
                put_frame(output, &scratch[..length]);
            }
            Outcome::Slow => {
                tally.slow += 1;
                if let Some(answer) = slow::respond(&table, message, Transport::Tcp) {
                    tally.response(slow::response_code(&answer));
                    put_frame(output, &answer);
                }
            }
            Outcome::Drop => {}
        }
    });
    tally.flush(&shared.counters);
}

fn put_frame(output: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("both paths keep to 65,535 octets");
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(message);
}

async fn write(stream: &mut TcpStream, output: &mut Vec<u8>, limit: Duration) -> io::Result<()> {
    if output.is_empty() {
        return Ok(());
    }
    timeout(limit, stream.write_all(output)).await.map_err(io::Error::from)??;
    output.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_length_and_that_many_octets() {
        let message = [7; HEADER];
        let framed = [&[0, 12][..], &message].concat();
        for length in 0..framed.len() {
            assert_eq!(next_frame(&framed[..length]), Frame::Partial, "{length}");
        }
        assert_eq!(next_frame(&framed), Frame::Message(&message));
        assert_eq!(next_frame(&[0, 11, 1]), Frame::Garbage);
    }
}
