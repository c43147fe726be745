//! Copies of requests to other clusters (Envoy `RequestMirrorPolicy`, Gateway API
//! `HTTPRequestMirrorFilter`).
//!
//! A copy is made while its request goes on, in a task of its own, by the same means as any request:
//! it is balanced, limited and counted by its cluster. Nobody waits for it, and what it is answered
//! is read and dropped. Of those there may be at a time there is a bound; past it none is made.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::Edits;
use smallvec::SmallVec;

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
        let mut edits = way.edits.clone();
        if mirror.shadow_host {
            asked.host = SmallVec::from_vec(shadow(&asked.host));
            if let Some(host) = edits.as_ref().and_then(|edits| edits.host.as_deref()) {
                let host = String::from_utf8_lossy(&shadow(host.as_bytes())).into();
                let changed = edits.as_deref().cloned().unwrap_or_default();
                edits = Some(Arc::new(Edits { host: Some(host), ..changed }));
            }
        }
        let way = Way {
            cluster: mirror.cluster.clone(),
            retries: None,
            told: affinity::Told { hash: way.told.hash, cookie: None },
            session: None,
            labels: way.labels.clone(),
            timeout: way.timeout,
            idle_timeout: None,
            edits,
            target: way.target.clone(),
            mirrors: Vec::new(),
        };
        let (head, held) = (head.clone(), Rc::clone(shared));
        metrics.mirrors.add(1);
        metrics.mirrors_active.add(1);
        shared.tasks.spawn_local(async move {
            let counted = Counted(held);
            run(&counted.0, &way, &asked, head, speaks, grpc, copied).await;
        });
    }
}

/// The host of a copy: the suffix stands before the port.
fn shadow(host: &[u8]) -> Vec<u8> {
    let colon = host.iter().rposition(|byte| *byte == b':');
    let is_port = |at: &usize| {
        let port = &host[at + 1..];
        !port.is_empty() && port.iter().all(u8::is_ascii_digit)
    };
    let (name, port) = host.split_at(colon.filter(is_port).unwrap_or(host.len()));
    [name, SUFFIX, port].concat()
}

/// Counts a copy under way until it is dropped.
struct Counted(Rc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.mirrors_active.sub(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_copy_keeps_its_port() {
        for (host, expected) in [
            (&b"shop"[..], &b"shop-shadow"[..]),
            (b"shop:8080", b"shop-shadow:8080"),
            (b"[::1]", b"[::1]-shadow"),
            (b"shop:", b"shop:-shadow"),
        ] {
            assert_eq!(shadow(host), expected);
        }
    }
}
