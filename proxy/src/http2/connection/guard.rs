//! Counts what a peer makes us do for nothing, and says when it is too much.

use std::time::Instant;

use super::super::settings::{Limits, Rate};

/// Kinds of abuse that have a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    Reset,
    Settings,
    EmptyData,
    TinyWindow,
}

/// How often each happened, for whoever watches the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) resets: u64,
    pub(crate) settings: u64,
    pub(crate) empty_data: u64,
    pub(crate) tiny_windows: u64,
    /// Streams refused for want of room.
    pub(crate) refused: u64,
    /// Heads over the limit or malformed.
    pub(crate) bad_heads: u64,
    /// Heads over the limit alone, which were answered.
    pub(crate) large_heads: u64,
    /// Streams reset for what the peer did wrong.
    pub(crate) faults: u64,
}

#[derive(Debug)]
pub(super) struct Guard {
    resets: Bucket,
    settings: Bucket,
    empty_data: Bucket,
    tiny_windows: Bucket,
    pub(super) counters: Counters,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: u32,
    /// When tokens were last added; only looked at once some are missing.
    filled: Option<Instant>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, filled: None }
    }

    /// Takes one token; false if there is none.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let passed = self.filled.map_or(0, |filled| (now - filled).as_millis());
        let more = passed * u128::from(self.rate.per_sec) / 1000;
        if more > 0 || self.filled.is_none() {
            self.give(u32::try_from(more).unwrap_or(u32::MAX));
            self.filled = Some(now);
        }
        let Some(left) = self.tokens.checked_sub(1) else { return false };
        self.tokens = left;
        true
    }

    fn give(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(self.rate.burst);
    }
}

impl Guard {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            resets: Bucket::new(limits.resets),
            settings: Bucket::new(limits.settings),
            empty_data: Bucket::new(limits.empty_data),
            tiny_windows: Bucket::new(limits.tiny_windows),
            counters: Counters::default(),
        }
    }

    /// Whether it may go on.
    pub(super) fn allows(&mut self, abuse: Abuse) -> bool {
        let counters = &mut self.counters;
        let (bucket, counter) = match abuse {
            Abuse::Reset => (&mut self.resets, &mut counters.resets),
            Abuse::Settings => (&mut self.settings, &mut counters.settings),
            Abuse::EmptyData => (&mut self.empty_data, &mut counters.empty_data),
            Abuse::TinyWindow => (&mut self.tiny_windows, &mut counters.tiny_windows),
        };
        *counter += 1;
        bucket.take()
    }

    /// A stream ended as it should.
    pub(super) fn ended_well(&mut self) {
        self.resets.give(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_run_out_and_come_back() {
        let mut bucket = Bucket::new(Rate { burst: 3, per_sec: 1000 });
        let before = Instant::now();
        let taken = (0..1_000_000).take_while(|_| bucket.take()).count();
        let passed = usize::try_from(before.elapsed().as_millis()).expect("small");
        assert!((3..=4 + passed).contains(&taken), "{taken} in {passed} ms");
        bucket.give(10);
        assert_eq!(bucket.tokens, 3, "never more than the burst");
    }
}
