//! The example manifests: which endpoints they list, and the same text with other ports. Reads
//! EndpointSlices as far as the shop needs them; judging manifests is the control plane's work.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Backend, Kind};

/// Any object; a Service has its ports in its spec, so that `ports` here are those of a slice.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    kind: String,
    metadata: Metadata,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    /// Of a `List`.
    items: Vec<Object>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: String,
    port: Spanned<u16>,
    app_protocol: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<Ipv4Addr>,
    conditions: Conditions,
    target_ref: TargetRef,
}

#[derive(Debug, Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct TargetRef {
    name: String,
}

/// Every port of every endpoint that a manifest lists, at its address as written.
pub(super) fn backends(text: &str) -> Result<Vec<Backend>, String> {
    let mut backends = Vec::new();
    for slice in slices(text)? {
        let service = slice.metadata.labels.get("kubernetes.io/service-name");
        let service = service.ok_or("an EndpointSlice without kubernetes.io/service-name")?;
        for port in &slice.ports {
            let kind = kind(&port.app_protocol)?;
            for endpoint in &slice.endpoints {
                backends.extend(endpoint.addresses.iter().map(|address| Backend {
                    namespace: slice.metadata.namespace.clone(),
                    service: service.clone(),
                    endpoint: endpoint.target_ref.name.clone(),
                    port_name: port.name.clone(),
                    address: SocketAddr::new(IpAddr::V4(*address), port.port.value),
                    // A condition that is left out counts as true.
                    ready: endpoint.conditions.ready.unwrap_or(true),
                    kind,
                }));
            }
        }
    }
    Ok(backends)
}

/// The same text, comments and all, with the ports of its EndpointSlices replaced. The parser
/// says where they stand, so that nothing else that looks like a port is touched.
pub(super) fn with_ports(text: &str, ports: &BTreeMap<u16, u16>) -> Result<String, String> {
    let mut places = Vec::new();
    for slice in slices(text)? {
        for port in &slice.ports {
            let start = offset(text, port.port.defined.line(), port.port.defined.column())
                .ok_or("a port at an unknown place")?;
            places.push((start, port.port.value));
        }
    }
    places.sort_unstable();
    let mut rewritten = String::with_capacity(text.len());
    let mut copied = 0;
    for (start, port) in places {
        let written = port.to_string();
        let before = text.get(copied..start).ok_or("ports that overlap")?;
        let after = text.get(start..).and_then(|rest| rest.strip_prefix(written.as_str()));
        let after = after.ok_or_else(|| format!("port {port} is not written in plain digits"))?;
        let replacement = ports.get(&port).ok_or_else(|| format!("port {port} is not in use"))?;
        rewritten.push_str(before);
        rewritten.push_str(&replacement.to_string());
        copied = text.len() - after.len();
    }
    rewritten.push_str(text.get(copied..).unwrap_or_default());
    Ok(rewritten)
}

fn slices(text: &str) -> Result<Vec<Object>, String> {
    let documents: Vec<Object> =
        serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let objects = documents.into_iter().flat_map(|mut document| {
        let items = std::mem::take(&mut document.items);
        std::iter::once(document).chain(items)
    });
    Ok(objects.filter(|object| object.kind == "EndpointSlice").collect())
}

fn kind(app_protocol: &str) -> Result<Kind, String> {
    match app_protocol {
        "http" => Ok(Kind::Http),
        "grpc" | "kubernetes.io/h2c" => Ok(Kind::Grpc),
        "tcp" => Ok(Kind::Tcp),
        other => Err(format!("no backend speaks {other:?}")),
    }
}

/// Byte offset of a place; lines and columns count from 1, columns in characters.
fn offset(text: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.checked_sub(1)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let (in_line, _) = text.get(start..)?.char_indices().nth(column)?;
    Some(start + in_line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::MANIFESTS;

    const LIST: &str = "\
# port: 8080 in a comment – stays
kind: List
items:
- kind: Service
  spec: {ports: [{name: http, port: 8080, targetPort: 8080}]}
- endpoints:
  - addresses: [127.10.0.1]
    conditions: {ready: false}
    targetRef: {kind: Pod, name: x-1}
  kind: EndpointSlice
  metadata:
    labels: {kubernetes.io/service-name: x}
    namespace: shop
    ownerReferences: [{kind: Service}]
  ports:
  - {appProtocol: http, name: ä, port: 8080}
  - {appProtocol: tcp, name: b, port: 81}
---
kind: ConfigMap
data: {port: 8080}
";

    #[test]
    fn only_the_ports_of_slices_are_replaced() {
        let rewritten = with_ports(LIST, &[(8080, 9), (81, 65_000)].into()).expect("readable");
        let expected = LIST
            .replace("name: ä, port: 8080}", "name: ä, port: 9}")
            .replace("port: 81}", "port: 65000}");
        assert_eq!(rewritten, expected);
    }

    #[test]
    fn a_slice_that_cannot_be_rewritten_is_refused_rather_than_left_as_it_is() {
        let none = with_ports(LIST, &BTreeMap::new()).expect_err("no such port");
        assert_eq!(none, "port 8080 is not in use");
        let hexadecimal = LIST.replace("port: 81}", "port: 0x51}");
        let odd = with_ports(&hexadecimal, &[(8080, 9), (81, 9)].into()).expect_err("hexadecimal");
        assert_eq!(odd, "port 81 is not written in plain digits");
    }

    #[test]
    fn every_example_is_the_same_with_its_own_ports_and_lists_the_same_endpoints_with_others() {
        for (file, text) in MANIFESTS {
            let listed = backends(text).expect(file);
            let ports = listed.iter().map(|backend| backend.address.port());
            let same: BTreeMap<u16, u16> = ports.clone().map(|port| (port, port)).collect();
            assert_eq!(with_ports(text, &same).expect(file), *text);

            let other: BTreeMap<u16, u16> = ports.map(|port| (port, port + 20_000)).collect();
            let mut expected = listed;
            for backend in &mut expected {
                backend.address.set_port(backend.address.port() + 20_000);
            }
            let rewritten = with_ports(text, &other).expect(file);
            assert_eq!(backends(&rewritten).expect(file), expected);
        }
    }
}
