//! Routes -> drafts.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::policy::{BackOff, Retries, RetryOn};

use super::super::api::{self, GROUP};
use super::super::draft::{GatewayApiDraft, MatchDraft, ParentRef, RouteDraft, RuleDraft};
use super::filters::{self, Site};
use super::{annotations, at_most, backends, duration, hostname, matches, meta, session};
use crate::convert::{check_label, check_subdomain, port_number};
use crate::object::{Fault, Kind};

/// Most parents, hosts and rules of a route (CRD).
const MAX_PARENTS: usize = 32;
const MAX_HOSTS: usize = 16;
const MAX_RULES: usize = 16;
/// The same of names of a TLSRoute.
const MAX_NAMES: usize = 1024;
/// Most tries after the first that our policies know.
const MAX_ATTEMPTS: i32 = 10;
/// The longest pause between tries is as many times the shortest.
const BACK_OFF_GROWTH: u32 = 10;

/// Converts an HTTPRoute.
///
/// # Errors
/// The first field that forbids it.
pub fn http(route: &api::HttpRoute) -> Result<GatewayApiDraft, Fault> {
    let spec = &route.spec;
    let default = [api::HttpRouteRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&default);
    let draft = head(Kind::HttpRoute, &route.metadata, &spec.parent_refs, &spec.hostnames)?;
    let called = names(&draft);
    with_rules(draft, rules, |field, said, namespace| {
        let read = matches::http(&format!("{field}.matches"), &said.matches)?;
        let parts = Parts {
            name: said.name.as_deref(),
            filters: &said.filters,
            backends: &said.backend_refs,
            site: Site::Http,
        };
        let mut rule = rule(field, read, &parts, namespace)?;
        if rule.redirect.is_some() && !rule.backends.is_empty() {
            let reason = "must be empty beside a RequestRedirect";
            return Err(Fault::rejected(format!("{field}.backendRefs"), reason));
        }
        if let Some(said) = &said.timeouts {
            timeouts(&format!("{field}.timeouts"), said, &mut rule)?;
        }
        if let Some(said) = &said.retry {
            retries(&format!("{field}.retry"), said, &mut rule)?;
        }
        if let Some(said) = &said.session_persistence {
            kept(&format!("{field}.sessionPersistence"), said, &called(field), &mut rule)?;
        }
        Ok(rule)
    })
}

/// Converts a GRPCRoute.
///
/// # Errors
/// The first field that forbids it.
pub fn grpc(route: &api::GrpcRoute) -> Result<GatewayApiDraft, Fault> {
    let spec = &route.spec;
    let default = [api::GrpcRouteRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&default);
    let draft = head(Kind::GrpcRoute, &route.metadata, &spec.parent_refs, &spec.hostnames)?;
    let called = names(&draft);
    with_rules(draft, rules, |field, said, namespace| {
        let read = matches::grpc(&format!("{field}.matches"), &said.matches)?;
        let parts = Parts {
            name: said.name.as_deref(),
            filters: &said.filters,
            backends: &said.backend_refs,
            site: Site::Grpc,
        };
        let mut rule = rule(field, read, &parts, namespace)?;
        if let Some(said) = &said.session_persistence {
            kept(&format!("{field}.sessionPersistence"), said, &called(field), &mut rule)?;
        }
        Ok(rule)
    })
}

/// Converts a TCPRoute.
///
/// # Errors
/// The first field that forbids it.
pub fn tcp(route: &api::TcpRoute) -> Result<GatewayApiDraft, Fault> {
    let spec = &route.spec;
    of_streams(head(Kind::TcpRoute, &route.metadata, &spec.parent_refs, &[])?, &spec.rules)
}

/// Converts a TLSRoute.
///
/// # Errors
/// The first field that forbids it.
pub fn tls(route: &api::TlsRoute) -> Result<GatewayApiDraft, Fault> {
    let spec = &route.spec;
    if spec.hostnames.is_empty() {
        return Err(Fault::rejected("spec.hostnames", "missing"));
    }
    let draft = head(Kind::TlsRoute, &route.metadata, &spec.parent_refs, &spec.hostnames)?;
    of_streams(draft, &spec.rules)
}

