//! Routes of services that clients of one namespace get otherwise (GEP-1426, "consumer routes").

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use imbl::OrdMap;

use super::{Catalog, Name};
use crate::resource::{Encoded, ResourceType, route};
use crate::viewer::Viewer;

/// What clients of a namespace get in place of what others get.
#[derive(Clone, Debug, Default)]
pub(super) struct Consumer {
    /// Encoded virtual hosts of the HTTP route table.
    pub(super) hosts: OrdMap<Name, Bytes>,
    /// Route tables of gRPC targets.
    pub(super) targets: OrdMap<Name, Encoded>,
    /// The HTTP route table, once one of them has asked for it.
    table: Arc<OnceLock<Encoded>>,
}

impl Consumer {
    /// The same before anybody has asked for its table.
    pub(super) fn renewed(&self) -> Self {
        Self { table: Arc::default(), ..self.clone() }
    }

    /// The hosts of all, with its own in the place of theirs.
    fn hosts(&self, all: &OrdMap<Name, Bytes>) -> OrdMap<Name, Bytes> {
        let own = self.hosts.iter().filter(|(name, _)| all.contains_key(*name));
        own.fold(all.clone(), |hosts, (name, host)| hosts.update(name.clone(), host.clone()))
    }
}

impl Catalog {
    /// What this client gets otherwise, if its namespace has routes of its own.
    pub(super) fn consumer(&self, viewer: &Viewer) -> Option<&Consumer> {
        self.consumers.get(viewer.namespace.as_deref()?)
    }

    /// A route table as this client gets it.
    pub(super) fn routes_for(&self, name: &str, viewer: &Viewer) -> Option<Encoded> {
        let consumer = self.consumer(viewer);
        let is_http = name == route::HTTP_ROUTES;
        match consumer {
            _ if is_http && viewer.is_restricted() => Some(self.visible_routes(consumer, viewer)),
            Some(consumer) if is_http => {
                let table = || route::encode_http(&consumer.hosts(&self.hosts));
                Some(consumer.table.get_or_init(table).clone())
            }
            consumer => {
                let own = consumer.and_then(|consumer| consumer.targets.get(name));
                own.or_else(|| self.lookup(ResourceType::Route, name)).cloned()
            }
        }
    }

    /// The HTTP route table without the hosts that the client may not see.
    fn visible_routes(&self, consumer: Option<&Consumer>, viewer: &Viewer) -> Encoded {
        let all = consumer.map_or_else(|| self.hosts.clone(), |own| own.hosts(&self.hosts));
        let visible = |name: &Name| viewer.may_see(ResourceType::Cluster, name);
        let hosts: OrdMap<Name, Bytes> =
            all.into_iter().filter(|(name, _)| visible(name)).collect();
        route::encode_http(&hosts)
    }
}
