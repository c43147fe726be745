//! The feed behind `portolan get load`. Nobody says when a load changed: whoever watches is told at
//! each interval.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use portolan_runtime::admin::{Admin, Question};
use portolan_xds::{LoadReports, LoadRow};

use super::interval::{Source, lines};

/// Adds the feed.
pub(crate) fn add(admin: Admin, reports: &LoadReports) -> Admin {
    let reports = reports.clone();
    admin.with_feed("load", move |question| load(reports.clone(), question))
}

/// Cluster and zone.
type Key = (Arc<str>, Option<Arc<str>>);

struct Load {
    reports: LoadReports,
    question: Question,
}

fn load(reports: LoadReports, question: Question) -> BoxStream<'static, String> {
    let (every, watch) = (reports.interval(), question.watch);
    lines(Load { reports, question }, every, watch)
}

impl Source for Load {
    type Key = Key;
    type Row = LoadRow;

    fn look(&self) -> BTreeMap<Key, LoadRow> {
        let Question { namespace, name, .. } = &self.question;
        let fits = |wanted: &Option<String>, there: &Option<Arc<str>>| {
            wanted.as_deref().is_none_or(|wanted| there.as_deref() == Some(wanted))
        };
        let rows = self.reports.view().into_iter();
        rows.filter(|row| fits(namespace, &row.namespace) && fits(name, &row.service))
            .map(|row| ((row.cluster.clone(), row.zone.clone()), row))
            .collect()
    }

    fn is_same(before: &LoadRow, after: &LoadRow) -> bool {
        before.says_the_same(after)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use portolan_runtime::Metrics;
    use portolan_xds::LoadConfig;
    use portolan_xds::load::report::{ClusterLoad, Report, ZoneLoad};
    use serde_json::Value;

    use super::*;

    fn report(clusters: &[(&str, u64)]) -> Report {
        let load = |issued| ClusterLoad {
            zones: [("a".into(), ZoneLoad { issued, ..ZoneLoad::default() })].into(),
            ..ClusterLoad::default()
        };
        let clusters = clusters.iter().map(|(name, issued)| ((*name).into(), load(*issued)));
        Report { clusters: clusters.collect(), ..Report::default() }
    }

    fn words(line: &str) -> String {
        let change: Value = serde_json::from_str(line).expect("JSON");
        let row = &change["object"];
        let [kind, cluster] = [&change["type"], &row["cluster"]].map(|v| v.as_str().expect("text"));
        format!("{kind} {cluster} {}", row["requestsPerSec"])
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_is_told_at_each_interval_what_differs_and_others_once() {
        let reports = LoadReports::new(LoadConfig::default(), &Metrics::new());
        let client = reports.open("n");
        reports.record(&client, report(&[("shop/web:80", 10), ("shop/db:5432", 10), ("x", 10)]));
        let ask = |watch, name: Option<&str>, namespace: Option<&str>| {
            let (name, namespace) = (name.map(Into::into), namespace.map(Into::into));
            load(reports.clone(), Question { watch, name, namespace }).map(|line| words(&line))
        };
        let all: Vec<String> = ask(false, None, None).collect().await;
        assert_eq!(all, ["ADDED shop/db:5432 1.0", "ADDED shop/web:80 1.0", "ADDED x 1.0"]);
        let web: Vec<String> = ask(false, Some("web"), Some("shop")).collect().await;
        assert_eq!(web, ["ADDED shop/web:80 1.0"]);
        let other: Vec<String> = ask(false, None, Some("harbour")).collect().await;
        assert!(other.is_empty());

        let mut watch = ask(true, None, Some("shop"));
        let mut next = async || watch.next().await.expect("it goes on");
        assert_eq!(next().await, "ADDED shop/db:5432 1.0");
        assert_eq!(next().await, "ADDED shop/web:80 1.0");
        reports.record(&client, report(&[("shop/web:80", 10), ("shop/db:5432", 20)]));
        assert_eq!(next().await, "MODIFIED shop/db:5432 2.0");
        // Nothing more is reported: both run out.
        assert_eq!(next().await, "DELETED shop/db:5432 2.0");
        assert_eq!(next().await, "DELETED shop/web:80 1.0");
    }
}
