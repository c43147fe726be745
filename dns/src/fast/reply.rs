//! The answer under construction: sections in order, within a limit, room kept for the OPT record.

use crate::answer::Answer;
use crate::config::LargeAnswers;
use crate::edns::{Reason, ReplyOpt};
use crate::fast::Transport;
use crate::node::{Addresses, Alias, Prebuilt};
use crate::question::HEADER;
use crate::records::{Rdata, rtype};
use crate::wire::{self, HEAD, SoaRecord, TO_QUESTION};
use crate::zone::Zones;

/// A record that is needed does not fit.
pub(super) struct Full;

/// What the header says besides counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    pub(super) rcode: u8,
    pub(super) authoritative: bool,
    pub(super) recursion_available: bool,
    pub(super) authentic: bool,
}

/// An answer in a buffer.
pub(super) struct Reply<'a> {
    out: &'a mut [u8],
    /// Octets written.
    length: usize,
    /// End of the question.
    question_end: usize,
    /// Octets records may reach.
    limit: usize,
    /// Octets the whole may reach.
    whole: usize,
    answers: u16,
    authorities: u16,
    additionals: u16,
    truncated: bool,
}

impl<'a> Reply<'a> {
    /// Copies header and question, case and all; `None` when the buffer cannot hold even that.
    /// Room is kept for an OPT record of `opt` octets.
    pub(super) fn start(
        query: &[u8],
        end: usize,
        out: &'a mut [u8],
        whole: usize,
        opt: usize,
    ) -> Option<Self> {
        let limit = whole.checked_sub(opt).filter(|limit| *limit >= end)?;
        out.get_mut(..end)?.copy_from_slice(query.get(..end)?);
        Some(Self {
            out,
            length: end,
            question_end: end,
            limit,
            whole,
            answers: 0,
            authorities: 0,
            additionals: 0,
            truncated: false,
        })
    }

    /// Whether no record has been put.
    pub(super) fn is_empty(&self) -> bool {
        self.length == self.question_end
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) {
        self.length = self.question_end;
        (self.answers, self.authorities, self.additionals) = (0, 0, 0);
    }

    /// Forgets all records and says so (RFC 2181 §9).
    pub(super) fn truncate(&mut self) {
        self.clear();
        self.truncated = true;
    }

    /// Sets the header and appends the OPT record, with the reason if there is room for it; returns
    /// the length of the message.
    pub(super) fn finish(
        mut self,
        flags: Flags,
        opt: Option<&ReplyOpt<'_>>,
        reason: Option<&Reason>,
    ) -> usize {
        if let Some(opt) = opt
            && let Some(length) = opt.write(&mut self.out[self.length..self.whole], reason)
        {
            self.length += length;
            self.additionals += 1;
        }
        // RFC 1035 §4.1.1: QR, then the client's RD; RFC 4035 §3.2.2: the client's CD.
        let recursion_desired = self.out[2] & 0x01;
        let checking_disabled = self.out[3] & 0x10;
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        self.out[2] =
            0x80 | bit(flags.authoritative, 0x04) | bit(self.truncated, 0x02) | recursion_desired;
        self.out[3] = bit(flags.recursion_available, 0x80)
            | bit(flags.authentic, 0x20)
            | checking_disabled
            | flags.rcode;
        for (at, count) in [(6, self.answers), (8, self.authorities), (10, self.additionals)] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.length
    }

    /// An answer of an upstream, aged.
    pub(super) fn put_kept(
        &mut self,
        answer: &Answer,
        kept_secs: u32,
        age_secs: u32,
    ) -> Result<(), Full> {
        let start = self.length;
        self.put(&answer.body)?;
        answer.age(&mut self.out[start..self.length], kept_secs, age_secs);
        [self.answers, self.authorities, self.additionals] = answer.counts;
        Ok(())
    }

    /// Addresses in rotation, owned by the question or by the name that stands at `owner`. Over TCP
    /// a set larger than any message shows a window of itself that moves with the rotation; over
    /// UDP as well, where that is wanted.
    pub(super) fn put_addresses(
        &mut self,
        set: &Addresses,
        owner: Option<u16>,
        rotation: usize,
        transport: Transport,
        large: LargeAnswers,
    ) -> Result<(), Full> {
        let fit = (self.limit - self.length) / set.stride;
        let count = match (transport, large) {
            (Transport::Tcp, _) | (Transport::Udp, LargeAnswers::Subset) => set.count.min(fit),
            (Transport::Udp, LargeAnswers::Truncate) => set.count,
        };
        if count > fit || count == 0 {
            return Err(Full);
        }
        let first = self.length;
        let start = (rotation % set.count) * set.stride;
        let size = count * set.stride;
        let tail = size.min(set.bytes.len() - start);
        self.put(&set.bytes[start..start + tail])?;
        self.put(&set.bytes[..size - tail])?;
        if let Some(owner) = owner {
            for record in self.out[first..self.length].chunks_exact_mut(set.stride) {
                record[..2].copy_from_slice(&owner.to_be_bytes());
            }
        }
        self.answers += u16::try_from(count).map_err(|_| Full)?;
        Ok(())
    }

