//! Services that stand for a name elsewhere (ExternalName), whose records only an upstream has.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use portolan_model::{DnsName, Service, ServiceEntry, ServiceKey, ServiceKind};

use crate::client::{ask, ask_a, ask_over_tcp};
use crate::kit::{closed, forwarding, metric, rules};
use crate::message::{Question, a, cname, name, soa};
use crate::server::{Running, start, web};
use crate::upstream::{Script, Upstream, one};

const ALIAS: &str = "db.ns.svc.cluster.local.";
const TARGET: &str = "db.example.com.";

fn external(key: &str, target: &str) -> Arc<ServiceEntry> {
    let target = DnsName::parse(target).expect("a valid name");
    let key = ServiceKey::parse(key).expect("a key");
    let service = Service::new(key, ServiceKind::ExternalName(target), Vec::new());
    Arc::new(ServiceEntry { service: Arc::new(service), slices: Vec::new() })
}

fn serve(config: portolan_dns::DnsConfig) -> Running {
    let running = start(config, "127.0.0.1:0");
    running.publish(&[web("10.96.0.1"), external("ns/db", "db.example.com")]);
    running
}

/// The target is an alias itself.
fn chained() -> Script {
    Arc::new(|asked| {
        let owner = asked.message.queries[0].name().clone();
        one(asked.reply(|reply| {
            if asked.rtype() == RecordType::A {
                let real = name("real.example.net.");
                reply.answers =
                    vec![cname(&owner, "real.example.net.", 60), a(&real, "192.0.2.1", 60)];
            } else {
                reply.authorities = vec![soa(60)];
            }
        }))
    })
}

#[test]
fn a_service_that_is_a_name_elsewhere_is_a_cname_and_the_upstreams_records() {
    let upstream = Upstream::start(chained());
    let running = serve(forwarding(&[&upstream]));
    for ask in [ask, ask_over_tcp] {
        let reply = ask(running.address(), &Question::a("DB.ns.svc.cluster.local."));
        assert_eq!(reply.code(), ResponseCode::NoError);
        assert_eq!(reply.data(), [TARGET, "real.example.net.", "192.0.2.1"]);
        let first = &reply.message.answers[0];
        assert_eq!((first.name.to_ascii().as_str(), first.ttl), ("DB.ns.svc.cluster.local.", 5));
    }
    assert_eq!(upstream.count(TARGET), 1, "what the upstream said is kept");
    let aaaa = ask(running.address(), &Question::a(ALIAS).of_type(RecordType::AAAA));
    assert_eq!((aaaa.code(), aaaa.data()), (ResponseCode::NoError, vec![TARGET.to_owned()]));
    let cname = ask(running.address(), &Question::a(ALIAS).of_type(RecordType::CNAME));
    assert_eq!(cname.data(), [TARGET]);
    let plain = ask(running.address(), &Question::a(ALIAS).without_recursion());
    assert_eq!(plain.data(), [TARGET], "without recursion nobody else is asked");
    assert_eq!(upstream.count(TARGET), 2);
}

#[test]
fn a_target_that_does_not_exist_is_a_cname_to_nothing() {
    let upstream = Upstream::start(Arc::new(|asked| {
        one(asked.reply(|reply| {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authorities = vec![soa(60)];
        }))
    }));
    let running = serve(forwarding(&[&upstream]));
    let reply = ask_a(running.address(), ALIAS);
    assert_eq!((reply.code(), reply.data()), (ResponseCode::NXDomain, vec![TARGET.to_owned()]));
    assert_eq!(reply.message.authorities.len(), 1);
}

#[test]
fn with_the_upstream_dead_an_alias_is_a_failure_and_not_half_an_answer() {
    let address = closed();
    let running = serve(rules(&[format!(". {address}")]));
    let reply = ask_a(running.address(), ALIAS);
    assert!(reply.message.answers.is_empty(), "{reply:?}");
    reply.assert_unreachable(&format!("udp://{address}"));
    assert!(reply.took < Duration::from_secs(1), "{:?}", reply.took);
    assert_eq!(ask_a(running.address(), "web.ns.svc.cluster.local.").first(), "10.96.0.1");
}

#[test]
fn a_failure_of_the_upstream_is_the_failure_of_the_alias() {
    let upstream = Upstream::start(crate::upstream::failing(ResponseCode::ServFail));
    let running = serve(forwarding(&[&upstream]));
    assert_eq!(ask_a(running.address(), ALIAS).code(), ResponseCode::ServFail);
    assert_eq!(metric(&running, "portolan_dns_upstream_down", ""), 0);
}
