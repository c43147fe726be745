//! Virtual hosts and routes: which cluster a request goes to, and what is asked of the way there.

mod action;
mod condition;
mod cors;
mod fault;
mod index;
mod rate_limit;
mod session;
mod substitution;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ResourceName;
use crate::policy::{HashOn, Retries};
use index::Index;

pub use action::{Action, Edits, HeaderEdit, Mirror, PathEdit, Redirect, Respond, Share, pick};
pub use condition::{
    Asked, Conditions, HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, TextMatch,
    TextTest, falls_in,
};
pub use cors::{Cors, CorsVerdict};
pub use fault::{Abort, Fault};
pub use rate_limit::{PerClient, RateLimit, Taken};
pub use session::{Session, SessionBy};
pub use substitution::Substitution;

/// Virtual hosts, and the index that finds one by its domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// Resource name.
    pub name: ResourceName,
    /// The virtual hosts.
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Whether the port of an authority is left out when its virtual host is looked up.
    #[serde(rename = "ignorePort")]
    ignore_port: bool,
    /// Exact domains (lower case, with the port where the domain carries one) to `hosts`.
    #[serde(skip)]
    exact: std::collections::HashMap<Box<str>, usize>,
    /// `*.suffix` domains, longest suffix first, to `hosts`.
    #[serde(skip)]
    suffixes: Vec<(Box<str>, usize)>,
    /// The `*` domain.
    #[serde(skip)]
    fallback: Option<usize>,
    /// The routes of each of `hosts` by their paths, where they are many.
    #[serde(skip)]
    indices: Vec<Option<Index>>,
}

/// Routes for a set of domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Domains: exact, `*.suffix`, or `*`.
    pub domains: Vec<Arc<str>>,
    /// Routes, first match wins.
    pub routes: Vec<Route>,
}

/// Which requests it is for, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// What people call it, such as `HTTPRoute shop/web rule 0`; it decides nothing.
    pub name: Option<Arc<str>>,
    /// How the path must look.
    pub path: PathMatch,
    /// What else the request must be; `None`: nothing.
    pub conditions: Option<Box<Conditions>>,
    /// What becomes of it.
    pub action: Action,
    /// From the end of the request to the whole of the response; `None` for no limit.
    pub timeout: Option<Duration>,
    /// A request on which nothing moves for this long is ended; `None`: the listener's.
    pub idle_timeout: Option<Duration>,
    /// When a request is sent again; `None`: only what is safe.
    pub retries: Option<Retries>,
    /// What hashed balancers tell requests by, in this order; a terminal one ends the list when it
    /// gave a hash.
    pub hash: Vec<HashPolicy>,
    /// Labels of the endpoints that may serve, for clusters with subsets.
    pub labels: BTreeMap<String, String>,
    /// Where copies of its requests go.
    pub mirrors: Vec<Mirror>,
    /// Faults that are put in on purpose.
    pub fault: Option<Arc<Fault>>,
    /// How often it may be taken.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// Which pages of other origins may read its answers; `None`: nothing is said of it here.
    pub cors: Option<Arc<Cors>>,
    /// How its clients stay with an endpoint; `None`: they do not.
    pub session: Option<Arc<Session>>,
}

/// Part of what a request's hash is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HashPolicy {
    /// What is hashed.
    pub on: HashOn,
    /// If it gave a hash, what follows is not asked.
    pub terminal: bool,
}

impl HashPolicy {
    /// What a hashed balancer tells requests by; nothing for one that does not hash.
    #[must_use]
    pub fn told_by(on: Option<&HashOn>) -> Vec<Self> {
        on.map(|on| Self { on: on.clone(), terminal: false }).into_iter().collect()
    }
}

/// Why virtual hosts do not make a route table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoutes {
    /// Two virtual hosts claim a domain.
    #[error("domain {domain:?} stands in virtual host {first:?} and again in {second:?}")]
    DuplicateDomain {
        /// The domain.
        domain: String,
        /// Who had it first.
        first: String,
        /// Who claims it too.
        second: String,
    },
    /// A form that is not supported.
    #[error("domain {domain:?} of virtual host {host:?} is not an exact name, *.suffix or *")]
    Domain {
        /// The domain.
        domain: String,
        /// The virtual host.
        host: String,
    },
}

