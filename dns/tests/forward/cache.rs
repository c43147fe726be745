//! What is kept of upstreams' answers, for how long, and how much of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode::{self, NXDomain, NoError};
use hickory_proto::rr::RecordType;
use portolan_dns::DnsConfig;

use crate::client::{ask, ask_a, ask_over_tcp};
use crate::kit::{SOON, forwarding, metric, pass, serve, together};
use crate::message::{Question, a, cname, soa};
use crate::upstream::{Script, Upstream, answering, answering_for, failing, one};

/// A config whose cache keeps answers for a second at least.
fn brief(upstream: &Upstream) -> DnsConfig {
    let mut config = forwarding(&[upstream]);
    config.forward.cache_ttl_min_secs = 1;
    config
}

#[test]
fn a_hit_asks_nobody_and_its_time_to_live_counts_down() {
    let upstream = Upstream::start(answering_for("192.0.2.1", 100));
    let running = serve(brief(&upstream));
    let began = Instant::now();
    let mut last = u32::MAX;
    while began.elapsed() < Duration::from_millis(1300) {
        for ask in [ask, ask_over_tcp] {
            let reply = ask(running.address(), &Question::a("www.example."));
            assert_eq!(reply.data(), ["192.0.2.1"]);
            let ttl = reply.ttl_secs().expect("a record");
            let passed = u32::try_from(began.elapsed().as_secs()).expect("seconds");
            // Both ends round to whole seconds.
            let expected = 100 - passed - 1..=100 - passed.saturating_sub(1);
            assert!(ttl <= last && expected.contains(&ttl), "{ttl} after {passed} s");
            last = ttl;
        }
        pass(Duration::from_millis(100));
    }
    assert_eq!(upstream.count("www.example."), 1);
    let hits = metric(&running, "coredns_cache_hits_total", "type=\"success\"");
    assert!(hits > 5, "{hits}");
    assert_eq!(metric(&running, "coredns_cache_misses_total", ""), 1);
}

#[test]
fn times_to_live_are_cut_to_the_maximum_and_an_answer_lives_as_long_as_its_shortest() {
    let upstream = Upstream::start(Arc::new(|asked| {
        let owner = asked.message.queries[0].name().clone();
        one(asked.reply(|reply| {
            reply.answers = vec![
                cname(&owner, "target.example.", 1_000_000),
                a(&crate::message::name("target.example."), "192.0.2.1", 1),
            ];
        }))
    }));
    let mut config = brief(&upstream);
    config.forward.cache_ttl_max_secs = 50;
    let running = serve(config);
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!(reply.data(), ["target.example.", "192.0.2.1"]);
    let ttls: Vec<u32> = reply.message.answers.iter().map(|record| record.ttl).collect();
    assert!(ttls[0] <= 50 && ttls[1] <= 1, "{ttls:?}");
    pass(Duration::from_millis(1150));
    ask_a(running.address(), "www.example.");
    assert_eq!(upstream.count("www.example."), 2, "the second record was due");
}

/// A negative answer: its code, and the time its SOA allows.
fn negative(code: ResponseCode, ttl_secs: u32) -> Script {
    Arc::new(move |asked| {
        one(asked.reply(|reply| {
            reply.metadata.response_code = code;
            reply.authorities = vec![soa(ttl_secs)];
        }))
    })
}

#[test]
fn negative_answers_are_kept_as_long_as_their_soa_says() {
    // Code, time of the SOA, the config's maximum, and whether it is still kept after a second.
    let cases = [
        (NXDomain, 100, 1800, true),
        (NoError, 100, 1800, true),
        (NXDomain, 1, 1800, false),
        (NoError, 1, 1800, false),
        (NXDomain, 100, 1, false),
    ];
    together(&cases, |(code, ttl_secs, maximum, kept)| {
        let upstream = Upstream::start(negative(*code, *ttl_secs));
        let mut config = brief(&upstream);
        config.forward.cache_negative_ttl_max_secs = *maximum;
        let running = serve(config);
        for after in [0, 1] {
            pass(Duration::from_millis(after * 1150));
            let reply = ask_a(running.address(), "nobody.example.");
            assert_eq!(reply.code(), *code);
            assert!(reply.message.answers.is_empty());
            assert_eq!(reply.message.authorities.len(), 1, "RFC 2308 §6: the SOA is in it");
            let ttl = reply.ttl_secs().expect("the soa");
            assert!(ttl <= (*ttl_secs).min(*maximum), "{ttl}");
            assert!(after == 0 || !kept || ttl < *ttl_secs, "{ttl} does not count down");
        }
        let expected = if *kept { 1 } else { 2 };
        assert_eq!(upstream.count("nobody.example."), expected, "{code} {ttl_secs} {maximum}");
        let denials = metric(&running, "coredns_cache_hits_total", "type=\"denial\"");
        assert_eq!(denials, u64::from(*kept));
    });
}