    /// A prebuilt answer; its glue is left out when it does not fit (RFC 2181 §9).
    pub(super) fn put_prebuilt(&mut self, set: &Prebuilt) -> Result<(), Full> {
        self.put(&set.answer)?;
        self.answers += set.answers;
        if let Ok(()) = self.put(&set.glue) {
            self.additionals += set.glues;
        }
        Ok(())
    }

    /// One link of a chain of aliases: from the question or the name at `owner` to its target.
    /// Returns a pointer to the target. `zone` is where the cluster's zone stands.
    pub(super) fn put_alias(
        &mut self,
        owner: Option<u16>,
        alias: &Alias,
        zone: usize,
    ) -> Result<u16, Full> {
        let target = alias.target.as_bytes();
        let zone = wire::pointer(zone).ok_or(Full)?.to_be_bytes();
        let (name, rest) = match alias.inside {
            Some(prefix) => (&target[..prefix], &zone[..]),
            None => (target, &[][..]),
        };
        let length = u16::try_from(name.len() + rest.len()).map_err(|_| Full)?;
        let owner = owner.unwrap_or(TO_QUESTION);
        self.put(&wire::head(owner, rtype::CNAME, alias.ttl_secs, length))?;
        let at = wire::pointer(self.length).ok_or(Full)?;
        self.put(name)?;
        self.put(rest)?;
        self.answers += 1;
        Ok(at)
    }

    /// The SOA as the answer: the question names its owner.
    pub(super) fn put_answer_soa(&mut self, soa: &SoaRecord, inside: bool) -> Result<(), Full> {
        self.put_soa(soa, HEADER, inside)?;
        self.answers += 1;
        Ok(())
    }

    /// The SOA of a negative answer; its owner stands at `apex`.
    pub(super) fn put_authority_soa(
        &mut self,
        soa: &SoaRecord,
        apex: usize,
        inside: bool,
    ) -> Result<(), Full> {
        self.put_soa(soa, apex, inside)?;
        self.authorities += 1;
        Ok(())
    }

    /// With `inside`, what stands at `owner` is the zone that the record's names are in.
    fn put_soa(&mut self, soa: &SoaRecord, owner: usize, inside: bool) -> Result<(), Full> {
        let owner = wire::pointer(owner).ok_or(Full)?.to_be_bytes();
        let (bytes, pointers) = soa.bytes(inside);
        let start = self.length;
        self.put(bytes)?;
        for at in pointers {
            self.out[start + at..start + at + 2].copy_from_slice(&owner);
        }
        Ok(())
    }

    /// The NS record of an apex and the addresses of the server it names.
    pub(super) fn put_servers(&mut self, zones: &Zones) -> Result<(), Full> {
        let server = zones.server.as_bytes();
        let length = u16::try_from(server.len()).map_err(|_| Full)?;
        self.put(&wire::head(TO_QUESTION, rtype::NS, zones.ttl_secs, length))?;
        let owner = wire::pointer(self.length).ok_or(Full)?;
        self.put(server)?;
        self.answers += 1;
        let before = self.length;
        for data in &zones.server_data {
            if self.put_address(owner, zones.ttl_secs, data).is_err() {
                (self.length, self.additionals) = (before, 0);
                break;
            }
            self.additionals += 1;
        }
        Ok(())
    }

    fn put_address(&mut self, owner: u16, ttl_secs: u32, data: &Rdata) -> Result<(), Full> {
        let (v4, v6);
        let octets: &[u8] = match data {
            Rdata::A(address) => {
                v4 = address.octets();
                &v4
            }
            Rdata::Aaaa(address) => {
                v6 = address.octets();
                &v6
            }
            _ => &[],
        };
        let length = u16::try_from(octets.len()).map_err(|_| Full)?;
        if self.limit - self.length < HEAD + octets.len() {
            return Err(Full);
        }
        self.put(&wire::head(owner, data.rtype(), ttl_secs, length))?;
        self.put(octets)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.length + bytes.len();
        if end > self.limit {
            return Err(Full);
        }
        self.out[self.length..end].copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }
}
