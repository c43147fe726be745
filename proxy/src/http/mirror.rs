//! Copies of requests to other clusters (Envoy `RequestMirrorPolicy`, Gateway API
//! `HTTPRequestMirrorFilter`).
//!
//! A copy is made while its request goes on, in a task of its own, by the same means as any request:
//! it is balanced, limited and counted by its cluster. Nobody waits for it, and what it is answered
//! is read and dropped. Of those there may be at a time there is a bound; past it none is made.

use std::rc::Rc;
use std::time::Duration;

use super::account::Account;
use super::affinity;
use super::answering::{Answering, Speaks};
use super::asked::Asked;
use super::body::{Incoming, Outgoing, Source, copied};
use super::forward::Forward;
use super::routing::Way;
use crate::message::RequestHead;
use crate::worker::shared::Shared;

/// Copies under way at a time, per worker.
const MAX_COPIES: u64 = 1024;
/// Longest time of a copy whose request has no limit.
const LIMIT: Duration = Duration::from_secs(60);
/// What Envoy puts behind the host of a copy, unless it is told not to.
const SUFFIX: &[u8] = b"-shadow";

/// Begins the copies of a request that its way asks for. `head` is as it goes to the endpoint.
pub(super) fn begin(
    shared: &Rc<Shared>,
    way: &Way,
    asked: &Asked,
    head: &RequestHead,
    speaks: Speaks,
    grpc: bool,
    source: &mut Source<'_>,
) {
    for mirror in &way.mirrors {
        let metrics = &shared.metrics;
        if metrics.mirrors_active.get() >= MAX_COPIES {
            metrics.mirrors_dropped.add(1);
            continue;
        }
        let (tap, copied) = copied::channel(source.length());
        source.tap(tap);
        let mut asked = asked.clone();
        if mirror.shadow_host {
            asked.host.extend_from_slice(SUFFIX);
        }
        let way = Way {
            cluster: mirror.cluster.clone(),
            retries: None,
            told: affinity::Told { hash: way.told.hash, cookie: None },
            labels: way.labels.clone(),
            timeout: way.timeout,
            idle_timeout: None,
            edits: way.edits.clone(),
            target: way.target.clone(),
            mirrors: Vec::new(),
        };
        let (head, held) = (head.clone(), Rc::clone(shared));
        metrics.mirrors.add(1);
        metrics.mirrors_active.add(1);
        shared.tasks.spawn_local(async move {
            run(&held, &way, &asked, head, speaks, grpc, copied).await;
            held.metrics.mirrors_active.sub(1);
        });
    }
}

async fn run(
    shared: &Rc<Shared>,
    way: &Way,
    asked: &Asked,
    mut head: RequestHead,
    speaks: Speaks,
    grpc: bool,
    copied: copied::Copied,
) {
    let account = Account::new(grpc);
    let mut source = Source::new(Incoming::Copied(copied));
    let no_body = head.method() == b"HEAD";
    let mut answer = Answering::new(Outgoing::Nowhere, speaks, no_body, false);
    let forward = Forward {
        shared,
        way,
        asked,
        head: &mut head,
        upgrade: None,
        deadline: None,
        account: &account,
        trailers: false,
        tries: 0,
        granted: None,
    };
    let limit = way.timeout.or(shared.config.request_timeout).unwrap_or(LIMIT);
    let ended = tokio::time::timeout(limit, forward.run(&mut source, &mut answer)).await;
    if !matches!(ended, Ok(Ok(()))) {
        shared.metrics.mirrors_failed.add(1);
    }
    account.close_copy(&source, &answer);
}
