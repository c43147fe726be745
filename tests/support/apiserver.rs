//! A Kubernetes API server inside the test's own process, scripted by the test. Owns the truth, its
//! history, and what goes wrong on the way to the client. It starts no task except behind a socket:
//! given to a client as its service, it runs in the client's tasks and on their clock, so that
//! hours of timeouts pass at once under paused time.
//!
//! Deliberately absent: authorization, admission, validation, defaulting, subresources, protobuf,
//! tables, compression, managedFields.

mod answer;
mod discovery;
mod faults;
mod fields;
mod kinds;
mod select;
mod serve;
mod store;
mod watch;
mod wire;
mod write;

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Notify;

pub(crate) use faults::{Call, Fault};
pub(crate) use serve::Serving;
pub(crate) use wire::Body;

use answer::State;
use fields::Owners;
use kinds::{KINDS, Kind, Route};
use store::placed;
use wire::{Refusal, meta};

/// Largest request body, as of the real server.
const MAX_BODY: usize = 3 << 20;

/// The server; clones are the same server.
#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung when a call arrives and when anything was answered.
    news: Notify,
}

/// Options, to be chained after [`ApiServer::new`]; each can be changed later as well.
impl ApiServer {
    /// An empty cluster that serves all kinds, and lists as watches too.
    pub(crate) fn new() -> Self {
        let shared = Shared { state: Mutex::new(State::new()), news: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Whether a watch may ask for initial events; otherwise it gets 422, as without WatchList.
    pub(crate) fn streaming_lists(self, has: bool) -> Self {
        self.lock().has_streaming_lists = has;
        self
    }

    /// Whether a watch from a forgotten version is answered HTTP 410 rather than 200 and an event.
    pub(crate) fn gone_as_status(self, has: bool) -> Self {
        self.lock().has_gone_as_status = has;
        self
    }

    /// As if this kind's CustomResourceDefinition were not installed: its paths are unknown.
    pub(crate) fn without(self, kind: &str) -> Self {
        self.set_installed(kind, false);
        self
    }

    /// Installs or removes the API of a kind. Its open watches end; its objects are kept.
    pub(crate) fn set_installed(&self, kind: &str, is_installed: bool) {
        let (kind, mut state) = (Kind::named(kind), self.lock());
        if is_installed {
            state.absent.remove(kind.kind);
        } else {
            state.absent.insert(kind.kind);
            state.watches.close(|k| k == kind);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no holder of the lock panics")
    }
}

/// The truth.
impl ApiServer {
    /// Creates or replaces an object and tells the watches; returns its resource version. A
    /// namespaced object without a namespace goes to `default`. Without a uid and a
    /// creationTimestamp it keeps those it had, or is given new ones.
    pub(crate) fn apply(&self, object: Value) -> u64 {
        self.load(vec![object])
    }

    /// Applies many at once; returns the version of the last.
    pub(crate) fn load(&self, objects: Vec<Value>) -> u64 {
        let state = &mut *self.lock();
        for object in objects {
            let kind = Kind::named(object["kind"].as_str().expect("an object names its kind"));
            assert!(!meta(&object, "name").is_empty(), "an object has a name: {object}");
            let namespace = meta(&object, "namespace").to_owned();
            let namespace = if namespace.is_empty() { "default" } else { &namespace };
            let change = state.store.put(kind, placed(object, kind, namespace), Owners::new());
            state.watches.publish(&change);
        }
        state.store.version()
    }

    /// Makes a token good, as that of this user.
    pub(crate) fn trust(&self, token: &str, user: &str) {
        self.lock().tokens.insert(token.to_owned(), user.to_owned());
    }

    /// Deletes an object and tells the watches; false if there is none. The namespace of what is
    /// cluster-scoped is empty.
    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let state = &mut *self.lock();
        let change = state.store.remove(Kind::named(kind), namespace, name);
        change.inspect(|change| state.watches.publish(change)).is_some()
    }

    /// The objects of a kind, by namespace and name.
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        self.lock().store.all(Kind::named(kind)).map(|object| Value::clone(object)).collect()
    }

    /// The resource version of the last change.
    pub(crate) fn version(&self) -> u64 {
        self.lock().store.version()
    }
}

/// The watches.
impl ApiServer {
    /// Tells the current version to all watches that allow bookmarks.
    pub(crate) fn bookmark(&self) {
        let state = &mut *self.lock();
        state.watches.bookmark(state.store.version());
    }

