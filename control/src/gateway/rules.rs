//! The rules of a route -> routes, with what their references point at put in.

use std::sync::Arc;

use portolan_model::Service;
use portolan_model::gateway::NOWHERE;
use portolan_model::policy::Retries;
use portolan_model::traffic::{
    Action, Edits, HashPolicy, Mirror, Redirect, Respond, Route, Share, cluster_name,
};

use super::draft::{BackendDraft, MatchDraft, ParentRef, Rank, RouteDraft, RuleDraft};
use super::resolve::{Resolver, Unresolved};
use super::rollback::Split;
use crate::object::Kind;

/// The whole, in millionths.
const WHOLE: u64 = 1_000_000;

/// What became of a route's rules, wherever they attach.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Routes in the order of the rules and their matches, each with its rank. What a match makes
    /// may be several, tried in this order.
    pub(super) ranked: Vec<(Rank, Vec<Route>)>,
    /// The shares of its only rule, for connections; none if no backend can be used.
    pub(super) shares: Vec<Share>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Unresolved>,
    /// What is asked for and not done, by rule: the rule is not in force.
    pub(super) dropped: Vec<String>,
    /// Whether there are any rules in force.
    pub(super) is_any: bool,
}

/// Where requests come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct At {
    /// Redirects say it where they say no other.
    pub(super) port: u16,
    /// Within TLS.
    pub(super) secure: bool,
    /// For a service, by whoever may go to its backends anyway: no grant is needed (GEP-1426, "Namespace
    /// boundaries").
    pub(super) mesh: bool,
}

/// Makes routes of rules.
pub(super) fn compile(route: &RouteDraft, at: At, resolver: &mut Resolver<'_>) -> Rules {
    let mut rules = Rules::default();
    for (i, rule) in route.rules.iter().enumerate() {
        if let Some(text) = &rule.unsupported {
            let name = rule.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            rules.dropped.push(format!("rule {i}{name}: {text}"));
            continue;
        }
        rules.is_any = true;
        let found = backends(route, (i, at), resolver, &mut rules.unresolved);
        let name: Arc<str> = called(route, rule, i).into();
        for one in &rule.matches {
            let mut made = routes(route, rule, one, &found, at);
            made.iter_mut().for_each(|made| made.name = Some(Arc::clone(&name)));
            rules.ranked.push((one.rank, made));
        }
        rules.shares = found.shares;
        let going: u64 = rules.shares.iter().map(|share| u64::from(share.weight)).sum();
        let lost = u32::try_from(found.weights - going).unwrap_or(u32::MAX);
        if !route.is_http() && lost > 0 && going > 0 {
            // The connections of backends that cannot be used are refused (`TCPRouteRule.backendRefs`).
            rules.shares.push(Share { weight: lost, ..Share::all(NOWHERE.into()) });
        }
    }
    rules
}

/// What people call a rule: by its name, or its place among the rules of its route.
fn called(route: &RouteDraft, rule: &RuleDraft, at: usize) -> String {
    let (kind, meta) = (route.kind.as_str(), &route.meta);
    format!("{kind} {}/{} {}", meta.namespace, meta.name, within(rule, at))
}

/// What they call it within its route.
fn within(rule: &RuleDraft, at: usize) -> String {
    let name = rule.name.as_ref().map_or_else(|| at.to_string(), ToString::to_string);
    format!("rule {name}")
}

/// The rules of a route whose backends are to be compared.
pub(super) fn splits(route: &RouteDraft, resolver: &mut Resolver<'_>) -> Vec<Split> {
    let Some(wanted) = &route.rollback else { return Vec::new() };
    let is_mesh = route.parents.iter().any(ParentRef::is_service);
    let compared = |rule: &&(usize, &RuleDraft)| {
        let (_, rule) = rule;
        rule.unsupported.is_none() && rule.backends.iter().filter(|b| b.weight > 0).count() > 1
    };
    let mut split = |(at, rule): (usize, &RuleDraft)| {
        let name = (Arc::clone(&route.meta.namespace), Arc::clone(&route.meta.name));
        let cluster = |backend: &BackendDraft| {
            let found = resolver.backend(route, &backend.target, is_mesh);
            found.ok().map(|(service, port)| cluster_name(&service.key, port))
        };
        Split {
            id: (route.kind, name, at),
            called: within(rule, at).into(),
            wanted: wanted.clone(),
            backends: rule.backends.clone(),
            clusters: rule.backends.iter().map(cluster).collect(),
        }
    };
    let rules: Vec<_> = route.rules.iter().enumerate().filter(|rule| compared(&rule)).collect();
    rules.into_iter().map(&mut split).collect()
}

/// Where the requests of a rule go.
struct Found<'a> {
    shares: Vec<Share>,
    mirrors: Vec<Mirror>,
    /// The sum of the weights of all, those that lead nowhere among them.
    weights: u64,
    /// The first service that requests go to: what the rule does not say is as that says.
    first: Option<&'a Arc<Service>>,
}

