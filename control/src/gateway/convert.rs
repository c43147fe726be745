//! An object of the Gateway API -> its draft, with the checks that its CRD makes, or the field that
//! forbids it. What the specification leaves open and is not done here is no fault of the object: its
//! rule is marked, and the status of the route says so.

mod access;
mod annotations;
mod backend_tls;
mod backends;
mod cors;
mod filters;
mod gateway;
mod limits;
mod matches;
mod rollback;
mod routes;
mod session;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::traffic::Secret;
use portolan_runtime::certificate::{InvalidPair, Staple, certified};

use super::api;
use super::draft::{ClassDraft, GatewayApiDraft, GrantDraft, Meta, SecretDraft};
use crate::convert::{check_label, check_subdomain};
use crate::object::Fault;

pub use access::access;
pub use annotations::faults as annotation_faults;
pub use backend_tls::{authorities, policy};
pub use gateway::convert as gateway;
pub use routes::{grpc, http, tcp, tls};

/// The key of a Secret with what its issuer says of the certificate (OCSP, DER), as Istio has it.
const OCSP: &str = "tls.ocsp-staple";

/// Converts a class.
///
/// # Errors
/// The first field that forbids it.
pub fn class(class: &api::GatewayClass) -> Result<GatewayApiDraft, Fault> {
    let meta = meta(&class.metadata, false)?;
    let controller = Arc::from(&*class.spec.controller_name);
    Ok(GatewayApiDraft::Class(ClassDraft { meta, controller }))
}

/// Converts a grant.
///
/// # Errors
/// The first field that forbids it.
pub fn grant(grant: &api::ReferenceGrant) -> Result<GatewayApiDraft, Fault> {
    let (from, to) = (&grant.spec.from, &grant.spec.to);
    for (field, is_empty) in [("spec.from", from.is_empty()), ("spec.to", to.is_empty())] {
        if is_empty {
            return Err(Fault::rejected(field, "missing"));
        }
    }
    Ok(GatewayApiDraft::Grant(GrantDraft {
        meta: meta(&grant.metadata, true)?,
        from: from
            .iter()
            .map(|from| [&*from.group, &*from.kind, &*from.namespace].map(Arc::from))
            .collect(),
        to: to
            .iter()
            .map(|to| {
                let kind = (Arc::from(&*to.group), Arc::from(&*to.kind));
                (kind, to.name.as_deref().map(Arc::from))
            })
            .collect(),
    }))
}

/// Converts a Secret. What is in it is no reason to refuse it: whoever refers to it is told.
///
/// # Errors
/// A name that is none.
pub fn secret(secret: &api::Secret) -> Result<(GatewayApiDraft, Vec<Fault>), Fault> {
    let meta = meta(&secret.metadata, true)?;
    let (content, fault) = match certificate(secret) {
        Ok((certificate, fault)) => (Ok(certificate), fault),
        Err(why) => (Err(why), None),
    };
    let draft = GatewayApiDraft::Secret(SecretDraft { meta, content });
    Ok((draft, fault.into_iter().collect()))
}

/// The certificate, and what is wrong with what its issuer says of it.
fn certificate(secret: &api::Secret) -> Result<(Arc<Secret>, Option<Fault>), String> {
    let read = |name: &str| -> Result<Arc<[u8]>, String> {
        if let Some(text) = secret.string_data.get(name) {
            return Ok(text.0.as_bytes().into());
        }
        let coded = secret.data.get(name).ok_or_else(|| format!("{name}: missing"))?;
        let octets = base64::engine::general_purpose::STANDARD.decode(coded.0.trim());
        octets.map(Into::into).map_err(|_| format!("{name}: not base 64"))
    };
    let (chain, key) = (read("tls.crt")?, read("tls.key")?);
    let pair = certified(&chain, &key).map_err(|invalid| match invalid {
        InvalidPair::Apart(reason) => format!("chain and key: {reason}"),
        other => other.to_string(),
    })?;
    let staple = || -> Result<Arc<[u8]>, String> {
        let octets = read(OCSP)?;
        Staple::read(&octets, &pair.cert[0]).map_err(|invalid| invalid.to_string())?;
        Ok(octets)
    };
    let is_said = secret.data.contains_key(OCSP) || secret.string_data.contains_key(OCSP);
    // What is wrong with it is said, and the certificate goes without.
    let (ocsp, fault) = match is_said.then(staple).transpose() {
        Ok(ocsp) => (ocsp, None),
        Err(reason) => (None, Some(Fault::warning(format!("data[{OCSP}]"), reason))),
    };
    Ok((Arc::new(Secret::Certificate { chain, key, ocsp }), fault))
}

fn meta(said: &ObjectMeta, namespaced: bool) -> Result<Meta, Fault> {
    let namespace = if namespaced { said.namespace.as_deref().unwrap_or("default") } else { "" };
    let name = said.name.as_deref().unwrap_or_default();
    if namespaced {
        check_label("metadata.namespace", namespace)?;
    }
    check_subdomain("metadata.name", name)?;
    let created = said.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    Ok(Meta {
        created,
        namespace: namespace.into(),
        name: name.into(),
        uid: said.uid.as_deref().map(Into::into),
        generation: said.generation,
    })
}

/// A host: a name, or `*.` and a name, in lower case.
fn hostname(field: &str, said: &str) -> Result<Arc<str>, Fault> {
    let lower = said.to_ascii_lowercase();
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(Fault::rejected(field, format!("{said:?} is an address, not a name")));
    }
    check_subdomain(field, name)?;
    Ok(lower.into())
}

/// Refuses what is more than a list may hold.
fn at_most(field: &str, length: usize, most: usize) -> Result<(), Fault> {
    if length <= most {
        return Ok(());
    }
    Err(Fault::rejected(field, format!("{length} are more than {most}")))
}

/// A duration (GEP-2257): up to four of a number of at most five digits and `h`, `m`, `s` or `ms`.
fn duration(field: &str, said: &str) -> Result<Duration, Fault> {
    let wrong = || {
        let reason = format!("{said:?} is not a duration such as 10s, 1m30s or 500ms");
        Fault::rejected(field, reason)
    };
    let (mut rest, mut sum, mut parts) = (said, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let millis: u64 = match unit {
            u if u.starts_with("ms") => 1,
            u if u.starts_with('s') => 1000,
            u if u.starts_with('m') => 60_000,
            u if u.starts_with('h') => 3_600_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().ok().filter(|_| digits <= 5).ok_or_else(wrong)?;
        parts += 1;
        sum += Duration::from_millis(number * millis);
        rest = &unit[if millis == 1 { 2 } else { 1 }..];
    }
    if parts == 0 || parts > 4 {
        return Err(wrong());
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_the_specification_writes_them() {
        for (said, millis) in [
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("100000s", None),
            ("1h1h1h1h1h", None),
            ("1.5s", None),
            ("10", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1d", None),
        ] {
            let read = duration("f", said).ok().map(|time| time.as_millis());
            assert_eq!(read, millis.map(|millis: u64| u128::from(millis)), "{said}");
        }
    }

    #[test]
    fn hosts_are_names_with_at_most_a_star_in_front() {
        for (said, expected) in [
            ("Example.com", Some("example.com")),
            ("*.example.com", Some("*.example.com")),
            ("*", None),
            ("*.", None),
            ("a.*.com", None),
            ("10.0.0.1", None),
            ("a_b.com", None),
            ("", None),
        ] {
            assert_eq!(hostname("f", said).ok().as_deref(), expected, "{said}");
        }
    }
}
