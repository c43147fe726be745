//! Which route takes a request, and what it asks for: the cluster, or an answer of the proxy's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use portolan_model::policy::Retries;
use portolan_model::traffic::{
    self, Abort, Action, CorsVerdict, Edits, HeaderEdit, ListenerKind, Mirror, PathEdit, PathMatch,
    RateLimit, ResourceName, Share, Taken, falls_in,
};

use super::account::Account;
use super::asked::{Asked, split_port};
use super::local::{self, Given, Local, Reason};
use super::session::Kept;
use super::{Client, affinity};
use crate::admit::{self, Proof};
use crate::message::{Known, RequestHead, without_query};

/// What limits of rate go by.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where a request goes.
pub(super) struct Way {
    pub(super) cluster: ResourceName,
    pub(super) retries: Option<Retries>,
    /// What hashed balancers pick by.
    pub(super) told: affinity::Told,
    /// The session that it is part of.
    pub(super) session: Option<Kept>,
    /// Labels that the endpoint must have.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    /// What is changed on the way; `None`: nothing.
    pub(super) edits: Option<Arc<Edits>>,
    /// The target that the endpoint is asked for, if it is another.
    pub(super) target: Option<Vec<u8>>,
    /// Where copies of it go.
    pub(super) mirrors: Vec<Mirror>,
}

/// What a route makes of a request.
pub(super) struct Routed {
    /// A fault: it waits for so long first.
    pub(super) delay: Option<Duration>,
    /// Where it goes then, or what it is answered.
    pub(super) way: Result<Way, Local>,
}

/// A request as the conditions of routes see it.
struct View<'a> {
    head: &'a RequestHead,
    asked: &'a Asked,
    client: &'a Client,
    grpc: bool,
    random: u64,
}

impl View<'_> {
    /// What the client says of a request before it, where it is believed.
    fn believed(&self, known: Known) -> Option<&[u8]> {
        let trusted = self.client.options().trust_forwarded;
        self.head.fields.get(known).filter(|_| trusted)
    }

    /// Who asks, where a proxy that is believed says so.
    fn remote(&self) -> Option<IpAddr> {
        self.believed(Known::ForwardedFor)?;
        let said = std::str::from_utf8(self.head.fields.all(Known::ForwardedFor).last()?).ok()?;
        said.rsplit(',').next()?.trim().parse().ok()
    }

    /// `https` over TLS, or where a proxy that is believed says so.
    fn scheme(&self) -> &str {
        match self.believed(Known::ForwardedProto) {
            Some(said) if said.eq_ignore_ascii_case(b"https") => "https",
            Some(_) => "http",
            None => self.client.scheme(),
        }
    }
}

impl traffic::Asked for View<'_> {
    fn path(&self) -> &[u8] {
        without_query(self.head.path())
    }

    fn query(&self) -> Option<&[u8]> {
        self.head.path().get(self.path().len() + 1..)
    }

    fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            // What becomes an upgrade on its way (RFC 8441 §5) is a GET to who looks at it, as it will
            // be to the endpoint.
            ":method" if self.head.protocol().is_some() => return Some(Cow::Borrowed(b"GET")),
            ":method" => return Some(Cow::Borrowed(self.head.method())),
            ":path" => return Some(Cow::Borrowed(self.head.path())),
            ":authority" | "host" => return Some(Cow::Borrowed(&self.asked.host)),
            ":scheme" => return Some(Cow::Borrowed(self.scheme().as_bytes())),
            // As they go on to the endpoint, not as a client says them that nobody believes.
            "x-forwarded-proto" => {
                let own = self.client.scheme().as_bytes();
                let said = self.believed(Known::ForwardedProto).unwrap_or(own);
                return Some(Cow::Borrowed(said));
            }
            "x-forwarded-host" => {
                let said = self.believed(Known::ForwardedHost).unwrap_or(&self.asked.host);
                return Some(Cow::Borrowed(said));
            }
            "x-forwarded-for" => {
                let before = self.head.fields.all(Known::ForwardedFor);
                let own = self.client.peer_text.as_bytes();
                return Some(Cow::Owned(before.chain([own]).collect::<Vec<_>>().join(&b", "[..])));
            }
            _ => {}
        }
        let mut values = self.head.fields.all_named(name.as_bytes());
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        // Of cookies HTTP/2 makes several fields of one (RFC 9113 §8.2.3).
        let between: &[u8] = if name == "cookie" { b"; " } else { b"," };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(between);
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    fn is_grpc(&self) -> bool {
        self.grpc
    }

    fn random(&self) -> u64 {
        self.random
    }
}