impl RouteTable {
    /// Builds the table and its index.
    ///
    /// # Errors
    /// [`InvalidRoutes`] for a domain claimed twice or of an unknown form (Envoy refuses the same).
    pub fn new(name: ResourceName, hosts: Vec<Arc<VirtualHost>>) -> Result<Self, InvalidRoutes> {
        let mut table = Self { name, hosts, ..Self::default() };
        for (i, host) in table.hosts.iter().enumerate() {
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase();
                let earlier = if lower == "*" {
                    table.fallback.replace(i)
                } else if let Some(suffix) = lower.strip_prefix('*') {
                    if suffix.contains('*') {
                        return Err(unsupported(domain, host));
                    }
                    let earlier =
                        table.suffixes.iter().find(|(s, _)| **s == *suffix).map(|(_, i)| *i);
                    table.suffixes.push((suffix.into(), i));
                    earlier
                } else if lower.contains('*') {
                    return Err(unsupported(domain, host));
                } else {
                    table.exact.insert(lower.into_boxed_str(), i)
                };
                if let Some(first) = earlier {
                    return Err(InvalidRoutes::DuplicateDomain {
                        domain: domain.to_string(),
                        first: table.hosts[first].name.to_string(),
                        second: host.name.to_string(),
                    });
                }
            }
        }
        table.indices = table.hosts.iter().map(|host| Index::of(&host.routes)).collect();
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Ok(table)
    }

    /// The same table, whose limits of rate go on where those of another one are: of routes that are for the
    /// same requests of the same host, and have the same limits. Otherwise every change of a table
    /// would fill all buckets.
    #[must_use]
    pub fn with_buckets_of(mut self, before: &Self) -> Self {
        for host in &mut self.hosts {
            if host.routes.iter().all(|route| route.rate_limit.is_none()) {
                continue;
            }
            let old = before.hosts.iter().find(|old| old.name == host.name);
            let Some(old) = old.filter(|old| !Arc::ptr_eq(old, host)) else { continue };
            for route in &mut Arc::make_mut(host).routes {
                let is_same = |one: &&Route| {
                    one.rate_limit == route.rate_limit
                        && (&one.name, &one.path, &one.conditions)
                            == (&route.name, &route.path, &route.conditions)
                };
                if route.rate_limit.is_some()
                    && let Some(kept) = old.routes.iter().find(is_same)
                {
                    route.rate_limit.clone_from(&kept.rate_limit);
                }
            }
        }
        self
    }

    /// The same table, whose lookups leave out the port of an authority, or do not.
    #[must_use]
    pub fn ignoring_port(self, ignore_port: bool) -> Self {
        Self { ignore_port, ..self }
    }

    /// The virtual host for an authority (`host` or `host:port`, already in lower case): exact
    /// match, then longest suffix, then `*` (Envoy's order).
    #[must_use]
    pub fn lookup(&self, authority: &str) -> Option<&VirtualHost> {
        self.find(authority).map(|i| &*self.hosts[i])
    }

    /// The first route of the authority's virtual host that takes the request, and the host.
    pub fn route(&self, authority: &str, asked: &impl Asked) -> Option<(&VirtualHost, &Route)> {
        let i = self.find(authority)?;
        let host = &*self.hosts[i];
        let route = match self.indices.get(i) {
            Some(Some(index)) => index.route(&host.routes, asked),
            _ => host.routes.iter().find(|route| route.takes(asked)),
        };
        Some((host, route?))
    }

    fn find(&self, authority: &str) -> Option<usize> {
        let authority = match authority.rsplit_once(':') {
            // An IPv6 address stands in brackets, whose last part is no port.
            Some((host, port))
                if self.ignore_port && port.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                host
            }
            _ => authority,
        };
        self.exact.get(authority).copied().or_else(|| {
            self.suffixes
                .iter()
                .find(|(s, _)| authority.len() > s.len() && authority.ends_with(&**s))
                .map(|(_, i)| *i)
                .or(self.fallback)
        })
    }
}

fn unsupported(domain: &str, host: &VirtualHost) -> InvalidRoutes {
    InvalidRoutes::Domain { domain: domain.to_owned(), host: host.name.to_string() }
}

impl Route {
    /// Whether it takes a request.
    pub fn takes(&self, asked: &impl Asked) -> bool {
        match &self.conditions {
            None => self.path.matches(asked.path(), false),
            Some(conditions) => {
                self.path.matches(asked.path(), conditions.ignore_case) && conditions.hold(asked)
            }
        }
    }

