//! Counters of one listener on one worker, and those of its routes.
//!
//! Owns the bound on routes with counters of their own, and how a route is called: by its virtual
//! host and its condition on the path, both from the configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::traffic::{PathMatch, Route, RouteTable, VirtualHost};

use super::tally::Tally;
use super::{Counter, OTHER};
use crate::admit::OUTCOMES;
use crate::http::local::Reason;
use crate::http2;

/// Routes with counters of their own, per listener and worker; the rest are counted as [`OTHER`].
const MAX_ROUTES: usize = 1_000;
/// Characters of a virtual host's name and of a path that become labels.
const MAX_NAME: usize = 120;

/// Counters of one listener on one worker.
#[derive(Debug, Default)]
pub(crate) struct ListenerMetrics {
    /// Responses by the first digit of their status; index 0 for anything odd.
    pub(crate) responses: [Counter; 6],
    pub(crate) accepted: Counter,
    pub(crate) active: Counter,
    pub(crate) refused: Counter,
    /// Bytes from clients (TCP listeners).
    pub(crate) bytes_in: Counter,
    /// Bytes to clients (TCP listeners).
    pub(crate) bytes_out: Counter,
    /// Answers the proxy made itself, and what it cut or reset.
    pub(crate) local: [Tally; Reason::ALL.len()],
    /// Responses that were begun and cut.
    pub(crate) cut: Tally,
    /// Clients whose buckets of a limit of rate gave way to others'.
    pub(crate) displaced: Tally,
    /// What was judged by who may do what, by [`OUTCOMES`].
    pub(crate) access: [Tally; OUTCOMES.len()],
    pub(crate) http2: Http2Metrics,
    routes: Mutex<BTreeMap<RouteName, Arc<RouteMetrics>>>,
}

/// How a route is called: virtual host and condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouteName {
    pub(crate) host: Arc<str>,
    pub(crate) path: String,
}

/// Counters of one route of one listener on one worker.
#[derive(Debug, Default)]
pub(crate) struct RouteMetrics {
    /// Requests by the first digit of the status; index 0 for those without one.
    pub(crate) responses: [Tally; 6],
    /// From head to end of all those requests, in microseconds.
    pub(crate) micros: Tally,
}

/// The counters of the routes of a listener's tables, as far as one listener has asked for them. Kept by the
/// listener on its worker, so that a request looks at no name.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// One for each name: few but where a listener has many names, each with a table.
    tables: Vec<KnownTable>,
}

/// The routes of a table.
#[derive(Debug)]
struct KnownTable {
    /// Whose routes they are: while it is held, no other route has the same address.
    table: Arc<RouteTable>,
    known: HashMap<*const Route, Rc<KnownRoute>>,
}

/// A route as one listener of one worker knows it.
#[derive(Debug)]
pub(crate) struct KnownRoute {
    pub(crate) metrics: Arc<RouteMetrics>,
    pub(crate) name: RouteName,
    /// What people call it.
    pub(crate) called: Option<Arc<str>>,
}

/// How HTTP/2 connections from clients fared.
#[derive(Debug, Default)]
pub(crate) struct Http2Metrics {
    /// By [`Http2Metrics::EVENTS`].
    pub(crate) events: [Tally; 7],
    /// Connections the engine closed, by [`Http2Metrics::CLOSES`].
    pub(crate) closes: [Tally; 13],
}

impl ListenerMetrics {
    pub(crate) fn count_response(&self, status: u16) {
        let class = usize::from(status / 100);
        self.responses.get(class).unwrap_or(&self.responses[0]).add(1);
    }

    pub(crate) fn on_local(&self, reason: Reason) {
        self.local[reason.index()].add(1);
    }