/// Whether a request may pass, by what its listener says of who may do what.
pub(super) fn admit(
    client: &Client,
    asked: &Asked,
    head: &RequestHead,
    grpc: bool,
) -> Result<(), Local> {
    let lists = &client.options().access;
    if lists.is_empty() {
        return Ok(());
    }
    let (random, _) = client.origin.shared.random();
    let view = View { head, asked, client, grpc, random };
    let remote = view.remote().unwrap_or(client.peer.ip());
    let port = client.origin.listener.address.port();
    let caller = Proof::caller(client.proof.as_deref(), remote, client.connected, port);
    let judged = admit::judge(lists, &caller, Some(&view), &client.origin.metrics);
    judged.map_err(|denied| Local::denied(denied.why))
}

/// What the first route that takes a request makes of it.
pub(super) fn route(
    client: &Client,
    asked: &Asked,
    head: &RequestHead,
    account: &Account,
) -> Routed {
    let (ListenerKind::Http { routes, .. } | ListenerKind::Detect { routes, .. }) =
        &client.origin.listener.kind
    else {
        return Routed { delay: None, way: Err(Local::new(Reason::NoRoute, "no routes")) };
    };
    // Two numbers that have nothing to do with each other: whether a route takes it, and its share.
    let (random, number) = client.origin.shared.random();
    let view = View { head, asked, client, grpc: account.grpc, random };
    account.on_routed(client.origin.shared.generation());
    let routes = client.proof.as_ref().and_then(|own| own.routes.as_ref()).unwrap_or(routes);
    let found = client.origin.shared.with_routes(routes, |table| {
        let (host, route) = table.route(asked.lower(), &view)?;
        let mut routes = client.origin.routes.borrow_mut();
        account.route.get_or_init(|| routes.known(table, host, route, &client.origin.metrics));
        account.on_sought(&route.labels);
        let marks = match route.cors.as_ref().map(|cors| cors.judge(&view)) {
            None => Vec::new(),
            Some(CorsVerdict::Marked(marks)) => marks,
            Some(CorsVerdict::Preflight(said)) => {
                return Some(Routed { delay: None, way: Err(preflight(said, asked)) });
            }
        };
        let fault = route.fault.as_ref();
        let (delay, abort) =
            fault.map_or((None, None), |fault| fault.of(&view, client.origin.shared.random()));
        if let Some(limit) = route.rate_limit.as_ref().filter(|_| abort.is_none()) {
            let now = u64::try_from(CLOCK.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let remote = view.remote().unwrap_or(client.peer.ip());
            let Taken { passes, displaced } =
                limit.take(now, client.origin.shared.random(), remote);
            if displaced {
                client.origin.metrics.displaced.add(1);
            }
            if !passes {
                let over = over(limit, asked).marked(marks);
                return Some(Routed { delay: None, way: Err(over) });
            }
        }
        let way = match (abort, &route.action) {
            (Some(abort), _) => Err(aborted(abort, asked)),
            (None, Action::Forward(shares)) => {
                let session = route.session.as_ref().and_then(|own| Kept::of(own, head));
                let kept = session.as_ref().and_then(|kept| share_of(kept, shares, client));
                let share = kept.or_else(|| traffic::pick(shares, number))?;
                let rewrite = share.edits.as_ref().and_then(|edits| edits.path.as_ref());
                Ok(Way {
                    cluster: ResourceName::clone(&share.cluster),
                    retries: route.retries.clone(),
                    session,
                    told: affinity::tell(&route.hash, client, head),
                    labels: route.labels.clone(),
                    timeout: route.timeout,
                    idle_timeout: route.idle_timeout,
                    edits: with_marks(share.edits.as_ref(), &marks),
                    target: rewrite.map(|edit| rewritten(edit, head, &route.path)),
                    mirrors: mirrors(&route.mirrors, client),
                })
            }
            (None, Action::Redirect(redirect)) => Err(elsewhere(redirect, &view, &route.path)),
            (None, Action::Respond(respond)) => {
                let detail = String::from_utf8_lossy(&respond.body).into_owned();
                let body = Some(respond.body.to_vec());
                let given = Given { body, ..Given::new(respond.status) };
                Err(Local::given(Reason::DirectResponse, detail, given)
                    .edited(respond.edits.as_ref()))
            }
        };
        Some(Routed { delay, way: way.map_err(|local| local.marked(marks)) })
    });
    found.unwrap_or_else(|| {
        let path = String::from_utf8_lossy(without_query(head.path()));
        let detail = format!("{}{path}: no route", asked.lower());
        Routed { delay: None, way: Err(Local::new(Reason::NoRoute, detail)) }
    })
}

/// The share of the cluster that has the endpoint of a session. One without weight has none of its
/// clients any more.
fn share_of<'a>(kept: &Kept, shares: &'a [Share], client: &Client) -> Option<&'a Share> {
    let endpoint = kept.endpoint?;
    let [_, _, ..] = shares else { return None };
    let has = |share: &&Share| {
        let cluster = client.origin.shared.cluster(&share.cluster);
        share.weight > 0 && cluster.is_some_and(|cluster| cluster.serving(endpoint, None).is_some())
    };
    shares.iter().find(has)
}

