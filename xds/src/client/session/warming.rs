//! What is in force while something that a resource refers to is still missing (Envoy's warming).

use std::sync::Arc;

use portolan_model::traffic::{ResourceName, TrafficConfig};

use super::Session;

impl Session {
    /// What may be in force after `last` was: the configuration, but for listeners and clusters
    /// that refer to something that is still missing. Those stay as they were, with what they
    /// referred to (Envoy's warming); but not a listener that lets in other clients now: without its
    /// certificate it serves nobody.
    #[must_use]
    pub fn in_force(&self, last: &TrafficConfig) -> TrafficConfig {
        let mut config = self.config.clone();
        let is_cold = |routes: &ResourceName| !self.config.routes.contains_key(routes);
        let is_missing = |secret: &ResourceName| !self.config.secrets.contains_key(secret);
        let keep_secrets =
            |config: &mut TrafficConfig, names: &mut dyn Iterator<Item = &ResourceName>| {
                for name in names.filter(|name| is_missing(name)) {
                    if let Some(secret) = last.secrets.get(name) {
                        config.secrets.insert(name.clone(), Arc::clone(secret));
                    }
                }
            };
        for (name, listener) in &self.config.listeners {
            let cold = listener.route_tables().any(is_cold) || listener.secrets().any(is_missing);
            let old = last.listeners.get(name);
            let Some(old) = old.filter(|old| cold && !listener.admits_otherwise(old)) else {
                continue;
            };
            let gone = old.route_tables().filter(|routes| is_cold(routes));
            let tables = gone.map(|routes| Some((routes, last.routes.get(routes)?)));
            let Some(tables) = tables.collect::<Option<Vec<_>>>() else { continue };
            for (routes, table) in tables {
                config.routes.insert(routes.clone(), Arc::clone(table));
            }
            keep_secrets(&mut config, &mut old.secrets());
            config.listeners.insert(name.clone(), Arc::clone(old));
        }
        for (name, cluster) in &self.config.clusters {
            let cold = !self.config.endpoints.contains_key(&cluster.endpoints)
                || cluster.secrets().any(is_missing);
            let Some(old) = last.clusters.get(name).filter(|_| cold) else { continue };
            keep_secrets(&mut config, &mut old.secrets());
            if !self.config.endpoints.contains_key(&old.endpoints) {
                let Some(set) = last.endpoints.get(&old.endpoints) else { continue };
                config.endpoints.insert(old.endpoints.clone(), Arc::clone(set));
            }
            config.clusters.insert(name.clone(), Arc::clone(old));
        }
        config
    }

    /// Whether everything that is referred to is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let mut named = self.config.listeners.values().flat_map(|l| l.route_tables());
        let routes = named.all(|routes| self.config.routes.contains_key(routes));
        self.is_begun()
            && routes
            && self.config.named_secrets().all(|name| self.config.secrets.contains_key(name))
            && self
                .config
                .clusters
                .values()
                .all(|c| self.config.endpoints.contains_key(&c.endpoints))
    }
}
