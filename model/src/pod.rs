//! Pods: who may be named by an address in DNS, by namespace. Owns their maps in the snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Key, Snapshot, differing};

/// A pod that has an address and has not ended, stripped to what is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name within the namespace.
    pub name: Arc<str>,
    /// Its addresses (`status.podIPs`); a dual-stack pod has one of each family.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
}

/// All pods, by namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pods(OrdMap<Arc<str>, Inhabitants>);

/// The pods of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inhabitants {
    by_name: OrdMap<Arc<str>, Arc<Pod>>,
    /// How many of them have an address: those on their node's network share it, and one that
    /// ends may overlap with one that begins.
    addresses: OrdMap<IpAddr, usize>,
}

impl Snapshot {
    /// One pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.0.get(namespace)?.by_name.get(name)
    }

    /// Every pod in order of namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.0.values().flat_map(|inhabitants| inhabitants.by_name.values())
    }

    /// Whether a pod of this namespace has this address. Costs O(log pods) and allocates nothing.
    #[must_use]
    pub fn has_pod_address(&self, namespace: &str, address: IpAddr) -> bool {
        self.pods.0.get(namespace).is_some_and(|i| i.addresses.contains_key(&address))
    }

    /// Puts a pod in place of what stood under its name; returns whether that differs.
    pub fn apply_pod(&mut self, pod: Arc<Pod>) -> bool {
        self.pods.0.entry(Arc::clone(&pod.namespace)).or_default().apply(pod)
    }

    /// Takes a pod out; returns whether it was there.
    pub fn delete_pod(&mut self, namespace: &str, name: &str) -> bool {
        let Some(inhabitants) = self.pods.0.get_mut(namespace) else { return false };
        let was_there = inhabitants.delete(name);
        if inhabitants.by_name.is_empty() {
            self.pods.0.remove(namespace);
        }
        was_there
    }
}

impl Pods {
    /// The pods that differ between these and others.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Key> + 'a {
        differing(&self.0, &other.0).flat_map(move |namespace| {
            let of = |pods: &Self| pods.0.get(namespace).cloned().unwrap_or_default().by_name;
            let (one, other) = (of(self), of(other));
            let key = |name: &Arc<str>| Key::Pod(Arc::clone(namespace), Arc::clone(name));
            differing(&one, &other).map(key).collect::<Vec<_>>()
        })
    }
}

impl Inhabitants {
    fn apply(&mut self, pod: Arc<Pod>) -> bool {
        if self.by_name.get(&pod.name).is_some_and(|old| *old == pod) {
            return false;
        }
        self.delete(&pod.name);
        for address in &pod.addresses {
            *self.addresses.entry(*address).or_default() += 1;
        }
        self.by_name.insert(Arc::clone(&pod.name), pod);
        true
    }

    fn delete(&mut self, name: &str) -> bool {
        let Some(pod) = self.by_name.remove(name) else { return false };
        for address in &pod.addresses {
            match self.addresses.get_mut(address) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.addresses.remove(address)),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// `namespace/name` and its addresses.
    fn pod(path: &str, addresses: &[&str]) -> Arc<Pod> {
        let (namespace, name) = path.split_once('/').expect("a namespace");
        let addresses = addresses.iter().map(|a| address(a)).collect();
        Arc::new(Pod { namespace: namespace.into(), name: name.into(), addresses, node: None })
    }

    fn snapshot(pods: &[(&str, &[&str])]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (path, addresses) in pods {
            snapshot.apply_pod(pod(path, addresses));
        }
        snapshot
    }

    #[test]
    fn an_address_is_there_while_a_pod_of_the_namespace_has_it() {
        /// What happens: a pod's addresses from now on, or `None` when it goes.
        type Step = (&'static str, Option<&'static [&'static str]>);
        let steps: &[(Step, bool, &[&str])] = &[
            (("a/x", Some(&["10.0.0.1", "fd00::1"])), true, &["a 10.0.0.1", "a fd00::1"]),
            (("a/x", Some(&["10.0.0.1", "fd00::1"])), false, &["a 10.0.0.1", "a fd00::1"]),
            (("a/y", Some(&["10.0.0.1"])), true, &["a 10.0.0.1", "a fd00::1"]),
            (("b/x", Some(&["10.0.0.2"])), true, &["a 10.0.0.1", "a fd00::1", "b 10.0.0.2"]),
            (("a/x", Some(&["10.0.0.3"])), true, &["a 10.0.0.1", "a 10.0.0.3", "b 10.0.0.2"]),
            (("a/y", None), true, &["a 10.0.0.3", "b 10.0.0.2"]),
            (("a/y", None), false, &["a 10.0.0.3", "b 10.0.0.2"]),
            (("c/x", None), false, &["a 10.0.0.3", "b 10.0.0.2"]),
            (("b/x", None), true, &["a 10.0.0.3"]),
            (("a/x", None), true, &[]),
        ];
        let mut snapshot = Snapshot::default();
        for ((path, addresses), differs, expected) in steps {
            let told = match (addresses, path.split_once('/').expect("a namespace")) {
                (Some(addresses), _) => snapshot.apply_pod(pod(path, addresses)),
                (None, (namespace, name)) => snapshot.delete_pod(namespace, name),
            };
            assert_eq!(told, *differs, "{path} {addresses:?}");
            let all = ["a", "b", "c"].into_iter().flat_map(|namespace| {
                ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"].map(|text| (namespace, text))
            });
            let found: Vec<String> = all
                .filter(|(namespace, text)| snapshot.has_pod_address(namespace, address(text)))
                .map(|(namespace, text)| format!("{namespace} {text}"))
                .collect();
            assert_eq!(found, *expected, "after {path} {addresses:?}");
        }
        assert!(snapshot.pods.0.is_empty(), "an empty namespace leaves nothing");
    }

    #[test]
    fn pods_that_differ_are_named_and_taken_over_one_by_one() {
        let old =
            snapshot(&[("a/x", &["10.0.0.1"]), ("a/y", &["10.0.0.2"]), ("b/z", &["fd00::1"])]);
        let new =
            snapshot(&[("a/x", &["10.0.0.9"]), ("a/y", &["10.0.0.2"]), ("c/z", &["fd00::1"])]);
        let keys = old.differences(&new);
        let shown: Vec<String> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["pod a/x", "pod b/z", "pod c/z"]);
        let mut stepped = old.clone();
        for key in &keys {
            stepped.take_over(key, &new);
        }
        assert!(stepped.differences(&new).is_empty());
        assert!(stepped.pods().eq(new.pods()), "in the same order");
        assert_eq!(stepped.pod("a", "x"), new.pod("a", "x"));
        assert!(old.has_pod_address("b", address("fd00::1")), "what was published stays");
    }
}