fn of_streams(draft: RouteDraft, said: &[api::TcpRouteRule]) -> Result<GatewayApiDraft, Fault> {
    if said.len() != 1 {
        let reason = format!("{} rules, there must be one", said.len());
        return Err(Fault::rejected("spec.rules", reason));
    }
    with_rules(draft, said, |field, said, namespace| {
        let parts = Parts {
            name: said.name.as_deref(),
            filters: &[],
            backends: &said.backend_refs,
            site: Site::Backend,
        };
        if said.backend_refs.is_empty() {
            return Err(Fault::rejected(format!("{field}.backendRefs"), "missing"));
        }
        rule(field, Ok(Vec::new()), &parts, namespace)
    })
}

fn head(
    kind: Kind,
    metadata: &ObjectMeta,
    parents: &[api::ParentReference],
    hosts: &[String],
) -> Result<RouteDraft, Fault> {
    let meta = meta(metadata, true)?;
    at_most("spec.parentRefs", parents.len(), MAX_PARENTS)?;
    let most = if kind == Kind::TlsRoute { MAX_NAMES } else { MAX_HOSTS };
    at_most("spec.hostnames", hosts.len(), most)?;
    let mut read: Vec<ParentRef> = Vec::new();
    for (i, said) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{i}]");
        let parent = parent(&field, said, &meta.namespace)?;
        if read.contains(&parent) {
            return Err(Fault::rejected(field, "stands twice"));
        }
        read.push(parent);
    }
    let hostnames = hosts.iter().enumerate();
    let hostnames = hostnames.map(|(i, host)| hostname(&format!("spec.hostnames[{i}]"), host));
    // Of connections nobody knows how they ended, nor has words for what to do with them.
    let said = match kind {
        Kind::HttpRoute => annotations::read(metadata, false).0,
        Kind::GrpcRoute => annotations::read(metadata, true).0,
        _ => annotations::Said::default(),
    };
    Ok(RouteDraft {
        kind,
        hostnames: hostnames.collect::<Result<_, _>>()?,
        parents: read,
        rules: Vec::new(),
        rollback: said.rollback,
        fault: said.fault,
        rate_limit: said.rate_limit,
        hedge: said.hedge,
        meta,
    })
}

fn with_rules<T>(
    mut draft: RouteDraft,
    said: &[T],
    read: impl Fn(&str, &T, &str) -> Result<RuleDraft, Fault>,
) -> Result<GatewayApiDraft, Fault> {
    at_most("spec.rules", said.len(), MAX_RULES)?;
    let namespace = Arc::clone(&draft.meta.namespace);
    for (i, said) in said.iter().enumerate() {
        draft.rules.push(read(&format!("spec.rules[{i}]"), said, &namespace)?);
    }
    Ok(GatewayApiDraft::Route(draft))
}

fn parent(field: &str, said: &api::ParentReference, namespace: &str) -> Result<ParentRef, Fault> {
    check_subdomain(&format!("{field}.name"), &said.name)?;
    if let Some(namespace) = &said.namespace {
        check_label(&format!("{field}.namespace"), namespace)?;
    }
    let port = |port| port_number(&format!("{field}.port"), port);
    Ok(ParentRef {
        group: said.group.as_deref().unwrap_or(GROUP).into(),
        kind: said.kind.as_deref().unwrap_or("Gateway").into(),
        namespace: said.namespace.as_deref().unwrap_or(namespace).into(),
        says_namespace: said.namespace.is_some(),
        name: said.name.as_str().into(),
        section: said.section_name.as_deref().map(Into::into),
        port: said.port.map(port).transpose()?,
    })
}

/// What rules of every kind have.
struct Parts<'a> {
    name: Option<&'a str>,
    filters: &'a [api::Filter],
    backends: &'a [api::BackendRef],
    site: Site,
}

