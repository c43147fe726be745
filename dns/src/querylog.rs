//! The log of queries: which, and one in how many of them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::config::QueryLog;
use crate::front::Protocol;
use crate::question;
use crate::reason::shown;
use crate::slow::response_code;

/// Response codes that are no error: NOERROR and NXDOMAIN.
const GOOD: [u8; 2] = [0, 3];

/// Decides what is logged, and writes it.
#[derive(Debug)]
pub(crate) struct QueryLogger {
    which: QueryLog,
    sample: u32,
    count: AtomicU32,
}

/// One query and its answer.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) query: &'a [u8],
    pub(crate) answer: &'a [u8],
    pub(crate) client: IpAddr,
    pub(crate) protocol: Protocol,
}

impl QueryLogger {
    pub(crate) fn new(which: QueryLog, sample: u32) -> Self {
        Self { which, sample: sample.max(1), count: AtomicU32::new(0) }
    }

    /// Whether anything is logged at all.
    pub(crate) fn is_on(&self) -> bool {
        self.which != QueryLog::Off
    }

    /// Whether this answer is one to log, and its turn has come.
    pub(crate) fn wants(&self, answer: &[u8]) -> bool {
        let fits = match self.which {
            QueryLog::Off => false,
            QueryLog::All => true,
            QueryLog::Errors => !GOOD.contains(&response_code(answer)),
        };
        fits && self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample)
    }

    /// Writes a line.
    pub(crate) fn write(&self, line: &Line<'_>, took: Duration) {
        let (name, qtype) = match question::parse(line.query) {
            Ok(question) => (shown(question.name()), question.qtype),
            Err(_) => ("?".to_owned(), 0),
        };
        let id = line.query.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
        tracing::info!(
            target: "dns_query",
            client = %line.client,
            proto = line.protocol.name(),
            id,
            name,
            r#type = %hickory_proto::rr::RecordType::from(qtype),
            rcode = response_code(line.answer),
            octets = line.answer.len(),
            us = took.as_micros(),
            "answered",
        );
    }
}
