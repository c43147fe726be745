//! What is given past its time while upstreams fail (RFC 8767).

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode::{self, NXDomain, NoError, ServFail};
use portolan_dns::DnsConfig;

use crate::client::ask_a;
use crate::kit::{SOON, forwarding, metric, pass, serve, together};
use crate::message::soa;
use crate::upstream::{Script, Upstream, answering_for, failing, one, silent};

/// Past the time of an answer that is kept for a second.
const PAST: Duration = Duration::from_millis(1150);
/// How long a client waits at most when there is an answer past its time.
const PATIENCE: Duration = Duration::from_millis(2000);

fn brief(upstream: &Upstream) -> DnsConfig {
    let mut config = forwarding(&[upstream]);
    config.forward.cache_ttl_min_secs = 1;
    config
}

fn denying() -> Script {
    Arc::new(|asked| {
        one(asked.reply(|reply| {
            reply.metadata.response_code = NXDomain;
            reply.authorities = vec![soa(1)];
        }))
    })
}

/// How an upstream fails, what it had said before, and the extended error that goes with that
/// being given past its time.
struct Case {
    what: &'static str,
    before: fn() -> Script,
    /// None: it is stopped, and its port refuses.
    after: Option<fn() -> Script>,
    code: ResponseCode,
    error: u16,
}

fn records() -> Script {
    answering_for("192.0.2.1", 1)
}

fn servfail() -> Script {
    failing(ServFail)
}

fn refused() -> Script {
    failing(ResponseCode::Refused)
}

const CASES: [Case; 5] = [
    Case { what: "stopped", before: records, after: None, code: NoError, error: 3 },
    Case { what: "silent", before: records, after: Some(silent), code: NoError, error: 3 },
    Case { what: "servfail", before: records, after: Some(servfail), code: NoError, error: 3 },
    Case { what: "refused", before: records, after: Some(refused), code: NoError, error: 3 },
    Case { what: "denial", before: denying, after: Some(silent), code: NXDomain, error: 19 },
];

#[test]
fn an_answer_past_its_time_is_given_when_the_upstream_fails_and_at_once_the_second_time() {
    together(&CASES, |case| {
        let upstream = Upstream::start((case.before)());
        let running = serve(brief(&upstream));
        assert_eq!(ask_a(running.address(), "www.example.").code(), case.code);
        match case.after {
            Some(script) => upstream.set(script()),
            None => drop(upstream),
        }
        pass(PAST);
        for (n, limit) in [PATIENCE, SOON, SOON].into_iter().enumerate() {
            let reply = ask_a(running.address(), "www.example.");
            assert_eq!(reply.code(), case.code, "{}: {reply:?}", case.what);
            let error = reply.error().map(|(code, _)| code);
            assert_eq!(error, Some(case.error), "{}: try {n}", case.what);
            assert!(reply.ttl_secs() <= Some(30), "{}: {:?}", case.what, reply.ttl_secs());
            assert!(reply.took < limit, "{}: try {n} took {:?}", case.what, reply.took);
        }
        assert!(metric(&running, "coredns_cache_served_stale_total", "") >= 3);
    });
}

#[test]
fn an_answer_past_its_time_has_thirty_seconds_at_most() {
    let upstream = Upstream::start(answering_for("192.0.2.1", 900));
    let mut config = brief(&upstream);
    config.forward.cache_ttl_max_secs = 1;
    let running = serve(config);
    assert_eq!(ask_a(running.address(), "www.example.").first(), "192.0.2.1");
    drop(upstream);
    pass(PAST);
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!(reply.first(), "192.0.2.1");
    assert_eq!(reply.ttl_secs(), Some(30), "RFC 8767 §4");
}

#[test]
fn what_is_past_its_time_is_asked_for_first_and_given_up_once_there_is_news() {
    let upstream = Upstream::start(answering_for("192.0.2.1", 1));
    let running = serve(brief(&upstream));
    assert_eq!(ask_a(running.address(), "www.example.").first(), "192.0.2.1");
    upstream.set(answering_for("192.0.2.2", 1));
    pass(PAST);
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!((reply.first(), reply.error()), ("192.0.2.2".to_owned(), None));
    upstream.set(denying());
    pass(PAST);
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!((reply.code(), reply.error()), (NXDomain, None), "a denial is news as well");
}

#[test]
fn without_stale_seconds_and_after_them_a_dead_upstream_is_a_failure() {
    together(&[0, 1], |stale_secs| {
        let upstream = Upstream::start(answering_for("192.0.2.1", 1));
        let mut config = brief(&upstream);
        config.forward.stale_secs = *stale_secs;
        let running = serve(config);
        assert_eq!(ask_a(running.address(), "www.example.").first(), "192.0.2.1");
        let label = upstream.label();
        drop(upstream);
        pass(Duration::from_millis(1050) * (*stale_secs + 1));
        ask_a(running.address(), "www.example.").assert_unreachable(&label);
    });
}
