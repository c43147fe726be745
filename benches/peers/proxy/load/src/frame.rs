//! HTTP/2 frames (RFC 9113 §4.1) and the settings both ends of this program send. No HPACK decoder:
//! what is sent needs none, and of what comes only the status is looked at.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

const HEAD: usize = 9;
/// Every window before anybody says otherwise (RFC 9113 §6.5.2).
pub const FIRST_WINDOW: i64 = 65_535;
/// What we let the other end send on a stream.
const STREAM_WINDOW: u32 = 16 << 20;
/// What we let it send on all.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// A window is filled up again once so much of it is used.
pub const REFILL: u32 = 4 << 20;

pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    pub fn is_end(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Without padding and priority (RFC 9113 §6.1, §6.2).
    pub fn content(&self) -> &[u8] {
        let mut rest = self.payload;
        let mut padding = 0;
        if self.flags & PADDED != 0 && !rest.is_empty() {
            padding = usize::from(rest[0]);
            rest = &rest[1..];
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            rest = rest.get(5..).unwrap_or_default();
        }
        &rest[..rest.len().saturating_sub(padding)]
    }

    /// The value of a setting, if the frame has it.
    pub fn setting(&self, id: u16) -> Option<u32> {
        self.payload.chunks_exact(6).find_map(|entry| {
            let (key, value) = entry.split_first_chunk::<2>()?;
            (u16::from_be_bytes(*key) == id).then(|| number(value))
        })
    }

    pub fn increment(&self) -> i64 {
        i64::from(number(self.payload) & 0x7fff_ffff)
    }
}

pub const INITIAL_WINDOW_SIZE: u16 = 4;

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b))
}

/// The first frame of these octets and how many it takes; `None` until it is whole.
pub fn first(octets: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head = octets.first_chunk::<HEAD>()?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = octets.get(HEAD..HEAD + len)?;
    let stream = number(&head[5..]) & 0x7fff_ffff;
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, HEAD + len))
}

pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[len[1], len[2], len[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// What each end says first, a client after its preface.
pub fn put_settings(out: &mut Vec<u8>) {
    let mut settings = Vec::new();
    settings.extend_from_slice(&INITIAL_WINDOW_SIZE.to_be_bytes());
    settings.extend_from_slice(&STREAM_WINDOW.to_be_bytes());
    put(out, SETTINGS, 0, 0, &settings);
    put(out, WINDOW_UPDATE, 0, 0, &CONNECTION_WINDOW.to_be_bytes());
}

/// `:status: 200` from the static table, behind changes of the table's size (RFC 7541 §6.3).
pub fn is_ok(block: &[u8]) -> bool {
    let mut rest = block;
    while let Some((first, after)) = rest.split_first()
        && first & 0xe0 == 0x20
    {
        rest = after;
        if first & 0x1f == 0x1f {
            let end = rest.iter().position(|b| b & 0x80 == 0).map_or(rest.len(), |n| n + 1);
            rest = &rest[end..];
        }
    }
    rest.first() == Some(&0x88)
}

/// A header without Huffman coding that the other end puts into its table (RFC 7541 §6.2.1).
/// `index` 0: the name is said as well.
pub fn put_literal(out: &mut Vec<u8>, index: u8, name: &str, value: &str) {
    out.push(0x40 | index);
    for text in [name, value].into_iter().skip(usize::from(index != 0)) {
        out.push(u8::try_from(text.len()).unwrap_or(127).min(126));
        out.extend_from_slice(text.as_bytes());
    }
}
