//! The parser of the question: untrusted bytes in, a lower-case name and two numbers out.
//!
//! Refuses compression pointers (nothing comes before the question that one could point to) and
//! everything RFC 1035 forbids. Does not allocate.

use crate::name::MAX_WIRE_NAME;

/// Length of the message header (RFC 1035 §4.1.1).
pub const HEADER: usize = 12;
/// Class IN (RFC 1035 §3.2.4).
pub const CLASS_IN: u16 = 1;

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    name: [u8; MAX_WIRE_NAME],
    name_length: usize,
    /// The type asked for.
    pub qtype: u16,
    /// The class asked in.
    pub qclass: u16,
    /// Where in the message the question ends.
    pub end: usize,
}

/// Why bytes are no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends within it.
    #[error("the message ends within the question")]
    Short,
    /// A label type other than a plain label (RFC 1035 §4.1.4, RFC 6891 §5).
    #[error("a pointer or unknown label type in the name of the question")]
    LabelType,
    /// More than 255 octets (RFC 1035 §2.3.4).
    #[error("the name of the question is longer than 255 octets")]
    NameTooLong,
}

impl Question {
    /// The name in lower-case wire format.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_length]
    }
}

/// Reads the question that follows the header.
///
/// # Errors
/// [`Malformed`] when there is none.
pub fn parse(message: &[u8]) -> Result<Question, Malformed> {
    let mut name = [0; MAX_WIRE_NAME];
    let mut length = 0;
    loop {
        let octet = *message.get(HEADER + length).ok_or(Malformed::Short)?;
        // RFC 1035 §4.1.4: the two high bits tell a label from a pointer.
        if octet & 0xc0 != 0 {
            return Err(Malformed::LabelType);
        }
        let next = length + 1 + usize::from(octet);
        if next > MAX_WIRE_NAME {
            return Err(Malformed::NameTooLong);
        }
        let label = message.get(HEADER + length..HEADER + next).ok_or(Malformed::Short)?;
        // A length octet is below 64 and no letter, so the whole label can be folded.
        for (to, from) in name[length..next].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        length = next;
        if octet == 0 {
            break;
        }
    }
    let at = HEADER + length;
    let [t1, t2, c1, c2] =
        *message.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).ok_or(Malformed::Short)?;
    Ok(Question {
        name,
        name_length: length,
        qtype: u16::from_be_bytes([t1, t2]),
        qclass: u16::from_be_bytes([c1, c2]),
        end: at + 4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 1, 0, 1]);
        bytes
    }

    fn labels(lengths: &[u8]) -> Vec<u8> {
        let mut name = Vec::new();
        for length in lengths {
            name.push(*length);
            name.extend(std::iter::repeat_n(b'A', usize::from(*length)));
        }
        name.push(0);
        name
    }

    #[test]
    fn a_name_is_folded_and_the_end_found() {
        let question = parse(&message(b"\x03wWw\x00")).expect("well formed");
        assert_eq!(question.name(), b"\x03www\x00");
        assert_eq!((question.qtype, question.qclass, question.end), (1, 1, HEADER + 9));
    }

    #[test]
    fn names_are_bounded_by_255_octets_and_labels_by_63() {
        for (lengths, expected) in [
            (&[63, 63, 63, 61][..], None),
            (&[63, 63, 63, 62], Some(Malformed::NameTooLong)),
            (&[63, 63, 63, 60, 0], None),
            (&[64], Some(Malformed::LabelType)),
            (&[], None),
        ] {
            assert_eq!(parse(&message(&labels(lengths))).err(), expected, "{lengths:?}");
        }
        assert_eq!(parse(&message(&[1; 300])).err(), Some(Malformed::NameTooLong));
    }

    #[test]
    fn a_pointer_in_the_question_is_refused() {
        for name in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\x80\x00", b"\x41a\x00"] {
            assert_eq!(parse(&message(name)).err(), Some(Malformed::LabelType), "{name:?}");
        }
    }

    #[test]
    fn every_cut_of_a_message_is_short() {
        let whole = message(b"\x03www\x07example\x00");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]).err(), Some(Malformed::Short), "{length}");
        }
    }
}