    /// Reads every route's counters.
    pub(crate) fn each_route(&self, mut read: impl FnMut(&RouteName, &RouteMetrics)) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().for_each(|(name, metrics)| read(name, metrics));
    }

    /// The counters of a route; of the others those go that are in none of the tables, if there are many.
    fn route(&self, name: RouteName, tables: &[KnownTable]) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = routes.get(&name) {
            return Arc::clone(known);
        }
        if routes.len() >= MAX_ROUTES {
            let hosts = tables.iter().flat_map(|own| &own.table.hosts);
            let all = hosts.flat_map(|h| h.routes.iter().map(|r| RouteName::of(h, r)));
            let present: BTreeSet<RouteName> = all.chain([RouteName::other()]).collect();
            routes.retain(|name, _| present.contains(name));
        }
        let name = if routes.len() < MAX_ROUTES { name } else { RouteName::other() };
        Arc::clone(routes.entry(name).or_default())
    }
}

impl RouteName {
    pub(crate) fn of(host: &VirtualHost, route: &Route) -> Self {
        let bounded = |text: &str| text.chars().take(MAX_NAME).collect::<String>();
        let path = match &route.path {
            PathMatch::Prefix(prefix) => format!("{}*", bounded(prefix)),
            PathMatch::Under(path) => format!("{}/*", bounded(path)),
            PathMatch::Exact(exact) => bounded(exact),
            PathMatch::Regex(pattern) => format!("~{}", bounded(pattern.as_str())),
        };
        let short = host.name.len() <= MAX_NAME;
        let host = if short { Arc::clone(&host.name) } else { bounded(&host.name).into() };
        Self { host, path }
    }

    fn other() -> Self {
        Self { host: OTHER.into(), path: OTHER.to_owned() }
    }
}

impl Routes {
    /// A route of the table, with its counters.
    pub(crate) fn known(
        &mut self,
        table: &Arc<RouteTable>,
        host: &VirtualHost,
        route: &Route,
        listener: &ListenerMetrics,
    ) -> Rc<KnownRoute> {
        let at = self.tables.iter().position(|own| Arc::ptr_eq(&own.table, table));
        let at = at.unwrap_or_else(|| {
            self.tables.retain(|own| own.table.name != table.name);
            self.tables.push(KnownTable { table: Arc::clone(table), known: HashMap::new() });
            self.tables.len() - 1
        });
        let key = std::ptr::from_ref(route);
        if let Some(known) = self.tables[at].known.get(&key) {
            return Rc::clone(known);
        }
        let name = RouteName::of(host, route);
        let metrics = listener.route(name.clone(), &self.tables);
        let known = Rc::new(KnownRoute { metrics, name, called: route.name.clone() });
        self.tables[at].known.insert(key, Rc::clone(&known));
        known
    }
}

impl RouteMetrics {
    /// A request ended: with this status, or 0 for none.
    pub(crate) fn on_request(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100);
        self.responses.get(class).unwrap_or(&self.responses[0]).add(1);
        self.micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

impl Http2Metrics {
    /// What a peer did that has a limit, and what was refused for it.
    pub(crate) const EVENTS: [&'static str; 7] = [
        "reset",
        "settings",
        "empty_data",
        "tiny_window",
        "refused_stream",
        "bad_head",
        "reset_stream",
    ];

    /// Why a connection was closed; the first is for any other.
    pub(crate) const CLOSES: [&'static str; 13] = [
        "other",
        "io",
        "protocol",
        "peer",
        "ping_timeout",
        "write_timeout",
        "read_timeout",
        "abuse_reset",
        "abuse_settings",
        "abuse_empty_data",
        "abuse_tiny_window",
        "abuse_head",
        "abuse_unread",
    ];

    /// Adds what was counted since `before`.
    pub(crate) fn on_counted(&self, before: &http2::Counters, now: &http2::Counters) {
        let grown = [
            now.resets - before.resets,
            now.settings - before.settings,
            now.empty_data - before.empty_data,
            now.tiny_windows - before.tiny_windows,
            now.refused - before.refused,
            now.bad_heads - before.bad_heads,
            now.faults - before.faults,
        ];
        for (event, n) in self.events.iter().zip(grown).filter(|(_, n)| *n > 0) {
            event.add(n);
        }
    }

