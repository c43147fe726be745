//! Records as bytes (RFC 1035 §3.2.1). Names in data are written in full: RFC 2782 forbids
//! compressing an SRV target, and the others are short.

use crate::name::WireName;
use crate::question::CLASS_IN;
use crate::records::{Rdata, Soa, rtype};

/// Pointer to the name of the question, right after the header (RFC 1035 §4.1.4).
pub(crate) const TO_QUESTION: u16 = 0xc00c;
/// First offset a pointer cannot reach.
pub(crate) const POINTER_LIMIT: usize = 0x4000;
/// Octets of a record before its data when its owner is a pointer.
pub(crate) const HEAD: usize = 12;
/// Octets from an SRV record's data to its target.
pub(crate) const SRV_TARGET: usize = 6;

/// A pointer to an offset of the message; `None` when it is out of reach.
pub(crate) fn pointer(offset: usize) -> Option<u16> {
    (offset < POINTER_LIMIT).then(|| u16::try_from(offset).map(|o| o | 0xc000).ok()).flatten()
}

/// Owner (a pointer), type, class, time to live and length of a record.
pub(crate) fn head(owner: u16, rtype: u16, ttl_secs: u32, length: u16) -> [u8; HEAD] {
    let [o1, o2] = owner.to_be_bytes();
    let [t1, t2] = rtype.to_be_bytes();
    let [c1, c2] = CLASS_IN.to_be_bytes();
    let [s1, s2, s3, s4] = ttl_secs.to_be_bytes();
    let [l1, l2] = length.to_be_bytes();
    [o1, o2, t1, t2, c1, c2, s1, s2, s3, s4, l1, l2]
}

/// The data of a record.
pub(crate) fn data(data: &Rdata) -> Vec<u8> {
    match data {
        Rdata::A(address) => address.octets().to_vec(),
        Rdata::Aaaa(address) => address.octets().to_vec(),
        Rdata::Srv { priority, weight, port, target } => {
            let [p1, p2] = priority.to_be_bytes();
            let [w1, w2] = weight.to_be_bytes();
            let [n1, n2] = port.to_be_bytes();
            [&[p1, p2, w1, w2, n1, n2], target.as_bytes()].concat()
        }
        Rdata::Ptr(name) | Rdata::Cname(name) | Rdata::Ns(name) => name.as_bytes().to_vec(),
        Rdata::Txt(text) => {
            // RFC 1035 §3.3: a character string holds 255 octets at most.
            let bytes = &text.as_bytes()[..text.len().min(255)];
            let length = u8::try_from(bytes.len()).expect("cut to 255");
            [&[length], bytes].concat()
        }
        Rdata::Soa(soa) => start_of_authority(soa),
    }
}

/// Appends a record with a pointer for its owner.
pub(crate) fn record(out: &mut Vec<u8>, owner: u16, ttl_secs: u32, rdata: &Rdata) {
    let bytes = data(rdata);
    let length = u16::try_from(bytes.len()).expect("data is two names and six numbers at most");
    out.extend_from_slice(&head(owner, rdata.rtype(), ttl_secs, length));
    out.extend_from_slice(&bytes);
}

/// Appends a record with its owner in full, for when a pointer cannot reach it.
pub(crate) fn record_in_full(out: &mut Vec<u8>, owner: &WireName, ttl_secs: u32, rdata: &Rdata) {
    out.extend_from_slice(owner.as_bytes());
    let start = out.len();
    record(out, 0, ttl_secs, rdata);
    out.drain(start..start + 2);
}

/// The SOA record as it is put into messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SoaRecord {
    /// With its names in full; the pointer to its owner is to be patched.
    full: Box<[u8]>,
    /// With names that end in a pointer to the owner, for the zone they are in.
    short: Box<[u8]>,
    /// Where in `short` pointers to the owner stand.
    pointers: [usize; 3],
}

impl SoaRecord {
    /// Of an SOA whose two names are in `zone`.
    pub(crate) fn new(soa: &Soa, ttl_secs: u32, zone: &WireName) -> Self {
        let mut full = Vec::new();
        record(&mut full, 0, ttl_secs, &Rdata::Soa(Box::new(soa.clone())));
        let within = |name: &WireName| {
            let bytes = name.as_bytes();
            bytes[..bytes.len() - zone.as_bytes().len()].to_vec()
        };
        let (mname, rname) = (within(&soa.mname), within(&soa.rname));
        let numbers = &full[full.len() - 20..];
        let pointers = [0, HEAD + mname.len(), HEAD + mname.len() + 2 + rname.len()];
        let data = [&mname[..], &[0, 0], &rname, &[0, 0], numbers].concat();
        let length = u16::try_from(data.len()).expect("two short names and five numbers");
        let short = [&head(0, rtype::SOA, ttl_secs, length)[..], &data].concat();
        Self { full: full.into(), short: short.into(), pointers }
    }

    /// The record, and where pointers to its owner stand; with `inside`, the owner is the zone that
    /// its names are in.
    pub(crate) fn bytes(&self, inside: bool) -> (&[u8], &[usize]) {
        if inside { (&self.short, &self.pointers) } else { (&self.full, &self.pointers[..1]) }
    }
}

fn start_of_authority(soa: &Soa) -> Vec<u8> {
    let mut bytes = [soa.mname.as_bytes(), soa.rname.as_bytes()].concat();
    for number in [soa.serial, soa.refresh_secs, soa.retry_secs, soa.expire_secs, soa.minimum_secs]
    {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes
}

/// Whether a set of this type is kept as [`crate::node::Addresses`].
pub(crate) fn is_address_type(qtype: u16) -> bool {
    matches!(qtype, rtype::A | rtype::AAAA)
}
