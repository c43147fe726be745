//! What the tests of the xDS crate share: snapshots and catalogs made from a few words.
#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    AppProtocol, Balancer, Changes, Conditions, DnsName, Endpoint, Generation, Key, Protocol,
    Service, ServiceEntry, ServiceKey, ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_proto::envoy::discovery::DiscoveryResponse;
use portolan_proto::envoy::protobuf::Any;
use portolan_xds::catalog::Catalog;
use portolan_xds::server::session::Response;
use portolan_xds::{ListenerSpec, ListenerTarget, ResourceConfig};
use prost::Message;

/// A service with one port and these endpoints (last octet, ready).
pub(crate) fn entry(name: &str, port: u16, endpoints: &[(u8, bool)]) -> Arc<ServiceEntry> {
    let key = ServiceKey::new("shop", name).expect("a valid name");
    let kind = ServiceKind::ClusterIp(vec![IpAddr::from([10, 96, 0, 1])]);
    let port = ServicePort::new("main", Protocol::Tcp, port).speaking(AppProtocol::Http1);
    let service = Service::new(key, kind, vec![port]);
    let endpoints = endpoints.iter().map(|(octet, ready)| Endpoint {
        conditions: Conditions { ready: *ready, serving: *ready, terminating: false },
        zone: Some(format!("zone-{}", octet % 2).into()),
        ..Endpoint::at(IpAddr::from([10, 0, 0, *octet]))
    });
    let slice = Slice {
        name: format!("{name}-1").into(),
        cluster: None,
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

/// One HTTP listener, and one TCP listener to `shop/db:5432`.
pub(crate) fn config() -> ResourceConfig {
    let address = "127.0.0.1:8080".parse().expect("an address");
    let service = ServiceKey::new("shop", "db").expect("valid");
    ResourceConfig {
        zone: DnsName::parse("cluster.local").expect("valid"),
        cluster_set_zone: DnsName::parse("clusterset.local").expect("valid"),
        balancer: Balancer::LeastRequest,
        listeners: vec![
            ListenerSpec { name: "http".into(), address, target: ListenerTarget::Http },
            ListenerSpec {
                name: "db".into(),
                address,
                target: ListenerTarget::Tcp { service, port: 5432 },
            },
        ],
    }
}

/// A cluster that is written to and published step by step.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) catalog: Catalog,
    generation: Generation,
    touched: std::collections::BTreeSet<Key>,
}

impl World {
    pub(crate) fn apply(&mut self, entry: Arc<ServiceEntry>) -> &mut Self {
        self.touched.insert(Key::Service(entry.service.key.clone()));
        self.snapshot.apply(entry);
        self
    }

    pub(crate) fn delete(&mut self, name: &str) -> &mut Self {
        let key = ServiceKey::new("shop", name).expect("valid");
        self.snapshot.delete(&key);
        self.touched.insert(Key::Service(key));
        self
    }

    pub(crate) fn publish(&mut self) {
        let changes = if self.generation == Generation(0) {
            Changes::Everything
        } else {
            Changes::Keys(std::mem::take(&mut self.touched))
        };
        self.touched.clear();
        self.generation = self.generation.next();
        let snapshot = Arc::new(self.snapshot.at(self.generation));
        self.catalog = self.catalog.next(&snapshot, &changes, &config());
    }

    /// The catalog of the same content built in one go.
    pub(crate) fn rebuilt(&self) -> Catalog {
        let snapshot = Arc::new(self.snapshot.at(self.generation));
        Catalog::default().next(&snapshot, &Changes::Everything, &config())
    }
}

/// What a client reads of a response.
pub(crate) fn on_the_wire(response: &Response) -> DiscoveryResponse {
    let decode = |bytes: &[u8]| Any::decode(bytes).expect("an encoded Any");
    DiscoveryResponse {
        version_info: response.version.clone(),
        nonce: response.nonce.clone(),
        type_url: response.kind.type_url().to_owned(),
        resources: response.resources.iter().map(|r| decode(&r.any)).collect(),
        ..DiscoveryResponse::default()
    }
}
