//! Owns the open watches: the bounded queue of each, and the stream that a client reads. No task
//! stands between the two, so all of it moves with the client, under paused time too.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::kinds::Kind;
use super::select::Filter;
use super::store::Change;
use super::wire::{Body, bookmark, event, reset, streamed};

/// Events that may wait for a watcher to read them. One that falls further behind is cut.
const QUEUE: usize = 65_536;
/// What a cut watch ends with.
const HALF_AN_EVENT: &str = r#"{"type":"MODIFIED","object":{"kind":"#;

/// All watches that the server has open.
#[derive(Debug, Default)]
pub(super) struct Watches {
    open: Vec<Watch>,
    is_holding: bool,
}

/// What a client asked to watch.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) kind: &'static Kind,
    pub(super) filter: Filter,
    pub(super) wants_bookmarks: bool,
    /// Only changes after this version are told.
    pub(super) after: u64,
    pub(super) deadline: Option<Instant>,
}

/// What the stream begins with, in this order.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    pub(super) events: Vec<(&'static str, Arc<Value>)>,
    pub(super) bookmark: Option<Bytes>,
}

#[derive(Debug)]
struct Watch {
    wish: Wish,
    queue: mpsc::Sender<Bytes>,
    fate: Arc<Fate>,
}

/// What became of a watch, apart from the events in its queue.
#[derive(Debug, Default)]
struct Fate {
    /// Never delivers again; only its end arrives.
    is_held: AtomicBool,
    /// Its end is an error.
    is_cut: AtomicBool,
}

/// The side that the client reads.
struct Reader {
    events: std::vec::IntoIter<(&'static str, Arc<Value>)>,
    bookmark: Option<Bytes>,
    queue: mpsc::Receiver<Bytes>,
    fate: Arc<Fate>,
    deadline: Option<Instant>,
    has_written_half: bool,
}

impl Watches {
    pub(super) fn open(&mut self, wish: Wish, beginning: Beginning) -> Body {
        let (sender, queue) = mpsc::channel(QUEUE);
        let fate = Arc::new(Fate::default());
        fate.is_held.store(self.is_holding, Ordering::SeqCst);
        let reader = Reader {
            events: beginning.events.into_iter(),
            bookmark: beginning.bookmark,
            queue,
            fate: Arc::clone(&fate),
            deadline: wish.deadline,
            has_written_half: false,
        };
        self.open.retain(|watch| !watch.queue.is_closed());
        self.open.push(Watch { wish, queue: sender, fate });
        let pieces = unfold(Some(reader), async |reader| {
            let mut reader = reader?;
            let piece = reader.next().await?;
            let rest = piece.is_ok().then_some(reader);
            Some((piece, rest))
        });
        streamed(pieces)
    }

    /// Watches of a kind whose client is still there.
    pub(super) fn count(&self, kind: &Kind) -> usize {
        let open = self.open.iter().filter(|watch| !watch.queue.is_closed());
        open.filter(|watch| watch.wish.kind == kind).count()
    }

    /// Tells every watch that it concerns. Drops those whose client is gone or does not read.
    pub(super) fn publish(&mut self, change: &Change) {
        let mut lines: BTreeMap<&str, Bytes> = BTreeMap::new();
        self.open.retain(|watch| {
            let wish = &watch.wish;
            if wish.kind != change.kind || change.version <= wish.after {
                return true;
            }
            let Some((kind, object)) = change.seen_by(&wish.filter) else { return true };
            watch.tell(lines.entry(kind).or_insert_with(|| event(kind, &object)).clone())
        });
    }

    pub(super) fn bookmark(&mut self, version: u64) {
        self.open.retain(|watch| {
            let wish = &watch.wish;
            !wish.wants_bookmarks || watch.tell(bookmark(wish.kind, version, false))
        });
    }

    /// Ends those that are chosen, after what they were already told.
    pub(super) fn close(&mut self, is_chosen: impl Fn(&Kind) -> bool) {
        self.open.retain(|watch| !is_chosen(watch.wish.kind));
    }

    pub(super) fn cut(&mut self) {
        for watch in self.open.drain(..) {
            watch.fate.is_cut.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn hold(&mut self, is_holding: bool) {
        self.is_holding = is_holding;
        for watch in self.open.iter().filter(|_| is_holding) {
            watch.fate.is_held.store(true, Ordering::SeqCst);
        }
    }
}

impl Watch {
    /// Whether the watch is to be kept.
    fn tell(&self, line: Bytes) -> bool {
        if self.fate.is_held.load(Ordering::SeqCst) {
            return !self.queue.is_closed();
        }
        match self.queue.try_send(line) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.fate.is_cut.store(true, Ordering::SeqCst);
                false
            }
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.has_written_half {
            // A server behind a socket is to send the half before it breaks off.
            tokio::task::yield_now().await;
            return Some(Err(reset()));
        }
        while !self.is_held() {
            if let Some((kind, object)) = self.events.next() {
                return Some(Ok(event(kind, &object)));
            }
            if let Some(bookmark) = self.bookmark.take() {
                return Some(Ok(bookmark));
            }
            tokio::select! {
                biased;
                line = self.queue.recv() => match line {
                    Some(_) if self.is_held() => break,
                    Some(line) => return Some(Ok(line)),
                    None if self.fate.is_cut.load(Ordering::SeqCst) => {
                        self.has_written_half = true;
                        return Some(Ok(HALF_AN_EVENT.into()));
                    }
                    None => return None,
                },
                () = reached(self.deadline) => {
                    if !self.is_held() {
                        return None;
                    }
                }
            }
        }
        // Nothing more arrives, not even that the time is up.
        while self.queue.recv().await.is_some() {}
        self.fate.is_cut.load(Ordering::SeqCst).then(|| Err(reset()))
    }

    fn is_held(&self) -> bool {
        self.fate.is_held.load(Ordering::SeqCst)
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
