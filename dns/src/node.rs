//! What stands at one name, compiled to the bytes of its answers.
//!
//! The length of the question is fixed for a given name, so offsets into the message are known
//! here. Nothing in a node depends on the generation or on any other service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use smallvec::SmallVec;

use crate::name::{WireName, suffix_start};
use crate::question::HEADER;
use crate::records::{Rdata, rtype};
use crate::wire::{self, HEAD, SRV_TARGET, TO_QUESTION};

/// Longest message TCP can carry, in octets (RFC 1035 §4.2.2).
pub(crate) const MESSAGE_MAX: usize = 65_535;

/// Octets of addresses that are kept in the node itself: one record of either family.
const ADDRESS_INLINE: usize = 28;
/// Octets kept free for an OPT record when a set is cut to what a message can carry.
const OPT_ROOM: usize = 512;

/// A name of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Another name answers for it.
    Alias(Alias),
    /// Its own record sets; none for an empty non-terminal.
    Sets(Sets),
}

/// A CNAME.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The name it stands for.
    pub(crate) target: WireName,
    /// Octets of the target before the cluster's zone; `None` when it is outside.
    pub(crate) inside: Option<usize>,
    /// Time to live in seconds.
    pub(crate) ttl_secs: u32,
}

/// Record sets of one name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    a: Option<Addresses>,
    aaaa: Option<Addresses>,
    others: Box<[Prebuilt]>,
    /// The name is one of the server's own, no service's.
    fixed: bool,
    /// Its servers are not compiled: their hosts may be any name, of any service.
    servers_apart: bool,
}

/// Records of one fixed length, owned by the question: rotated by copying in two pieces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Octets of each record.
    pub(crate) stride: usize,
    /// How many.
    pub(crate) count: usize,
    /// The records.
    pub(crate) bytes: SmallVec<[u8; ADDRESS_INLINE]>,
    /// Which of them a client gets depends on where it is.
    pub(crate) near: bool,
}

/// What compiling a name takes besides its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compile<'a> {
    /// Where addresses of SRV targets are looked up.
    pub(crate) names: &'a BTreeMap<WireName, Vec<Rdata>>,
    /// The cluster's zone.
    pub(crate) zone: &'a WireName,
    pub(crate) ttl_secs: u32,
    /// The name is one of the server's own.
    pub(crate) fixed: bool,
    /// Several addresses are cut to those near the client.
    pub(crate) near: bool,
}

/// An answer section and the additional section that helps it, with pointers already in place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prebuilt {
    rtype: u16,
    /// Records in `answer`.
    pub(crate) answers: u16,
    /// Bytes that follow the question.
    pub(crate) answer: Box<[u8]>,
    /// Records in `glue`.
    pub(crate) glues: u16,
    /// Bytes that follow the answer.
    pub(crate) glue: Box<[u8]>,
}

impl Node {
    /// Compiles the data of `owner`.
    pub(crate) fn compile(owner: &WireName, data: &[Rdata], with: &Compile<'_>) -> Self {
        // RFC 1034 §3.6.2: with a CNAME no other data stands at a name.
        if let [Rdata::Cname(target)] = data {
            let inside = suffix_start(target.as_bytes(), with.zone.as_bytes());
            let ttl_secs = with.ttl_secs;
            return Self::Alias(Alias { target: target.clone(), inside, ttl_secs });
        }
        let types: BTreeSet<u16> = data.iter().map(Rdata::rtype).collect();
        let servers_apart = with.fixed && types.contains(&rtype::SRV);
        let others = types.into_iter().filter(|kind| {
            let elsewhere = servers_apart && *kind == rtype::SRV;
            !elsewhere && !wire::is_address_type(*kind)
        });
        Self::Sets(Sets {
            a: addresses(data, rtype::A, with),
            aaaa: addresses(data, rtype::AAAA, with),
            others: others
                .map(|rtype| prebuild(owner, data, rtype, with.names, with.ttl_secs))
                .collect(),
            fixed: with.fixed,
            servers_apart,
        })
    }

    /// Whether it is one of the server's own names, no service's.
    pub(crate) fn is_static(&self) -> bool {
        match self {
            Self::Alias(_) => false,
            Self::Sets(sets) => sets.fixed,
        }
    }
}

impl Sets {
    /// The addresses of the family a type names.
    pub(crate) fn addresses(&self, qtype: u16) -> Option<&Addresses> {
        match qtype {
            rtype::A => self.a.as_ref(),
            rtype::AAAA => self.aaaa.as_ref(),
            _ => None,
        }
    }

    /// Whether the slow path alone knows the records of a type.
    pub(crate) fn is_apart(&self, qtype: u16) -> bool {
        self.servers_apart && qtype == rtype::SRV
    }

    /// The answer for any other type.
    pub(crate) fn prebuilt(&self, qtype: u16) -> Option<&Prebuilt> {
        self.others.iter().find(|set| set.rtype == qtype)
    }
}

fn addresses(data: &[Rdata], rtype: u16, with: &Compile<'_>) -> Option<Addresses> {
    let mut bytes = Vec::new();
    let mut count = 0;
    for address in data.iter().filter(|d| d.rtype() == rtype) {
        wire::record(&mut bytes, TO_QUESTION, with.ttl_secs, address);
        count += 1;
    }
    let near = with.near && count > 1;
    (count > 0).then(|| Addresses {
        stride: bytes.len() / count,
        count,
        bytes: SmallVec::from_slice(&bytes),
        near,
    })
}

/// Bound: a set larger than any message is cut to the records that fit one over TCP, and glue to
/// what fits behind it. Nothing could carry the rest.
fn prebuild(
    owner: &WireName,
    data: &[Rdata],
    rtype: u16,
    names: &BTreeMap<WireName, Vec<Rdata>>,
    ttl_secs: u32,
) -> Prebuilt {
    let start = HEADER + owner.as_bytes().len() + 4;
    let room = MESSAGE_MAX - OPT_ROOM - start;
    let mut answer = Vec::new();
    let mut answers = 0;
    // Targets with the offset their name stands at, in the order they appear.
    let mut targets: Vec<(&WireName, usize)> = Vec::new();
    let mut seen: HashMap<&WireName, ()> = HashMap::new();
    for rdata in data.iter().filter(|d| d.rtype() == rtype) {
        let before = answer.len();
        wire::record(&mut answer, TO_QUESTION, ttl_secs, rdata);
        if answer.len() > room {
            answer.truncate(before);
            break;
        }
        answers += 1;
        if let Rdata::Srv { target, .. } = rdata
            && seen.insert(target, ()).is_none()
        {
            targets.push((target, start + before + HEAD + SRV_TARGET));
        }
    }
    let (glue, glues) = glue(&targets, names, ttl_secs, room - answer.len());
    Prebuilt { rtype, answers, answer: answer.into(), glues, glue: glue.into() }
}

fn glue(
    targets: &[(&WireName, usize)],
    names: &BTreeMap<WireName, Vec<Rdata>>,
    ttl_secs: u32,
    room: usize,
) -> (Vec<u8>, u16) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for (target, offset) in targets {
        let before = bytes.len();
        let mut added = 0;
        for address in names.get(*target).into_iter().flatten().filter(|d| d.is_address()) {
            match wire::pointer(*offset) {
                Some(pointer) => wire::record(&mut bytes, pointer, ttl_secs, address),
                None => wire::record_in_full(&mut bytes, target, ttl_secs, address),
            }
            added += 1;
        }
        if bytes.len() > room {
            bytes.truncate(before);
            break;
        }
        count += added;
    }
    (bytes, count)
}
