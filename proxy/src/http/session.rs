//! Which endpoint a client has, as it says it itself: in a cookie or a field, in Envoy's words, so that
//! both may serve the same clients (Envoy `CookieBasedSessionState`, `HeaderBasedSessionState`).
//!
//! What a client says is an address among the endpoints of its route or it is nothing. It proves
//! nothing and opens nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portolan_model::traffic::{Session, SessionBy};

use super::affinity::cookie;
use crate::message::{Fields, Known, RequestHead};
use crate::protobuf::{self, Value};

/// Longest text that is looked at: an address, a time, and base 64 around them.
const MAX_TEXT: usize = 128;
/// Keys of the message in a cookie: the address, field 1, a text, and when it ends, field 2, in seconds
/// since 1970.
const ADDRESS: u8 = 0x0a;
const EXPIRES: u8 = 0x10;

/// A session of a client, and the endpoint that it has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    session: Arc<Session>,
    pub(super) endpoint: Option<SocketAddr>,
}

impl Kept {
    /// What a request says of its session; `None` where it is about no such request.
    pub(super) fn of(session: &Arc<Session>, head: &RequestHead) -> Option<Self> {
        if !session.is_about(head.path()) {
            return None;
        }
        let fields = &head.fields;
        let endpoint = match &session.by {
            SessionBy::Cookie { .. } => {
                cookie(fields, session.name.as_bytes()).and_then(|text| read(text, now()))
            }
            SessionBy::Header => fields
                .named(session.name.as_bytes())
                .and_then(|text| std::str::from_utf8(&decoded(text)?).ok()?.parse().ok()),
        };
        Some(Self { session: Arc::clone(session), endpoint })
    }

    /// Tells the client which endpoint it has, unless it has that already.
    pub(super) fn tell(&self, endpoint: SocketAddr, fields: &mut Fields) {
        if self.endpoint == Some(endpoint) {
            return;
        }
        let name = &self.session.name;
        match &self.session.by {
            SessionBy::Header => {
                fields.remove_named(name.as_bytes());
                fields.push(name.as_bytes(), STANDARD.encode(endpoint.to_string()).as_bytes());
            }
            SessionBy::Cookie { path, ttl } => {
                // One of less than a second would be over before it began.
                let ttl = ttl.map(|ttl| ttl.as_secs().max(1));
                let text = write(endpoint, ttl.map(|ttl| now().saturating_add(ttl)));
                let path = if path.is_empty() { "/" } else { path };
                let age = ttl.map(|ttl| format!("; Max-Age={ttl}")).unwrap_or_default();
                let value = format!("{name}={text}{age}; Path={path}; HttpOnly");
                fields.push_as(Known::SetCookie, b"set-cookie", value.as_bytes());
            }
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    STANDARD.decode(text).ok()
}

/// The endpoint that a cookie says, unless its time is over.
fn read(text: &[u8], now: u64) -> Option<SocketAddr> {
    let message = decoded(text)?;
    let mut fields = protobuf::Fields::of(&message);
    let mut next = || fields.next().ok();
    let Some((1, Value::Bytes(address))) = next()? else { return None };
    let expires = match next()? {
        None => 0,
        Some((2, Value::Varint(expires))) if next()?.is_none() => expires,
        Some(_) => return None,
    };
    let address = std::str::from_utf8(address).ok()?.parse().ok()?;
    (expires == 0 || now < expires).then_some(address)
}

fn write(endpoint: SocketAddr, expires: Option<u64>) -> String {
    let address = endpoint.to_string();
    // An address is far shorter than 128 characters.
    let mut message = vec![ADDRESS, u8::try_from(address.len()).unwrap_or(0)];
    message.extend_from_slice(address.as_bytes());
    if let Some(mut left) = expires {
        message.push(EXPIRES);
        while left > 0x7f {
            message.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
            left >>= 7;
        }
        message.push(u8::try_from(left).unwrap_or(0));
    }
    STANDARD.encode(message)
}

/// What is read as a session is one.
pub(super) fn fuzz(data: &[u8]) {
    if let Some(endpoint) = read(data, 0) {
        assert_eq!(read(write(endpoint, None).as_bytes(), 0), Some(endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(by: SessionBy) -> Arc<Session> {
        Arc::new(Session { name: "s".into(), by })
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_path(b"/a");
        fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
        head
    }

    #[test]
    fn what_is_written_is_read_until_its_time_is_over() {
        for address in ["10.0.0.1:80", "[2001:db8::1]:50051"] {
            let address: SocketAddr = address.parse().expect("an address");
            let text = write(address, None);
            assert_eq!(read(text.as_bytes(), u64::MAX), Some(address));
            let text = write(address, Some(1_800_000_000));
            assert_eq!(read(text.as_bytes(), 1_799_999_999), Some(address));
            assert_eq!(read(text.as_bytes(), 1_800_000_000), None);
        }
    }

    #[test]
    fn a_cookie_of_envoy_is_read() {
        // By hand: address "127.0.0.1:80", expires 300.
        let message = b"\x0a\x0c127.0.0.1:80\x10\xac\x02";
        let text = STANDARD.encode(message);
        assert_eq!(read(text.as_bytes(), 299), "127.0.0.1:80".parse().ok());
    }

    #[test]
    fn what_is_no_session_is_none() {
        let coded = |message: &[u8]| STANDARD.encode(message);
        for text in [
            String::new(),
            "*".to_owned(),
            coded(b""),
            coded(b"\x0a"),
            coded(b"\x0a\xff127.0.0.1:80"),
            coded(b"\x0a\x0c127.0.0.1:8"),
            coded(b"\x0a\x0c127.0.0.1:80\x10"),
            coded(b"\x0a\x0c127.0.0.1:80\x10\x80"),
            coded(b"\x0a\x0c127.0.0.1:80\x18\x01"),
            coded(b"\x0a\x04host"),
            "A".repeat(MAX_TEXT + 4),
        ] {
            assert_eq!(read(text.as_bytes(), 0), None, "{text}");
        }
    }

    #[test]
    fn a_client_is_told_its_endpoint_once() {
        let one: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        let other = "10.0.0.2:80".parse().expect("an address");
        let ttl = Some(Duration::from_secs(60));
        for (by, cookie) in [
            (SessionBy::Cookie { path: "".into(), ttl: None }, Some("; Path=/; HttpOnly")),
            (SessionBy::Cookie { path: "/a".into(), ttl }, Some("; Max-Age=60; Path=/a; HttpOnly")),
            (SessionBy::Header, None),
        ] {
            let session = session(by);
            let first = Kept::of(&session, &head(&[])).expect("about it");
            assert_eq!(first.endpoint, None);
            let mut told = Fields::default();
            first.tell(one, &mut told);
            let brought = match cookie {
                Some(ending) => {
                    let said = told.get(Known::SetCookie).expect("a cookie");
                    let said = std::str::from_utf8(said).expect("text");
                    let value = said.strip_suffix(ending).expect("as it should end");
                    head(&[("cookie", &format!("other=1; {value}"))])
                }
                None => {
                    let said = told.named(b"s").expect("a field");
                    head(&[("s", std::str::from_utf8(said).expect("text"))])
                }
            };
            let next = Kept::of(&session, &brought).expect("about it");
            assert_eq!(next.endpoint, Some(one));
            let mut told = Fields::default();
            next.tell(one, &mut told);
            assert_eq!(told.len(), 0);
            next.tell(other, &mut told);
            assert_eq!(told.len(), 1);
        }
        let below = session(SessionBy::Cookie { path: "/b".into(), ttl: None });
        assert!(Kept::of(&below, &head(&[])).is_none());
    }
}