/// The changes of a share, and what its answers say to pages of other origins.
fn with_marks(edits: Option<&Arc<Edits>>, marks: &[HeaderEdit]) -> Option<Arc<Edits>> {
    if marks.is_empty() {
        return edits.cloned();
    }
    let mut edits = edits.map(|edits| Edits::clone(edits)).unwrap_or_default();
    edits.response.extend_from_slice(marks);
    Some(Arc::new(edits))
}

/// What a page is told that asks what it may do.
fn preflight(said: Vec<HeaderEdit>, asked: &Asked) -> Local {
    let detail = format!("{}: what pages of other origins may do", asked.lower());
    let given = Given { body: Some(Vec::new()), ..Given::new(200) };
    Local::given(Reason::DirectResponse, detail, given).marked(said)
}

/// Where copies of a request go, each by a throw of its own.
fn mirrors(asked: &[Mirror], client: &Client) -> Vec<Mirror> {
    let thrown = |mirror: &&Mirror| falls_in(mirror.millionths, client.origin.shared.random().0);
    asked.iter().filter(thrown).cloned().collect()
}

/// What a request over its route's limit gets.
fn over(limit: &RateLimit, asked: &Asked) -> Local {
    let detail = format!("{}: more requests than the route takes", asked.lower());
    let grpc = if limit.resource_exhausted { "8" } else { "14" };
    Local::given(Reason::RateLimited, detail, Given { grpc, ..Given::new(limit.status) })
}

/// What a request gets by a fault that was put in.
fn aborted(abort: Abort, asked: &Asked) -> Local {
    let detail = format!("{}: a fault that was asked for", asked.lower());
    let given = match abort {
        Abort::Http(status) => Given::new(status),
        Abort::Grpc(status) => Given { grpc: local::grpc_code(status), ..Given::new(200) },
    };
    Local::given(Reason::Fault, detail, given)
}

/// The target that the endpoint is asked for. `*` and what a plain CONNECT has are no paths.
fn rewritten(edit: &PathEdit, head: &RequestHead, matched: &PathMatch) -> Vec<u8> {
    let target = head.path();
    if target.first() == Some(&b'/') { edit.apply(target, matched) } else { target.to_vec() }
}

/// Where a client is sent (RFC 9110 §10.2.2), with all of it said. What names no host, as HTTP/1.0
/// may, is told the path alone.
fn elsewhere(redirect: &traffic::Redirect, view: &View<'_>, matched: &PathMatch) -> Local {
    let scheme = redirect.scheme.as_deref().unwrap_or(view.scheme());
    let (own, port) = split_port(view.asked.lower());
    let host = redirect.host.as_deref().unwrap_or(own);
    let (_, said) = split_port(host);
    // A port that is not the scheme's own stays where the host does, as in Envoy.
    let asked = port.filter(|port| redirect.host.is_none() && !is_own(view.scheme(), *port));
    let port = redirect.port.or(asked).filter(|port| said.is_none() && !is_own(scheme, *port));
    let mut target = match &redirect.path {
        Some(edit) => rewritten(edit, view.head, matched),
        None => view.head.path().to_vec(),
    };
    if redirect.strip_query {
        target.truncate(without_query(&target).len());
    }
    if target.first() != Some(&b'/') {
        target = b"/".to_vec();
    }
    let mut location = Vec::new();
    if !host.is_empty() {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        location.extend_from_slice(format!("{scheme}://{host}{port}").as_bytes());
    }
    location.extend_from_slice(&target);
    Local::redirect(redirect.status, location).edited(redirect.edits.as_ref())
}

/// Whether a port is the one that a scheme has without saying it.
fn is_own(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}
