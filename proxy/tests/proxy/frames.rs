//! HTTP/2 peers that speak in frames (RFC 9113 §4), and may say what no library would.

use std::net::SocketAddr;

use super::kit::soon;
use super::raw::Wire;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came of a request, or of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Reset(u32),
    Goaway(u32),
    Closed,
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// A number of the payload.
    pub(crate) fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).map_or([0; 4], |b| b.try_into().expect("4"));
        u32::from_be_bytes(bytes)
    }

    pub(crate) fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = u32::try_from(payload.len()).expect("small").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A HEADERS frame of these fields.
pub(crate) fn headers(stream: u32, end: bool, list: &[(&str, &str)]) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, fields(list))
}

/// A field block without compression (RFC 7541 §6.2.2).
pub(crate) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

fn length(block: &mut Vec<u8>, length: usize) {
    let byte = |n: usize| u8::try_from(n).expect("a byte");
    if length < 127 {
        return block.push(byte(length));
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    block.push(byte(rest));
}

/// A GET of `/` at `web.shop` and these fields.
pub(crate) fn get_with<'a>(extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    method_with("GET", extra)
}

pub(crate) fn method_with<'a>(
    method: &'a str,
    extra: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut list =
        vec![(":method", method), (":scheme", "http"), (":authority", "web.shop"), (":path", "/")];
    list.extend(extra);
    list
}

/// The status that begins a field block, from the static table or as a literal.
fn status(block: &[u8]) -> u16 {
    // RFC 7541 §4.2: sizes of the table may be said first.
    let skip = block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count();
    let block = &block[skip..];
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let Some(first) = block.first() else { return 0 };
    if first & 0x80 != 0 {
        return STATIC.get(usize::from(first & 0x7f).wrapping_sub(8)).copied().unwrap_or(0);
    }
    let Some(length) = block.get(1) else { return 0 };
    let text = block.get(2..2 + usize::from(length & 0x7f)).unwrap_or_default();
    if length & 0x80 == 0 {
        return String::from_utf8_lossy(text).parse().unwrap_or(0);
    }
    // Huffman: '0' to '2' are 00000 to 00010, '3' to '9' are 011001 to 011111.
    let bits: Vec<u8> = text.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let (mut at, mut number) = (0, 0_u16);
    for _ in 0..3 {
        let read = |n: usize| bits[at..at + n].iter().fold(0_u16, |v, b| v << 1 | u16::from(*b));
        let (digit, used) = match read(5) {
            small @ 0..=2 => (small, 5),
            _ => (read(6) - 0b01_1001 + 3, 6),
        };
        number = number * 10 + digit;
        at += used;
    }
    number
}

/// One end of an HTTP/2 connection.
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    /// Acknowledges SETTINGS and PING by itself.
    pub(crate) polite: bool,
    /// The last GOAWAY.
    pub(crate) goaway: Option<(u32, u32)>,
}

impl Peer {
    /// A client that has sent the preface and these settings.
    pub(crate) async fn client(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self { wire: Wire::connect(to).await, polite: true, goaway: None };
        peer.send(PREFACE).await;
        peer.settings(settings).await;
        peer
    }

    /// A server that has read the preface and sent these settings; `None` without a preface.
    pub(crate) async fn server(wire: Wire, settings: &[(u16, u32)]) -> Option<Self> {
        let mut peer = Self { wire, polite: true, goaway: None };
        if peer.wire.take(PREFACE.len()).await != PREFACE {
            return None;
        }
        peer.settings(settings).await;
        Some(peer)
    }

    pub(crate) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.send(frame(SETTINGS, 0, 0, payload)).await;
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.send(bytes).await
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let head = self.wire.take(9).await;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *head else { return None };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("small");
        let payload = self.wire.take(length).await;
        if payload.len() < length {
            return None;
        }
        let frame = Frame { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload };
        let unanswered = self.polite && flags & ACK == 0;
        match kind {
            SETTINGS if unanswered => {
                self.send(self::frame(SETTINGS, ACK, 0, [])).await;
            }
            PING if unanswered => {
                let pong = self::frame(PING, ACK, 0, &frame.payload);
                self.send(pong).await;
            }
            GOAWAY => self.goaway = Some((frame.number(0), frame.number(4))),
            _ => {}
        }
        Some(frame)
    }

    /// Reads until a HEADERS frame on a stream of its own comes; its stream.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.read().await?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }

    /// Reads until the connection has ended.
    pub(crate) async fn drain(&mut self) {
        while self.read().await.is_some() {}
    }

    /// What comes of a stream first: a final status, a reset, or the end of all.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        soon("an outcome", async {
            loop {
                let Some(frame) = self.read().await else {
                    return match self.goaway {
                        Some((_, code)) => Outcome::Goaway(code),
                        None => Outcome::Closed,
                    };
                };
                match (frame.kind, frame.stream) {
                    (HEADERS, id) if id == stream => match status(&frame.payload) {
                        100..=199 => {}
                        status => return Outcome::Status(status),
                    },
                    (RST_STREAM, id) if id == stream => return Outcome::Reset(frame.number(0)),
                    (GOAWAY, _) if frame.number(4) != 0 => {
                        return Outcome::Goaway(frame.number(4));
                    }
                    _ => {}
                }
            }
        })
        .await
    }

    /// How a response whose head was read ends: `None` for END_STREAM, the code of a reset, or
    /// `u32::MAX` for the end of the connection. With the bytes that came.
    pub(crate) async fn body(&mut self, stream: u32) -> (usize, Option<u32>) {
        let mut bytes = 0;
        soon("the end of a stream", async {
            loop {
                let Some(frame) = self.read().await else { return (bytes, Some(u32::MAX)) };
                if frame.stream != stream {
                    continue;
                }
                match frame.kind {
                    DATA => bytes += frame.payload.len(),
                    RST_STREAM => return (bytes, Some(frame.number(0))),
                    _ => {}
                }
                if matches!(frame.kind, DATA | HEADERS) && frame.ends() {
                    return (bytes, None);
                }
            }
        })
        .await
    }
}