    /// A connection did not end as it should.
    pub(crate) fn on_closed(&self, error: &http2::Error) {
        let word = Self::word(error);
        let index = Self::CLOSES.iter().position(|close| *close == word).unwrap_or(0);
        self.closes[index].add(1);
    }

    fn word(error: &http2::Error) -> &'static str {
        use http2::Error;
        match error {
            Error::Io(_) => "io",
            Error::GoAway(_) => "peer",
            Error::PingTimeout => "ping_timeout",
            Error::WriteTimeout => "write_timeout",
            Error::ReadTimeout => "read_timeout",
            Error::Protocol { .. } if !error.is_abuse() => "protocol",
            Error::Protocol { reason, .. } => match *reason {
                "too many resets" | "too many faulty streams" => "abuse_reset",
                "too many SETTINGS" => "abuse_settings",
                "too many empty DATA frames" => "abuse_empty_data",
                "windows are too small" => "abuse_tiny_window",
                "a head is endless" | "too many large heads" => "abuse_head",
                "too many unread answers" => "abuse_unread",
                _ => "other",
            },
            Error::Closed | Error::NoRoom => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: usize) -> Arc<RouteTable> {
        let route = |n| Route::to(PathMatch::Exact(format!("/{n}").into()), "c".into());
        let host = VirtualHost {
            name: "web".into(),
            domains: vec!["*".into()],
            routes: (0..routes).map(route).collect(),
        };
        Arc::new(RouteTable::new("t".into(), vec![Arc::new(host)]).expect("valid"))
    }

    fn count(table: &Arc<RouteTable>, listener: &ListenerMetrics, routes: &mut Routes) {
        for host in &table.hosts {
            for route in &host.routes {
                let known = routes.known(table, host, route, listener);
                known.metrics.on_request(200, Duration::ZERO);
            }
        }
    }

    #[test]
    fn routes_past_the_bound_are_counted_together_and_old_ones_make_room() {
        let (listener, mut routes) = (ListenerMetrics::default(), Routes::default());
        let large = table(MAX_ROUTES + 5);
        count(&large, &listener, &mut routes);
        count(&large, &listener, &mut routes);
        let mut seen = BTreeMap::new();
        let read = |seen: &mut BTreeMap<_, _>| {
            listener.each_route(|name, metrics| {
                seen.insert((name.host.to_string(), name.path.clone()), metrics.responses[2].get());
            });
        };
        read(&mut seen);
        assert_eq!(seen.len(), MAX_ROUTES + 1);
        assert_eq!(seen[&("other".to_owned(), "other".to_owned())], 10);
        assert_eq!(seen[&("web".to_owned(), "/3".to_owned())], 2);

        let host = VirtualHost {
            name: "new".into(),
            domains: vec!["*".into()],
            routes: vec![Route::to(PathMatch::Prefix("/".into()), "c".into())],
        };
        let new = Arc::new(RouteTable::new("t".into(), vec![Arc::new(host)]).expect("valid"));
        count(&new, &listener, &mut routes);
        seen.clear();
        read(&mut seen);
        assert_eq!(seen[&("new".to_owned(), "/*".to_owned())], 1);
        assert_eq!(seen.len(), 2, "those of the old table are gone: {seen:?}");
    }

    #[test]
    fn every_close_by_the_engine_has_a_word() {
        use crate::http2::{Code, Error};
        let protocol = |code, reason| Error::Protocol { code, reason };
        for (error, word) in [
            (Error::Io(std::io::ErrorKind::BrokenPipe), "io"),
            (protocol(Code::PROTOCOL_ERROR, "x"), "protocol"),
            (protocol(Code::ENHANCE_YOUR_CALM, "too many resets"), "abuse_reset"),
            (protocol(Code::ENHANCE_YOUR_CALM, "new"), "other"),
            (Error::GoAway(Code::NO_ERROR), "peer"),
        ] {
            let metrics = Http2Metrics::default();
            metrics.on_closed(&error);
            let at = Http2Metrics::CLOSES.iter().position(|close| *close == word).expect("known");
            assert_eq!(metrics.closes[at].get(), 1, "{error}");
        }
    }
}
