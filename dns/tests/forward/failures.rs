//! Upstreams that answer with a failure: others are asked, and what all of them say is passed on
//! and remembered for a while.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode::{self, FormErr, NotImp, Refused, ServFail};

use crate::client::{ask, ask_a};
use crate::kit::{SOON, forwarding, metric, pass, serve, together};
use crate::message::{Question, edns_with_error};
use crate::upstream::{Script, Upstream, answering, answering_for, failing, one};

/// How long a failure is remembered.
const REMEMBERED: Duration = Duration::from_secs(5);

#[test]
fn a_failure_of_one_upstream_sends_the_question_to_the_next() {
    together(&[ServFail, Refused, NotImp, FormErr], |code| {
        let bad = Upstream::start(failing(*code));
        let good = Upstream::start(answering("192.0.2.2"));
        let running = serve(forwarding(&[&bad, &good]));
        for n in 0..5 {
            let reply = ask_a(running.address(), &format!("n{n}.example."));
            assert_eq!(reply.data(), ["192.0.2.2"], "{code}");
            assert!(reply.took < SOON, "{code}: {:?}", reply.took);
        }
        // It answers, so it is not dead.
        assert_eq!(metric(&running, "portolan_dns_upstream_down", ""), 0, "{code}");
    });
}

/// A failure of all upstreams, with or without an answer past its time to give in its place.
const ALL_FAIL: [(ResponseCode, bool); 3] = [(ServFail, false), (Refused, false), (ServFail, true)];

#[test]
fn a_failure_of_all_is_remembered_for_five_seconds() {
    together(&ALL_FAIL, |(code, stale)| {
        let both = [Upstream::start(failing(*code)), Upstream::start(failing(*code))];
        let mut config = forwarding(&[&both[0], &both[1]]);
        config.forward.cache_ttl_min_secs = 1;
        let running = serve(config);
        let ask = || ask_a(running.address(), "www.example.");
        let counts = || both.each_ref().map(|upstream| upstream.count("www.example."));
        if *stale {
            both[0].set(answering_for("192.0.2.9", 1));
            assert_eq!(ask().first(), "192.0.2.9");
            both[0].set(failing(*code));
            pass(Duration::from_millis(1150));
        }
        let before = counts();
        for _ in 0..20 {
            let reply = ask();
            if *stale {
                assert_eq!(reply.first(), "192.0.2.9");
                assert_eq!(reply.error().map(|(code, _)| code), Some(3));
            } else {
                assert_eq!(reply.code(), *code, "what they say is passed on");
            }
        }
        let expected = before.map(|count| count + 1);
        assert_eq!(counts(), expected, "{code}: each is asked once however often clients ask");
        for upstream in &both {
            upstream.set(answering_for("192.0.2.1", 60));
        }
        pass(REMEMBERED + Duration::from_millis(100));
        assert_eq!(ask().first(), "192.0.2.1", "{code}");
    });
}

#[test]
fn a_failure_is_asked_once_of_an_upstream_that_is_alone() {
    let upstream = Upstream::start(failing(ServFail));
    let running = serve(forwarding(&[&upstream]));
    assert_eq!(ask_a(running.address(), "www.example.").code(), ServFail);
    assert_eq!(upstream.count("www.example."), 1);
}

#[test]
fn what_an_upstream_says_of_its_failure_is_passed_on() {
    let script: Script = Arc::new(|asked| {
        one(asked.reply(|reply| {
            reply.metadata.response_code = ResponseCode::ServFail;
            reply.edns = Some(edns_with_error(6, "signature of example. is bogus"));
        }))
    });
    let upstream = Upstream::start(script);
    let running = serve(forwarding(&[&upstream]));
    for _ in 0..2 {
        let reply = ask_a(running.address(), "www.example.");
        assert_eq!(reply.code(), ServFail);
        assert_eq!(reply.error(), Some((6, "signature of example. is bogus".to_owned())));
        let plain = ask(running.address(), &Question::a("www.example.").without_edns());
        assert!(plain.message.edns.is_none(), "nobody without EDNS gets an OPT record");
    }
}

#[test]
fn a_failure_and_a_silence_come_to_the_failure() {
    let mute = Upstream::start(crate::upstream::silent());
    let bad = Upstream::start(failing(Refused));
    let running = serve(forwarding(&[&mute, &bad]));
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!(reply.code(), Refused);
    assert!(reply.took < Duration::from_millis(1300), "{:?}", reply.took);
}