fn rule(
    field: &str,
    read: Result<Vec<MatchDraft>, String>,
    parts: &Parts<'_>,
    namespace: &str,
) -> Result<RuleDraft, Fault> {
    let (matches, not_read) = match read {
        Ok(matches) => (matches, None),
        Err(unsupported) => (Vec::new(), Some(unsupported)),
    };
    let filters = filters::convert(
        &format!("{field}.filters"),
        parts.filters,
        parts.site,
        namespace,
        &matches,
    );
    // Whether it fits the matches cannot be told of those that are not understood.
    let filters = if not_read.is_some() { filters.unwrap_or_default() } else { filters? };
    let field = format!("{field}.backendRefs");
    let (backends, of_backend) = backends::convert(&field, parts.backends, namespace, &matches)?;
    Ok(RuleDraft {
        name: parts.name.map(Into::into),
        matches,
        redirect: filters.redirect,
        edits: filters.edits,
        mirrors: filters.mirrors,
        cors: filters.cors,
        session: None,
        backends,
        timeout: None,
        try_timeout: None,
        retries: None,
        unsupported: not_read.or(filters.unsupported).or(of_backend),
    })
}

fn unsupported(rule: &mut RuleDraft, text: String) {
    rule.unsupported.get_or_insert(text);
}

/// What rules of a route are called, by their field.
fn names(draft: &RouteDraft) -> impl Fn(&str) -> String + use<> {
    let (kind, meta) = (draft.kind, draft.meta.clone());
    move |field| format!("{} {}/{} {field}", kind.as_str(), meta.namespace, meta.name)
}

/// How the clients of a rule stay with an endpoint. `called` is what the rule is called, among all.
fn kept(
    field: &str,
    said: &api::SessionPersistence,
    called: &str,
    rule: &mut RuleDraft,
) -> Result<(), Fault> {
    match session::convert(field, said, called)? {
        Ok(session) => rule.session = Some(Arc::new(session)),
        Err(text) => unsupported(rule, text),
    }
    Ok(())
}

fn timeouts(field: &str, said: &api::Timeouts, rule: &mut RuleDraft) -> Result<(), Fault> {
    let read = |name: &str, said: &Option<String>| {
        let field = format!("{field}.{name}");
        said.as_ref().map(|said| duration(&field, said)).transpose()
    };
    let request = read("request", &said.request)?;
    let each = read("backendRequest", &said.backend_request)?;
    if let (Some(request), Some(each)) = (request, each)
        && !request.is_zero()
        && each > request
    {
        let reason = format!("{each:?} is more than the {request:?} of the whole request");
        return Err(Fault::rejected(format!("{field}.backendRequest"), reason));
    }
    rule.timeout = request;
    rule.try_timeout = each;
    Ok(())
}

/// Connections that fail are a reason whatever the codes (`HTTPRouteRetry`).
fn retries(field: &str, said: &api::Retry, rule: &mut RuleDraft) -> Result<(), Fault> {
    let mut codes = Vec::new();
    for (i, code) in said.codes.iter().enumerate() {
        let valid = u16::try_from(*code).ok().filter(|code| (400..600).contains(code));
        codes.push(valid.ok_or_else(|| {
            let reason = format!("{code} is not one of 400 to 599");
            Fault::rejected(format!("{field}.codes[{i}]"), reason)
        })?);
    }
    codes.sort_unstable();
    codes.dedup();
    let attempts = said.attempts.unwrap_or(1);
    if !(0..=MAX_ATTEMPTS).contains(&attempts) {
        unsupported(rule, format!("{field}.attempts: {attempts} is not in 0..={MAX_ATTEMPTS}"));
        return Ok(());
    }
    let pause = said.backoff.as_ref().map(|said| duration(&format!("{field}.backoff"), said));
    let pause: Option<Duration> = pause.transpose()?.filter(|pause| !pause.is_zero());
    let mut on = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset];
    if !codes.is_empty() {
        on.push(RetryOn::StatusCodes);
    }
    rule.retries = Some((attempts > 0).then(|| Retries {
        attempts: u32::try_from(attempts).unwrap_or(1),
        on,
        status_codes: codes,
        per_try_timeout: None,
        hedge: false,
        back_off: pause.map(|base| BackOff { base, max: base * BACK_OFF_GROWTH }),
    }));
    Ok(())
}
