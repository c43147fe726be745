//! What is measured: completions, octets, errors and latencies between two moments, and the CPU
//! time that the named processes took between them. Owns the histogram.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Sub-buckets of a power of two: values are kept to 1/128 of themselves.
const SUB_BITS: u32 = 7;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// A log-linear histogram of nanoseconds.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    /// The value that `share` of all are not above, in nanoseconds.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64) * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return value(index);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    // With a shift the top bit is always set, so buckets of neighbouring powers do not overlap.
    ((shift as usize) << SUB_BITS) + (value >> shift) as usize
}

fn value(index: usize) -> u64 {
    let shift = (index >> SUB_BITS).saturating_sub(1);
    let rest = index - (shift << SUB_BITS);
    (rest as u64) << shift
}

/// CPU time of each thread of some processes, in nanoseconds.
#[derive(Default)]
struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    fn read(pids: &[u32]) -> Self {
        let mut found = BTreeMap::new();
        for pid in pids {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let path = task.path().join("schedstat");
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let time = text.split(' ').next().and_then(|t| t.parse().ok());
                let id = format!("{pid}/{}", task.file_name().to_string_lossy());
                found.insert(id, time.unwrap_or(0));
            }
        }
        Self(found)
    }

    fn since(&self, before: &Self) -> Vec<u64> {
        let took = |(id, now): (&String, &u64)| now - before.0.get(id).copied().unwrap_or(0);
        self.0.iter().map(took).collect()
    }
}

pub struct Meter {
    begin: Instant,
    end: Instant,
    pids: Vec<u32>,
    /// CPU time and moment at which measuring began.
    began: Option<(Instant, Cpu)>,
    count: u64,
    octets: u64,
    errors: u64,
    first_error: Option<String>,
    late: Histogram,
}

impl Meter {
    pub fn new(warm: Duration, measured: Duration, pids: Vec<u32>) -> Self {
        let begin = Instant::now() + warm;
        Self {
            begin,
            end: begin + measured,
            pids,
            began: None,
            count: 0,
            octets: 0,
            errors: 0,
            first_error: None,
            late: Histogram::new(),
        }
    }

    /// The next moment at which [`Self::tick`] has something to do.
    pub fn edge(&self) -> Instant {
        if self.began.is_some() { self.end } else { self.begin }
    }

    /// Begins when it is time. Whether it is over.
    pub fn tick(&mut self, now: Instant) -> bool {
        if self.began.is_none() && now >= self.begin {
            let cpu = Cpu::read(&self.pids);
            let now = Instant::now();
            self.end += now - self.begin;
            self.began = Some((now, cpu));
        }
        now >= self.end
    }

    pub fn on_octets(&mut self, octets: usize) {
        if self.began.is_some() {
            self.octets += octets as u64;
        }
    }

    /// One is complete that was due then.
    pub fn on_done(&mut self, due: Instant, now: Instant) {
        if self.began.is_some() {
            self.count += 1;
            let late = now.saturating_duration_since(due).as_nanos();
            self.late.add(u64::try_from(late).unwrap_or(u64::MAX));
        }
    }

    /// Errors count from the first moment on.
    pub fn on_error(&mut self, error: &dyn std::fmt::Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// All of it as one line of JSON.
    pub fn report(&self, unfinished: usize) -> String {
        let Some((began, before)) = &self.began else { return "{}".to_owned() };
        let secs = began.elapsed().as_secs_f64();
        let threads = Cpu::read(&self.pids).since(before);
        let cpu: u64 = threads.iter().sum();
        let mut text = format!(
            "{{\"secs\": {secs:.4}, \"count\": {}, \"octets\": {}, \"errors\": {}, \
             \"unfinished\": {unfinished}, \"cpu_secs\": {:.6}",
            self.count,
            self.octets,
            self.errors,
            cpu as f64 / 1e9
        );
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            let us = self.late.quantile(share) as f64 / 1e3;
            let _infallible = write!(text, ", \"{name}_us\": {us:.1}");
        }
        let threads: Vec<String> =
            threads.iter().map(|t| format!("{:.6}", *t as f64 / 1e9)).collect();
        let unquoted = |c: char| c == '"' || c == '\\' || c.is_control();
        let error = self.first_error.as_deref().unwrap_or_default().replace(unquoted, " ");
        let _infallible =
            write!(text, ", \"threads\": [{}], \"error\": \"{error}\"}}", threads.join(", "));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_to_a_hundredth_of_itself() {
        for exponent in 0..40 {
            for value_in in [1_u64 << exponent, (1 << exponent) + (1 << exponent) / 3] {
                let kept = value(bucket(value_in));
                let off = value_in.abs_diff(kept);
                assert!(off * 100 <= value_in, "{value_in} is kept as {kept}");
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut all = Histogram::new();
        (1..=1000).for_each(|n| all.add(n * 1000));
        for (share, wanted) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = all.quantile(share);
            assert!(found.abs_diff(wanted) * 100 <= wanted, "{share} is {found}");
        }
    }
}