#[test]
fn the_bytes_that_are_kept_are_bounded_and_what_is_given_is_right_all_the_same() {
    let upstream = Upstream::start(Arc::new(|asked| {
        let owner = asked.message.queries[0].name().clone();
        // The number in the name comes back in the address.
        let number = asked.name()[1..].split('.').next().and_then(|n| n.parse::<u32>().ok());
        let last = std::net::Ipv4Addr::from(0x0a00_0000 + number.unwrap_or(0)).to_string();
        one(asked.reply(|reply| {
            reply.answers = (0..20).map(|_| a(&owner, &last, 3600)).collect();
        }))
    }));
    let mut config = forwarding(&[&upstream]);
    config.forward.cache_bytes = 64 * 1024;
    let running = serve(config);
    for round in 0..2 {
        for n in 0..300_u32 {
            let reply = ask_a(running.address(), &format!("n{n}.example."));
            let expected = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
            assert_eq!(reply.first(), expected, "in round {round}");
            if n % 50 == 0 {
                let bytes = metric(&running, "portolan_dns_cache_bytes", "");
                assert!(bytes <= 64 * 1024, "{bytes} octets are kept");
            }
        }
    }
    assert!(metric(&running, "coredns_cache_entries", "") > 10);
    assert!(metric(&running, "coredns_cache_evictions_total", "") > 100);
}

#[test]
fn answers_for_other_flags_and_types_are_kept_apart() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&upstream]));
    let question = Question::a("www.example.");
    let questions = [
        question.clone(),
        question.clone().with_flags(true, false),
        question.clone().with_flags(false, true),
        question.clone().with_flags(true, true),
        question.clone().of_type(RecordType::AAAA),
        question.clone().of_type(RecordType::MX),
    ];
    for _ in 0..3 {
        for question in &questions {
            ask(running.address(), question);
        }
    }
    assert_eq!(upstream.count("www.example."), questions.len());
    // Without EDNS there is no DO bit: the same as with it clear.
    ask(running.address(), &question.without_edns());
    assert_eq!(upstream.count("www.example."), questions.len());
}

/// A name that is asked for all the time, how long its answer may be kept, and what its upstream
/// does from the second question on.
struct Hot {
    what: &'static str,
    ttl_secs: u32,
    then: fn() -> Script,
    /// How often it is asked in the time of the first answer.
    asked: std::ops::RangeInclusive<usize>,
}

const HOT: [Hot; 4] = [
    Hot { what: "ten seconds", ttl_secs: 10, then: ten_seconds, asked: 2..=2 },
    Hot { what: "five seconds", ttl_secs: 5, then: ten_seconds, asked: 2..=2 },
    // One failure is no reason to let the answer run out.
    Hot { what: "a failure", ttl_secs: 10, then: servfail, asked: 3..=30 },
    Hot { what: "a refusal", ttl_secs: 10, then: refused, asked: 3..=30 },
];

fn ten_seconds() -> Script {
    answering_for("192.0.2.1", 10)
}

fn servfail() -> Script {
    failing(ResponseCode::ServFail)
}

fn refused() -> Script {
    failing(ResponseCode::Refused)
}

#[test]
fn a_hot_name_is_asked_anew_before_it_runs_out_and_a_cold_one_is_not() {
    together(&HOT, |hot| {
        let upstream = Upstream::start(answering_for("192.0.2.1", hot.ttl_secs));
        let running = serve(brief(&upstream));
        let began = Instant::now();
        ask_a(running.address(), "cold.example.");
        assert_eq!(ask_a(running.address(), "hot.example.").first(), "192.0.2.1");
        upstream.set((hot.then)());
        let whole = Duration::from_secs(u64::from(hot.ttl_secs));
        let mut last_second = None;
        while began.elapsed() < whole - Duration::from_millis(400) {
            let reply = ask_a(running.address(), "hot.example.");
            assert_eq!(reply.first(), "192.0.2.1", "{}", hot.what);
            assert!(reply.took < SOON, "{}: {:?}", hot.what, reply.took);
            let early = began.elapsed() < whole / 2 - Duration::from_millis(400);
            assert!(!early || upstream.count("hot.example.") == 1, "{}: too early", hot.what);
            if reply.ttl_secs() == Some(1) {
                last_second.get_or_insert_with(Instant::now);
            }
            // Once it has run out it is asked for in any case: stop before that.
            if last_second.is_some_and(|start| start.elapsed() > Duration::from_millis(700)) {
                break;
            }
            pass(Duration::from_millis(40));
        }
        let asked = upstream.count("hot.example.");
        assert!(hot.asked.contains(&asked), "{}: it was asked for {asked} times", hot.what);
        assert_eq!(upstream.count("cold.example."), 1, "{}", hot.what);
        // What clients waited for: one miss for each name.
        assert_eq!(metric(&running, "coredns_cache_misses_total", ""), 2, "{}", hot.what);
    });
}

#[test]
fn what_the_upstream_has_validated_is_said_to_those_who_asked_for_it() {
    let upstream = Upstream::start(Arc::new(|asked| {
        let owner = asked.message.queries[0].name().clone();
        one(asked.reply(|reply| {
            reply.metadata.authentic_data = true;
            reply.answers = vec![a(&owner, "192.0.2.1", 60)];
        }))
    }));
    let running = serve(forwarding(&[&upstream]));
    let question = Question::a("www.example.");
    // On the way from the upstream, and out of the cache; RFC 6840 §5.8.
    for _ in 0..2 {
        let plain = ask(running.address(), &question).message.metadata;
        let validated = ask(running.address(), &question.clone().with_flags(true, false));
        assert!(!plain.authentic_data && validated.message.metadata.authentic_data);
        let opt = validated.message.edns.expect("the question had one");
        assert!(opt.flags().dnssec_ok, "RFC 3225 §3");
    }
}
