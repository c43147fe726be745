//! What two processes say to each other at a restart, as bytes. Pure.
//!
//! A message is a header (four bytes of magic, version, kind, length of what follows) and at most
//! [`MAX_PAYLOAD`] bytes. Numbers are big-endian. The first five bytes are the same in every version,
//! so that versions which share nothing else can say so.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

pub(super) const VERSION: u8 = 1;
pub(super) const HEADER: usize = 10;
pub(super) const MAX_PAYLOAD: usize = 64 * 1024;
/// Sockets of one message; Linux passes at most 253 at once.
pub(super) const MAX_BATCH: usize = 64;
/// Groups of one [`Message::Keep`].
pub(super) const MAX_KEEP: usize = 4096;
/// Bytes of a name; longer ones are cut, on both sides alike.
const MAX_NAME: usize = 512;
const MAX_REASON: usize = 1024;
const MAGIC: [u8; 4] = *b"PtlR";

const HELLO: u8 = 1;
const SOCKETS: u8 = 2;
const COMPLETE: u8 = 3;
const KEEP: u8 = 4;
const DRAIN: u8 = 5;
const DRAINING: u8 = 6;
const REFUSED: u8 = 7;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A listener of the proxy.
    Listener,
    /// The admin port.
    Admin,
    /// The xDS server.
    Xds,
}

/// A socket in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it is for.
    pub purpose: Purpose,
    /// Sockets of one group are kept or closed together. A number of the old process.
    pub group: u64,
    /// Of the listener; at most 512 bytes are told.
    pub name: String,
    /// The address that was asked for; its port may be 0.
    pub asked: SocketAddr,
    /// Which worker accepted from it.
    pub worker: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// New to old: I am here. With its process id.
    Hello(u32),
    /// Old to new: these come with the message, in this order.
    Sockets(Vec<Label>),
    /// Old to new: that was all, so many sockets.
    Complete(u32),
    /// New to old: I go on with these groups. Before a drain, as often as it takes.
    Keep(Vec<u64>),
    /// New to old: I serve.
    Drain,
    /// Old to new: I go.
    Draining,
    /// Old to new: no, and why not.
    Refused(String),
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Something else speaks there.
    #[error("restart message: not of Portolan")]
    Foreign,
    /// Another version of ours speaks there.
    #[error("restart message: version {theirs}, this process speaks {VERSION}")]
    Version {
        /// What it speaks.
        theirs: u8,
    },
    /// No such message.
    #[error("restart message: unknown kind {0}")]
    Kind(u8),
    /// Longer than any message is.
    #[error("restart message: {0} bytes are more than {MAX_PAYLOAD}")]
    TooLong(u32),
    /// The bytes are not what the kind asks for.
    #[error("restart message: {0} is not valid")]
    Malformed(&'static str),
}

