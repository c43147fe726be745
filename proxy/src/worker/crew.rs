//! The workers as each other sees them: who has how many connections, and a way to hand one over.
//!
//! The kernel spreads new connections over the workers' sockets by a hash of addresses, which for a
//! few connections may well be one worker's for all (Envoy issue 33707). A worker that has more than
//! another hands the next one on. Owns that rule; what is handed over is bounded, and what finds no
//! room stays where it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portolan_model::traffic::Listener;
use tokio::sync::mpsc;

/// Connections on their way to a worker.
const INBOX: usize = 1024;

/// A connection that another worker is to serve.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) binding: u64,
    pub(crate) listener: Arc<Listener>,
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) counted: Counted,
}

#[derive(Debug)]
pub(crate) struct Crew(Box<[Seat]>);

#[derive(Debug)]
#[repr(align(64))]
struct Seat {
    connections: AtomicUsize,
    inbox: mpsc::Sender<Handed>,
}

/// A connection counted as one worker's while it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    crew: Arc<Crew>,
    worker: usize,
}

impl Crew {
    /// A crew of so many, and each one's inbox.
    pub(crate) fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::Receiver<Handed>>) {
        let (seats, inboxes): (Vec<Seat>, Vec<_>) = (0..workers)
            .map(|_| {
                let (inbox, receiver) = mpsc::channel(INBOX);
                (Seat { connections: AtomicUsize::new(0), inbox }, receiver)
            })
            .unzip();
        (Arc::new(Self(seats.into())), inboxes)
    }

    /// Who is to have the next connection that came to `me`.
    pub(crate) fn next(self: &Arc<Self>, me: usize) -> Counted {
        let count = |seat: &Seat| seat.connections.load(Ordering::Relaxed);
        let mine = self.0.get(me).map_or(0, count);
        let least = self.0.iter().map(count).enumerate().min_by_key(|(_, count)| *count);
        let worker = match least {
            // An eighth more is no imbalance worth the handing over.
            Some((worker, least)) if mine > least + least / 8 => worker,
            _ => me,
        };
        Counted::new(self, worker)
    }

    /// Hands a connection to whom it is counted for; gives it back when that one's inbox is full.
    pub(crate) fn hand(&self, handed: Handed) -> Result<(), Handed> {
        let Some(seat) = self.0.get(handed.counted.worker) else { return Err(handed) };
        seat.inbox.try_send(handed).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed) => {
                handed
            }
        })
    }
}

impl Counted {
    fn new(crew: &Arc<Crew>, worker: usize) -> Self {
        if let Some(seat) = crew.0.get(worker) {
            seat.connections.fetch_add(1, Ordering::Relaxed);
        }
        Self { crew: Arc::clone(crew), worker }
    }

    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// The same connection, counted for another.
    pub(crate) fn moved(self, worker: usize) -> Self {
        if self.worker == worker { self } else { Self::new(&self.crew, worker) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(seat) = self.crew.0.get(self.worker) {
            seat.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_all_come_to_one_worker_are_shared_out() {
        let (crew, _inboxes) = Crew::new(3);
        let mut held: Vec<Counted> = (0..300).map(|_| crew.next(0)).collect();
        let counts = |crew: &Crew| {
            crew.0.iter().map(|s| s.connections.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let shared = counts(&crew);
        assert!(shared.iter().all(|n| (88..=113).contains(n)), "{shared:?}");
        held.truncate(2);
        assert_eq!(counts(&crew), [1, 1, 0]);
        assert_eq!(crew.next(1).worker(), 2);
        assert_eq!(crew.next(2).worker(), 2, "who has least keeps what comes");
        drop(held);
        assert_eq!(counts(&crew), [0, 0, 0]);
    }
}
