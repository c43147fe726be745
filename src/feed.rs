//! The feeds behind `portolan get`: snapshots and reports as lines of JSON, and what changes.

pub(crate) mod clients;
mod interval;
pub(crate) mod load;
pub(crate) mod proxy;
pub(crate) mod requests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portolan_control::report::{Report, Reports};
use portolan_control::view::{self, Change, ChangeKind, EndpointRow, Filter, Row, ServiceRow};
use portolan_model::{Changes, ServiceKey, Snapshot};
use portolan_runtime::Subscriber;
use portolan_runtime::admin::{Admin, Question};
use serde::Serialize;
use tokio::sync::watch;

/// Adds the feeds of a control plane.
pub(crate) fn add(admin: Admin, snapshots: &Subscriber, reports: &Reports) -> Admin {
    let (services, endpoints) = (snapshots.clone(), snapshots.clone());
    let of = |reports: &Reports| {
        let reports = reports.clone();
        move || reports.subscribe()
    };
    let (rejected, gateways, routes) = (of(reports), of(reports), of(reports));
    admin
        .with_feed("services", move |question| rows::<ServiceRow>(services.clone(), question))
        .with_feed("endpoints", move |question| rows::<EndpointRow>(endpoints.clone(), question))
        .with_feed("rejected", move |question| {
            of_reports(rejected(), question, |report, _| view::rejected(report))
        })
        .with_feed("gateways", move |question| of_reports(gateways(), question, view::gateways))
        .with_feed("routes", move |question| of_reports(routes(), question, view::routes))
}

/// What of a feed's answer is still to be sent: rows are made service by service, so that a feed of
/// a large cluster holds a few of them at a time.
struct Rows {
    snapshots: Subscriber,
    filter: Filter,
    watch: bool,
    /// Before and after, and the services that may differ between the two.
    old: Arc<Snapshot>,
    new: Arc<Snapshot>,
    keys: std::vec::IntoIter<ServiceKey>,
}

/// Rows of the services that are asked for. Before the first snapshot there are none.
fn rows<R: Row + Serialize + Send + 'static>(
    snapshots: Subscriber,
    question: Question,
) -> BoxStream<'static, String> {
    let Question { watch, namespace, name } = question;
    let filter = Filter { namespace, name };
    let (old, mut new): (Arc<Snapshot>, _) = (Arc::default(), Arc::default());
    let mut keys = Vec::new();
    if !watch {
        new = snapshots.newest();
        keys = view::changed_services(&old, &new, &Changes::Everything, &filter);
    }
    let state = Rows { snapshots, filter, watch, old, new, keys: keys.into_iter() };
    stream::unfold(state, next_rows::<R>).flat_map(stream::iter).boxed()
}

/// The lines of the next service that has any.
async fn next_rows<R: Row + Serialize>(mut rows: Rows) -> Option<(Vec<String>, Rows)> {
    loop {
        if let Some(key) = rows.keys.next() {
            let changes = view::changes_of::<R>(&rows.old, &rows.new, &key);
            if !changes.is_empty() {
                return Some((changes.iter().map(line).collect(), rows));
            }
        } else if rows.watch {
            let update = rows.snapshots.next().await?;
            rows.old = std::mem::replace(&mut rows.new, update.snapshot);
            let (old, new) = (&rows.old, &rows.new);
            rows.keys = view::changed_services(old, new, &update.changes, &rows.filter).into_iter();
        } else {
            return None;
        }
    }
}

/// Rows made of a report: all of them, then those that come and go.
fn of_reports<R: Ord + Clone + Serialize + Send + Sync + 'static>(
    reports: watch::Receiver<Arc<Report>>,
    question: Question,
    make: fn(&Report, &Filter) -> Vec<R>,
) -> BoxStream<'static, String> {
    struct State<R> {
        reports: watch::Receiver<Arc<Report>>,
        seen: Vec<R>,
        waiting: VecDeque<Change<R>>,
        follow: bool,
        filter: Filter,
    }
    let Question { watch: follow, namespace, name } = question;
    let filter = Filter { namespace, name };
    let state = State { reports, seen: Vec::new(), waiting: VecDeque::new(), follow, filter };
    let next = move |mut state: State<R>| async move {
        loop {
            if let Some(change) = state.waiting.pop_front() {
                return Some((line(&change), state));
            }
            if !state.follow && !state.reports.has_changed().unwrap_or(false) {
                return None;
            }
            state.reports.changed().await.ok()?;
            let rows = make(&state.reports.borrow_and_update(), &state.filter);
            let old = std::mem::replace(&mut state.seen, rows);
            let change = |kind, row: &R| Change { kind, object: row.clone() };
            let (before, after): (BTreeSet<_>, BTreeSet<_>) =
                (old.iter().collect(), state.seen.iter().collect());
            let gone = before.difference(&after).copied();
            let new = after.difference(&before).copied();
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
