//! A limit on how often a route is taken, for all workers of a proxy together (Envoy
//! `LocalRateLimit`).

mod clients;

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::falls_in;
use clients::Clients;

/// A token bucket. It fills evenly, not in steps: the generic cell rate algorithm (ITU-T I.371), of
/// which the whole state is one number. Equal to another if it was made of the same settings.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Tokens it holds at most: what may come at once.
    pub tokens: u32,
    /// The time in which one token comes.
    pub each: Duration,
    /// Status of requests over the limit, 400 to 599.
    pub status: u16,
    /// gRPC requests over it get RESOURCE_EXHAUSTED, not UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Of how many requests a token is taken, and of how many over the limit the limit is enforced,
    /// in millionths.
    pub parts: [u32; 2],
    /// A limit on each client besides.
    pub per_client: Option<PerClient>,
    /// When the bucket will be full again, in nanoseconds of the caller's clock.
    #[serde(skip)]
    full_at: AtomicU64,
    #[serde(skip)]
    clients: OnceLock<Clients>,
}

/// A token bucket for each client, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PerClient {
    /// Tokens it holds at most.
    pub tokens: u32,
    /// The time in which one token comes.
    pub each: Duration,
    /// Clients whose buckets are kept, at least; those that came last.
    pub most: u32,
}

/// What a limit makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it may go on.
    pub passes: bool,
    /// There are more clients than buckets: one that was not full was forgotten for this one.
    pub displaced: bool,
}

impl RateLimit {
    /// Tokens, and the time in which one comes, of a bucket that limits nobody.
    pub const ANY: (u32, Duration) = (1_000_000_000, Duration::from_nanos(1));

    /// A full bucket.
    #[must_use]
    pub fn new(tokens: u32, each: Duration, status: u16) -> Self {
        Self {
            tokens,
            each,
            status,
            resource_exhausted: false,
            parts: [1_000_000; 2],
            per_client: None,
            full_at: AtomicU64::new(0),
            clients: OnceLock::new(),
        }
    }

    /// Whether a request of a client may go on at this time of a clock that never goes back; takes a
    /// token of each kind if there is one.
    pub fn take(&self, now_nanos: u64, random: (u64, u64), client: IpAddr) -> Taken {
        if !falls_in(self.parts[0], random.0) {
            return Taken { passes: true, displaced: false };
        }
        let own = self.of_client(now_nanos, client);
        let passes = own.passes && self.has_token(now_nanos);
        Taken { passes: passes || !falls_in(self.parts[1], random.1), ..own }
    }

    fn of_client(&self, now_nanos: u64, client: IpAddr) -> Taken {
        let Some(own) = self.per_client else { return Taken { passes: true, displaced: false } };
        let each = u64::try_from(own.each.as_micros()).unwrap_or(u64::MAX).max(1);
        let clients = self.clients.get_or_init(|| Clients::new(own.most));
        clients.take(client, now_nanos / 1_000, each, own.tokens.into())
    }

    fn has_token(&self, now: u64) -> bool {
        let tokens = u64::from(self.tokens);
        // Of what takes centuries no more than that need be known; nothing overflows below.
        let most = u64::MAX / 4 / tokens.max(1);
        let each = u64::try_from(self.each.as_nanos()).unwrap_or(u64::MAX).min(most);
        let whole = each * tokens;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(each);
            (next - now <= whole).then_some(next)
        });
        taken.is_ok()
    }
}

impl PartialEq for RateLimit {
    fn eq(&self, other: &Self) -> bool {
        (self.tokens, self.each, self.status, self.resource_exhausted, self.parts)
            == (other.tokens, other.each, other.status, other.resource_exhausted, other.parts)
            && self.per_client == other.per_client
    }
}

impl Eq for RateLimit {}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn as_many_pass_as_there_are_tokens_and_then_as_they_come() {
        let limit = RateLimit::new(3, Duration::from_nanos(100), 429);
        let at = |now| limit.take(now, (0, 0), CLIENT).passes;
        assert_eq!([0; 5].map(at), [true, true, true, false, false]);
        assert_eq!([99, 100, 199, 200].map(at), [false, true, false, true]);
        // However long nothing comes, it holds no more than that.
        assert_eq!([9_000; 4].map(at), [true, true, true, false]);
        let mut passed = 0;
        for now in 10_000..110_000 {
            passed += u32::from(at(now));
        }
        // Three at once, and one each 100 ns after that.
        assert_eq!(passed, 3 + 999);
    }

    #[test]
    fn nobody_passes_an_empty_bucket_and_a_part_is_not_asked() {
        let limit = RateLimit::new(0, Duration::from_secs(1), 429);
        assert!(!limit.take(0, (0, 0), CLIENT).passes);
        let ages = RateLimit::new(5, Duration::from_secs(u64::MAX / 2), 429);
        assert_eq!((0..20).filter(|now| ages.take(*now, (0, 0), CLIENT).passes).count(), 5);
        let half =
            RateLimit { parts: [500_000, 1_000_000], ..RateLimit::new(0, Duration::ZERO, 429) };
        let none =
            RateLimit { parts: [1_000_000, 0], ..RateLimit::new(0, Duration::from_secs(1), 429) };
        assert!(none.take(0, (0, 0), CLIENT).passes);
        assert_eq!((half.take(0, (500_000, 0), CLIENT).passes, none == half), (true, false));
    }

    #[test]
    fn a_client_over_its_own_limit_takes_nothing_from_the_others() {
        let per_client = PerClient { tokens: 2, each: Duration::from_secs(1), most: 8 };
        let limit = RateLimit {
            per_client: Some(per_client),
            ..RateLimit::new(5, Duration::from_secs(1), 429)
        };
        let other: IpAddr = [10, 0, 0, 1].into();
        let passed = (0..10).filter(|_| limit.take(0, (0, 0), CLIENT).passes).count();
        assert_eq!(passed, 2);
        let passed = (0..10).filter(|_| limit.take(0, (0, 0), other).passes).count();
        assert_eq!(passed, 2);
        let third: IpAddr = [10, 0, 0, 2].into();
        assert!(limit.take(0, (0, 0), third).passes, "the last of five");
        assert!(!limit.take(0, (0, 0), third).passes);
        let any = RateLimit::new(RateLimit::ANY.0, RateLimit::ANY.1, 429);
        assert!((0..10_000).all(|_| any.take(0, (0, 0), CLIENT).passes));
    }
}
