//! Annotations of a route -> faults that are put in on purpose, and limits of rate.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{self, Abort, PerClient, RateLimit};

use super::annotations::number;
use super::duration;

/// The annotations, in order.
pub(super) const NAMES: [&str; 8] = [
    "fault-abort",
    "fault-abort-percent",
    "fault-delay",
    "fault-delay-percent",
    "rate-limit",
    "rate-limit-burst",
    "rate-limit-client",
    "rate-limit-client-burst",
];
/// Longest delay of a fault, and longest time that a rate is said of.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// Most requests of a rate.
const MAX_COUNT: u32 = 1_000_000;
/// Shortest time in which a request may come.
const SHORTEST: Duration = Duration::from_micros(1);
/// Clients that have a bucket of their own, for each route of a proxy.
const CLIENTS: u32 = 4_096;
/// All of them, in millionths.
const ALL: u32 = 1_000_000;

/// Requests in a time.
#[derive(Clone, Copy, Debug)]
struct Rate {
    count: u32,
    each: Duration,
}

/// Takes in annotations.
#[derive(Debug)]
pub(super) struct Reader {
    grpc: bool,
    abort: Option<Abort>,
    delay: Option<Duration>,
    /// Of how many requests, in millionths: the answer and the delay.
    parts: [Option<u32>; 2],
    all: Option<Rate>,
    client: Option<Rate>,
    bursts: [Option<u32>; 2],
}

impl Reader {
    /// Of a route of gRPC, or of HTTP.
    pub(super) fn new(grpc: bool) -> Self {
        let (parts, bursts) = ([None; 2], [None; 2]);
        Self { grpc, abort: None, delay: None, parts, all: None, client: None, bursts }
    }

    /// Takes one; `None` if it is none of these.
    pub(super) fn take(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
        let mut part = |at: usize| {
            let read = percent(text);
            // Of nobody knows how many requests there is no fault.
            self.parts[at] = Some(*read.as_ref().unwrap_or(&0));
            read.map(drop)
        };
        let read = match name {
            "fault-abort" => abort(text, self.grpc).map(|abort| self.abort = Some(abort)),
            "fault-delay" => delay(text).map(|delay| self.delay = Some(delay)),
            "rate-limit" => rate(text).map(|all| self.all = Some(all)),
            "rate-limit-client" => rate(text).map(|client| self.client = Some(client)),
            "fault-abort-percent" => part(0),
            "fault-delay-percent" => part(1),
            "rate-limit-burst" => number(text, MAX_COUNT).map(|n| self.bursts[0] = Some(n)),
            "rate-limit-client-burst" => number(text, MAX_COUNT).map(|n| self.bursts[1] = Some(n)),
            _ => return None,
        };
        Some(read)
    }

    /// Those that are missing beside what means nothing without them, or that could not be read.
    pub(super) fn alone(&self) -> impl Iterator<Item = &'static str> {
        let missing = [
            ("fault-abort", self.parts[0].is_some() && self.abort.is_none()),
            ("fault-delay", self.parts[1].is_some() && self.delay.is_none()),
            ("rate-limit", self.bursts[0].is_some() && self.all.is_none()),
            ("rate-limit-client", self.bursts[1].is_some() && self.client.is_none()),
        ];
        missing.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name)
    }

    /// What they ask for.
    pub(super) fn end(self) -> (Option<Arc<traffic::Fault>>, Option<Arc<RateLimit>>) {
        let [of_abort, of_delay] = self.parts.map(|part| part.unwrap_or(ALL));
        let fault = traffic::Fault {
            headers: Vec::new(),
            delay: self.delay.map(|delay| (delay, of_delay)).filter(|_| of_delay > 0),
            abort: self.abort.map(|abort| (abort, of_abort)).filter(|_| of_abort > 0),
        };
        let fault = (fault != traffic::Fault::default()).then(|| Arc::new(fault));
        let limited = self.all.is_some() || self.client.is_some();
        let limit = limited.then(|| {
            let (tokens, each) = self
                .all
                .map_or(RateLimit::ANY, |all| (self.bursts[0].unwrap_or(all.count), all.each));
            let mut limit = RateLimit::new(tokens, each, 429);
            limit.resource_exhausted = true;
            limit.per_client = self.client.map(|client| PerClient {
                tokens: self.bursts[1].unwrap_or(client.count),
                each: client.each,
                most: CLIENTS,
            });
            Arc::new(limit)
        });
        (fault, limit)
    }
}

