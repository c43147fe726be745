//! How much stays in the proxy's own zone and where the rest goes (Envoy, "Zone aware routing").
//!
//! Owns the arithmetic; zones are places in a list, the own one first.

/// Shares of the traffic of one priority.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ZoneShares {
    /// What the own zone serves of its clients' requests, 0 to 1.
    pub(crate) own: f64,
    /// What each other zone gets of the rest, relative to the others of them; 0 for the own zone.
    pub(crate) residual: Vec<f64>,
}

/// Shares by what the usable endpoints of each zone weigh together, the own zone first.
///
/// Envoy compares each zone's part of the endpoints with its part of the proxies, which it learns
/// from a cluster of the proxies themselves. Here that is not known. `clients` is the own zone's part
/// of all clients if somebody knows it (0 to 1); else clients are taken to be spread evenly over the
/// zones. The other zones share the remaining clients evenly. With as large a part of the endpoints
/// as of the clients the own zone serves all; with less it serves as much as it has endpoints for,
/// and the rest goes to zones that have more endpoints than clients, by how much more.
pub(crate) fn shares(weights: &[f64], clients: Option<f64>) -> ZoneShares {
    let total: f64 = weights.iter().sum();
    let zones = super::super::number::count(weights.len());
    let (Some(own), true) = (weights.first(), total > 0.0 && weights.len() > 1) else {
        return ZoneShares { own: 1.0, residual: vec![0.0; weights.len()] };
    };
    let own_clients = clients.unwrap_or(1.0 / zones).clamp(0.0, 1.0);
    let other_clients = (1.0 - own_clients) / (zones - 1.0);
    let own_part = own / total;
    let served = if own_part >= own_clients { 1.0 } else { own_part / own_clients };
    let spare = |weight: &f64| (weight / total - other_clients).max(0.0);
    let mut residual: Vec<f64> = weights.iter().map(spare).collect();
    residual[0] = 0.0;
    if residual.iter().sum::<f64>() <= 0.0 {
        // Nobody has more than its part: by size.
        residual = weights.to_vec();
        residual[0] = 0.0;
    }
    ZoneShares { own: served, residual }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights, part of the clients; what the own zone serves, where the rest goes.
    type Case = (&'static [f64], Option<f64>, f64, &'static [f64]);

    #[test]
    fn the_own_zone_serves_what_it_has_endpoints_for() {
        #[rustfmt::skip]
        let cases: [Case; 8] = [
            (&[10.0, 10.0], None, 1.0, &[0.0, 0.5]),
            (&[30.0, 10.0], None, 1.0, &[0.0, 0.25]),
            // A third of the clients, a sixth of the endpoints: half of it stays.
            (&[2.0, 5.0, 5.0], None, 0.5, &[0.0, 1.0, 1.0]),
            (&[2.0, 2.0, 8.0], None, 0.5, &[0.0, 0.0, 1.0]),
            // Envoy's example: clients 40/30/30, endpoints 25/50/25.
            (&[25.0, 50.0, 25.0], Some(0.4), 0.625, &[0.0, 1.0, 0.0]),
            (&[0.0, 3.0, 1.0], None, 0.0, &[0.0, 1.0, 0.0]),
            (&[5.0], None, 1.0, &[0.0]), (&[], None, 1.0, &[]),
        ];
        for (weights, clients, own, residual) in cases {
            let shares = shares(weights, clients);
            assert!((shares.own - own).abs() < 1e-9, "{weights:?}: {shares:?}");
            let (sum, all): (f64, f64) = (shares.residual.iter().sum(), residual.iter().sum());
            for (part, expected) in shares.residual.iter().zip(residual) {
                let expected = expected / f64::max(all, 1e-9);
                assert!((part / sum.max(1e-9) - expected).abs() < 1e-9, "{weights:?}: {shares:?}");
            }
        }
    }
}
