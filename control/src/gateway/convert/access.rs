//! An AccessPolicy -> its draft.

use std::sync::Arc;

use portolan_model::name::validate_label;
use portolan_model::policy::Account;
use portolan_model::{AccessEntry, IdentityMatch, PathPattern};

use super::super::api;
use super::super::draft::{AccessDraft, GatewayApiDraft};
use super::{at_most, backend_tls, meta};
use crate::object::Fault;

/// Most rules of a policy, and most entries of each list of a rule.
const MAX_RULES: usize = 64;
const MAX_ENTRIES: usize = 64;
/// Longest identity, and longest path.
const MAX_TEXT: usize = 2048;

/// Converts a policy.
///
/// # Errors
/// The first field that forbids it.
pub fn access(policy: &api::AccessPolicy) -> Result<GatewayApiDraft, Fault> {
    let spec = &policy.spec;
    let denies = match &*spec.action {
        "Allow" => false,
        "Deny" => true,
        other => {
            let reason = format!("{other:?} is not Allow or Deny");
            return Err(Fault::rejected("spec.action", reason));
        }
    };
    let log_only = match spec.mode.as_deref() {
        None | Some("Enforce") => false,
        Some("LogOnly") => true,
        Some(other) => {
            let reason = format!("{other:?} is not Enforce or LogOnly");
            return Err(Fault::rejected("spec.mode", reason));
        }
    };
    at_most("spec.rules", spec.rules.len(), MAX_RULES)?;
    let rules = spec.rules.iter().enumerate();
    Ok(GatewayApiDraft::Access(AccessDraft {
        meta: meta(&policy.metadata, true)?,
        targets: backend_tls::targets(&spec.target_refs)?,
        denies,
        log_only,
        entries: rules
            .map(|(i, said)| entry(&format!("spec.rules[{i}]"), said))
            .collect::<Result<_, _>>()?,
    }))
}

fn entry(field: &str, said: &api::AccessRule) -> Result<AccessEntry, Fault> {
    let lists =
        [("identities", &said.identities), ("methods", &said.methods), ("paths", &said.paths)];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        return Err(Fault::rejected(
            field,
            "says nothing; identities: [\"*\"] is anybody who has proven who he is",
        ));
    }
    lists.iter().try_for_each(|(name, list)| {
        at_most(&format!("{field}.{name}"), list.len(), MAX_ENTRIES)
    })?;
    fn each<T>(
        field: &str,
        name: &str,
        list: &[String],
        read: fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Fault> {
        let one = |(i, said): (usize, &String)| {
            read(said).map_err(|why| Fault::rejected(format!("{field}.{name}[{i}]"), why))
        };
        list.iter().enumerate().map(one).collect()
    }
    Ok(AccessEntry {
        identities: each(field, "identities", &said.identities, identity)?,
        methods: each(field, "methods", &said.methods, method)?,
        paths: each(field, "paths", &said.paths, path)?,
    })
}

fn identity(said: &str) -> Result<IdentityMatch, String> {
    let wrong = || format!("{said:?} is not namespace/account, namespace/*, * or a SPIFFE id");
    if said.len() > MAX_TEXT || said.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(wrong());
    }
    if said == "*" {
        return Ok(IdentityMatch::Anyone);
    }
    if said.starts_with("spiffe://") {
        let star = said.contains('*');
        return if star { Err(wrong()) } else { Ok(IdentityMatch::Id(said.into())) };
    }
    let (namespace, name) = said.split_once('/').ok_or_else(wrong)?;
    if validate_label(namespace).is_err() || name.is_empty() || name.contains('/') {
        return Err(wrong());
    }
    if name == "*" {
        return Ok(IdentityMatch::Namespace(namespace.into()));
    }
    if name.contains('*') {
        return Err(wrong());
    }
    let namespace: Arc<str> = namespace.into();
    Ok(IdentityMatch::Account(Account { namespace: Some(namespace), name: name.into() }))
}

/// A token (RFC 9110 §9.1), as it is written: methods mind their case.
fn method(said: &str) -> Result<Arc<str>, String> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if said.is_empty() || said.len() > 64 || !said.chars().all(token) {
        return Err(format!("{said:?} is no method"));
    }
    Ok(said.into())
}

/// Whether an escape stays as it is in normalization: of something that has to be escaped, with capital
/// digits, and none that is refused.
fn is_kept_escape(after: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || matches!(b, b'A'..=b'F');
    let Some(digits) = after.get(..2).filter(|two| two.bytes().all(digit)) else { return false };
    u8::from_str_radix(digits, 16).is_ok_and(|octet| {
        let unreserved = octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
        !unreserved && !matches!(octet, 0 | b'/' | b'\\')
    })
}

/// A path as it is after normalization, or the rest of it would never be met.
fn path(said: &str) -> Result<PathPattern, String> {
    let (path, is_prefix) = said.strip_suffix('*').map_or((said, false), |path| (path, true));
    let normal = path.starts_with('/')
        && path.len() <= MAX_TEXT
        && !path.contains(['*', '?', '#', '\\'])
        && path.chars().all(|c| c.is_ascii_graphic())
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
        && path.split('%').skip(1).all(is_kept_escape);
    if !normal {
        return Err(format!(
            "{said:?} is no path as it is after normalization, nor one with a * behind"
        ));
    }
    let path = Arc::from(path);
    Ok(if is_prefix { PathPattern::Prefix(path) } else { PathPattern::Exact(path) })
}