fn abort(text: &str, grpc: bool) -> Result<Abort, String> {
    if grpc {
        let code = text.parse().ok().filter(|code| (1..=16).contains(code));
        return code.map(Abort::Grpc).ok_or_else(|| format!("{text:?} is not a code of 1 to 16"));
    }
    let status = text.parse().ok().filter(|status| (200..600).contains(status));
    status.map(Abort::Http).ok_or_else(|| format!("{text:?} is not a status of 200 to 599"))
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = duration("", text).map_err(|fault| fault.reason)?;
    let fits = (Duration::from_millis(1)..=MAX_TIME).contains(&delay);
    if fits { Ok(delay) } else { Err(format!("{text:?} is not within 1ms and 1h")) }
}

/// A percentage with up to four digits behind the point, in millionths.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a percentage such as 5 or 0.25");
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(rest) || whole.len() > 3 || rest.len() > 4 {
        return Err(wrong());
    }
    let rest: u32 = format!("{rest:0<4}").parse().map_err(|_| wrong())?;
    let part = whole.parse::<u32>().map_err(|_| wrong())? * 10_000 + rest;
    if part <= ALL { Ok(part) } else { Err(wrong()) }
}

/// `100/1s`
fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("{text:?} is not a rate such as 100/1s");
    let (count, time) = text.split_once('/').ok_or_else(wrong)?;
    let count = number(count, MAX_COUNT)?;
    let time = duration("", time).map_err(|_| wrong())?;
    if time > MAX_TIME {
        return Err(format!("{text:?} is of more than 1h"));
    }
    let each = time / count;
    if each < SHORTEST {
        return Err(format!("{text:?} is more than one in a microsecond"));
    }
    Ok(Rate { count, each })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(grpc: bool, said: &[(&str, &str)]) -> (Reader, Vec<String>) {
        let mut reader = Reader::new(grpc);
        let wrong = said.iter().filter_map(|(name, text)| reader.take(name, text)?.err());
        let wrong = wrong.collect();
        (reader, wrong)
    }

    #[test]
    fn faults_and_limits_are_read_from_what_says_them() {
        let said = [
            ("fault-abort", "503"),
            ("fault-abort-percent", "0.5"),
            ("fault-delay", "2s"),
            ("rate-limit", "100/1s"),
            ("rate-limit-burst", "200"),
            ("rate-limit-client", "10/1m"),
        ];
        let (reader, wrong) = read(false, &said);
        assert_eq!((wrong.len(), reader.alone().count()), (0, 0));
        let (fault, limit) = reader.end();
        let fault = fault.expect("one");
        assert_eq!(fault.abort, Some((Abort::Http(503), 5_000)));
        assert_eq!(fault.delay, Some((Duration::from_secs(2), ALL)));
        let limit = limit.expect("one");
        assert_eq!((limit.tokens, limit.each), (200, Duration::from_millis(10)));
        let client = limit.per_client.expect("one");
        assert_eq!((client.tokens, client.each), (10, Duration::from_secs(6)));
        let (reader, _) = read(true, &[("fault-abort", "14"), ("rate-limit-client", "1/1s")]);
        let (fault, limit) = reader.end();
        assert_eq!(fault.expect("one").abort, Some((Abort::Grpc(14), ALL)));
        let limit = limit.expect("one");
        assert_eq!((limit.tokens, limit.each), RateLimit::ANY);
        let (reader, _) = read(false, &[]);
        assert_eq!(reader.end(), (None, None));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_what_is_alone_as_well() {
        for (name, text) in [
            ("fault-abort", "600"),
            ("fault-delay", "2h"),
            ("fault-delay", "0s"),
            ("fault-abort-percent", "101"),
            ("fault-abort-percent", "5%"),
            ("fault-abort-percent", "1.00001"),
            ("fault-abort-percent", "1."),
            ("rate-limit", "100"),
            ("rate-limit", "100/s"),
            ("rate-limit", "0/1s"),
            ("rate-limit", "1000000/1ms"),
            ("rate-limit", "1/2h"),
            ("rate-limit-burst", "-1"),
        ] {
            let (_, wrong) = read(false, &[(name, text)]);
            assert_eq!(wrong.len(), 1, "{name}: {text}");
        }
        for percent in ["5%", "101", "0"] {
            let (reader, _) =
                read(false, &[("fault-abort", "503"), ("fault-abort-percent", percent)]);
            assert_eq!(reader.end().0, None, "{percent}: not all of them");
        }
        let (reader, _) = read(false, &[("fault-delay-percent", "1"), ("rate-limit-burst", "5")]);
        assert_eq!(reader.alone().collect::<Vec<_>>(), ["fault-delay", "rate-limit"]);
    }
}
