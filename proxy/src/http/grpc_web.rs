//! gRPC-Web: what browsers speak in place of gRPC (grpc/grpc, doc/PROTOCOL-WEB.md).
//!
//! A request of it becomes one of gRPC before anything is decided about it, and the response goes
//! back in the client's form: trailers, which no browser shows, as the last message of the body, and
//! all of it in base64 where the client asks for text. Owns both forms; refuses to know what is in
//! a message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::message::{Fields, Known, RequestHead};

/// What the client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/grpc-web`
    Binary,
    /// `application/grpc-web-text`
    Text,
}

/// A request that was one of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Web {
    /// How its body comes.
    pub(super) asked: Form,
    /// How its client takes the response.
    pub(super) answered: Form,
}

/// Flags of the message that holds the trailers ("Message framing").
const TRAILERS: u8 = 0x80;

const GRPC: &[u8] = b"application/grpc";

/// Makes a request of gRPC-Web one of gRPC; `None` for any other.
pub(super) fn begin(head: &mut RequestHead) -> Option<Web> {
    let (asked, format) = form(head.fields.get(Known::ContentType)?)?;
    if head.method() != b"POST" {
        return None;
    }
    let kind = [GRPC, format].concat();
    let accepted = head.fields.named(b"accept").and_then(|accepted| {
        accepted.split(|byte| *byte == b',').find_map(|kind| Some(form(kind.trim_ascii())?.0))
    });
    head.fields.remove(Known::ContentType);
    head.fields.push_as(Known::ContentType, b"content-type", &kind);
    if asked == Form::Text {
        head.fields.remove(Known::ContentLength);
    }
    Some(Web { asked, answered: accepted.unwrap_or(asked) })
}

/// The form that a content type says, and its message format, such as `+proto`.
fn form(kind: &[u8]) -> Option<(Form, &[u8])> {
    let rest = after(after(kind, GRPC)?, b"-web")?;
    let text = after(rest, b"-text").map(|rest| (Form::Text, rest));
    Some(text.unwrap_or((Form::Binary, rest))).filter(|(_, rest)| is_format(rest))
}

/// Makes the head of a response of gRPC one of gRPC-Web; whether it was one of gRPC.
pub(super) fn answer(form: Form, fields: &mut Fields) -> bool {
    let Some(format) = fields.get(Known::ContentType).and_then(grpc_format) else { return false };
    let kind: [&[u8]; 3] = match form {
        Form::Binary => [GRPC, b"-web", b""],
        Form::Text => [GRPC, b"-web", b"-text"],
    };
    // Its format is said in any case ("Protocol differences vs gRPC over HTTP2").
    let format = if format.is_empty() { b"+proto" } else { format };
    let kind = [&kind.concat(), format].concat();
    fields.remove(Known::ContentType);
    fields.push_as(Known::ContentType, b"content-type", &kind);
    fields.remove(Known::Trailer);
    true
}

/// What follows `application/grpc`, if a content type is that.
pub(super) fn grpc_format(kind: &[u8]) -> Option<&[u8]> {
    after(kind, GRPC).filter(|rest| is_format(rest))
}

/// What follows a word, in whatever case it stands there.
fn after<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

/// Whether a content type may go on so behind its name.
fn is_format(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The message that says the trailers.
pub(super) fn trailers(form: Form, trailers: Option<&Fields>) -> Bytes {
    let mut said = vec![TRAILERS, 0, 0, 0, 0];
    for field in trailers.into_iter().flat_map(Fields::iter) {
        // Names are in lower case ("HTTP wire protocols").
        said.extend(field.name.iter().map(u8::to_ascii_lowercase));
        said.extend_from_slice(b":");
        said.extend_from_slice(field.value);
        said.extend_from_slice(b"\r\n");
    }
    // Trailers are bounded far below 4 GiB.
    let length = u32::try_from(said.len() - 5).unwrap_or(0);
    said[1..5].copy_from_slice(&length.to_be_bytes());
    encode(form, said.into())
}

/// A piece of a response's body as the client takes it. In text each piece ends for itself, with
/// padding, so that nothing of it waits for the next.
pub(super) fn encode(form: Form, piece: Bytes) -> Bytes {
    match form {
        Form::Binary => piece,
        Form::Text => STANDARD.encode(&piece).into(),
    }
}

/// What a request's body in base64 says, piece by piece. Padding may stand wherever a client ended a
/// part of it.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of four characters, of which the rest has not come yet.
    begun: Vec<u8>,
}

/// A body that is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body of a grpc-web-text request is not base64")]
pub(crate) struct NotBase64;

