//! One copy of each text that many objects repeat: names of nodes, pods, zones, ports and
//! namespaces.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use portolan_model::{Endpoint, Hints, Pod, Slice};

use crate::convert::{Draft, SliceDraft};

/// Values since the last look at which of them nobody uses any more.
const SWEEP_AFTER: usize = 4096;

/// Shares equal values.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: Pool<str>,
    hints: Pool<Hints>,
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// Size after the last sweep.
    swept: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), swept: 0 }
    }
}

impl Interner {
    /// The draft with every text that others may repeat in its one copy.
    pub(crate) fn draft(&mut self, draft: Draft) -> Draft {
        match draft {
            Draft::Slice(SliceDraft { service, slice }) => {
                let namespace = self.texts.share(Arc::clone(service.namespace()));
                let mut slice = Arc::unwrap_or_clone(slice);
                self.slice(&mut slice);
                Draft::Slice(SliceDraft {
                    service: service.sharing(&namespace),
                    slice: Arc::new(slice),
                })
            }
            Draft::Service(mut service) => {
                let namespace = self.texts.share(Arc::clone(service.key.namespace()));
                service.key = service.key.sharing(&namespace);
                for port in &mut service.ports {
                    self.texts.replace(&mut port.name);
                }
                Draft::Service(service)
            }
            Draft::Pod(pod) => {
                let Pod { namespace, name, mut addresses, mut node } = Arc::unwrap_or_clone(pod);
                let (namespace, name) = (self.texts.share(namespace), self.texts.share(name));
                self.texts.replace(&mut node);
                addresses.shrink_to_fit();
                Draft::Pod(Arc::new(Pod { namespace, name, addresses, node }))
            }
            Draft::Namespace(..) | Draft::Node(_) | Draft::GatewayApi(_) => draft,
        }
    }

    fn slice(&mut self, slice: &mut Slice) {
        self.texts.replace(&mut slice.cluster);
        for port in &mut slice.ports {
            port.name = self.texts.share(Arc::clone(&port.name));
        }
        slice.ports.shrink_to_fit();
        slice.endpoints.shrink_to_fit();
        for Endpoint { node, pod, zone, hints, .. } in &mut slice.endpoints {
            self.texts.replace(node);
            self.texts.replace(pod);
            self.texts.replace(zone);
            self.hints.replace(hints);
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn replace(&mut self, value: &mut Option<Arc<T>>) {
        if let Some(value) = value {
            *value = self.share(Arc::clone(value));
        }
    }

    fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.swept * 2 + SWEEP_AFTER {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.swept = self.values.len();
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one_and_those_nobody_uses_are_dropped() {
        let mut pool = Pool::<str>::default();
        let first = pool.share("zone-a".into());
        let second = pool.share("zone-a".into());
        assert!(Arc::ptr_eq(&first, &second));
        for n in 0..3 * SWEEP_AFTER {
            pool.share(format!("node-{n}").into());
        }
        assert!(pool.values.len() <= SWEEP_AFTER + 1, "{}", pool.values.len());
        assert!(Arc::ptr_eq(&first, &pool.share("zone-a".into())), "what is used stays");
    }
}
