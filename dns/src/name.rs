//! Names as they stand on the wire, in lower case: what the tables are keyed by.
//!
//! Holds complete names only; compression pointers are the business of `wire` and `fast`.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::DnsName;
use portolan_model::name::MAX_LABEL;

/// Longest name on the wire in octets, its root label included (RFC 1035 §2.3.4).
pub const MAX_WIRE_NAME: usize = 255;

/// An absolute name in wire format (RFC 1035 §3.1), lower case, ending in the root label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireName(Arc<[u8]>);

impl WireName {
    /// The wire form of a validated name.
    #[must_use]
    pub fn of(name: &DnsName) -> Self {
        Self::root()
            .below(name.labels().map(str::as_bytes))
            .expect("a DnsName has labels of 63 octets and 253 octets of text at most")
    }

    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self([0].into())
    }

    /// The name with these labels put in front, leftmost first; `None` when a label is empty or
    /// too long, or the whole is (RFC 1035 §2.3.4).
    #[must_use]
    pub fn below<'a>(&self, labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut bytes = Vec::with_capacity(64);
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.extend_from_slice(&self.0);
        (bytes.len() <= MAX_WIRE_NAME).then(|| Self(bytes.into()))
    }

    /// The name with one label put in front.
    #[must_use]
    pub fn child(&self, label: &str) -> Option<Self> {
        self.below([label.as_bytes()])
    }

    /// The name an address is found under in reverse (RFC 1035 §3.5, RFC 3596 §2.5).
    #[must_use]
    pub fn reverse(address: IpAddr) -> Self {
        let full = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self::reverse_prefix(address, full)
    }

    /// The reverse zone of the first `bits` of an address, rounded down to octets or nibbles.
    #[must_use]
    pub fn reverse_prefix(address: IpAddr, bits: u8) -> Self {
        let (labels, suffix): (Vec<String>, &[&str]) = match address {
            IpAddr::V4(v4) => {
                let octets = v4.octets().into_iter().take(usize::from(bits / 8));
                (octets.map(|o| o.to_string()).collect(), &["in-addr", "arpa"])
            }
            IpAddr::V6(v6) => {
                let nibbles = v6.octets().into_iter().flat_map(|o| [o >> 4, o & 0xf]);
                let nibbles = nibbles.take(usize::from(bits / 4));
                (nibbles.map(|n| format!("{n:x}")).collect(), &["ip6", "arpa"])
            }
        };
        let labels = labels.iter().rev().map(String::as_str).chain(suffix.iter().copied());
        Self::root().below(labels.map(str::as_bytes)).expect("32 nibbles and a suffix fit a name")
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels(&self.0)
    }

    /// The name that well-formed wire bytes are; `None` when they are none.
    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        Self::root().below(labels(bytes))
    }

    /// The name without its leftmost label; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let first = usize::from(*self.0.first()?);
        (first > 0).then(|| Self(self.0[first + 1..].into()))
    }
}

impl Borrow<[u8]> for WireName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        if self.0.len() == 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for WireName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where each label of a well-formed wire name starts, leftmost first, without the root.
pub(crate) fn label_starts(name: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = usize::from(*name.get(at)?);
        let start = at;
        at += length + 1;
        (length > 0).then_some(start)
    })
}

/// The labels of a well-formed wire name, or of the start of one, leftmost first, without the root.
pub(crate) fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    label_starts(name).map(|at| &name[at + 1..at + 1 + usize::from(name[at])])
}

/// Where `suffix` starts in `name` when it is the name itself or an ancestor of it.
pub(crate) fn suffix_start(name: &[u8], suffix: &[u8]) -> Option<usize> {
    let start = name.len().checked_sub(suffix.len())?;
    let root_only = suffix.len() == 1;
    let boundary = root_only || label_starts(name).any(|at| at == start);
    (boundary && name.ends_with(suffix)).then_some(start)
}

/// The labels of a wire name, or of the start of one, as texts; `None` when one is none.
pub(crate) fn texts(name: &[u8]) -> Option<Vec<&str>> {
    labels(name).map(|label| std::str::from_utf8(label).ok()).collect()
}

/// The address a complete reverse name stands for.
pub(crate) fn parse_reverse(name: &WireName) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    let (suffix, digits) = match labels.as_slice() {
        [digits @ .., b"in-addr", b"arpa"] if digits.len() == 4 => (4, digits),
        [digits @ .., b"ip6", b"arpa"] if digits.len() == 32 => (6, digits),
        _ => return None,
    };
    let number = |label: &[u8], radix| {
        std::str::from_utf8(label).ok().and_then(|text| u8::from_str_radix(text, radix).ok())
    };
    let address = if suffix == 4 {
        let octets: Vec<u8> = digits.iter().rev().map(|l| number(l, 10)).collect::<Option<_>>()?;
        IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)
    } else {
        let nibbles: Vec<u8> = digits.iter().rev().map(|l| number(l, 16)).collect::<Option<_>>()?;
        let octets: Vec<u8> = nibbles.chunks_exact(2).map(|p| (p[0] << 4) | (p[1] & 0xf)).collect();
        IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
    };
    // Only the one spelling is the name: `010` or `+1` are other names.
    (WireName::reverse(address) == *name).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_reverse_name_lead_to_each_other() {
        for (address, expected) in [
            ("10.96.0.1", "1.0.96.10.in-addr.arpa."),
            ("fd00::a1", &format!("1.a.{}0.0.d.f.ip6.arpa.", "0.".repeat(26))),
        ] {
            let address: IpAddr = address.parse().expect("valid");
            let name = WireName::reverse(address);
            assert_eq!(name.to_string(), expected);
            assert_eq!(parse_reverse(&name), Some(address));
        }
    }

    #[test]
    fn another_spelling_of_an_address_is_another_name() {
        for labels in [["01", "0", "96", "10"], ["+1", "0", "96", "10"], ["256", "0", "96", "10"]] {
            let labels = labels.iter().chain(&["in-addr", "arpa"]).map(|l| l.as_bytes());
            let name = WireName::root().below(labels).expect("fits");
            assert_eq!(parse_reverse(&name), None, "{name}");
        }
    }

    #[test]
    fn a_suffix_counts_only_at_a_label_boundary() {
        let zone = WireName::of(&DnsName::parse("cluster.local").expect("valid"));
        let inside = zone.child("svc").expect("fits");
        assert_eq!(suffix_start(inside.as_bytes(), zone.as_bytes()), Some(4));
        assert_eq!(suffix_start(zone.as_bytes(), zone.as_bytes()), Some(0));
        // A label whose content spells the zone's wire form is still another name.
        let mut spelled = vec![u8::try_from(zone.as_bytes().len()).expect("short")];
        spelled.extend_from_slice(zone.as_bytes());
        assert_eq!(suffix_start(&spelled, zone.as_bytes()), None);
    }

    #[test]
    fn a_name_that_does_not_fit_is_none() {
        let long = "a".repeat(63);
        let name = WireName::root().below([long.as_bytes(); 3]).expect("193 octets");
        assert!(name.child(&"b".repeat(61)).is_some());
        assert!(name.child(&"b".repeat(62)).is_none());
        assert!(name.child("").is_none());
    }
}
