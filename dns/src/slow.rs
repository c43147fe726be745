//! The slow path: everything unusual, on hickory-proto. It can answer every ordinary question too,
//! straight from the snapshot, which is what the fast path is tested against.
//!
//! Runs on strangers' bytes: a count in the header is never trusted to size anything. What upstreams
//! have to be asked is left to `resolve`.

pub(crate) mod encode;
pub(crate) mod lookup;
mod request;

use portolan_model::{Place, Snapshot};

use crate::context::{Asker, Context};
use crate::edns::{ClientOpt, Reason, ede};
use crate::question;
use crate::rcode;
use crate::table::{Reverse, Table};
use crate::zone::Zones;

pub(crate) use encode::Composed;
pub(crate) use request::{Refusal, Request};

/// Types that ask for something other than records (RFC 6895 §3.1).
pub(crate) mod meta {
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// What the slow path looks things up in.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    pub(crate) zones: &'a Zones,
    pub(crate) snapshot: Option<&'a Snapshot>,
    pub(crate) pointers: Pointers<'a>,
    /// Where the client is, as far as that matters and is known.
    pub(crate) place: Option<Place>,
}

/// Where names of addresses are found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pointers<'a> {
    /// In the table's index.
    Index(&'a Reverse),
    /// In every service of the snapshot, one after the other: for checking the index.
    #[cfg_attr(not(test), expect(dead_code, reason = "the oracle of the property tests"))]
    Scan,
}

impl<'a> View<'a> {
    /// A table as a client sees it.
    pub(crate) fn of(table: &'a Table, client: std::net::IpAddr) -> Self {
        Self {
            zones: table.zones(),
            snapshot: table.snapshot(),
            pointers: Pointers::Index(table.reverse()),
            place: table.place_of(client),
        }
    }
}

/// Answers a query out of the snapshot alone; `None` when it deserves no answer (a response, or no
/// DNS message). What upstreams would have to be asked is SERVFAIL.
#[must_use]
pub fn respond(context: &Context<'_>, query: &[u8], asker: Asker) -> Option<Vec<u8>> {
    let view = View::of(context.table, asker.address);
    respond_from(context, &view, query, asker)
}

pub(crate) fn respond_from(
    context: &Context<'_>,
    view: &View<'_>,
    query: &[u8],
    asker: Asker,
) -> Option<Vec<u8>> {
    let request = match Request::read(query) {
        Ok(request) => request,
        Err(Refusal::Nothing) => return None,
        Err(Refusal::Bare(answer)) => return Some(answer),
        Err(Refusal::Cookie(header, opt)) => return Some(cookie(context, header, &opt, asker)),
    };
    let mut composed = Composed::new(context, view.zones, &request);
    if let Some(reason) = request.refused() {
        composed.refuse(reason);
        return Some(composed.encode(asker, &request));
    }
    let resolution = lookup::resolve(view, request.name(), request.qtype());
    let asks = resolution.next.is_some() && view.zones.forwards && request.recursion_desired();
    composed.fill(view.zones, &resolution, &request);
    if asks {
        composed.fail(rcode::SERV_FAIL, Some(Reason::of(ede::NO_REACHABLE_AUTHORITY)));
    }
    Some(composed.encode(asker, &request))
}

/// A cookie for a client that asks for nothing else; FORMERR where none are given, as for any
/// message without a question.
pub(crate) fn cookie(
    context: &Context<'_>,
    mut header: Vec<u8>,
    opt: &ClientOpt,
    asker: Asker,
) -> Vec<u8> {
    let reply = context.reply_opt(opt, asker.address);
    if reply.cookie.is_none() {
        header[3] |= 1;
        return header;
    }
    let limit = header.len() + reply.length();
    encode::append_opt(&mut header, &reply, None, limit);
    header
}

/// The response code of an answer, the part in its OPT record (RFC 6891 §6.1.3) included as far as
/// this server sends it: 16 for BADVERS.
#[must_use]
pub fn response_code(answer: &[u8]) -> u8 {
    let low = answer.get(3).map_or(0, |flags| flags & 0x0f);
    // BADVERS is the one extended code in use; its message holds a question and an OPT alone.
    let extended = low == 0
        && answer.get(6..12) == Some(&[0, 0, 0, 0, 0, 1])
        && question::parse(answer).is_ok_and(|q| answer.get(q.end + 5) == Some(&1));
    if extended { 16 } else { low }
}
