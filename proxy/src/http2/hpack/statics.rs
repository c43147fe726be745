//! The static table (RFC 7541 Appendix A).

use super::{Item, Name};
use crate::message::Known;

/// Number of entries; the dynamic table's indices begin after them.
pub(super) const COUNT: usize = ENTRIES.len();

type Entry = (Name, &'static [u8], &'static [u8]);

const OTHER: Name = Name::Field(Known::Other);

#[rustfmt::skip]
static ENTRIES: [Entry; 61] = [
    (Name::Authority, b":authority", b""),
    (Name::Method, b":method", b"GET"),
    (Name::Method, b":method", b"POST"),
    (Name::Path, b":path", b"/"),
    (Name::Path, b":path", b"/index.html"),
    (Name::Scheme, b":scheme", b"http"),
    (Name::Scheme, b":scheme", b"https"),
    (Name::Status, b":status", b"200"),
    (Name::Status, b":status", b"204"),
    (Name::Status, b":status", b"206"),
    (Name::Status, b":status", b"304"),
    (Name::Status, b":status", b"400"),
    (Name::Status, b":status", b"404"),
    (Name::Status, b":status", b"500"),
    (OTHER, b"accept-charset", b""),
    (OTHER, b"accept-encoding", b"gzip, deflate"),
    (OTHER, b"accept-language", b""),
    (OTHER, b"accept-ranges", b""),
    (OTHER, b"accept", b""),
    (OTHER, b"access-control-allow-origin", b""),
    (OTHER, b"age", b""),
    (OTHER, b"allow", b""),
    (OTHER, b"authorization", b""),
    (OTHER, b"cache-control", b""),
    (OTHER, b"content-disposition", b""),
    (OTHER, b"content-encoding", b""),
    (OTHER, b"content-language", b""),
    (Name::Field(Known::ContentLength), b"content-length", b""),
    (OTHER, b"content-location", b""),
    (OTHER, b"content-range", b""),
    (Name::Field(Known::ContentType), b"content-type", b""),
    (Name::Field(Known::Cookie), b"cookie", b""),
    (Name::Field(Known::Date), b"date", b""),
    (OTHER, b"etag", b""),
    (Name::Field(Known::Expect), b"expect", b""),
    (OTHER, b"expires", b""),
    (OTHER, b"from", b""),
    (Name::Field(Known::Host), b"host", b""),
    (OTHER, b"if-match", b""),
    (OTHER, b"if-modified-since", b""),
    (OTHER, b"if-none-match", b""),
    (OTHER, b"if-range", b""),
    (OTHER, b"if-unmodified-since", b""),
    (OTHER, b"last-modified", b""),
    (OTHER, b"link", b""),
    (OTHER, b"location", b""),
    (OTHER, b"max-forwards", b""),
    (OTHER, b"proxy-authenticate", b""),
    (OTHER, b"proxy-authorization", b""),
    (OTHER, b"range", b""),
    (OTHER, b"referer", b""),
    (OTHER, b"refresh", b""),
    (OTHER, b"retry-after", b""),
    (Name::Field(Known::Server), b"server", b""),
    (Name::Field(Known::SetCookie), b"set-cookie", b""),
    (OTHER, b"strict-transport-security", b""),
    (Name::Field(Known::TransferEncoding), b"transfer-encoding", b""),
    (OTHER, b"user-agent", b""),
    (OTHER, b"vary", b""),
    (Name::Field(Known::Via), b"via", b""),
    (OTHER, b"www-authenticate", b""),
];

/// The entry of an index, which begins at 1.
pub(super) fn get(index: usize) -> Option<Item<'static>> {
    let (kind, name, value) = ENTRIES.get(index.checked_sub(1)?)?;
    Some(Item { kind: *kind, name, value, valid: true })
}

/// Index of the first entry of a name; 0 if there is none.
pub(super) fn index_of(name: &[u8]) -> usize {
    let (first, last) = match name {
        [b':', ..] => return pseudo(name),
        [b'a', b'u', ..] => (23, 23),
        [b'a', ..] => (15, 22),
        [b'c', ..] => (24, 32),
        [b'd'..=b'h', ..] => (33, 38),
        [b'i', ..] => (39, 43),
        [b'l'..=b'm', ..] => (44, 47),
        [b'p'..=b'r', ..] => (48, 53),
        [b's'..=b't', ..] => (54, 57),
        [b'u'..=b'w', ..] => (58, 61),
        _ => return 0,
    };
    (first..=last).find(|index| get(*index).is_some_and(|entry| entry.name == name)).unwrap_or(0)
}

fn pseudo(name: &[u8]) -> usize {
    match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_each_kind_is_what_the_name_says() {
        for index in 1..=COUNT {
            let entry = get(index).expect("an entry");
            let found = get(index_of(entry.name)).expect("found");
            assert_eq!(found.name, entry.name);
            assert_eq!(entry.kind, Name::of(entry.name));
            assert!(index_of(entry.name) <= index);
        }
        for absent in [&b"x"[..], b"", b"accepts", b"te", b":protocol"] {
            assert_eq!(index_of(absent), 0);
        }
        assert!(get(0).is_none() && get(62).is_none());
    }
}
