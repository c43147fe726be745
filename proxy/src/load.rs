//! What clusters have seen so far, for load reports: read off the counters that are there anyway.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::traffic::{ClusterTotals, ResourceName};

use crate::metrics::ProxyMetrics;
use crate::metrics::cluster::ClusterMetrics;

/// Reads the counters of a proxy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LoadHandle(pub(crate) Arc<ProxyMetrics>);

impl LoadHandle {
    /// What each cluster has seen so far.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<ResourceName, ClusterTotals> {
        let sums = self.0.each_cluster(read).into_iter();
        let of = |(name, [issued, good, bad, timed, micros, active]): (_, [u64; 6])| {
            (name, ClusterTotals { issued, good, bad, timed, micros, active })
        };
        sums.map(of).collect()
    }
}

fn read(cluster: &ClusterMetrics) -> [u64; 6] {
    let timed = cluster.head.buckets.iter().map(|bucket| bucket.get()).sum();
    let mut active = 0_u64;
    cluster.each_endpoint(|_, endpoint| active = active.wrapping_add(endpoint.active.get()));
    [
        cluster.requests.get(),
        cluster.good.get(),
        cluster.bad.get(),
        timed,
        cluster.head.micros.get(),
        active,
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn errors_are_those_of_the_server_over_all_workers() {
        let metrics = Arc::new(ProxyMetrics::new(2));
        let head = Some(Duration::from_millis(3));
        for (worker, status, grpc) in [
            (0, 200, None),
            (1, 404, None),
            (1, 503, None),
            (0, 200, Some(0)),
            (0, 200, Some(5)),
            (1, 200, Some(14)),
            // Once, whichever way it is said.
            (1, 503, Some(14)),
            // The client left.
            (1, 0, None),
        ] {
            let cluster = metrics.workers[worker].cluster(&"shop/web:80".into());
            cluster.requests.add(1);
            cluster.on_request(status, Duration::from_millis(5), head.filter(|_| status > 0));
            cluster.on_ended(status, grpc);
        }
        let cluster = metrics.workers[1].cluster(&"shop/web:80".into());
        cluster.endpoint(([10, 0, 0, 1], 80).into(), 1, 1).active.add(1);
        let totals = LoadHandle(metrics).totals();
        let expected =
            ClusterTotals { issued: 8, good: 4, bad: 3, timed: 7, micros: 21_000, active: 1 };
        assert_eq!(totals, BTreeMap::from([("shop/web:80".into(), expected)]));
    }
}
