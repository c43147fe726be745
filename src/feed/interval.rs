//! Feeds of what nobody says the changes of: whoever watches is told at each interval what differs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portolan_control::view::{Change, ChangeKind};
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::line;

/// What the rows are, and when two of them say the same.
pub(super) trait Source: Send + 'static {
    /// What tells rows apart.
    type Key: Ord + Send;
    /// A row.
    type Row: Clone + Serialize + Send;

    /// All rows there are.
    fn look(&self) -> BTreeMap<Self::Key, Self::Row>;

    /// Whether a row differs in nothing that is worth telling.
    fn is_same(before: &Self::Row, after: &Self::Row) -> bool;
}

struct Rows<S: Source> {
    source: S,
    watch: bool,
    seen: BTreeMap<S::Key, S::Row>,
    waiting: VecDeque<String>,
    /// When to look again; none once whoever does not watch was told.
    ticks: Option<Interval>,
}

/// The lines of a feed: all rows, and with `watch` what differs at each interval.
pub(super) fn lines<S: Source>(
    source: S,
    every: Duration,
    watch: bool,
) -> BoxStream<'static, String> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (seen, waiting) = (BTreeMap::new(), VecDeque::new());
    let rows = Rows { source, watch, seen, waiting, ticks: Some(ticks) };
    let next = async |mut rows: Rows<S>| loop {
        if let Some(line) = rows.waiting.pop_front() {
            return Some((line, rows));
        }
        // The first tick is at once.
        rows.ticks.as_mut()?.tick().await;
        rows.look();
        if !rows.watch {
            rows.ticks = None;
        }
    };
    stream::unfold(rows, next).boxed()
}

impl<S: Source> Rows<S> {
    /// Compares what there is with what was told.
    fn look(&mut self) {
        let new = self.source.look();
        let old = std::mem::take(&mut self.seen);
        let change = |kind, row: &S::Row| line(&Change { kind, object: row.clone() });
        let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
        self.waiting.extend(gone.map(|(_, row)| change(ChangeKind::Deleted, row)));
        let changed = new.iter().filter_map(|(key, row)| match old.get(key) {
            None => Some(change(ChangeKind::Added, row)),
            Some(before) if S::is_same(before, row) => None,
            Some(_) => Some(change(ChangeKind::Modified, row)),
        });
        self.waiting.extend(changed);
        self.seen = new;
    }
}
