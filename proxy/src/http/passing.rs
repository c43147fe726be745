//! Fields on their way through: what belongs to one connection stays there, what says where a
//! request came from is added.

use portolan_model::traffic::{ClientCertField, NameKind};
use smallvec::SmallVec;

use super::grpc_web;
use crate::admit::Proof;
use crate::http1::tokens;
use crate::message::{Fields, Known, RequestHead};

/// What is said of where a request came from.
pub(super) struct Passage<'a> {
    /// The client's address.
    pub(super) peer: &'a str,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// `1.1` or `2`.
    pub(super) version: &'static [u8],
    /// The authority that was asked for.
    pub(super) host: &'a [u8],
    /// What the client says of those before it is believed.
    pub(super) trusted: bool,
    /// An Upgrade is passed on.
    pub(super) upgrade: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
    /// For a request that has none.
    pub(super) request_id: &'a [u8],
    /// What is said of the client's certificate, and that, if there is one.
    pub(super) client_cert: ClientCertField,
    pub(super) proof: Option<&'a Proof>,
}

/// Makes a request's fields those of the next connection. Host, which frames it, is left to
/// whoever writes it.
pub(super) fn request(head: &mut RequestHead, passage: &Passage<'_>) {
    remove_listed(&mut head.fields);
    let Passage { trusted, upgrade, .. } = *passage;
    let proven = passage.proof.and_then(|proof| proof.names.as_deref());
    join_cookies(&mut head.fields);
    let mut forwarded: SmallVec<[u8; 64]> = SmallVec::new();
    let mut vias: SmallVec<[u8; 32]> = SmallVec::new();
    let (mut has_id, mut has_proto, mut has_host) = (false, false, false);
    head.fields.retain(|field| match field.known {
        Known::ForwardedFor => {
            forwarded.extend_from_slice(field.value);
            forwarded.extend_from_slice(b", ");
            false
        }
        Known::Via => {
            vias.extend_from_slice(field.value);
            vias.extend_from_slice(b", ");
            false
        }
        Known::ForwardedProto => keep(trusted, &mut has_proto),
        Known::ForwardedHost => keep(trusted, &mut has_host),
        Known::RequestId => !has_id && keep(is_request_id(field.value), &mut has_id),
        Known::Upgrade => upgrade,
        Known::Host | Known::Te => false,
        Known::ForwardedClientCert => match passage.client_cert {
            ClientCertField::Pass => true,
            ClientCertField::Keep | ClientCertField::Append => proven.is_some(),
            ClientCertField::Remove | ClientCertField::Set => false,
        },
        known => passes(known),
    });
    let fields = &mut head.fields;
    if matches!(passage.client_cert, ClientCertField::Set | ClientCertField::Append)
        && let Some(names) = proven
    {
        let own = certificate_element(names);
        fields.push_as(Known::ForwardedClientCert, b"x-forwarded-client-cert", own.as_bytes());
    }
    fields.push_parts(b"x-forwarded-for", &[&forwarded, passage.peer.as_bytes()]);
    if !has_proto {
        fields.push_as(Known::ForwardedProto, b"x-forwarded-proto", passage.scheme.as_bytes());
    }
    if !has_host && !passage.host.is_empty() {
        fields.push_as(Known::ForwardedHost, b"x-forwarded-host", passage.host);
    }
    if !has_id {
        fields.push_as(Known::RequestId, b"x-request-id", passage.request_id);
    }
    // RFC 9110 §7.6.3.
    fields.push_parts(b"via", &[&vias, passage.version, b" portolan"]);
    if passage.trailers {
        fields.push_as(Known::Te, b"te", b"trailers");
    }
}

/// The names of a certificate as Envoy writes them (`x-forwarded-client-cert`). What would end a value
/// is left out with it: names of a certificate have no quotes, commas and the like.
fn certificate_element(names: &[(NameKind, String)]) -> String {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_graphic() && !b"\",;=\\".contains(&b));
    let mut element = String::new();
    for (kind, name) in names.iter().filter(|(_, name)| plain(name)) {
        let key = match kind {
            NameKind::Uri => "URI",
            NameKind::Dns => "DNS",
            NameKind::Email | NameKind::Ip => continue,
        };
        if !element.is_empty() {
            element.push(';');
        }
        element.push_str(key);
        element.push('=');
        element.push_str(name);
    }
    element
}

/// Makes a response's fields those of the next connection.
pub(super) fn response(fields: &mut Fields, upgrade: bool) {
    remove_listed(fields);
    fields.retain(|field| match field.known {
        Known::Upgrade => upgrade,
        Known::Te => false,
        known => passes(known),
    });
}

/// Whether a field is for more than one connection (RFC 9110 §7.6.1).
fn passes(known: Known) -> bool {
    !matches!(
        known,
        Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Http2Settings
    )
}

/// Takes out of a trailer section what must not stand there: what frames or routes a message, says
/// who is asking or how to answer, or what the content is (RFC 9110 §6.5.1).
pub(super) fn trailers(fields: &mut Fields) {
    const NOT_TRAILERS: [&[u8]; 14] = [
        b"authorization",
        b"proxy-authorization",
        b"www-authenticate",
        b"proxy-authenticate",
        b"set-cookie",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"max-forwards",
        b"range",
        b"age",
        b"expires",
        b"location",
        b"vary",
    ];
    fields.retain(|field| match field.known {
        Known::Other => !NOT_TRAILERS.iter().any(|name| field.name.eq_ignore_ascii_case(name)),
        Known::GrpcStatus | Known::GrpcMessage | Known::OrcaLoad | Known::Date | Known::Server => {
            true
        }
        _ => false,
    });
}

