//! Certificates that listeners may name, and the listeners' side of it.

use std::path::PathBuf;
use std::sync::Arc;

use portolan_model::traffic::NameKind;
use portolan_runtime::CertificateFiles;
use portolan_xds::{CertificateSpec, ListenerSpec, ListenerTls};
use serde_json::{Map, Value};

use super::reader::Reader;

/// Most names that clients of a listener may be of.
const MAX_NAMES: usize = 16;
/// Longest name, in octets.
const MAX_NAME: usize = 253;

/// Reads `certificates`.
pub(super) fn read(r: &mut Reader) -> Vec<CertificateSpec> {
    let certificates = r.tables(
        "certificates",
        "Certificates of listeners: name, chain and key (PEM files, followed when they change), ocsp (DER \
         file with what its issuer says of it, stapled to it while that is good), trusted_ca (PEM file of authorities that clients' certificates may end in)",
        parse,
    );
    for (i, certificate) in certificates.iter().enumerate() {
        if certificates[..i].iter().any(|c| c.name == certificate.name) {
            let text = format!("the name {:?} stands twice", certificate.name);
            r.reject("certificates", &text);
        }
    }
    certificates
}

/// Rejects listeners whose certificate is none, or has no authorities for what they ask.
pub(super) fn check(r: &mut Reader, certificates: &[CertificateSpec], listeners: &[ListenerSpec]) {
    for listener in listeners {
        let Some(tls) = &listener.tls else { continue };
        let reason = match certificates.iter().find(|c| c.name == tls.certificate) {
            None => format!("tls: there is no certificate {:?}", tls.certificate),
            Some(certificate) if tls.client_ca && certificate.trusted_ca.is_none() => {
                format!("client_ca: the certificate {:?} has no trusted_ca", tls.certificate)
            }
            Some(_) => continue,
        };
        r.reject("listeners", &format!("{:?}: {reason}", listener.name));
    }
}

/// The `tls`, `client_ca` and `client_names` of a listener's table.
pub(super) fn listener_tls(table: &Map<String, Value>) -> Result<Option<ListenerTls>, String> {
    let client_ca = match table.get("client_ca") {
        None => false,
        Some(Value::Bool(client_ca)) => *client_ca,
        Some(other) => return Err(format!("client_ca: expected true or false, found {other}")),
    };
    let client_names = match table.get("client_names") {
        None => Vec::new(),
        Some(_) if !client_ca => {
            return Err("client_names: only a listener with client_ca has some".to_owned());
        }
        Some(Value::Array(names)) if (1..=MAX_NAMES).contains(&names.len()) => {
            names.iter().map(client_name).collect::<Result<_, _>>()?
        }
        Some(other) => {
            return Err(format!("client_names: expected 1 to {MAX_NAMES} names, found {other}"));
        }
    };
    match table.contains_key("tls") {
        true => {
            let certificate = text(table, "tls")?.into();
            Ok(Some(ListenerTls { certificate, client_ca, client_names }))
        }
        false if client_ca => Err("client_ca: only a listener with tls has one".to_owned()),
        false => Ok(None),
    }
}

/// A DNS name, or a URI where there is a scheme.
fn client_name(value: &Value) -> Result<(NameKind, Arc<str>), String> {
    let Value::String(name) = value else {
        return Err(format!("client_names: expected a string, found {value}"));
    };
    if name.is_empty() || name.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(format!("client_names: {name:?} is no DNS name and no URI"));
    }
    let kind = if name.contains("://") { NameKind::Uri } else { NameKind::Dns };
    Ok((kind, name.as_str().into()))
}

fn parse(value: &Value) -> Result<CertificateSpec, String> {
    let Value::Object(table) = value else {
        return Err(format!("expected a table, found {value}"));
    };
    let known = ["name", "chain", "key", "ocsp", "trusted_ca"];
    if let Some(key) = table.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(format!("{key}: unknown setting; known: {}", known.join(", ")));
    }
    let name = text(table, "name")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.len() > MAX_NAME || !name.chars().all(fits) {
        return Err(format!(
            "name: {name:?} is not up to {MAX_NAME} letters, digits, '-', '.' and '_'"
        ));
    }
    let chain = PathBuf::from(text(table, "chain")?);
    let key = PathBuf::from(text(table, "key")?);
    let optional = |key| table.contains_key(key).then(|| text(table, key).map(PathBuf::from));
    let (ocsp, trusted_ca) = (optional("ocsp").transpose()?, optional("trusted_ca").transpose()?);
    Ok(CertificateSpec {
        name: name.into(),
        files: CertificateFiles { chain, key },
        ocsp,
        trusted_ca,
    })
}

fn text<'a>(table: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match table.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(other) => Err(format!("{key}: expected a string, found {other}")),
        None => Err(format!("{key}: missing")),
    }
}
