//! All clients at once, as after a restart.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tonic::Code;

use crate::kit::{ADS, CDS, Talk, Variant, channel, control, shop};
use crate::support::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_at_once_get_in_one_after_the_other() {
    let folder = shop();
    let mut process = control(folder.path(), &["--set", "xds.streams_per_sec=5"]).await;
    let at = process.address("xds");
    let started = Instant::now();
    let clients = (0..20).map(|n| async move {
        let mut talk = Talk::ads(&channel(at).await, &format!("node-{n}")).await;
        talk.get(CDS, &[]).await.expect("clusters").resources.len()
    });
    assert_eq!(join_all(clients).await, [3; 20]);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(15), "{took:?}");
    let delayed = process.metric("portolan_xds_streams_delayed_total").await.expect("counted");
    assert!((5.0..=15.0).contains(&delayed), "{delayed} had to wait");
    assert_eq!(process.metric("portolan_xds_streams_refused_total").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_have_to_wait_too_long_is_told_to_come_again() {
    let folder = shop();
    let mut process = control(folder.path(), &["--set", "xds.streams_per_sec=1"]).await;
    let channel = channel(process.address("xds")).await;
    let open = |_| Talk::open(&channel, ADS, Variant::Sotw, "a", None);
    let mut opening: FuturesUnordered<_> = (0..60).map(open).collect();
    let mut refused = 0;
    // One gets in at once and twenty within the 20 s they may wait; the others hear at once.
    let wait = async {
        while refused < 30 {
            let Some(result) = opening.next().await else { return };
            if let Err(status) = result {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(status.message().contains("too many clients come at once"), "{status}");
                refused += 1;
            }
        }
    };
    tokio::time::timeout(PATIENCE / 3, wait).await.expect("told before others had their turn");
    let counted = process.metric("portolan_xds_streams_refused_total").await;
    assert!(counted >= Some(30.0), "{counted:?}");
}