    /// A route that asks for nothing in particular.
    #[must_use]
    pub fn to(path: PathMatch, cluster: ResourceName) -> Self {
        Self {
            name: None,
            path,
            conditions: None,
            action: Action::to(cluster),
            timeout: None,
            idle_timeout: None,
            retries: None,
            hash: Vec::new(),
            labels: BTreeMap::new(),
            mirrors: Vec::new(),
            fault: None,
            rate_limit: None,
            cors: None,
            session: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, domains: &[&str]) -> Arc<VirtualHost> {
        let domains = domains.iter().map(|d| Arc::from(*d)).collect();
        Arc::new(VirtualHost { name: name.into(), domains, routes: Vec::new() })
    }

    #[test]
    fn a_domain_is_found_exactly_then_by_longest_suffix_then_by_star() {
        let table = RouteTable::new(
            "r".into(),
            vec![
                host("exact", &["web.shop", "web.shop:80"]),
                host("short", &["*.shop"]),
                host("long", &["*.eu.shop"]),
                host("any", &["*"]),
            ],
        )
        .expect("valid");
        for (authority, expected) in [
            ("web.shop", "exact"),
            ("web.shop:80", "exact"),
            ("web.shop:81", "any"),
            ("api.shop", "short"),
            (".shop", "any"),
            ("api.eu.shop", "long"),
            ("other", "any"),
        ] {
            assert_eq!(table.lookup(authority).map(|h| &*h.name), Some(expected), "{authority}");
        }
    }

    #[test]
    fn a_port_is_left_out_where_that_is_asked_for() {
        let hosts =
            vec![host("exact", &["web.shop"]), host("six", &["[::1]"]), host("any", &["*"])];
        let table = RouteTable::new("r".into(), hosts).expect("valid");
        for (authority, kept, ignored) in [
            ("web.shop", "exact", "exact"),
            ("web.shop:80", "any", "exact"),
            ("web.shop:x", "any", "any"),
            ("[::1]", "six", "six"),
            ("[::1]:80", "any", "six"),
            ("", "any", "any"),
        ] {
            for (ignore, expected) in [(false, kept), (true, ignored)] {
                let table = table.clone().ignoring_port(ignore);
                let found = table.lookup(authority).map(|host| &*host.name);
                assert_eq!(found, Some(expected), "{authority} {ignore}");
            }
        }
    }

    #[test]
    fn a_bucket_goes_on_in_the_next_table_if_its_limit_is_the_same() {
        let limited = |path: &str, tokens| {
            let limit = RateLimit::new(tokens, Duration::from_secs(60), 429);
            let route = Route::to(PathMatch::Prefix(path.into()), "c".into());
            Route { rate_limit: Some(Arc::new(limit)), ..route }
        };
        let table = |routes: Vec<Route>| {
            let host = VirtualHost { name: "h".into(), domains: vec!["*".into()], routes };
            RouteTable::new("r".into(), vec![Arc::new(host)]).expect("valid")
        };
        let take = |table: &RouteTable, at: usize| {
            let limit = table.hosts[0].routes[at].rate_limit.as_ref().expect("one");
            limit.take(0, (0, 0), [127, 0, 0, 1].into()).passes
        };
        let before = table(vec![limited("/a", 1), limited("/b", 1)]);
        assert!(take(&before, 0) && !take(&before, 0));
        let after = table(vec![limited("/c", 1), limited("/a", 1), limited("/b", 2)]);
        let after = after.with_buckets_of(&before);
        assert!(!take(&after, 1), "it is empty still");
        assert!(take(&after, 0), "another route");
        assert!(take(&after, 2) && take(&after, 2), "another limit");
    }

    #[test]
    fn a_domain_claimed_twice_is_refused() {
        let twice = RouteTable::new("r".into(), vec![host("a", &["x"]), host("b", &["X"])]);
        assert!(matches!(twice, Err(InvalidRoutes::DuplicateDomain { .. })), "{twice:?}");
        let form = RouteTable::new("r".into(), vec![host("a", &["x.*"])]);
        assert!(matches!(form, Err(InvalidRoutes::Domain { .. })), "{form:?}");
    }
}
