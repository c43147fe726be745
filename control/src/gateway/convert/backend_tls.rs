//! A BackendTLSPolicy and the ConfigMaps with its authorities -> their drafts.

use std::sync::Arc;

use portolan_model::traffic::NameKind;
use portolan_runtime::certificate;

use super::super::api;
use super::super::draft::{
    AuthoritiesDraft, BackendTlsDraft, GatewayApiDraft, PolicyTargetDraft, TargetRef, TrustDraft,
};
use super::{at_most, meta};
use crate::convert::check_subdomain;
use crate::object::Fault;

/// Most of each (CRD).
const MAX_TARGETS: usize = 16;
const MAX_AUTHORITIES: usize = 8;
const MAX_NAMES: usize = 5;
/// Longest URI of a certificate (CRD).
const MAX_URI: usize = 253;
/// What of a ConfigMap is of use.
const AUTHORITIES: &str = "ca.crt";

/// Converts a policy.
///
/// # Errors
/// The first field that forbids it.
pub fn policy(policy: &api::BackendTlsPolicy) -> Result<GatewayApiDraft, Fault> {
    let meta = meta(&policy.metadata, true)?;
    let spec = &policy.spec;
    let targets = targets(&spec.target_refs)?;
    let said = &spec.validation;
    let server_name = host("spec.validation.hostname", &said.hostname)?;
    Ok(GatewayApiDraft::BackendTls(BackendTlsDraft {
        trusted: trusted(said, &meta.namespace)?,
        names: names(&said.subject_alt_names, &server_name)?,
        meta,
        targets,
        server_name,
    }))
}

/// What a policy is for.
pub(super) fn targets(said: &[api::PolicyTarget]) -> Result<Vec<PolicyTargetDraft>, Fault> {
    let field = "spec.targetRefs";
    at_most(field, said.len(), MAX_TARGETS)?;
    if said.is_empty() {
        return Err(Fault::rejected(field, "missing"));
    }
    let mut targets: Vec<PolicyTargetDraft> = Vec::with_capacity(said.len());
    for (i, said) in said.iter().enumerate() {
        check_subdomain(&format!("{field}[{i}].name"), &said.name)?;
        let target = PolicyTargetDraft {
            group: said.group.as_str().into(),
            kind: said.kind.as_str().into(),
            name: said.name.as_str().into(),
            section: said.section_name.as_deref().map(Into::into),
        };
        if targets.contains(&target) {
            return Err(Fault::rejected(format!("{field}[{i}]"), "is there twice"));
        }
        targets.push(target);
    }
    Ok(targets)
}

fn trusted(said: &api::BackendTlsValidation, namespace: &Arc<str>) -> Result<TrustDraft, Fault> {
    let (references, well_known) = ("spec.validation.caCertificateRefs", &said.well_known);
    let field = "spec.validation.wellKnownCACertificates";
    match well_known.as_deref() {
        Some("System") if said.ca_certificate_refs.is_empty() => return Ok(TrustDraft::System),
        Some("System") => return Err(Fault::rejected(field, "stands beside caCertificateRefs")),
        Some(other) => return Err(Fault::rejected(field, format!("{other:?} is not System"))),
        None if said.ca_certificate_refs.is_empty() => {
            return Err(Fault::rejected(references, "missing, and no wellKnownCACertificates"));
        }
        None => {}
    }
    at_most(references, said.ca_certificate_refs.len(), MAX_AUTHORITIES)?;
    let mut named = Vec::with_capacity(said.ca_certificate_refs.len());
    for (i, said) in said.ca_certificate_refs.iter().enumerate() {
        check_subdomain(&format!("{references}[{i}].name"), &said.name)?;
        named.push(TargetRef {
            group: said.group.as_str().into(),
            kind: said.kind.as_str().into(),
            namespace: Arc::clone(namespace),
            name: said.name.as_str().into(),
            port: None,
        });
    }
    Ok(TrustDraft::Named(named))
}

/// What certificates must be for: what is said, or the name that endpoints are asked for.
fn names(
    said: &[api::SubjectAltName],
    server_name: &Arc<str>,
) -> Result<Vec<(NameKind, Arc<str>)>, Fault> {
    let field = "spec.validation.subjectAltNames";
    at_most(field, said.len(), MAX_NAMES)?;
    let mut names = Vec::with_capacity(said.len().max(1));
    for (i, said) in said.iter().enumerate() {
        let field = format!("{field}[{i}]");
        match (&*said.type_, &said.hostname, &said.uri) {
            ("Hostname", Some(name), None) => {
                names.push((NameKind::Dns, host(&format!("{field}.hostname"), name)?));
            }
            ("URI", None, Some(uri)) => {
                names.push((NameKind::Uri, uri_of(&format!("{field}.uri"), uri)?));
            }
            ("Hostname" | "URI", ..) => {
                let reason = "needs the one of hostname and uri that its type says, and no other";
                return Err(Fault::rejected(field, reason));
            }
            (other, ..) => {
                let reason = format!("{other:?} is not Hostname or URI");
                return Err(Fault::rejected(format!("{field}.type"), reason));
            }
        }
    }
    if names.is_empty() {
        names.push((NameKind::Dns, Arc::clone(server_name)));
    }
    Ok(names)
}

/// A name without a star.
fn host(field: &str, said: &str) -> Result<Arc<str>, Fault> {
    if said.starts_with('*') {
        return Err(Fault::rejected(field, format!("{said:?}: a star is not for here")));
    }
    super::hostname(field, said)
}

/// A URI with a scheme and an authority (RFC 3986 §3).
fn uri_of(field: &str, said: &str) -> Result<Arc<str>, Fault> {
    let scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let parts = said.split_once("://");
    let good = parts.is_some_and(|(first, rest)| {
        scheme(first) && !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic())
    });
    if good && said.len() <= MAX_URI {
        return Ok(said.into());
    }
    Err(Fault::rejected(field, format!("{said:?} is not a URI with a scheme and an authority")))
}

/// Converts a ConfigMap. What is in it is no reason to refuse it: whoever refers to it is told.
///
/// # Errors
/// A name that is none.
pub fn authorities(map: &api::ConfigMap) -> Result<GatewayApiDraft, Fault> {
    let meta = meta(&map.metadata, true)?;
    let content = match map.data.get(AUTHORITIES) {
        None => Err(format!("{AUTHORITIES}: missing")),
        Some(pem) => match certificate::authorities(pem.as_bytes()) {
            Ok(_) => Ok(Arc::from(pem.as_str())),
            Err(reason) => Err(format!("{AUTHORITIES}: {reason}")),
        },
    };
    Ok(GatewayApiDraft::Authorities(AuthoritiesDraft { meta, content }))
}
