//! A question as it is sent to an upstream: random id, and random case where the id alone would
//! have to tell an answer from a forgery (RFC 5452 §9.3, draft-vixie-dnsext-dns0x20).

use crate::cache::CacheKey;
use crate::edns::OPT;
use crate::question::{CLASS_IN, HEADER};

/// The UDP payload we ask upstreams to keep to, in octets: fits every path without fragments.
const PAYLOAD: u16 = 1232;

/// A question on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// Where its question ends.
    pub(crate) question_end: usize,
}

impl Outgoing {
    /// A question over a transport that shows who answers.
    pub(crate) fn plain(key: &CacheKey) -> Self {
        let (dnssec_ok, checking_disabled) = key.flags();
        let [i1, i2] = rand::random::<[u8; 2]>();
        // RFC 1035 §4.1.1: RD; RFC 4035 §3.2.2: CD; RFC 6840 §5.7: AD asks for AD.
        let flags = 0x20 | if checking_disabled { 0x10 } else { 0 };
        let mut bytes = Vec::with_capacity(HEADER + key.name().len() + 4 + 11);
        bytes.extend_from_slice(&[i1, i2, 0x01, flags, 0, 1, 0, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(key.name());
        bytes.extend_from_slice(&key.qtype().to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        let question_end = bytes.len();
        bytes.push(0);
        bytes.extend_from_slice(&OPT.to_be_bytes());
        bytes.extend_from_slice(&PAYLOAD.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        Self { bytes, question_end }
    }

    /// A question whose name is in random case.
    pub(crate) fn in_random_case(key: &CacheKey) -> Self {
        let mut outgoing = Self::plain(key);
        let end = HEADER + key.name().len();
        let random: [u8; 32] = rand::random();
        for (n, octet) in outgoing.bytes[HEADER..end].iter_mut().enumerate() {
            // A length octet is below 64 and no letter.
            if octet.is_ascii_lowercase() && random[n / 8] & (1 << (n % 8)) != 0 {
                octet.make_ascii_uppercase();
            }
        }
        outgoing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;

    #[test]
    fn a_question_says_what_its_key_says() {
        let key = CacheKey::new(b"\x03www\x07example\x00", 28, true, true);
        let mut cases = std::collections::BTreeSet::new();
        for _ in 0..64 {
            let outgoing = Outgoing::in_random_case(&key);
            let message = Message::from_vec(&outgoing.bytes).expect("decodes");
            let query = &message.queries[0];
            assert_eq!(query.name().to_lowercase().to_ascii(), "www.example.");
            assert_eq!(u16::from(query.query_type()), 28);
            assert!(message.metadata.recursion_desired && message.metadata.checking_disabled);
            let edns = message.edns.expect("edns");
            assert!(edns.flags().dnssec_ok && edns.max_payload() == PAYLOAD);
            cases.insert((message.metadata.id, query.name().to_ascii()));
        }
        assert!(cases.len() > 60, "ids and cases hardly differ: {cases:?}");
    }
}
