//! The HTTP/2 connections to one endpoint: shared by all requests of a worker.
//!
//! Owns opening one once however many ask, another when the peer's limit on streams is reached, and
//! forgetting those that end.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared as SharedFuture;
use portolan_model::traffic::Upstream;
use tokio::time::Instant;

use super::Failure;
use crate::http2;
use crate::tls::Above;
use crate::worker::cluster::ClusterState;
use crate::worker::endpoint::Endpoint;
use crate::worker::shared::Shared;

/// Connections to one endpoint, per worker; beyond it requests wait for a stream.
const MAX_CONNECTIONS: usize = 8;

/// Bytes an endpoint may send ahead on a stream. With the worker's `max_requests` this bounds what
/// responses that nobody reads can take.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for the connection: the protocol's largest (RFC 9113 §6.9.1). The connection is shared
/// by all clients, so a window that a few of them could fill by not reading would stop the rest.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// A connection with requests on it that is silent for this long is asked for a sign of life …
const PING_EVERY: Duration = Duration::from_secs(20);
/// … and given up without one after this.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Opening = SharedFuture<Pin<Box<dyn Future<Output = Result<http2::Client, Rc<Failure>>>>>>;

#[derive(Default)]
pub(crate) struct Pool(RefCell<Slots>);

#[derive(Default)]
struct Slots {
    open: Vec<Open>,
    opening: Option<Opening>,
}

struct Open {
    client: http2::Client,
    since: Instant,
    /// When it last had a request on it, as far as looked.
    used: Instant,
    /// Requests it was given.
    requests: u32,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.borrow().open.len()).finish()
    }
}

impl Pool {
    /// Forgets connections that have ended, and drains those without a request for `idle`.
    pub(crate) fn sweep(&self, idle: Duration) {
        let now = Instant::now();
        self.0.borrow_mut().open.retain_mut(|open| {
            if open.client.active() > 0 {
                open.used = now;
            }
            let stays = open.client.is_usable() && now.duration_since(open.used) < idle;
            if !stays {
                open.client.drain();
            }
            stays
        });
    }

    /// Lets go of the connections: they close when their last streams end.
    pub(crate) fn clear(&self) {
        let mut slots = self.0.borrow_mut();
        slots.open.drain(..).for_each(|open| open.client.drain());
        slots.opening = None;
    }

    /// A connection with room for a stream, or the opening to wait for.
    fn lookup(
        &self,
        limits: &Upstream,
        open: impl FnOnce() -> Opening,
    ) -> Result<http2::Client, Opening> {
        let mut slots = self.0.borrow_mut();
        slots.open.retain(|open| {
            let old = limits.max_age.is_some_and(|most| open.since.elapsed() >= most)
                || limits.max_requests.is_some_and(|most| open.requests >= most.get());
            if old {
                open.client.drain();
            }
            !old && open.client.is_usable()
        });
        if let Some(open) = slots.open.iter_mut().find(|open| open.client.room() > 0) {
            open.requests = open.requests.saturating_add(1);
            return Ok(open.client.clone());
        }
        if let Some(opening) = &slots.opening {
            return Err(opening.clone());
        }
        if slots.open.len() >= MAX_CONNECTIONS
            && let Some(least) = slots.open.iter().min_by_key(|open| open.client.active())
        {
            return Ok(least.client.clone());
        }
        let opening = open();
        slots.opening = Some(opening.clone());
        Err(opening)
    }

    /// What `opening` came to takes its place, unless the endpoint left or another began.
    fn settle(&self, opening: &Opening, opened: Option<&http2::Client>) {
        let mut slots = self.0.borrow_mut();
        if slots.opening.as_ref().is_some_and(|current| current.ptr_eq(opening)) {
            slots.opening = None;
            let now = Instant::now();
            slots.open.extend(opened.map(|client| Open {
                client: client.clone(),
                since: now,
                used: now,
                requests: 1,
            }));
        }
    }
}

/// A connection to the endpoint, opened if need be, and whether it was open already.
pub(crate) async fn client(
    shared: &Rc<Shared>,
    endpoint: &Rc<Endpoint>,
    state: &Rc<ClusterState>,
) -> Result<(http2::Client, bool), Failure> {
    let limits = &state.config.upstream;
    let open = || {
        let future = open(Rc::clone(shared), Rc::clone(endpoint), Rc::clone(state));
        let boxed: Pin<Box<dyn Future<Output = _>>> = Box::pin(future);
        boxed.shared()
    };
    let opening = match endpoint.h2.lookup(limits, open) {
        Ok(client) => return Ok((client, true)),
        Err(opening) => opening,
    };
    let opened = opening.clone().await;
    endpoint.h2.settle(&opening, opened.as_ref().ok());
    opened
        .map(|client| (client, false))
        .map_err(|failure| Failure { cause: failure.cause, detail: failure.detail.clone() })
}

async fn open(
    shared: Rc<Shared>,
    endpoint: Rc<Endpoint>,
    state: Rc<ClusterState>,
) -> Result<http2::Client, Rc<Failure>> {
    let opened = super::connect(&state, &endpoint, &shared, Above::Http2, None).await;
    let (stream, permit) = opened.map_err(Rc::new)?;
    let settings = http2::Settings {
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_header_list: shared.config.max_header_bytes,
        keepalive: Some((PING_EVERY, PING_TIMEOUT)),
        ..http2::Settings::default()
    };
    let (client, driver) = http2::client(stream, &settings);
    shared.tasks.spawn_local(async move {
        let _permit = permit;
        driver.await;
    });
    Ok(client)
}
