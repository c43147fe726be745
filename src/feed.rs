//! The feeds behind `portolan get`: snapshots and reports as lines of JSON, and what changes.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portolan_control::report::{Report, Reports};
use portolan_control::view::{
    self, Change, ChangeKind, EndpointRow, Filter, RejectedRow, Row, ServiceRow,
};
use portolan_model::Snapshot;
use portolan_runtime::Subscriber;
use portolan_runtime::admin::{Admin, Question};
use serde::Serialize;
use tokio::sync::watch;

/// Adds the feeds of a control plane.
pub(crate) fn add(admin: Admin, snapshots: &Subscriber, reports: &Reports) -> Admin {
    let (services, endpoints, reports) = (snapshots.clone(), snapshots.clone(), reports.clone());
    admin
        .with_feed("services", move |question| rows::<ServiceRow>(services.clone(), question))
        .with_feed("endpoints", move |question| rows::<EndpointRow>(endpoints.clone(), question))
        .with_feed("rejected", move |question| rejected(reports.subscribe(), question.watch))
}

/// Rows of the services that are asked for. Before the first snapshot there are none.
fn rows<R: Row + Serialize + Send + 'static>(
    snapshots: Subscriber,
    question: Question,
) -> BoxStream<'static, String> {
    let Question { watch, namespace, name } = question;
    let filter = Filter { namespace, name };
    if !watch {
        let newest = snapshots.newest();
        let everything = portolan_model::Changes::Everything;
        let found = view::changes::<R>(&Snapshot::default(), &newest, &everything, &filter);
        return stream::iter(found).map(|change| line(&change)).boxed();
    }
    struct State<R> {
        snapshots: Subscriber,
        seen: Arc<Snapshot>,
        waiting: VecDeque<Change<R>>,
    }
    let state = State { snapshots, seen: Arc::default(), waiting: VecDeque::new() };
    let next = move |mut state: State<R>| {
        let filter = filter.clone();
        async move {
            loop {
                if let Some(change) = state.waiting.pop_front() {
                    return Some((line(&change), state));
                }
                let update = state.snapshots.next().await?;
                let changed =
                    view::changes(&state.seen, &update.snapshot, &update.changes, &filter);
                state.waiting = changed.into();
                state.seen = update.snapshot;
            }
        }
    };
    stream::unfold(state, next).boxed()
}

fn rejected(reports: watch::Receiver<Arc<Report>>, follow: bool) -> BoxStream<'static, String> {
    struct State {
        reports: watch::Receiver<Arc<Report>>,
        seen: Vec<RejectedRow>,
        waiting: VecDeque<Change<RejectedRow>>,
        follow: bool,
    }
    let state = State { reports, seen: Vec::new(), waiting: VecDeque::new(), follow };
    let next = |mut state: State| async move {
        loop {
            if let Some(change) = state.waiting.pop_front() {
                return Some((line(&change), state));
            }
            if !state.follow && !state.reports.has_changed().unwrap_or(false) {
                return None;
            }
            state.reports.changed().await.ok()?;
            let rows = view::rejected(&state.reports.borrow_and_update());
            let old = std::mem::replace(&mut state.seen, rows);
            let change = |kind, row: &RejectedRow| Change { kind, object: row.clone() };
            let gone = old.iter().filter(|row| !state.seen.contains(row));
            let new = state.seen.iter().filter(|row| !old.contains(row));
            state.waiting = gone
                .map(|row| change(ChangeKind::Deleted, row))
                .chain(new.map(|row| change(ChangeKind::Added, row)))
                .collect();
        }
    };
    stream::unfold(state, next).boxed()
}

fn line<T: Serialize>(change: &Change<T>) -> String {
    serde_json::to_string(change).expect("rows are maps with text keys")
}
