//! A GET, or the call `grpc.health.v1.Health/Check`, by HTTP/2 with prior knowledge.
//!
//! Owns the few bytes of protobuf that takes; refuses to keep the connection.

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri};

use super::{Answer, MAX_HEAD, OK, ProbeError, USER_AGENT};
use crate::protobuf;
use crate::stream::Stream;

/// Most bytes of the answer's message that are looked at; it has two.
const MAX_MESSAGE: usize = 1024;
/// `HealthCheckRequest` with no service named, that is the server as a whole: a message of no bytes
/// behind the five of its prefix (not compressed, length 0).
const REQUEST: &[u8] = &[0; 5];
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// The status of the answer to a GET.
pub(super) async fn get(stream: Stream, host: &str, path: PathAndQuery) -> Result<u16, ProbeError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(uri(host, path)?)
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(())?;
    on_connection(stream, async move |sender| {
        let (response, _) = sender.send_request(request, true)?;
        Ok(response.await?.status().as_u16())
    })
    .await
}

/// Asks the health service. Anything but SERVING is an answer that says "not well".
pub(super) async fn check(stream: Stream, host: &str) -> Result<Answer, ProbeError> {
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri(host, path)?)
        .header(http::header::USER_AGENT, USER_AGENT)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(())?;
    on_connection(stream, async move |sender| {
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(Bytes::from_static(REQUEST), true)?;
        read_answer(response.await?).await
    })
    .await
}

fn uri(host: &str, path: PathAndQuery) -> Result<Uri, http::Error> {
    Uri::builder().scheme("http").authority(host).path_and_query(path).build()
}

/// Talks on a new connection, which is driven meanwhile.
async fn on_connection<T>(
    stream: Stream,
    talk: impl AsyncFnOnce(&mut SendRequest<Bytes>) -> Result<T, ProbeError>,
) -> Result<T, ProbeError> {
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .max_header_list_size(MAX_HEAD)
        .handshake::<_, Bytes>(stream)
        .await?;
    let talk = async {
        let mut sender = sender.ready().await?;
        talk(&mut sender).await
    };
    tokio::pin!(talk, connection);
    tokio::select! {
        biased;
        said = &mut talk => return said,
        // What it ended with is what the stream ends with.
        _ended = &mut connection => {}
    }
    talk.await
}

async fn read_answer(response: Response<RecvStream>) -> Result<Answer, ProbeError> {
    let (head, mut body) = response.into_parts();
    if head.status.as_u16() != OK {
        return Ok(super::by_status(head.status.as_u16()));
    }
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if message.len() + data.len() > MAX_MESSAGE {
            return Ok(Answer::Unhealthy("the health service's answer is too long".to_owned()));
        }
        message.extend_from_slice(&data);
    }
    // A response without a message has its status in the head (gRPC "Trailers-Only").
    let trailers = body.trailers().await?;
    Ok(match grpc_status(trailers.as_ref().unwrap_or(&head.headers)) {
        Some("0") => match serving_status(&message) {
            Some(SERVING) => Answer::Passed,
            Some(status) => Answer::Unhealthy(serving_word(status).to_owned()),
            None => Answer::Unhealthy("the health service's answer is malformed".to_owned()),
        },
        Some("12") => Answer::Unhealthy("no health service (UNIMPLEMENTED)".to_owned()),
        Some(code) => Answer::Unhealthy(format!("grpc-status {code}")),
        None => Answer::Unhealthy("an answer without a grpc-status".to_owned()),
    })
}

fn grpc_status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}

fn serving_word(status: u64) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "neither SERVING nor NOT_SERVING",
    }
}

/// Field 1 of a `HealthCheckResponse` behind its prefix; 0 when the field is absent (proto3), `None`
/// when the bytes are no such message.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, message) = framed.split_at_checked(REQUEST.len())?;
    let [0, length @ ..] = prefix else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if u32::try_from(message.len()).ok()? != length {
        return None;
    }
    let mut status = 0;
    let mut fields = protobuf::Fields::of(message);
    while let Some(field) = fields.next().ok()? {
        if let (1, protobuf::Value::Varint(said)) = field {
            status = said;
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_answer_is_read_to_the_letter() {
        #[rustfmt::skip]
        let cases: [(&str, &[u8], Option<u64>); 14] = [
            ("SERVING", &[0, 0, 0, 0, 2, 8, 1], Some(1)),
            ("NOT_SERVING", &[0, 0, 0, 0, 2, 8, 2], Some(2)),
            ("no field is UNKNOWN", &[0, 0, 0, 0, 0], Some(0)),
            ("fields we do not know", &[0, 0, 0, 0, 12, 0x12, 1, 7, 0x18, 0x80, 1, 8, 1, 0x22, 0, 0x28, 0], Some(1)),
            ("fixed fields", &[0, 0, 0, 0, 16, 0x25, 1, 2, 3, 4, 0x29, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1], Some(1)),
            ("the last one counts", &[0, 0, 0, 0, 4, 8, 2, 8, 1], Some(1)),
            ("nothing at all", &[], None),
            ("half a prefix", &[0, 0, 0], None),
            ("compressed", &[1, 0, 0, 0, 2, 8, 1], None),
            ("shorter than it says", &[0, 0, 0, 0, 3, 8, 1], None),
            ("longer than it says", &[0, 0, 0, 0, 1, 8, 1], None),
            ("a length past its end", &[0, 0, 0, 0, 2, 0x12, 9], None),
            ("a varint without end", &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], None),
            ("a group", &[0, 0, 0, 0, 1, 0x0b], None),
        ];
        for (about, bytes, expected) in cases {
            assert_eq!(serving_status(bytes), expected, "{about}");
        }
    }
}
