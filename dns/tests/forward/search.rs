//! Search paths of pods, completed, looked up ahead, or left alone, by namespace.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused};
use hickory_proto::rr::RecordType;
use portolan_dns::config::SearchMode;
use portolan_model::DnsName;

use crate::client::{ask, ask_a, ask_over_tcp};
use crate::kit::{forwarding, metric, together, until};
use crate::message::{Question, soa};
use crate::server::{Running, cluster_ip, start, web};
use crate::upstream::{Act, Script, Step, Upstream, failing, one};

const FIRST: &str = "www.example.com.ns.svc.cluster.local.";
const BARE: &str = "www.example.com.";

/// Answers these names and denies all others.
fn knowing(names: &'static [(&'static str, &'static str)]) -> Script {
    Arc::new(move |asked| {
        let known = names.iter().find(|(name, _)| asked.name().eq_ignore_ascii_case(name));
        one(match known {
            Some((_, address)) => asked.address(address, 3600),
            None => asked.reply(|reply| {
                reply.metadata.response_code = NXDomain;
                reply.authorities = vec![soa(60)];
            }),
        })
    })
}

/// A server with `ns` and `other`, both of which have a service named `web`.
fn serve(upstream: &Upstream, mode: SearchMode, namespaces: &[&str], domains: &[&str]) -> Running {
    let mut config = forwarding(&[upstream]);
    config.search = mode;
    config.search_namespaces = namespaces.iter().map(|n| n.parse().expect("a pair")).collect();
    config.search_domains = domains.iter().map(|d| DnsName::parse(d).expect("valid")).collect();
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1"), cluster_ip("other/web", &["10.96.0.2"])]);
    running
}

fn counts(running: &Running, namespace: &str) -> (u64, u64) {
    let label = format!("namespace=\"{namespace}\"");
    let count = |name| metric(running, name, &label);
    (count("portolan_dns_search_misses_total"), count("portolan_dns_search_completions_total"))
}

#[test]
fn switched_off_each_candidate_is_a_question_like_any_other() {
    let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
    let running = serve(&upstream, SearchMode::Off, &[], &[]);
    for name in [FIRST, "www.example.com.svc.cluster.local.", "www.example.com.cluster.local."] {
        assert_eq!(ask_a(running.address(), name).code(), NXDomain, "{name}");
    }
    assert!(upstream.asked().is_empty());
    assert_eq!(counts(&running, "ns"), (1, 0));
    assert_eq!(ask_a(running.address(), BARE).data(), ["192.0.2.1"]);
}

#[test]
fn completed_the_first_candidate_is_answered_with_what_the_path_comes_to() {
    let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
    let running = serve(&upstream, SearchMode::Complete, &[], &[]);
    for ask in [ask, ask_over_tcp] {
        let spelled = "WWW.Example.com.ns.svc.cluster.LOCAL.";
        let reply = ask(running.address(), &Question::a(spelled));
        assert_eq!((reply.code(), reply.data()), (NoError, vec![BARE.into(), "192.0.2.1".into()]));
        let owners: Vec<String> =
            reply.message.answers.iter().map(|record| record.name.to_ascii()).collect();
        assert_eq!(owners[0], spelled, "the CNAME is that of the name asked");
        assert!(owners[1].eq_ignore_ascii_case(BARE), "{owners:?}");
        assert!(reply.message.metadata.recursion_available);
    }
    assert_eq!(upstream.count(BARE), 1);
    assert_eq!(counts(&running, "ns"), (0, 2));
    // No record of the type, but the name exists: that is what the path comes to.
    let aaaa = Question::a(FIRST).of_type(RecordType::AAAA);
    let reply = ask(running.address(), &aaaa);
    assert_eq!((reply.code(), reply.data()), (NoError, vec![BARE.to_owned()]));
}

#[test]
fn when_nothing_on_the_path_exists_the_first_candidate_does_not_either() {
    let upstream = Upstream::start(knowing(&[]));
    let running = serve(&upstream, SearchMode::Complete, &[], &["corp.example"]);
    let reply = ask_a(running.address(), FIRST);
    assert_eq!((reply.code(), reply.data()), (NXDomain, Vec::new()));
    let owner = reply.message.authorities.first().map(|soa| soa.name.to_ascii());
    assert_eq!(owner.as_deref(), Some("cluster.local."), "the SOA is that of the name asked");
    assert_eq!(counts(&running, "ns"), (1, 0));
    assert_eq!(upstream.count("www.example.com.corp.example."), 1);
    assert_eq!(upstream.count(BARE), 1);
}

#[test]
fn a_candidate_of_the_cluster_is_found_without_the_upstream() {
    let upstream = Upstream::start(knowing(&[]));
    let running = serve(&upstream, SearchMode::Complete, &[], &[]);
    for (name, target) in [
        ("web.other.ns.svc.cluster.local.", "web.other.svc.cluster.local."),
        ("web.other.svc.ns.svc.cluster.local.", "web.other.svc.cluster.local."),
        ("web.other.svc.cluster.local.ns.svc.cluster.local.", "web.other.svc.cluster.local."),
    ] {
        let reply = ask_a(running.address(), name);
        assert_eq!(reply.data(), [target, "10.96.0.2"], "{name}");
    }
    assert!(upstream.asked().is_empty(), "{:?}", upstream.asked());
}

