//! UDP: one `SO_REUSEPORT` socket and one thread per worker, and the tasks of the slow path.
//!
//! A worker never waits for anything but its socket. What the fast path cannot answer goes into a
//! bounded queue; at the bound it is dropped and counted.

mod pool;
mod sys;

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;

use crate::context::Asker;
use crate::fast::{self, Outcome, Transport};
use crate::front::{Client, Front, Protocol};
use crate::metrics::{Counters, Event};
use crate::querylog::Line;
use crate::zone::ZoneId;

pub(crate) use pool::Pool;
pub(crate) use sys::{forbid_fragments, request_local_address};

/// Batches a worker still answers once it is told to stop: what had been received by then.
const DRAIN_BATCHES: usize = 64;
/// How long a worker waits before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(50);
/// Receive errors in a row after which a worker gives up.
const ERRORS_MAX: usize = 100;
/// Queries of the slow path that may be under way at once besides those that wait for upstreams,
/// which are bounded on their own.
const SLOW_MARGIN: usize = 1024;

/// One thread's share of an address.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) front: Arc<Front>,
    /// What this thread alone writes to.
    pub(crate) counters: Arc<Counters>,
    /// What the slow path counts its queries with.
    pub(crate) slow_counters: Arc<Counters>,
    pub(crate) slow: mpsc::Sender<SlowQuery>,
}

/// A query on its way to the slow path, with everything needed to answer it.
#[derive(Debug)]
pub(crate) struct SlowQuery {
    query: Vec<u8>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It is to be answered.
    Answer { peer: sys::Peer, socket: Arc<UdpSocket>, client: Client },
    /// It was answered from the cache, which is to ask anew.
    Refresh,
}

/// What a batch adds up to before it is counted.
struct Sent {
    at: [(ZoneId, u8); sys::BATCH],
    count: usize,
}

impl Worker {
    /// Answers until told to stop.
    fn run(&self, stop: &pool::Stop) -> io::Result<()> {
        let limit = usize::from(self.front.table.load().zones().udp_limit);
        // One system call waits and receives; the time-out is for looking at the stop.
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(WAIT))?;
        let mut batch = sys::Batch::new(limit);
        let mut rotation = 0_usize;
        let (mut drained, mut errors) = (0, 0);
        loop {
            // Read first: whatever had arrived when the stop came is then found below.
            let stopping = stop.is_set();
            if stop.is_aborted() || drained == DRAIN_BATCHES {
                return Ok(());
            }
            let received = match batch.receive(self.socket.as_fd(), !stopping) {
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
                continue;
            }
            errors = 0;
            drained += usize::from(stopping);
            let began = Instant::now();
            let mut sent = Sent { at: [(ZoneId::OUTSIDE, 0); sys::BATCH], count: 0 };
            self.answer(&mut batch, received, &mut rotation, &mut sent, began);
            // Before sending: whoever has an answer finds it counted.
            let took = began.elapsed();
            for (zone, rcode) in &sent.at[..sent.count] {
                self.counters.response(*zone, *rcode, took);
            }
            let unsent = batch.send(self.socket.as_fd());
            if unsent > 0 {
                self.counters.count(Event::Unsent, unsent);
            }
        }
    }

    fn answer(
        &self,
        batch: &mut sys::Batch,
        received: usize,
        rotation: &mut usize,
        sent: &mut Sent,
        began: Instant,
    ) {
        let table = self.front.table.load();
        let context = self.front.context(&table);
        let mut fast = 0;
        for i in 0..received {
            let address = batch.client(i);
            let asker = Asker { address, transport: Transport::Udp };
            let (query, out) = batch.slot(i);
            match fast::respond(&context, query, out, asker, fast::turn(*rotation)) {
                Outcome::Answered(answered) => {
                    *rotation = rotation.wrapping_add(1);
                    fast += 1;
                    self.counters.request(answered.zone, answered.qtype);
                    if let Some(event) = answered.event {
                        self.counters.count(event, 1);
                    }
                    sent.at[sent.count] = (answered.zone, answered.rcode);
                    sent.count += 1;
                    if self.front.log.is_on() {
                        self.log(query, &out[..answered.length], asker, began.elapsed());
                    }
                    if answered.refresh {
                        self.hand_over(query.to_vec(), What::Refresh);
                    }
                    batch.reply(i, answered.length);
                }
                Outcome::Slow => {
                    let query = query.to_vec();
                    let peer = batch.peer(i);
                    let counters = self.slow_counters.clone();
                    let client = Client { address, protocol: Protocol::Udp, counters };
                    let socket = self.socket.clone();
                    self.hand_over(query, What::Answer { peer, socket, client });
                }
                Outcome::Drop => {}
                Outcome::Denied => self.counters.count(Event::Denied, 1),
            }
        }
        if fast > 0 {
            self.counters.count(Event::Fast, fast);
        }
    }

    fn log(&self, query: &[u8], answer: &[u8], asker: Asker, took: Duration) {
        if self.front.log.wants(answer) {
            let line = Line { query, answer, client: asker.address, protocol: Protocol::Udp };
            self.front.log.write(&line, took);
        }
    }

    fn hand_over(&self, query: Vec<u8>, what: What) {
        let answer = matches!(what, What::Answer { .. });
        let event = match self.slow.try_send(SlowQuery { query, what }) {
            Ok(()) => Event::Slow,
            Err(TrySendError::Full(rest) | TrySendError::Closed(rest)) => {
                if matches!(rest.what, What::Refresh) {
                    self.front.give_back_refresh(&rest.query);
                }
                Event::SlowDropped
            }
        };
        if answer {
            self.counters.count(event, 1);
        }
    }
}

/// Answers what the workers queue, each query in a task of its own, until the last worker is gone
/// and all are answered. At the bound it stops taking queries, and the queue fills up.
pub(crate) async fn serve_slow(
    mut queue: mpsc::Receiver<SlowQuery>,
    front: Arc<Front>,
    max_waiting: usize,
) {
    let mut tasks = JoinSet::new();
    let bound = max_waiting + SLOW_MARGIN;
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next() => log_panic(ended),
            query = queue.recv(), if tasks.len() < bound => match query {
                Some(query) => {
                    let front = front.clone();
                    tasks.spawn(async move { serve_one(query, &front).await });
                }
                None => break,
            },
        }
    }
    while let Some(ended) = tasks.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a query made the slow path panic");
    }
}

async fn serve_one(SlowQuery { query, what }: SlowQuery, front: &Front) {
    match what {
        What::Refresh => front.refresh(&query),
        What::Answer { peer, socket, client } => {
            let Some(answer) = front.answer_slowly(&query, &client).await else { return };
            if let Err(error) = sys::send(socket.as_fd(), &answer, &peer) {
                tracing::debug!(%error, "an answer of the slow path could not be sent");
                client.counters.count(Event::Unsent, 1);
            }
        }
    }
}
