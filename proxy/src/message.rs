//! Heads of HTTP messages as bytes, the same for HTTP/1.1 and HTTP/2.
//!
//! A head is one buffer and a list of places in it, so that reading one costs no allocation per
//! field and writing one is copying. Names keep the case they came in; every comparison ignores it.
//! Owns no rules of either version: `http1` and `http2` check what they read.

mod known;

use std::cell::RefCell;
use std::fmt;

pub(crate) use known::Known;

/// A place in a buffer of at most 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

/// Header or trailer fields, in the order they came in.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    data: Vec<u8>,
    list: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
    /// Taken out: passed over by everybody.
    gone: bool,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub(crate) known: Known,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// The head of a request.
#[derive(Clone, Default)]
pub(crate) struct RequestHead {
    pub(crate) fields: Fields,
    method: Span,
    authority: Option<Span>,
    path: Span,
    scheme: Option<Span>,
    protocol: Option<Span>,
}

/// The head of a response.
#[derive(Clone, Default)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
}

impl Span {
    fn of(self, data: &[u8]) -> &[u8] {
        let start = self.start as usize;
        data.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// Heads kept for their room, per thread, and the most room one may have.
const MAX_SPARE: usize = 64;
const MAX_SPARE_BYTES: usize = 8 * 1024;
/// Room of a new one: a usual head.
const ROOM: (usize, usize) = (1024, 24);

thread_local! {
    static SPARE: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
}

impl Fields {
    /// Empty ones with room, which another message had before.
    pub(crate) fn spare() -> Self {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Self {
            data: Vec::with_capacity(ROOM.0),
            list: Vec::with_capacity(ROOM.1),
        })
    }

    /// Leaves the room to another message.
    pub(crate) fn recycle(mut self) {
        if self.data.capacity() == 0 || self.data.capacity() > MAX_SPARE_BYTES {
            return;
        }
        self.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.push(self);
            }
        });
    }

    /// Makes room for that much more.
    pub(crate) fn reserve(&mut self, bytes: usize, fields: usize) {
        self.data.reserve(bytes);
        self.list.reserve(fields);
    }

    /// Adds a field at the end.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_as(Known::of(name), name, value);
    }

    /// As [`Self::push`] by whoever knows already what the name is.
    pub(crate) fn push_as(&mut self, known: Known, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.list.push(Entry { name, value, known, gone: false });
    }

    /// Adds a field of which the value is the parts, one after another.
    pub(crate) fn push_parts(&mut self, name: &[u8], parts: &[&[u8]]) {
        let known = Known::of(name);
        let name = self.store(name);
        let start = self.data.len();
        parts.iter().for_each(|part| self.data.extend_from_slice(part));
        let value = span(start, self.data.len() - start);
        self.list.push(Entry { name, value, known, gone: false });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.list.iter().filter(|entry| !entry.gone).map(|entry| Field {
            known: entry.known,
            name: entry.name.of(&self.data),
            value: entry.value.of(&self.data),
        })
    }

    /// The value of the first such field.
    pub(crate) fn get(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// The values of all such fields.
    pub(crate) fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let found = self.list.iter().filter(move |entry| entry.known == known && !entry.gone);
        found.map(|entry| entry.value.of(&self.data))
    }

    /// The value of the first field of a name that need not be a known one.
    pub(crate) fn named<'a>(&'a self, name: &[u8]) -> Option<&'a [u8]> {
        self.all_named(name).next()
    }

    /// The values of all fields of a name that need not be a known one.
    pub(crate) fn all_named<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    pub(crate) fn contains(&self, known: Known) -> bool {
        self.list.iter().any(|entry| entry.known == known && !entry.gone)
    }

    /// Takes all such fields out; whether there were any.
    pub(crate) fn remove(&mut self, known: Known) -> bool {
        let mut any = false;
        for entry in self.list.iter_mut().filter(|entry| entry.known == known) {
            any |= !entry.gone;
            entry.gone = true;
        }
        any
    }

    /// Takes out what does not pass.
    pub(crate) fn retain(&mut self, mut passes: impl FnMut(Field<'_>) -> bool) {
        let data = &self.data;
        for entry in self.list.iter_mut().filter(|entry| !entry.gone) {
            entry.gone = !passes(Field {
                known: entry.known,
                name: entry.name.of(data),
                value: entry.value.of(data),
            });
        }
    }

    /// Takes all fields of that name out.
    pub(crate) fn remove_named(&mut self, name: &[u8]) {
        let data = &self.data;
        let named = |entry: &&mut Entry| entry.name.of(data).eq_ignore_ascii_case(name);
        self.list.iter_mut().filter(named).for_each(|entry| entry.gone = true);
    }

    /// Whether there is not even room.
    pub(crate) fn is_bare(&self) -> bool {
        self.data.capacity() == 0
    }

    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.list.iter().filter(|entry| !entry.gone).count()
    }

    /// Size as RFC 9113 §6.5.2 counts it: names, values and 32 bytes for each field.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.iter().map(|field| field.name.len() + field.value.len() + 32).sum()
    }

    /// Forgets all, keeps the room.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.list.clear();
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        span(start, bytes.len())
    }
}

