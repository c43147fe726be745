//! How much of something each client has, up to a bound: connections, questions that wait.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;

/// What clients have; only those that have something. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    counts: Arc<DashMap<IpAddr, usize>>,
    limit: usize,
}

/// One piece of a client's, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    client: IpAddr,
}

impl Shares {
    /// Up to `limit` for each client, at least 1.
    pub(crate) fn of(limit: usize) -> Self {
        Self { counts: Arc::default(), limit: limit.max(1) }
    }

    /// One more for a client; `None` at its bound.
    pub(crate) fn take(&self, client: IpAddr) -> Option<Share> {
        let mut count = self.counts.entry(client).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let counts = &self.shares.counts;
        if let Some(mut count) = counts.get_mut(&self.client) {
            *count = count.saturating_sub(1);
        }
        counts.remove_if(&self.client, |_, count| *count == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_bound_and_leaves_nothing_behind() {
        let shares = Shares::of(2);
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let held: Vec<Option<Share>> = (0..3).map(|_| shares.take(one)).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        let others = shares.take(other);
        assert!(others.is_some() && shares.counts.len() == 2);
        drop((held, others));
        assert!(shares.counts.is_empty() && shares.take(one).is_some());
    }
}