#[test]
fn search_domains_are_gone_through_in_their_order() {
    let upstream = Upstream::start(knowing(&[
        ("www.example.com.b.example.", "192.0.2.2"),
        ("www.example.com.c.example.", "192.0.2.3"),
        (BARE, "192.0.2.1"),
    ]));
    let domains = ["a.example", "b.example", "c.example"];
    let running = serve(&upstream, SearchMode::Complete, &[], &domains);
    let reply = ask_a(running.address(), FIRST);
    assert_eq!(reply.data(), ["www.example.com.b.example.", "192.0.2.2"]);
    let asked: Vec<String> =
        upstream.asked().iter().map(|asked| asked.name().to_ascii_lowercase()).collect();
    assert_eq!(asked, ["www.example.com.a.example.", "www.example.com.b.example."]);
}

#[test]
fn an_upstream_that_fails_leaves_the_path_to_the_pod() {
    let upstream = Upstream::start(failing(hickory_proto::op::ResponseCode::ServFail));
    let running = serve(&upstream, SearchMode::Complete, &[], &[]);
    let reply = ask_a(running.address(), FIRST);
    assert_eq!((reply.code(), reply.data()), (NXDomain, Vec::new()));
    assert_eq!(counts(&running, "ns"), (1, 0));
    drop(upstream);
    let reply = ask_a(running.address(), "other.example.com.ns.svc.cluster.local.");
    assert_eq!((reply.code(), reply.data()), (NXDomain, Vec::new()));
}

#[test]
fn each_namespace_has_its_own_mode() {
    let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
    let running = serve(&upstream, SearchMode::Off, &["other=complete"], &[]);
    assert_eq!(ask_a(running.address(), FIRST).code(), NXDomain);
    let other = ask_a(running.address(), "www.example.com.other.svc.cluster.local.");
    assert_eq!(other.data(), [BARE, "192.0.2.1"]);
    assert_eq!((counts(&running, "ns"), counts(&running, "other")), ((1, 0), (0, 1)));
    // A namespace that is none has no pods, and so no search paths.
    let nobody = ask_a(running.address(), "www.example.com.nobody.svc.cluster.local.");
    assert_eq!(nobody.code(), NXDomain);
    assert_eq!(counts(&running, "nobody"), (0, 0));
}

#[test]
fn looked_up_ahead_the_bare_name_is_known_when_the_pod_comes_to_it() {
    let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
    let running = serve(&upstream, SearchMode::Prefetch, &[], &[]);
    assert_eq!(ask_a(running.address(), FIRST).code(), NXDomain);
    until("the bare name to be asked for", || upstream.count(BARE) == 1);
    until("its answer", || metric(&running, "coredns_cache_entries", "") == 1);
    assert_eq!(ask_a(running.address(), BARE).data(), ["192.0.2.1"]);
    let hits = metric(&running, "coredns_cache_hits_total", "type=\"success\"");
    assert_eq!((hits, metric(&running, "coredns_cache_misses_total", "")), (1, 0));
    assert_eq!(upstream.count(BARE), 1);
    // Known already, it is not asked for again.
    assert_eq!(ask_a(running.address(), FIRST).code(), NXDomain);
    assert_eq!(metric(&running, "coredns_cache_prefetch_total", ""), 1);
    assert_eq!(counts(&running, "ns"), (2, 0));
}

#[test]
fn names_of_services_and_questions_without_recursion_are_no_search_paths() {
    together(&[SearchMode::Complete, SearchMode::Prefetch], |mode| {
        let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
        let running = serve(&upstream, *mode, &[], &[]);
        for name in [
            "nobody.ns.svc.cluster.local.",
            "db-0.web.ns.svc.cluster.local.",
            "_http._tcp.example.com.ns.svc.cluster.local.",
        ] {
            assert_eq!(ask_a(running.address(), name).code(), NXDomain, "{name}");
        }
        let silent = Question::a(FIRST).without_recursion();
        assert_eq!(ask(running.address(), &silent).code(), NXDomain);
        assert!(upstream.asked().is_empty(), "{:?}", upstream.asked());
    });
}

#[test]
fn what_a_client_may_not_ask_for_it_does_not_learn_from_the_path() {
    let upstream = Upstream::start(knowing(&[(BARE, "192.0.2.1")]));
    for mode in [SearchMode::Complete, SearchMode::Prefetch] {
        let mut config = forwarding(&[&upstream]);
        config.search = mode;
        config.access = vec!["refuse for example.com".parse().expect("a rule")];
        let running = start(config, "127.0.0.1:0");
        running.publish(&[web("10.96.0.1")]);
        assert_eq!(ask_a(running.address(), FIRST).code(), NXDomain, "{mode:?}");
        assert_eq!(ask_a(running.address(), BARE).code(), Refused, "{mode:?}");
    }
    assert_eq!(upstream.count(BARE), 0);
}

#[test]
fn a_path_is_completed_within_the_time_of_one_question() {
    // Each domain takes its time to deny.
    let slow: Script = Arc::new(|asked| {
        let denied = asked.reply(|reply| {
            reply.metadata.response_code = NXDomain;
            reply.authorities = vec![soa(60)];
        });
        vec![Step::after_ms(400, Act::Send(denied))]
    });
    let upstream = Upstream::start(slow);
    let mut config = forwarding(&[&upstream]);
    config.search = SearchMode::Complete;
    config.forward.timeout = Duration::from_millis(600);
    config.search_domains =
        ["a.example", "b.example", "c.example"].map(|d| DnsName::parse(d).expect("valid")).into();
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1")]);
    let reply = ask_a(running.address(), FIRST);
    assert_eq!(reply.code(), NXDomain);
    assert!(reply.took < Duration::from_millis(1100), "{:?}", reply.took);
}