/// Heads are bounded far below 4 GiB; what is past it reads as empty.
fn span(start: usize, len: usize) -> Span {
    match (u32::try_from(start), u32::try_from(len)) {
        (Ok(start), Ok(len)) => Span { start, len },
        _ => Span::default(),
    }
}

impl RequestHead {
    /// An empty one with room.
    pub(crate) fn spare() -> Self {
        Self { fields: Fields::spare(), ..Self::default() }
    }

    /// The method, as written.
    pub(crate) fn method(&self) -> &[u8] {
        self.method.of(&self.fields.data)
    }

    /// `:authority`, or what an absolute target or CONNECT names; not Host, which is a field.
    pub(crate) fn authority(&self) -> Option<&[u8]> {
        self.authority.map(|span| span.of(&self.fields.data))
    }

    /// Path and query in origin form, or `*`; empty for a plain CONNECT.
    pub(crate) fn path(&self) -> &[u8] {
        self.path.of(&self.fields.data)
    }

    /// `:scheme`, if the message says one.
    pub(crate) fn scheme(&self) -> Option<&[u8]> {
        self.scheme.map(|span| span.of(&self.fields.data))
    }

    /// `:protocol` of an extended CONNECT (RFC 8441 §4).
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.protocol.map(|span| span.of(&self.fields.data))
    }

    pub(crate) fn set_method(&mut self, method: &[u8]) {
        self.method = self.fields.store(method);
    }

    pub(crate) fn set_authority(&mut self, authority: &[u8]) {
        self.authority = Some(self.fields.store(authority));
    }

    pub(crate) fn set_path(&mut self, path: &[u8]) {
        self.path = self.fields.store(path);
    }

    pub(crate) fn set_scheme(&mut self, scheme: &[u8]) {
        self.scheme = Some(self.fields.store(scheme));
    }

    pub(crate) fn set_protocol(&mut self, protocol: Option<&[u8]>) {
        self.protocol = protocol.map(|protocol| self.fields.store(protocol));
    }

    /// Forgets all, keeps the room.
    pub(crate) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }
}

impl ResponseHead {
    /// An empty one with room.
    pub(crate) fn spare() -> Self {
        Self { status: 0, fields: Fields::spare() }
    }

    pub(crate) fn new(status: u16) -> Self {
        Self { status, fields: Fields::default() }
    }
}

/// Writes a number as text.
pub(crate) fn decimal(into: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[at..]);
}

/// A request target without its query.
pub(crate) fn without_query(target: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    &target[..end]
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        f.debug_list()
            .entries(self.iter().map(|field| (text(field.name), text(field.value))))
            .finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &String::from_utf8_lossy(self.method()))
            .field("authority", &self.authority().map(String::from_utf8_lossy))
            .field("path", &String::from_utf8_lossy(self.path()))
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("fields", &self.fields)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_seen_by_nobody() {
        let mut fields = Fields::default();
        fields.push(b"Host", b"a");
        fields.push(b"X-One", b"1");
        fields.push(b"x-one", b"2");
        fields.push_parts(b"via", &[b"1.1 ", b"portolan"]);
        assert_eq!(fields.get(Known::Host), Some(&b"a"[..]));
        assert_eq!(fields.all_named(b"X-ONE").count(), 2);
        assert_eq!(fields.get(Known::Via), Some(&b"1.1 portolan"[..]));
        assert!(fields.remove(Known::Host) && !fields.remove(Known::Host));
        fields.remove_named(b"x-ONE");
        assert_eq!((fields.len(), fields.size()), (1, 3 + 12 + 32));
        assert!(fields.named(b"x-one").is_none() && !fields.contains(Known::Host));
    }

    #[test]
    fn a_head_that_was_cleared_is_as_new() {
        let mut head = RequestHead::default();
        head.set_method(b"GET");
        head.set_path(b"/a?b");
        head.set_authority(b"web");
        head.fields.push(b"host", b"web");
        assert_eq!((head.method(), head.path()), (&b"GET"[..], &b"/a?b"[..]));
        assert_eq!(head.authority(), Some(&b"web"[..]));
        head.clear();
        assert_eq!((head.method(), head.authority(), head.fields.len()), (&b""[..], None, 0));
    }
}
