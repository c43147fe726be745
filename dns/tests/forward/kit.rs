//! What the tests of the forwarder have in common: a server with rules, and ways to wait.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use portolan_dns::DnsConfig;
use portolan_dns::config::{ForwardConfig, ForwardPolicy};

use crate::certificate;
use crate::server::{Running, TIMEOUT, start, web};
use crate::upstream::Upstream;

/// A cluster name that every server of these tests knows, and its address.
pub(crate) const WEB: &str = "web.ns.svc.cluster.local.";
pub(crate) const WEB_ADDRESS: &str = "10.96.0.1";
/// Pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// What an exchange with a healthy upstream takes at most on a machine that does other things.
pub(crate) const SOON: Duration = Duration::from_millis(700);

/// A config with rules; the first upstream of each is asked first.
pub(crate) fn rules(rules: &[String]) -> DnsConfig {
    DnsConfig {
        workers: 1,
        forward: ForwardConfig {
            rules: rules.iter().map(|rule| rule.parse().expect("a rule")).collect(),
            policy: ForwardPolicy::Sequential,
            certificate_authorities: Some(certificate::authorities()),
            ..ForwardConfig::default()
        },
        ..DnsConfig::default()
    }
}

/// The same with everything going to these upstreams.
pub(crate) fn forwarding(upstreams: &[&Upstream]) -> DnsConfig {
    let labels: Vec<String> = upstreams.iter().map(|upstream| upstream.label()).collect();
    rules(&[format!(". {}", labels.join(" "))])
}

/// A server that knows [`WEB`].
pub(crate) fn serve(config: DnsConfig) -> Running {
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web(WEB_ADDRESS)]);
    running
}

/// Looks until it is so.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < TIMEOUT, "waited for {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Waits for a time to pass that is the matter of the test.
pub(crate) fn pass(time: Duration) {
    let end = Instant::now() + time;
    until("time", || Instant::now() >= end);
}

/// The value of a metric, found by its name and a part of its labels; all lines that fit are
/// summed.
pub(crate) fn metric(running: &Running, name: &str, labels: &str) -> u64 {
    let text = running.metrics();
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|r| r.starts_with(['{', ' '])) && line.contains(labels)
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<u64>().ok());
    text.lines().filter(fits).filter_map(value).sum()
}

/// Waits until a metric has a value.
pub(crate) fn until_metric(running: &Running, name: &str, labels: &str, value: u64) {
    until(&format!("{name}{{{labels}}} to be {value}"), || metric(running, name, labels) == value);
}

/// Runs a check of every case at once: most of them wait.
pub(crate) fn together<T: Send + Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        let check = &check;
        let running: Vec<_> = cases.iter().map(|case| scope.spawn(move || check(case))).collect();
        let failed = running.into_iter().filter_map(|case| case.join().err()).count();
        assert_eq!(failed, 0, "cases failed; each has said why");
    });
}

/// An address where nobody listens, on either transport: no other socket is of this host, so that
/// the system gives the port to none.
pub(crate) fn closed() -> SocketAddr {
    for _ in 0..16 {
        let udp = UdpSocket::bind("127.0.0.78:0").expect("a socket");
        let address = udp.local_addr().expect("bound");
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free on both transports")
}
