//! UDP: one `SO_REUSEPORT` socket and one thread per worker, and the task of the slow path.
//!
//! A worker never waits for anything but its socket. What the fast path cannot answer goes into a
//! bounded queue; at the bound it is dropped and counted.

mod pool;
mod sys;

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::fast::{self, Outcome, Transport};
use crate::metrics::{Counters, Tally};
use crate::slow;
use crate::table::Table;

pub(crate) use pool::Pool;
pub(crate) use sys::request_local_address;

/// Batches a worker still answers once it is told to stop: what had been received by then.
const DRAIN_BATCHES: usize = 64;
/// Receive errors in a row after which a worker gives up.
const ERRORS_MAX: usize = 100;

/// One thread's share of an address.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slow: mpsc::Sender<SlowQuery>,
}

/// A query on its way to the slow path, with everything needed to answer it.
#[derive(Debug)]
pub(crate) struct SlowQuery {
    query: Vec<u8>,
    peer: sys::Peer,
    socket: Arc<UdpSocket>,
    counters: Arc<Counters>,
}

impl Worker {
    /// Answers until told to stop.
    fn run(&self, stop: &pool::Stop) -> io::Result<()> {
        let limit = usize::from(self.table.load().zones().udp_limit);
        let mut batch = sys::Batch::new(limit);
        let mut tally = Tally::default();
        let mut rotation = 0_usize;
        let (mut drained, mut errors) = (0, 0);
        loop {
            // Read first: whatever had arrived when the stop came is then found below.
            let stopping = stop.is_set();
            if stop.is_aborted() || drained == DRAIN_BATCHES {
                return Ok(());
            }
            let received = match batch.receive(self.socket.as_fd()) {
                Ok(received) => received,
                Err(error) => {
                    errors += 1;
                    if errors == ERRORS_MAX {
                        return Err(error);
                    }
                    tracing::debug!(worker = self.name, %error, "receiving failed");
                    0
                }
            };
            if received == 0 {
                if stopping {
                    return Ok(());
                }
                sys::wait(self.socket.as_fd(), stop.event())?;
                continue;
            }
            errors = 0;
            drained += usize::from(stopping);
            self.answer(&mut batch, received, &mut rotation, &mut tally);
            // Before sending: whoever has an answer finds it counted.
            tally.flush(&self.counters);
            tally.unsent += batch.send(self.socket.as_fd());
            tally.flush(&self.counters);
        }
    }

    fn answer(
        &self,
        batch: &mut sys::Batch,
        received: usize,
        rotation: &mut usize,
        tally: &mut Tally,
    ) {
        let table = self.table.load();
        for i in 0..received {
            tally.requests += 1;
            let (query, out) = batch.slot(i);
            match fast::respond(&table, query, out, Transport::Udp, fast::turn(*rotation)) {
                Outcome::Answered(length) => {
                    *rotation = rotation.wrapping_add(1);
                    tally.fast += 1;
                    tally.response(out[3] & 0x0f);
                    batch.reply(i, length);
                }
                Outcome::Slow => {
                    let query = SlowQuery {
                        query: query.to_vec(),
                        peer: batch.peer(i),
                        socket: self.socket.clone(),
                        counters: self.counters.clone(),
                    };
                    match self.slow.try_send(query) {
                        Ok(()) => tally.slow += 1,
                        Err(_full) => tally.slow_dropped += 1,
                    }
                }
                Outcome::Drop => {}
            }
        }
    }
}

/// Answers what the workers queue, until the last of them is gone and the queue is empty.
pub(crate) async fn serve_slow(mut queue: mpsc::Receiver<SlowQuery>, table: Arc<ArcSwap<Table>>) {
    while let Some(query) = queue.recv().await {
        let Some(answer) = slow::respond(&table.load(), &query.query, Transport::Udp) else {
            continue;
        };
        let mut tally = Tally::default();
        tally.response(slow::response_code(&answer));
        tally.flush(&query.counters);
        if let Err(error) = sys::send(query.socket.as_fd(), &answer, &query.peer) {
            tracing::debug!(%error, "an answer of the slow path could not be sent");
            tally.unsent += 1;
        }
        tally.flush(&query.counters);
    }
}
