//! What counts as a loss, of a service and of a source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{Endpoint, ServiceEntry, ServiceKey, ServiceKind, Snapshot};

use super::Losses;

/// What a service loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// It is gone itself.
    Gone,
    /// It is there, and its endpoints are gone.
    Emptied,
}

/// What a source loses: so many services of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLoss {
    /// Whether they are gone or without endpoints.
    pub loss: Loss,
    /// How many.
    pub lost: usize,
    /// How many there were.
    pub of: usize,
}

/// What a service that was in force as `old` loses by being `new`, or not being there.
pub(super) fn loss(old: &ServiceEntry, new: Option<&ServiceEntry>) -> Option<Loss> {
    let Some(new) = new else { return Some(Loss::Gone) };
    // Such a service is to have no endpoints.
    let leads_away = matches!(new.service.kind, ServiceKind::ExternalName(_));
    (!leads_away && has_ready(old) && !is_usable(new)).then_some(Loss::Emptied)
}

/// Whether a service has a ready endpoint.
pub(super) fn has_ready(entry: &ServiceEntry) -> bool {
    endpoints(entry).any(|endpoint| entry.is_ready(endpoint))
}

/// Whether traffic can go to any endpoint of a service (KEP-1669).
fn is_usable(entry: &ServiceEntry) -> bool {
    let leaving = |e: &Endpoint| e.conditions.serving && e.conditions.terminating;
    endpoints(entry).any(|endpoint| entry.is_ready(endpoint) || leaving(endpoint))
}

/// How many ready endpoints a service had, each address once, if it has fewer now.
pub(super) fn falls_from(old: &ServiceEntry, new: Option<&ServiceEntry>) -> Option<usize> {
    let listed = |entry: &ServiceEntry| endpoints(entry).filter(|e| entry.is_ready(e)).count();
    (new.map_or(0, listed) < listed(old)).then(|| old.ready_endpoints().len())
}

/// A service as it is now with the slices it had.
pub(super) fn with_slices_of(new: &ServiceEntry, old: &ServiceEntry) -> Arc<ServiceEntry> {
    let service = Arc::clone(&new.service);
    Arc::new(ServiceEntry { service, slices: old.slices.clone() })
}

/// Takes out the services whose cluster IPs others have by now. Costs O(services).
pub(super) fn drop_replaced(next: &Snapshot, lost: &mut Losses) -> Vec<ServiceKey> {
    let addresses = lost.values().flat_map(|(_, entry)| entry.service.cluster_ips());
    let mut holders: HashMap<IpAddr, Option<ServiceKey>> =
        addresses.map(|address| (*address, None)).collect();
    for (key, entry) in next.services() {
        for address in entry.service.cluster_ips() {
            if let Some(holder) = holders.get_mut(address) {
                *holder = Some(key.clone());
            }
        }
    }
    let is_replaced = |key: &ServiceKey, entry: &ServiceEntry| {
        let others = |address: &IpAddr| matches!(&holders[address], Some(holder) if holder != key);
        entry.service.cluster_ips().iter().any(others)
    };
    let replaced = lost.extract_if(.., |key, (_, entry)| is_replaced(key, entry));
    replaced.map(|(key, _)| key).collect()
}

fn endpoints(entry: &ServiceEntry) -> impl Iterator<Item = &Endpoint> {
    entry.slices.iter().flat_map(|slice| &slice.endpoints)
}
