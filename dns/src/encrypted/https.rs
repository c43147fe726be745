//! DNS over HTTPS: HTTP/2 over TLS, GET and POST of `application/dns-message` (RFC 8484).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use http::{Method, Request, Response, StatusCode, header};
use portolan_runtime::Lifecycle;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admitted;
use crate::front::{Client, Front};
use crate::stream::{self, QUERY_MAX, Serve, Streams};

/// Where questions go (RFC 8484 §4.1 leaves it to the server; everybody's default).
const PATH: &str = "/dns-query";
/// Media type of a DNS message (RFC 8484 §6).
const MEDIA_TYPE: &str = "application/dns-message";
/// Octets of request headers a connection may send for one request.
const HEADERS_MAX: u32 = 16 * 1024;

/// HTTPS.
pub(crate) struct Https {
    pub(crate) streams: Streams,
    pub(crate) tls: TlsAcceptor,
}

impl Serve for Https {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        client: Client,
        lifecycle: Lifecycle,
        admitted: Admitted,
    ) {
        let _delayed_at_worst = stream.set_nodelay(true);
        let connecting = async {
            let stream = self.tls.accept(stream).await.ok()?;
            let streams = u32::try_from(self.streams.max_pipelined).unwrap_or(u32::MAX);
            let mut server = h2::server::Builder::new();
            server.max_concurrent_streams(streams).max_header_list_size(HEADERS_MAX);
            server.handshake::<_, Bytes>(stream).await.ok()
        };
        // A peer that speaks something else, or nothing, is no concern of ours.
        if let Some(Some(connection)) = stream::handshake(connecting, &lifecycle).await {
            self.requests(connection, &client, &lifecycle).await;
        }
        drop(admitted);
    }

    fn shared(&self) -> &Streams {
        &self.streams
    }
}

impl Https {
    async fn requests(
        &self,
        mut connection: h2::server::Connection<tokio_rustls::server::TlsStream<TcpStream>, Bytes>,
        client: &Client,
        lifecycle: &Lifecycle,
    ) {
        let limit = self.streams.idle_timeout;
        let mut under_way = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                Some(_done) = under_way.join_next() => continue,
                () = tokio::time::sleep(limit), if under_way.is_empty() => break,
                () = lifecycle.draining() => break,
            };
            let Some(Ok((request, respond))) = accepted else { return };
            let (front, client) = (self.streams.front.clone(), client.clone());
            under_way.spawn(async move {
                // A stream that its client gave up needs no answer.
                let _given_up = timeout(limit, one(&front, &client, request, respond)).await;
            });
        }
        connection.graceful_shutdown();
        let rest = async { while connection.accept().await.is_some() {} };
        let _cut_off = timeout(limit, rest).await;
    }
}

async fn one(
    front: &Front,
    client: &Client,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let answer = match query(request).await {
        Ok(query) => front.answer(&query, client).await.ok_or(StatusCode::BAD_REQUEST),
        Err(status) => Err(status),
    };
    let response = Response::builder();
    match answer {
        Ok(answer) => {
            // RFC 8484 §5.1: fresh for as long as the shortest record.
            let age = Duration::from_secs(freshness(&answer).into());
            let response = response
                .header(header::CONTENT_TYPE, MEDIA_TYPE)
                .header(header::CACHE_CONTROL, format!("max-age={}", age.as_secs()))
                .header(header::CONTENT_LENGTH, answer.len())
                .body(())
                .expect("valid headers");
            respond.send_response(response, false)?.send_data(answer.into(), true)
        }
        Err(status) => {
            let response = response.status(status).body(()).expect("a valid status");
            respond.send_response(response, true).map(|_stream| ())
        }
    }
}

/// The shortest time to live among the answer's records, in seconds; of a negative answer, that of
/// its SOA (RFC 2308 §5); zero when there is neither.
fn freshness(answer: &[u8]) -> u32 {
    let Ok(message) = Message::from_vec(answer) else { return 0 };
    let negative = message.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    let positive = message.answers.iter().map(|record| record.ttl);
    positive.chain(negative).min().unwrap_or(0)
}

/// The message of a request (RFC 8484 §4.1).
async fn query(request: Request<RecvStream>) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    if *request.method() == Method::GET {
        let parameters = request.uri().query().unwrap_or_default().split('&');
        let encoded = parameters.filter_map(|p| p.strip_prefix("dns=")).next();
        let encoded = encoded.ok_or(StatusCode::BAD_REQUEST)?.trim_end_matches('=');
        return URL_SAFE_NO_PAD.decode(encoded).map_err(|_| StatusCode::BAD_REQUEST);
    }
    if *request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let media_type = request.headers().get(header::CONTENT_TYPE);
    if media_type.is_none_or(|value| value.as_bytes() != MEDIA_TYPE.as_bytes()) {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|_| StatusCode::BAD_REQUEST)?;
        if message.len() + data.len() > QUERY_MAX {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let released = body.flow_control().release_capacity(data.len());
        released.map_err(|_| StatusCode::BAD_REQUEST)?;
        message.extend_from_slice(&data);
    }
    Ok(message.to_vec())
}