fn keep(kept: bool, seen: &mut bool) -> bool {
    *seen |= kept;
    kept
}

/// Takes out what Connection names; what frames or routes the message it cannot name away.
fn remove_listed(fields: &mut Fields) {
    let mut listed: SmallVec<[SmallVec<[u8; 24]>; 2]> = SmallVec::new();
    for value in fields.all(Known::Connection) {
        for token in tokens(value) {
            let plain: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"te"];
            if !plain.iter().any(|plain| token.eq_ignore_ascii_case(plain))
                && !matches!(Known::of(token), Known::Host | Known::ContentLength)
            {
                listed.push(SmallVec::from_slice(token));
            }
        }
    }
    for name in listed {
        fields.remove_named(&name);
    }
}

/// One Cookie field of the several that HTTP/2 may split it into (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut Fields) {
    if fields.all(Known::Cookie).nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for cookie in fields.all(Known::Cookie) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(cookie);
    }
    fields.remove(Known::Cookie);
    fields.push_as(Known::Cookie, b"cookie", &joined);
}

/// Gives a request an id unless it has one; a second one goes.
pub(super) fn identify(fields: &mut Fields, id: &[u8]) {
    let mut has_id = false;
    fields.retain(|field| match field.known {
        Known::RequestId => !has_id && keep(is_request_id(field.value), &mut has_id),
        _ => true,
    });
    if !has_id {
        fields.push_as(Known::RequestId, b"x-request-id", id);
    }
}

/// A request id that can stand in logs and headers as it is.
fn is_request_id(value: &[u8]) -> bool {
    (1..=128).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

/// Whether a request is gRPC: `application/grpc`, alone or with a suffix.
pub(super) fn is_grpc(fields: &Fields) -> bool {
    fields.get(Known::ContentType).and_then(grpc_web::grpc_format).is_some()
}

/// A UUID of version 4 (RFC 9562 §5.4) of these bits.
pub(super) fn request_id(high: u64, low: u64) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0x3 << 62)
        | (0x4 << 76)
        | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = DIGITS[usize::try_from((bits >> shift) & 0xf).unwrap_or(0)];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        pairs.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }

    fn passed(pairs: &[(&str, &str)], trusted: bool, upgrade: bool) -> Fields {
        let mut head = RequestHead::default();
        head.fields = fields(pairs);
        let passage = Passage {
            peer: "10.0.0.9",
            scheme: "http",
            version: b"1.1",
            host: b"web",
            trusted,
            upgrade,
            trailers: false,
            request_id: b"id",
            client_cert: ClientCertField::Remove,
            proof: None,
        };
        request(&mut head, &passage);
        head.fields
    }

    const ADDED: [(&str, &str); 5] = [
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "web"),
        ("x-request-id", "id"),
        ("via", "1.1 portolan"),
    ];

    #[test]
    fn what_belongs_to_a_connection_does_not_pass() {
        let given = [
            ("Connection", "close, X-Secret"),
            ("connection", "host, content-length"),
            ("x-secret", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("trailer", "x-sum"),
            ("X-Kept", "1"),
        ];
        let kept = [("content-length", "3"), ("trailer", "x-sum"), ("X-Kept", "1")];
        let expected = [&kept[..], &ADDED[..]].concat();
        assert_eq!(passed(&given, true, false), fields(&expected));
    }

    #[test]
    fn who_sent_it_is_added_and_what_others_say_of_it_is_believed_if_they_are() {
        let given = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer"),
            ("x-request-id", "theirs"),
            ("via", "1.0 fred"),
        ];
        let chain = ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.9");
        let via = ("via", "1.0 fred, 1.1 portolan");
        let believed = [given[2], given[3], given[4], chain, via];
        assert_eq!(passed(&given, true, false), fields(&believed));
        let doubted = [given[4], chain, ADDED[1], ADDED[2], via];
        assert_eq!(passed(&given, false, false), fields(&doubted));
    }

    #[test]
    fn an_upgrade_passes_only_when_it_is_meant_to() {
        let given = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert!(passed(&given, true, true).contains(Known::Upgrade));
        assert!(!passed(&given, true, false).contains(Known::Upgrade));
    }

    #[test]
    fn what_frames_routes_or_authenticates_is_no_trailer() {
        let mut given = fields(&[
            ("grpc-status", "0"),
            ("Content-Length", "3"),
            ("transfer-encoding", "chunked"),
            ("Host", "b"),
            ("authorization", "x"),
            ("cookie", "a=1"),
            ("connection", "x-sum"),
            ("x-sum", "9"),
        ]);
        trailers(&mut given);
        assert_eq!(given, fields(&[("grpc-status", "0"), ("x-sum", "9")]));
    }

    #[test]
    fn cookies_are_joined() {
        let mut joined = fields(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        join_cookies(&mut joined);
        assert_eq!(joined, fields(&[("x", "y"), ("cookie", "a=1; b=2")]));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&fields(&[("content-type", kind)])), grpc, "{kind}");
        }
    }

    #[test]
    fn a_request_id_is_a_uuid_of_version_4() {
        let text = request_id(u64::MAX, u64::MAX);
        assert_eq!(&text, b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&request_id(0, 1), b"00000000-0000-4000-8000-000000000001");
    }
}