impl Decoder {
    /// What a piece adds; empty where that is nothing yet.
    pub(super) fn decode(&mut self, piece: &[u8]) -> Result<Bytes, NotBase64> {
        let mut text = std::mem::take(&mut self.begun);
        text.extend(piece.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        self.begun = text.split_off(text.len() - text.len() % 4);
        let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
        let mut rest = &text[..];
        while !rest.is_empty() {
            // As far as the next padding, which ends a part.
            let end =
                rest.iter().position(|byte| *byte == b'=').map_or(rest.len(), |at| at / 4 * 4 + 4);
            let (part, later) = rest.split_at(end);
            STANDARD.decode_vec(part, &mut decoded).map_err(|_| NotBase64)?;
            rest = later;
        }
        Ok(decoded.into())
    }

    /// The body is over.
    pub(super) fn end(&self) -> Result<(), NotBase64> {
        if self.begun.is_empty() { Ok(()) } else { Err(NotBase64) }
    }
}

/// A body says the same however it is cut.
pub(super) fn fuzz(data: &[u8]) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::default();
        let mut whole = Vec::new();
        for piece in pieces {
            whole.extend_from_slice(&decoder.decode(piece).ok()?);
        }
        decoder.end().ok().map(|()| whole)
    };
    let (one, other) = data.split_at(data.len() / 2);
    let whole = read(&mut std::iter::once(data));
    assert_eq!(read(&mut [one, other].into_iter()), whole, "in two");
    assert_eq!(read(&mut data.chunks(1)), whole, "in octets");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_method(method.as_bytes());
        fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
        head
    }

    #[test]
    fn a_request_is_told_by_its_content_type_and_becomes_one_of_grpc() {
        use Form::{Binary, Text};
        for (kind, accept, web, becomes) in [
            ("application/grpc-web", None, Some((Binary, Binary)), "application/grpc"),
            ("application/grpc-web+proto", None, Some((Binary, Binary)), "application/grpc+proto"),
            ("Application/gRPC-Web-Text+proto", None, Some((Text, Text)), "application/grpc+proto"),
            (
                "application/grpc-web-text",
                Some("application/json, application/grpc-web+proto"),
                Some((Text, Binary)),
                "application/grpc",
            ),
            (
                "application/grpc-web+proto",
                Some("application/grpc-web-text"),
                Some((Binary, Text)),
                "application/grpc+proto",
            ),
            (
                "application/grpc-web; x=y",
                Some("*/*"),
                Some((Binary, Binary)),
                "application/grpc; x=y",
            ),
            ("application/grpc-website", None, None, "application/grpc-website"),
            ("application/grpc", None, None, "application/grpc"),
            ("application/grp", None, None, "application/grp"),
        ] {
            let mut fields = vec![("content-type", kind), ("content-length", "8")];
            fields.extend(accept.map(|accept| ("accept", accept)));
            let mut asked = head("POST", &fields);
            let found = begin(&mut asked).map(|web| (web.asked, web.answered));
            assert_eq!(found, web, "{kind} {accept:?}");
            assert_eq!(asked.fields.get(Known::ContentType), Some(becomes.as_bytes()), "{kind}");
            let has_length = asked.fields.contains(Known::ContentLength);
            assert_eq!(has_length, web.is_none_or(|(asked, _)| asked == Binary), "{kind}");
        }
        assert_eq!(begin(&mut head("GET", &[("content-type", "application/grpc-web")])), None);
    }

    #[test]
    fn the_head_of_a_response_is_changed_if_it_is_one_of_grpc() {
        for (form, kind, becomes) in [
            (Form::Binary, "application/grpc", Some("application/grpc-web+proto")),
            (Form::Text, "application/grpc+json", Some("application/grpc-web-text+json")),
            (Form::Text, "text/html", None),
        ] {
            let mut fields = Fields::default();
            fields.push(b"content-type", kind.as_bytes());
            assert_eq!(answer(form, &mut fields), becomes.is_some(), "{kind}");
            let expected = becomes.unwrap_or(kind).as_bytes();
            assert_eq!(fields.get(Known::ContentType), Some(expected), "{kind}");
        }
    }

    #[test]
    fn trailers_are_a_message() {
        let mut fields = Fields::default();
        fields.push(b"Grpc-Status", b"0");
        fields.push(b"x", b"y z");
        let said = b"\x80\x00\x00\x00\x16grpc-status:0\r\nx:y z\r\n";
        assert_eq!(trailers(Form::Binary, Some(&fields)), &said[..]);
        assert_eq!(trailers(Form::Text, Some(&fields)), STANDARD.encode(said));
        assert_eq!(trailers(Form::Binary, None), &b"\x80\x00\x00\x00\x00"[..]);
    }

    #[test]
    fn base64_is_read_in_whatever_pieces_it_comes() {
        let text =
            format!("{}{}", STANDARD.encode(b"\0\0\0\0\x02hi"), STANDARD.encode(b"and more"));
        for size in 1..text.len() {
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                read.extend_from_slice(&decoder.decode(piece).expect("valid"));
            }
            assert_eq!(decoder.end(), Ok(()), "{size}");
            assert_eq!(read, b"\0\0\0\0\x02hiand more", "{size}");
        }
        for (text, decodes) in [("AA=A", false), ("A?AA", false), ("====", false), ("AAA", true)] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.decode(text.as_bytes()).is_ok(), decodes, "{text}");
            assert!(!decodes || decoder.end().is_err(), "{text}");
        }
    }
}