fn backends<'a>(
    route: &RouteDraft,
    (rule, at): (usize, At),
    resolver: &mut Resolver<'a>,
    unresolved: &mut Vec<Unresolved>,
) -> Found<'a> {
    let mut found = Found { shares: Vec::new(), mirrors: Vec::new(), weights: 0, first: None };
    let rolled = resolver.judge().rolled(route, rule);
    let rule = &route.rules[rule];
    for (i, backend) in rule.backends.iter().enumerate() {
        let weight = if rolled.contains_key(&i) { 0 } else { backend.weight };
        found.weights += u64::from(weight);
        match resolver.backend(route, &backend.target, at.mesh) {
            // Its connections are begun with TLS by whoever goes there.
            Ok((service, port))
                if route.kind == Kind::TlsRoute
                    && !at.secure
                    && resolver.has_policy(service, port) =>
            {
                let message = format!("{}:{port} has a BackendTLSPolicy", service.key);
                unresolved.push(Unresolved { reason: "UnsupportedValue", message });
            }
            Ok((service, port)) if weight > 0 => {
                found.first = found.first.or(Some(service));
                let cluster = cluster_name(&service.key, port);
                let edits = edits(rule, backend);
                found.shares.push(Share { cluster, weight, edits });
            }
            Ok(_) => {}
            Err(why) => unresolved.push(why),
        }
    }
    for mirror in &rule.mirrors {
        match resolver.backend(route, &mirror.target, at.mesh) {
            Ok((service, port)) => found.mirrors.push(Mirror {
                cluster: cluster_name(&service.key, port),
                millionths: mirror.millionths,
                shadow_host: false,
            }),
            Err(why) => unresolved.push(why),
        }
    }
    found
}

/// What is nearest to the endpoint comes first, as with Envoy.
fn edits(rule: &RuleDraft, backend: &BackendDraft) -> Option<Arc<Edits>> {
    let both = |own: &[_], around: &[_]| [own, around].concat();
    let edits = Edits {
        request: both(&backend.edits.request, &rule.edits.request),
        response: both(&backend.edits.response, &rule.edits.response),
        host: rule.edits.host.clone(),
        path: rule.edits.path.clone(),
    };
    (!edits.is_empty()).then(|| Arc::new(edits))
}

fn routes(
    route: &RouteDraft,
    rule: &RuleDraft,
    one: &MatchDraft,
    found: &Found<'_>,
    at: At,
) -> Vec<Route> {
    let MatchDraft { path, conditions, .. } = one;
    let of = |action: Action| Route {
        conditions: (!conditions.is_empty()).then(|| Box::new(conditions.clone())),
        action,
        cors: rule.cors.clone(),
        fault: route.fault.clone(),
        rate_limit: route.rate_limit.clone(),
        ..Route::to(path.clone(), "".into())
    };
    let answered = || {
        let response = rule.edits.response.clone();
        let edits = Edits { response, ..Edits::default() };
        (!edits.is_empty()).then(|| Arc::new(edits))
    };
    if let Some(redirect) = &rule.redirect {
        // Where neither a port nor a scheme is said it is the listener's
        // (`HTTPRequestRedirectFilter.port`). With a scheme it is that one's own, which both our proxy
        // and Envoy leave out unless the client's host says another.
        let usual = if at.secure { 443 } else { 80 };
        let own = redirect.scheme.is_none().then_some(at.port).filter(|port| *port != usual);
        let redirect =
            Redirect { port: redirect.port.or(own), edits: answered(), ..redirect.clone() };
        return vec![of(Action::Redirect(redirect))];
    }
    // Requests of backends that cannot be used fail (`HTTPRouteRule.backendRefs`,
    // `GRPCRouteRule.backendRefs`).
    let status = if route.kind == Kind::GrpcRoute { 503 } else { 500 };
    let failing = || of(Action::Respond(Respond { status, body: [].into(), edits: None }));
    if found.shares.is_empty() {
        return vec![failing()];
    }
    let going: u64 = found.shares.iter().map(|share| u64::from(share.weight)).sum();
    let mut forward = of(Action::Forward(found.shares.clone()));
    timed(rule, route.hedge, found, &mut forward);
    forward.mirrors.clone_from(&found.mirrors);
    forward.session.clone_from(&rule.session);
    if going == found.weights {
        return vec![forward];
    }
    let part = u32::try_from((going * WHOLE + found.weights / 2) / found.weights).unwrap_or(0);
    forward.conditions.get_or_insert_default().millionths = Some(part);
    vec![forward, failing()]
}

/// Limits in time, retries and what is hashed: what the rule says, and what it does not say as the
/// first service it goes to.
fn timed(rule: &RuleDraft, hedge: Option<bool>, found: &Found<'_>, route: &mut Route) {
    let policy = found.first.map(|service| &service.policy);
    let wanted = policy.map(|policy| policy.timeouts).unwrap_or_default();
    let whole = rule.timeout.or(wanted.request).filter(|time| !time.is_zero());
    let by_service = || policy.and_then(|policy| policy.retries.clone());
    let retries = rule.retries.clone().unwrap_or_else(by_service);
    (route.timeout, route.retries) = match (rule.try_timeout, retries) {
        // Of a single try it is the limit on the whole.
        (Some(each), None) if !each.is_zero() => {
            (Some(whole.map_or(each, |whole| whole.min(each))), None)
        }
        (each, retries) => {
            let limited = |retries: Retries| {
                let per_try_timeout = each.or(retries.per_try_timeout);
                let per_try_timeout = per_try_timeout.filter(|each| !each.is_zero());
                let hedge = hedge.unwrap_or(retries.hedge) && per_try_timeout.is_some();
                Retries { per_try_timeout, hedge, ..retries }
            };
            (whole, retries.map(limited))
        }
    };
    route.idle_timeout = wanted.idle;
    if let Some(service) = found.first {
        let affinity = service.traffic.affinity_secs.is_some();
        let (_, on) = service.policy.balancing(affinity, portolan_model::Balancer::RoundRobin);
        route.hash = HashPolicy::told_by(on);
    }
}