    /// Forgets history and unfinished lists: who wants to resume from before is told that they
    /// expired. Open watches go on.
    pub(crate) fn compact(&self) {
        self.lock().store.compact();
    }

    /// Ends all watches cleanly, after what they were already told.
    pub(crate) fn close_watches(&self) {
        self.lock().watches.close(|_| true);
    }

    /// Ends all watches with half an event and an error.
    pub(crate) fn cut_watches(&self) {
        self.lock().watches.cut();
    }

    /// Makes the watches that are open, and those opened until this is undone, half-open
    /// connections: they deliver nothing, do not even time out, and stay so when it is undone. Only
    /// closing or cutting them reaches their clients.
    pub(crate) fn hold_watches(&self, is_holding: bool) {
        self.lock().watches.hold(is_holding);
    }

    /// How many watches of a kind are open.
    pub(crate) fn open_watches(&self, kind: &str) -> usize {
        self.lock().watches.count(Kind::named(kind))
    }
}

/// What goes wrong. A call's number decides first, then the queue of [`ApiServer::fail_next`], then
/// the rules, in the order in which they came.
impl ApiServer {
    /// The n-th call (from 0, over all kinds and verbs) meets this fault.
    pub(crate) fn fail(&self, n: usize, fault: Fault) {
        self.lock().script.numbered.insert(n, fault);
    }

    /// The next call meets this fault; if one is waiting for it already, the call after.
    pub(crate) fn fail_next(&self, fault: Fault) {
        self.lock().script.next.push_back(fault);
    }

    /// Asks this about every call from now on.
    pub(crate) fn fail_when(&self, rule: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) {
        self.lock().script.rules.push(Arc::new(rule));
    }

    /// Takes back all faults that no call has met yet.
    pub(crate) fn clear_faults(&self) {
        let script = &mut self.lock().script;
        script.numbered.clear();
        script.next.clear();
        script.rules.clear();
    }

    pub(crate) fn call_count(&self) -> usize {
        self.lock().script.count()
    }

    /// The calls so far (the last 65,536 of them).
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().script.calls().cloned().collect()
    }
}

/// Requests.
impl ApiServer {
    /// Serves HTTP/1.1 without TLS until the handle is dropped or stopped.
    pub(crate) fn serve(&self, listener: TcpListener) -> Serving {
        Serving::start(self.clone(), listener)
    }

    /// Waits until this holds. It is asked now, whenever a call arrives and after every answer, so
    /// it may count calls or open watches, but does not see a client leave.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let news = self.shared.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if condition(self) {
                return;
            }
            news.await;
        }
    }

    /// Answers one request. An error stands for a connection that broke before any response.
    pub(crate) async fn handle<B>(&self, request: Request<B>) -> io::Result<Response<Body>>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let answer = self.route(request).await;
        self.shared.news.notify_waiters();
        answer
    }

    async fn route<B>(&self, request: Request<B>) -> io::Result<Response<Body>>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let Some(route) = Route::find(path) else {
            let state = self.lock();
            let kinds = KINDS.iter().filter(|kind| !state.absent.contains(kind.kind));
            return Ok(discovery::answer(path, &kinds.collect::<Vec<_>>()));
        };
        let Some(mut call) = answer::call(&parts, &route) else {
            let message = "the server does not allow this method on the requested resource";
            return Ok(Refusal::new(405, "MethodNotAllowed", message).into_response());
        };
        let met = self.lock().script.meet(&mut call);
        self.shared.news.notify_waiters();
        // Rules are a test's own code, which may well ask the server something.
        let fault = met.map_or_else(|rules| rules.iter().find_map(|rule| rule(&call)), Some);
        if let Some(fault) = &fault
            && let Some(answer) = fault.answer(&call, &route).await
        {
            return answer;
        }
        let body = Limited::new(body, MAX_BODY).collect().await;
        let answer = match body {
            Ok(body) => self.lock().answer(&parts, &call, &route, &body.to_bytes()),
            Err(_) => Refusal::new(413, "RequestEntityTooLarge", "too large").into_response(),
        };
        Ok(match fault {
            Some(fault) => fault.damage(answer),
            None => answer,
        })
    }
}

/// So that it can be given to `kube::Client::new`.
impl<B> tower::Service<Request<B>> for ApiServer
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { server.handle(request).await })
    }
}
