//! Gateway -> draft.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use super::super::api::{BackendRef, Frontend, FrontendTls, GROUP, Gateway, Listener, ListenerTls};
use super::super::draft::{
    ClientsDraft, From, GatewayApiDraft, GatewayDraft, ListenerDraft, TargetRef, TlsDraft,
};
use super::super::selector::Selector;
use super::{at_most, backends, hostname, meta};
use crate::convert::{check_subdomain, port_number};
use crate::object::Fault;

/// Most listeners of a Gateway, and most addresses (CRD).
const MAX_LISTENERS: usize = 64;
const MAX_ADDRESSES: usize = 16;
/// Most references to authorities (CRD).
const MAX_AUTHORITIES: usize = 8;

/// Converts a Gateway.
///
/// # Errors
/// The first field that forbids it.
pub fn convert(gateway: &Gateway) -> Result<GatewayApiDraft, Fault> {
    let spec = &gateway.spec;
    at_most("spec.listeners", spec.listeners.len(), MAX_LISTENERS)?;
    at_most("spec.addresses", spec.addresses.len(), MAX_ADDRESSES)?;
    let meta = meta(&gateway.metadata, true)?;
    let mut listeners: Vec<ListenerDraft> = Vec::new();
    for (i, said) in spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{i}]");
        let read = listener(&field, said, &meta.namespace)?;
        if listeners.iter().any(|known| known.name == read.name) {
            let reason = format!("{:?} stands twice", said.name);
            return Err(Fault::rejected(format!("{field}.name"), reason));
        }
        let same = |known: &&ListenerDraft| {
            (known.port, &known.protocol, &known.hostname)
                == (read.port, &read.protocol, &read.hostname)
        };
        if let Some(first) = listeners.iter().find(same) {
            let reason =
                format!("port, protocol and hostname are those of listener {:?}", first.name);
            return Err(Fault::rejected(field, reason));
        }
        listeners.push(read);
    }
    let (mut addresses, mut unusable) = (Vec::new(), Vec::new());
    for said in &spec.addresses {
        match (said.kind.as_deref().unwrap_or("IPAddress"), said.value.parse::<IpAddr>()) {
            ("IPAddress", Ok(address)) if !addresses.contains(&address) => addresses.push(address),
            ("IPAddress", Ok(_)) => {}
            ("IPAddress", Err(_)) if said.value.is_empty() => {}
            ("IPAddress", Err(_)) => unusable.push(format!("{:?} is not an address", said.value)),
            (other, _) => unusable.push(format!("addresses of type {other} are not supported")),
        }
    }
    let frontend = spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let (clients, clients_of_ports) = match frontend {
        None => (None, BTreeMap::new()),
        Some(said) => frontend_tls("spec.tls.frontend", said, &meta.namespace)?,
    };
    Ok(GatewayApiDraft::Gateway(GatewayDraft {
        meta,
        clients,
        clients_of_ports,
        class: spec.gateway_class_name.as_str().into(),
        addresses,
        unusable,
        listeners,
    }))
}

/// What is asked of clients at all ports and at some.
type Clients = (Option<ClientsDraft>, BTreeMap<u16, Option<ClientsDraft>>);

fn frontend_tls(field: &str, said: &Frontend, namespace: &str) -> Result<Clients, Fault> {
    at_most(&format!("{field}.perPort"), said.per_port.len(), MAX_LISTENERS)?;
    let all = clients(&format!("{field}.default.validation"), &said.default, namespace)?;
    let mut of_ports = BTreeMap::new();
    for (i, said) in said.per_port.iter().enumerate() {
        let field = format!("{field}.perPort[{i}]");
        let port = port_number(&format!("{field}.port"), said.port)?;
        let own = clients(&format!("{field}.tls.validation"), &said.tls, namespace)?;
        if of_ports.insert(port, own).is_some() {
            return Err(Fault::rejected(format!("{field}.port"), format!("{port} stands twice")));
        }
    }
    Ok((all, of_ports))
}

