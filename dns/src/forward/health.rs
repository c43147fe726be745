//! Looks after the upstreams: probes those that are down, looks for loops, follows files.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use portolan_runtime::pause::jittered;
use tokio::time::{Instant, sleep};

use super::group::Group;
use super::loops::Probes;
use crate::name::WireName;

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);
/// How long a probe of an upstream that is down may take.
const PROBE: Duration = Duration::from_secs(1);
/// How often loops are looked for.
const LOOPS_EVERY: Duration = Duration::from_secs(300);
/// How often while there is one.
const LOOP_AGAIN: Duration = Duration::from_secs(5);

/// When a file was last changed and how long it was.
type Stamp = Option<(SystemTime, u64)>;

/// Runs until dropped.
pub(super) async fn watch(zones: &[(WireName, Arc<Group>)], probes: &Probes) {
    let groups: Vec<Arc<Group>> = zones.iter().map(|(_, group)| group.clone()).collect();
    let groups = &groups;
    let files = groups.iter().flat_map(|group| group.files());
    // What has changed since they were read at the start is found at the first look.
    let mut stamps: HashMap<PathBuf, Stamp> = files.map(|path| (path.clone(), None)).collect();
    let mut loops_at = Instant::now();
    loop {
        follow(groups, &mut stamps, &mut loops_at);
        if Instant::now() >= loops_at {
            loops_at = Instant::now() + look_for_loops(zones, probes).await;
        }
        let all = groups.iter().flat_map(|group| group.upstreams().to_vec());
        let down: Vec<_> = all.filter(|upstream| upstream.is_down()).collect();
        let until = Instant::now() + PROBE;
        join_all(down.iter().map(|upstream| upstream.probe(until))).await;
        sleep(jittered(EVERY)).await;
    }
}

async fn look_for_loops(zones: &[(WireName, Arc<Group>)], probes: &Probes) -> Duration {
    let mut all = Vec::new();
    for (zone, group) in zones {
        all.extend(group.upstreams().iter().map(|upstream| (zone, upstream.clone())));
    }
    join_all(all.iter().map(|(zone, upstream)| probes.probe(zone, upstream))).await;
    if all.iter().any(|(_, upstream)| upstream.is_looping()) { LOOP_AGAIN } else { LOOPS_EVERY }
}

fn follow(groups: &[Arc<Group>], stamps: &mut HashMap<PathBuf, Stamp>, loops_at: &mut Instant) {
    let mut changed = Vec::new();
    for (path, old) in stamps {
        let new = stamp(path);
        if std::mem::replace(old, new) != new {
            changed.push(path.clone());
        }
    }
    for group in groups.iter().filter(|group| group.files().any(|f| changed.contains(f))) {
        match group.reload() {
            Ok(true) => {
                tracing::info!(upstreams = ?group.describe(), "upstreams have changed");
                *loops_at = Instant::now();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "upstreams stay as they were"),
        }
    }
}

fn stamp(path: &PathBuf) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
