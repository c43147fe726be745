//! A token bucket for each client of a route, in a table of a fixed size without a lock.
//!
//! A client has a place in one of a few slots, told by a part of its hash. Where all of these are
//! another's, the one whose bucket is fullest gives way: one that is full is as good as new, and
//! loses nothing by it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Taken;

/// Slots that a client may have a place in.
const WAYS: usize = 8;
/// Bits of a slot that say when its bucket is full, in microseconds; those above tell whose it is.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// How often two workers may be in each other's way at a slot until one lets a request pass.
const TRIES: usize = 16;

/// The buckets.
#[derive(Debug)]
pub(super) struct Clients {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Clients {
    /// Buckets for so many clients at least.
    pub(super) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).clamp(WAYS, 1 << 20);
        let slots = most.next_power_of_two();
        let slots = (0..slots).map(|_| AtomicU64::new(0)).collect();
        Self { slots, hasher: RandomState::new() }
    }

    /// Takes a token of a client's, if it has one; it has `tokens` at most, and one comes each so many
    /// microseconds.
    pub(super) fn take(&self, client: IpAddr, now: u64, each: u64, tokens: u64) -> Taken {
        let hash = self.hasher.hash_one(told_by(client));
        // Never none, which is what an empty slot has.
        let whose = (hash >> TIME_BITS) | 1;
        let sets = self.slots.len() / WAYS;
        let first = usize::try_from(hash & TIME).unwrap_or(0) % sets * WAYS;
        let set = &self.slots[first..first + WAYS];
        let now = now.min(TIME / 2);
        let whole = each.saturating_mul(tokens).min(TIME / 4);
        for _ in 0..TRIES {
            let seen: [u64; WAYS] = std::array::from_fn(|i| set[i].load(Ordering::Relaxed));
            let own = seen.iter().position(|slot| slot >> TIME_BITS == whose);
            let fullest = || (0..WAYS).min_by_key(|i| seen[*i] & TIME).unwrap_or(0);
            let at = own.unwrap_or_else(fullest);
            let full_at = if own.is_some() { seen[at] & TIME } else { 0 };
            let next = full_at.max(now).saturating_add(each);
            if next - now > whole {
                return Taken { passes: false, displaced: false };
            }
            let put = whose << TIME_BITS | next;
            let swapped =
                set[at].compare_exchange(seen[at], put, Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                let displaced = own.is_none() && seen[at] & TIME > now;
                return Taken { passes: true, displaced };
            }
        }
        Taken { passes: true, displaced: false }
    }
}

/// What a client is told by: its address, and of IPv6 the network that is one client's (RFC 6177 §2).
fn told_by(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    #[test]
    fn each_client_has_as_many_as_there_are_tokens_and_then_as_they_come() {
        let clients = Clients::new(64);
        let take = |n, now| clients.take(client(n), now, 100, 3).passes;
        for n in 0..2 {
            assert_eq!([0; 5].map(|now| take(n, now)), [true, true, true, false, false], "{n}");
        }
        assert_eq!([99, 100, 199, 200].map(|now| take(0, now)), [false, true, false, true]);
        assert_eq!([9_000; 4].map(|now| take(1, now)), [true, true, true, false]);
        // The same client by the other form of its address.
        let mapped: IpAddr = "::ffff:10.0.0.0".parse().expect("an address");
        let clients = Clients::new(64);
        assert!(clients.take(client(0), 0, 100, 1).passes);
        assert!(!clients.take(mapped, 0, 100, 1).passes);
        let clients = Clients::new(64);
        let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(clients.take(v6("2001:db8::1"), 0, 100, 1).passes);
        assert!(!clients.take(v6("2001:db8::ffff:2"), 0, 100, 1).passes, "the same network");
        assert!(clients.take(v6("2001:db8:0:1::1"), 0, 100, 1).passes);
        assert!(!clients.take(client(5), 0, 100, 0).passes, "no token at all");
    }

    #[test]
    fn more_clients_than_slots_displace_the_fullest_and_say_so() {
        let clients = Clients::new(8);
        let displaced = (0..100).filter(|n| clients.take(client(*n), 0, 100, 10).displaced);
        assert_eq!(displaced.count(), 92);
        // Those that are full by then are no loss.
        let displaced = (0..8).filter(|n| clients.take(client(*n), 1_000_000, 100, 10).displaced);
        assert_eq!(displaced.count(), 0);
        // Who is over its limit stays so as long as fuller ones are there.
        let clients = Clients::new(8);
        for _ in 0..10 {
            clients.take(client(0), 0, 100, 10);
        }
        for n in 1..8 {
            assert!(clients.take(client(n), 0, 100, 10).passes);
        }
        assert!(clients.take(client(9), 0, 100, 10).displaced);
        assert!(!clients.take(client(0), 0, 100, 10).passes);
    }

    #[test]
    fn workers_that_ask_at_once_pass_no_more_than_there_are() {
        let clients = Clients::new(64);
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        if clients.take(client(1), 0, 1, 500).passes {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let passed = passed.into_inner();
        // One that loses every try is let pass; it is none in a test, or next to none.
        assert!((500..=510).contains(&passed), "{passed}");
    }
}