fn clients(
    field: &str,
    said: &FrontendTls,
    namespace: &str,
) -> Result<Option<ClientsDraft>, Fault> {
    let Some(said) = &said.validation else { return Ok(None) };
    let name = format!("{field}.caCertificateRefs");
    at_most(&name, said.ca_certificate_refs.len(), MAX_AUTHORITIES)?;
    if said.ca_certificate_refs.is_empty() {
        return Err(Fault::rejected(name, "must not be empty"));
    }
    let unsupported = match said.mode.as_deref() {
        None | Some("AllowValidOnly") => None,
        Some("AllowInsecureFallback") => {
            Some("clients whose certificates are not valid are not let in".to_owned())
        }
        Some(other) => {
            let reason = format!("{other:?} is not AllowValidOnly or AllowInsecureFallback");
            return Err(Fault::rejected(format!("{field}.mode"), reason));
        }
    };
    let refs = said.ca_certificate_refs.iter().enumerate();
    let target = |(i, said): (usize, &BackendRef)| {
        let target = backends::target(&format!("{name}[{i}]"), said, namespace)?;
        Ok(TargetRef { kind: said.kind.as_deref().unwrap_or("ConfigMap").into(), ..target })
    };
    let authorities = refs.map(target).collect::<Result<_, Fault>>()?;
    Ok(Some(ClientsDraft { authorities, unsupported }))
}

fn listener(field: &str, said: &Listener, namespace: &str) -> Result<ListenerDraft, Fault> {
    check_subdomain(&format!("{field}.name"), &said.name)?;
    let named = said.hostname.as_deref().filter(|name| !name.is_empty());
    let read = |name| hostname(&format!("{field}.hostname"), name);
    let hostname = named.map(read).transpose()?;
    if hostname.is_some() && matches!(&*said.protocol, "TCP" | "UDP") {
        let reason = format!("must not be set with protocol {}", said.protocol);
        return Err(Fault::rejected(format!("{field}.hostname"), reason));
    }
    let allowed = said.allowed_routes.clone().unwrap_or_default();
    Ok(ListenerDraft {
        name: said.name.as_str().into(),
        hostname,
        port: port_number(&format!("{field}.port"), said.port)?,
        protocol: said.protocol.as_str().into(),
        from: from(&format!("{field}.allowedRoutes.namespaces"), &allowed.namespaces)?,
        kinds: allowed
            .kinds
            .iter()
            .map(|kind| (kind.group.as_deref().unwrap_or(GROUP).into(), kind.kind.as_str().into()))
            .collect(),
        tls: said
            .tls
            .as_ref()
            .map(|said| tls(&format!("{field}.tls"), said, namespace))
            .transpose()?,
    })
}

fn tls(field: &str, said: &ListenerTls, namespace: &str) -> Result<TlsDraft, Fault> {
    let passthrough = match said.mode.as_deref().unwrap_or("Terminate") {
        "Terminate" => false,
        "Passthrough" => true,
        other => {
            let reason = format!("{other:?} is not Terminate or Passthrough");
            return Err(Fault::rejected(format!("{field}.mode"), reason));
        }
    };
    at_most(&format!("{field}.certificateRefs"), said.certificate_refs.len(), MAX_LISTENERS)?;
    let mut certificates = Vec::with_capacity(said.certificate_refs.len());
    for (i, said) in said.certificate_refs.iter().enumerate() {
        let field = format!("{field}.certificateRefs[{i}]");
        let target = backends::target(&field, said, namespace)?;
        let kind = said.kind.as_deref().unwrap_or("Secret").into();
        certificates.push(TargetRef { kind, ..target });
    }
    let asked = [
        ("frontendValidation", said.frontend_validation.is_some()),
        ("options", said.options.as_ref().is_some_and(|options| *options != json!({}))),
    ];
    let unsupported = asked.into_iter().find(|(_, asked)| *asked);
    let unsupported = unsupported.map(|(name, _)| format!("tls.{name} is not supported"));
    Ok(TlsDraft { passthrough, certificates, unsupported })
}

fn from(field: &str, said: &Option<super::super::api::RouteNamespaces>) -> Result<From, Fault> {
    let Some(said) = said else { return Ok(From::Same) };
    match said.from.as_deref().unwrap_or("Same") {
        "Same" => Ok(From::Same),
        "All" => Ok(From::All),
        "None" => Ok(From::None),
        "Selector" => {
            let field = format!("{field}.selector");
            let selector =
                said.selector.as_ref().ok_or_else(|| Fault::rejected(&*field, "missing"))?;
            Selector::read(&field, selector).map(From::Selector)
        }
        other => {
            let reason = format!("{other:?} is not Same, All, Selector or None");
            Err(Fault::rejected(format!("{field}.from"), reason))
        }
    }
}