impl Message {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Sockets(_) => "sockets",
            Self::Complete(_) => "complete",
            Self::Keep(_) => "keep",
            Self::Drain => "drain",
            Self::Draining => "draining",
            Self::Refused(_) => "refused",
        }
    }

    /// As bytes. Lists are cut at their bounds, which callers keep to.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Self::Hello(pid) => {
                payload.extend(pid.to_be_bytes());
                HELLO
            }
            Self::Sockets(labels) => {
                labels.iter().take(MAX_BATCH).for_each(|label| label.encode(&mut payload));
                SOCKETS
            }
            Self::Complete(count) => {
                payload.extend(count.to_be_bytes());
                COMPLETE
            }
            Self::Keep(groups) => {
                groups.iter().take(MAX_KEEP).for_each(|group| payload.extend(group.to_be_bytes()));
                KEEP
            }
            Self::Drain => DRAIN,
            Self::Draining => DRAINING,
            Self::Refused(reason) => {
                payload.extend(cut(reason, MAX_REASON).as_bytes());
                REFUSED
            }
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend(MAGIC);
        bytes.extend([VERSION, kind]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// How many bytes follow a header.
pub(super) fn payload_len(header: &[u8; HEADER]) -> Result<usize, MessageError> {
    let [m0, m1, m2, m3, version, kind, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(MessageError::Foreign);
    }
    if version != VERSION {
        return Err(MessageError::Version { theirs: version });
    }
    if !(HELLO..=REFUSED).contains(&kind) {
        return Err(MessageError::Kind(kind));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD);
    fits.ok_or(MessageError::TooLong(length))
}

/// What a header and the bytes behind it say.
pub(super) fn decode(header: &[u8; HEADER], payload: &[u8]) -> Result<Message, MessageError> {
    if payload_len(header)? != payload.len() {
        return Err(MessageError::Malformed("length"));
    }
    let [.., kind, _, _, _, _] = *header;
    let mut rest = Rest(payload);
    let message = match kind {
        HELLO => Message::Hello(u32::from_be_bytes(rest.array("process id")?)),
        SOCKETS => Message::Sockets(rest.list(MAX_BATCH, Label::decode)?),
        COMPLETE => Message::Complete(u32::from_be_bytes(rest.array("count")?)),
        KEEP => {
            Message::Keep(rest.list(MAX_KEEP, |rest| Ok(u64::from_be_bytes(rest.array("group")?)))?)
        }
        DRAIN => Message::Drain,
        DRAINING => Message::Draining,
        REFUSED => Message::Refused(rest.text(payload.len().min(MAX_REASON), "reason")?),
        other => return Err(MessageError::Kind(other)),
    };
    if rest.0.is_empty() { Ok(message) } else { Err(MessageError::Malformed("end")) }
}

/// What of a name two processes compare.
pub(super) fn told(name: &str) -> &str {
    cut(name, MAX_NAME)
}

fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

impl Label {
    fn encode(&self, into: &mut Vec<u8>) {
        into.push(match self.purpose {
            Purpose::Listener => 0,
            Purpose::Admin => 1,
            Purpose::Xds => 2,
        });
        into.extend(self.group.to_be_bytes());
        into.extend(self.worker.to_be_bytes());
        match self.asked {
            SocketAddr::V4(at) => {
                into.push(4);
                into.extend(at.ip().octets());
            }
            SocketAddr::V6(at) => {
                into.push(6);
                into.extend(at.ip().octets());
                into.extend(at.flowinfo().to_be_bytes());
                into.extend(at.scope_id().to_be_bytes());
            }
        }
        into.extend(self.asked.port().to_be_bytes());
        let name = told(&self.name);
        into.extend(u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
        into.extend(name.as_bytes());
    }

    fn decode(rest: &mut Rest<'_>) -> Result<Self, MessageError> {
        let purpose = match rest.array("purpose")? {
            [0] => Purpose::Listener,
            [1] => Purpose::Admin,
            [2] => Purpose::Xds,
            [_] => return Err(MessageError::Malformed("purpose")),
        };
        let group = u64::from_be_bytes(rest.array("group")?);
        let worker = u32::from_be_bytes(rest.array("worker")?);
        let mut asked: SocketAddr = match rest.array("address family")? {
            [4] => (Ipv4Addr::from_octets(rest.array("address")?), 0).into(),
            [6] => {
                let ip = Ipv6Addr::from_octets(rest.array("address")?);
                let flow = u32::from_be_bytes(rest.array("flow info")?);
                let scope = u32::from_be_bytes(rest.array("scope")?);
                SocketAddrV6::new(ip, 0, flow, scope).into()
            }
            [_] => return Err(MessageError::Malformed("address family")),
        };
        asked.set_port(u16::from_be_bytes(rest.array("port")?));
        let length = usize::from(u16::from_be_bytes(rest.array("name")?));
        if length > MAX_NAME {
            return Err(MessageError::Malformed("name"));
        }
        let name = rest.text(length, "name")?;
        Ok(Self { purpose, group, name, asked, worker })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.purpose {
            Purpose::Listener => write!(f, "listener {}", self.name)?,
            Purpose::Admin => f.write_str("admin")?,
            Purpose::Xds => f.write_str("xds")?,
        }
        write!(f, " at {}", self.asked)
    }
}

/// Bytes not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], MessageError> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(MessageError::Malformed(what))?;
        self.0 = rest;
        Ok(*array)
    }

    fn text(&mut self, length: usize, what: &'static str) -> Result<String, MessageError> {
        let (text, rest) = self.0.split_at_checked(length).ok_or(MessageError::Malformed(what))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| MessageError::Malformed(what))?;
        Ok(text.to_owned())
    }

    fn list<T>(
        &mut self,
        most: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, MessageError>,
    ) -> Result<Vec<T>, MessageError> {
        let mut list = Vec::new();
        while !self.0.is_empty() {
            if list.len() == most {
                return Err(MessageError::Malformed("count"));
            }
            list.push(item(self)?);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests;
