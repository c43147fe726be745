//! A DNS client that is not ours: NLnet Labs' `domain`, over UDP or TCP.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::name::Name;
use domain::resolv::StubResolver;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};

/// Answer code, and the answer section's records as `NAME TYPE DATA`, without TTL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rcode: Rcode,
    pub(crate) records: BTreeSet<String>,
}

/// Asks one question.
pub(crate) async fn ask(
    server: SocketAddr,
    transport: Transport,
    name: &str,
    rtype: Rtype,
) -> Answer {
    let mut conf = ResolvConf::new();
    let server = ServerConf {
        request_timeout: Duration::from_secs(5),
        ..ServerConf::new(server, transport)
    };
    conf.servers = vec![server];
    conf.options.attempts = 1;
    let resolver = StubResolver::from_conf(conf);
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    let answer = resolver.query((name, rtype)).await.expect("an answer");
    let records = answer
        .answer()
        .expect("an answer section")
        .limit_to::<domain::rdata::AllRecordData<_, _>>()
        .map(|record| {
            let record = record.expect("a record");
            format!("{} {} {}", record.owner(), record.rtype(), record.data())
        })
        .collect();
    Answer { rcode: answer.header().rcode(), records }
}
