//! Ports of a Service: names, numbers and protocols as an API server checks them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServicePort as K8sPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use portolan_model::name::validate_label;
use portolan_model::{AppProtocol, ServicePort};

use super::{invalid_name, port_number, protocol};
use crate::object::Fault;

/// Converts and checks the ports of a service.
pub(super) fn convert(listed: &[K8sPort]) -> Result<Vec<ServicePort>, Fault> {
    let mut ports = Vec::with_capacity(listed.len());
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in listed.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        let converted = convert_one(&field, port, listed.len() > 1)?;
        if let Some(name) = &converted.name
            && !names.insert(name.clone())
        {
            return Err(Fault::rejected(format!("{field}.name"), format!("{name:?} stands twice")));
        }
        if !numbers.insert((converted.protocol, converted.port)) {
            let reason = format!("{}/{} stands twice", converted.port, converted.protocol);
            return Err(Fault::rejected(format!("{field}.port"), reason));
        }
        ports.push(converted);
    }
    Ok(ports)
}

/// The numbers of `targetPort`, by port; that of the port itself where nothing is said, and `None` of
/// a name.
pub(super) fn targets(ports: &[K8sPort]) -> Vec<Option<u16>> {
    let number = |port: &K8sPort| match &port.target_port {
        Some(IntOrString::String(_)) => None,
        Some(IntOrString::Int(number)) if *number != 0 => u16::try_from(*number).ok(),
        _ => u16::try_from(port.port).ok(),
    };
    ports.iter().map(number).collect()
}

fn convert_one(field: &str, port: &K8sPort, named: bool) -> Result<ServicePort, Fault> {
    let name = port.name.as_deref().filter(|n| !n.is_empty());
    match name {
        Some(name) => validate_label(name).map_err(invalid_name(&format!("{field}.name")))?,
        None if named => {
            let reason = "missing, every port needs a name when there are several";
            return Err(Fault::rejected(format!("{field}.name"), reason));
        }
        None => {}
    }
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            port_number(&format!("{field}.targetPort"), *number)?;
        }
        Some(IntOrString::String(text)) if text.is_empty() || text.len() > 15 => {
            let reason = format!("{text:?} is not a port name of 1 to 15 characters");
            return Err(Fault::rejected(format!("{field}.targetPort"), reason));
        }
        Some(IntOrString::String(_)) | None => {}
    }
    Ok(ServicePort {
        name: name.map(Into::into),
        protocol: protocol(&format!("{field}.protocol"), port.protocol.as_deref())?,
        port: port_number(&format!("{field}.port"), port.port)?,
        app_protocol: port.app_protocol.as_deref().map(AppProtocol::from_word),
        node_port: match port.node_port {
            None | Some(0) => None,
            Some(number) => Some(port_number(&format!("{field}.nodePort"), number)?),
        },
    })
}
