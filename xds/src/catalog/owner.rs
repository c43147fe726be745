//! Whose a resource is, by its name, and why there is none of a name.

use portolan_model::{Protocol, Scope, ServiceKey};

use super::Catalog;
use crate::resource::ResourceType;
use crate::resource::inbound::PREFIX as INBOUND;
use crate::resource::server;
use crate::viewer::Viewer;

/// The service and port a resource is made from, as far as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub service: &'a str,
    /// The service's port.
    pub port: u16,
    /// Whether it is a service of a set of clusters.
    shared: bool,
}

/// The owner of a resource: `shop/web:80`, `clusterset/shop/web:80`, `inbound/shop/web:80`, or a
/// target name such as `web.shop.svc.cluster.local:80`. `None` for what belongs to no service.
#[must_use]
pub fn owner(name: &str) -> Option<Owner<'_>> {
    if server::address(name).is_some() {
        return None;
    }
    let (rest, port) = name.strip_prefix(INBOUND).unwrap_or(name).rsplit_once(':')?;
    let port = port.parse().ok()?;
    if let Some((rest, service)) = rest.rsplit_once('/') {
        let (scope, namespace) = rest.rsplit_once('/').unwrap_or(("", rest));
        let shared = match scope {
            "" => false,
            "clusterset" => true,
            _ => return None,
        };
        return Some(Owner { namespace, service, port, shared });
    }
    let mut labels = rest.splitn(4, '.');
    let (service, namespace, svc, zone) =
        (labels.next()?, labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc").then_some(Owner {
        namespace,
        service,
        port,
        shared: zone.starts_with("clusterset."),
    })
}

impl Owner<'_> {
    /// The service, if the names are such as a service can have.
    #[must_use]
    pub fn key(&self) -> Option<ServiceKey> {
        let scope = if self.shared { Scope::ClusterSet } else { Scope::Cluster };
        let key = ServiceKey::new(self.namespace, self.service).ok()?;
        Some(key.within(scope))
    }
}

impl Catalog {
    /// Why this client gets no resource of this name, in words for whoever reads its log.
    #[must_use]
    pub fn why_missing(&self, kind: ResourceType, name: &str, viewer: &Viewer) -> String {
        let generation = self.generation.0;
        if !viewer.may_see(kind, name) {
            return format!("{name}: this client may not see it");
        }
        if let Some(encoded) = self.lookup(kind, name) {
            let (size, limit) = (encoded.any.len(), viewer.max_resource_bytes());
            return format!("{name}: has {size} bytes, more than the {limit} this client takes");
        }
        if kind == ResourceType::Listener && server::address(name).is_some() {
            let why = "a service that this server says it serves, or the port, is not known, or it has no \
                       certificate and needs one";
            return format!("{name}: {why} (generation {generation})");
        }
        let Some(owner) = owner(name) else {
            return format!("{name}: there is none of this name in generation {generation}");
        };
        let Some(key) = owner.key() else {
            return format!("{name}: is the name of no service");
        };
        let Some(entry) = self.snapshot.lookup(&key) else {
            return format!("{name}: no service {key} in generation {generation}");
        };
        let ports: Vec<String> = (entry.service.ports.iter())
            .filter(|port| port.protocol == Protocol::Tcp)
            .map(|port| port.port.to_string())
            .collect();
        if ports.is_empty() {
            return format!("{name}: service {key} has no TCP port");
        }
        format!("{name}: service {key} has no port {}; it has {}", owner.port, ports.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn names_tell_their_service() {
        let cases = [
            ("shop/web:80", Some(("shop", "web", 80, false))),
            ("clusterset/shop/web:80", Some(("shop", "web", 80, true))),
            ("web.shop.svc.cluster.local:80", Some(("shop", "web", 80, false))),
            ("web.shop.svc.clusterset.local:80", Some(("shop", "web", 80, true))),
            ("inbound/shop/web:80", Some(("shop", "web", 80, false))),
            ("portolan/http", None),
            ("http", None),
            ("generation", None),
            ("a/b/c/d:80", None),
            ("web.shop.pod.cluster.local:80", None),
            ("web.shop:80", None),
            ("shop/web:99999", None),
            ("", None),
            (":80", None),
        ];
        for (name, expected) in cases {
            let found = owner(name).map(|o| (o.namespace, o.service, o.port, o.shared));
            assert_eq!(found, expected, "{name}");
        }
    }
}
