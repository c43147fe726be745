//! Cluster IPs for services that name none: derived from namespace and name, so that they are the
//! same after a restart; collisions take the next free address.
//!
//! As in Kubernetes (KEP-3070) the low end of a range is left to addresses that manifests name,
//! so that the two rarely meet.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portolan_model::ServiceKey;

/// The ranges virtual addresses come from: at most one per IP family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRanges {
    ranges: Vec<IpNet>,
}

/// Ranges that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRanges {
    /// Two of one family.
    #[error("service ranges {first} and {second} are of the same IP family")]
    SameFamily {
        /// The first.
        first: IpNet,
        /// The second.
        second: IpNet,
    },
    /// Too few addresses.
    #[error("service range {0} holds fewer than 8 addresses")]
    TooSmall(IpNet),
}

/// Who holds which address.
#[derive(Debug)]
pub struct AddressPool {
    ranges: ServiceRanges,
    taken: HashMap<IpAddr, ServiceKey>,
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Another service holds it.
    #[error("{address} is taken by service {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: ServiceKey,
    },
    /// No address is free.
    #[error("no address is free in service range {0}")]
    Full(IpNet),
    /// No range of the family is configured.
    #[error("no {0} service range is configured")]
    NoRange(Family),
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl ServiceRanges {
    /// Checks and keeps the ranges; the first is the primary family.
    ///
    /// # Errors
    /// [`InvalidRanges`] for two of one family, or one with fewer than 8 addresses.
    pub fn new(ranges: Vec<IpNet>) -> Result<Self, InvalidRanges> {
        for (i, range) in ranges.iter().enumerate() {
            if size(range) < 8 {
                return Err(InvalidRanges::TooSmall(*range));
            }
            let same = |r: &&IpNet| Family::of(r.addr()) == Family::of(range.addr());
            if let Some(first) = ranges[..i].iter().find(same) {
                return Err(InvalidRanges::SameFamily { first: *first, second: *range });
            }
        }
        Ok(Self { ranges: ranges.into_iter().map(|r| r.trunc()).collect() })
    }

    /// The families that have a range, the primary one first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.ranges.iter().map(|r| Family::of(r.addr()))
    }

    /// The ranges, the primary one first.
    #[must_use]
    pub fn as_slice(&self) -> &[IpNet] {
        &self.ranges
    }
}

impl AddressPool {
    /// A pool in which nothing is taken.
    #[must_use]
    pub fn new(ranges: ServiceRanges) -> Self {
        Self { ranges, taken: HashMap::new() }
    }

    /// The families that have a range, the primary one first.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.ranges.families()
    }

    /// Takes an address that the manifest names; it may lie outside the ranges.
    ///
    /// # Errors
    /// [`Unavailable::Taken`] when another service holds it.
    pub fn claim(&mut self, address: IpAddr, key: &ServiceKey) -> Result<(), Unavailable> {
        match self.taken.get(&address) {
            Some(holder) if holder != key => {
                Err(Unavailable::Taken { address, holder: holder.clone() })
            }
            Some(_) => Ok(()),
            None => {
                self.taken.insert(address, key.clone());
                Ok(())
            }
        }
    }

    /// Takes the address that belongs to this name, or the next free one after it.
    ///
    /// # Errors
    /// [`Unavailable`] when the family has no range, or it is full.
    pub fn allocate(&mut self, family: Family, key: &ServiceKey) -> Result<IpAddr, Unavailable> {
        let range = self
            .ranges
            .ranges
            .iter()
            .copied()
            .find(|r| Family::of(r.addr()) == family)
            .ok_or(Unavailable::NoRange(family))?;
        // The network address is never handed out, nor is the last one (broadcast in IPv4).
        let usable = size(&range) - 2;
        let band = (usable / 16).clamp(1, 256);
        let hash = xxhash_rust::xxh3::xxh3_128(key.to_string().as_bytes());
        let dynamic = usable - band;
        // More probes than addresses are never needed; past the taken ones there is a free one.
        let probes = dynamic.min(u128::try_from(self.taken.len()).unwrap_or(u128::MAX) + 1);
        let first = hash % dynamic;
        let found = (0..probes)
            .map(|i| nth(&range, 1 + band + (first + i) % dynamic))
            .chain((0..band).map(|i| nth(&range, 1 + i)))
            .find(|address| !self.taken.contains_key(address))
            .ok_or(Unavailable::Full(range))?;
        self.taken.insert(found, key.clone());
        Ok(found)
    }

    /// Gives an address back, if this service holds it.
    pub fn release(&mut self, address: IpAddr, key: &ServiceKey) {
        if self.taken.get(&address) == Some(key) {
            self.taken.remove(&address);
        }
    }
}

fn size(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn nth(range: &IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => {
            let low = u32::try_from(offset & u128::from(u32::MAX)).unwrap_or(0);
            Ipv4Addr::from_bits(base.to_bits().wrapping_add(low)).into()
        }
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().wrapping_add(offset)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str) -> AddressPool {
        let range = range.parse().expect("a range");
        AddressPool::new(ServiceRanges::new(vec![range]).expect("valid"))
    }

    fn key(n: usize) -> ServiceKey {
        ServiceKey::new("shop", &format!("s{n}")).expect("valid")
    }

    #[test]
    fn an_address_depends_on_the_name_alone() {
        let mut first = pool("10.96.0.0/16");
        let mut second = pool("10.96.0.0/16");
        let a = first.allocate(Family::V4, &key(1)).expect("free");
        for n in 2..100 {
            second.allocate(Family::V4, &key(n)).expect("free");
        }
        assert_eq!(second.allocate(Family::V4, &key(1)).expect("free"), a);
    }

    #[test]
    fn a_range_is_used_up_to_its_last_address_and_then_full() {
        let mut pool = pool("10.96.0.0/28");
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..14 {
            assert!(seen.insert(pool.allocate(Family::V4, &key(n)).expect("free")));
        }
        assert!(!seen.contains(&"10.96.0.0".parse::<IpAddr>().expect("address")));
        assert!(!seen.contains(&"10.96.0.15".parse::<IpAddr>().expect("address")));
        let full = pool.allocate(Family::V4, &key(14)).expect_err("full");
        assert_eq!(full.to_string(), "no address is free in service range 10.96.0.0/28");
        let address = *seen.first().expect("some");
        let holder = pool.taken[&address].clone();
        pool.release(address, &holder);
        assert_eq!(pool.allocate(Family::V4, &key(14)).expect("free again"), address);
    }

    #[test]
    fn ranges_are_checked_and_ipv6_works() {
        let net = |s: &str| s.parse::<IpNet>().expect("a range");
        assert!(ServiceRanges::new(vec![net("10.0.0.0/16"), net("10.1.0.0/16")]).is_err());
        assert!(ServiceRanges::new(vec![net("10.0.0.0/30")]).is_err());
        let ranges = ServiceRanges::new(vec![net("10.96.0.0/16"), net("fd00:96::/108")]);
        let mut pool = AddressPool::new(ranges.expect("valid"));
        let address = pool.allocate(Family::V6, &key(1)).expect("free");
        assert!(net("fd00:96::/108").contains(&address));
    }
}
