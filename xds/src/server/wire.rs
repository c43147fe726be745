//! Requests off the wire, responses onto it. Resources go out as the bytes they were encoded to.

use std::marker::PhantomData;

use bytes::BufMut;
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::discovery::DiscoveryRequest;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::session::{Request, Response};

/// Decodes requests with prost, writes responses field by field.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseCodec;

/// Writes a [`Response`] as an encoded `DiscoveryResponse`.
#[derive(Clone, Copy, Debug)]
pub struct ResponseEncoder;

/// Reads a prost message.
#[derive(Clone, Copy, Debug)]
pub struct ProstDecoder<T>(PhantomData<T>);

// Field numbers of `envoy.service.discovery.v3.DiscoveryResponse`.
const VERSION_INFO: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;

impl Codec for ResponseCodec {
    type Encode = Response;
    type Decode = DiscoveryRequest;
    type Encoder = ResponseEncoder;
    type Decoder = ProstDecoder<DiscoveryRequest>;

    fn encoder(&mut self) -> ResponseEncoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<DiscoveryRequest> {
        ProstDecoder(PhantomData)
    }
}

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let resources: usize = response.resources.iter().map(|r| r.any.len() + 8).sum();
        out.reserve(resources + 256);
        put(VERSION_INFO, response.version.as_bytes(), out);
        for resource in &response.resources {
            put(RESOURCES, &resource.any, out);
        }
        put(TYPE_URL, response.kind.type_url().as_bytes(), out);
        put(NONCE, response.nonce.as_bytes(), out);
        Ok(())
    }
}

fn put(field: u32, bytes: &[u8], out: &mut EncodeBuf<'_>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), out);
    out.put_slice(bytes);
}

impl<T: Message + Default> Decoder for ProstDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let decoded = T::decode(buffer).map(Some);
        decoded.map_err(|e| Status::invalid_argument(format!("not a discovery request: {e}")))
    }
}

/// The part of a request that the session reads, and the node of the first one.
#[must_use]
pub fn open(request: DiscoveryRequest) -> (Request, Option<Node>) {
    let error = request.error_detail.map(|status| status.message);
    let opened = Request {
        type_url: request.type_url,
        names: request.resource_names,
        nonce: request.response_nonce,
        error,
    };
    (opened, request.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{ResourceType, generation};
    use portolan_model::Generation;
    use portolan_proto::envoy::discovery::DiscoveryResponse;
    use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};

    #[tokio::test]
    async fn what_is_written_by_hand_is_what_prost_reads() {
        let encoded = generation::encode(Generation(7));
        let response = Response {
            kind: ResourceType::Generation,
            version: "v".to_owned(),
            nonce: "n".to_owned(),
            resources: vec![encoded.clone(), encoded],
        };
        let source = tokio_stream::once(Ok(response));
        let whole = SingleMessageCompressionOverride::default();
        let mut body =
            std::pin::pin!(EncodeBody::new_server(ResponseEncoder, source, None, whole, None));
        let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx));
        let bytes = frame.await.expect("a frame").expect("no error").into_data().expect("data");
        let decoded = DiscoveryResponse::decode(&bytes[5..]).expect("a discovery response");
        assert_eq!((decoded.version_info.as_str(), decoded.nonce.as_str()), ("v", "n"));
        assert_eq!(decoded.type_url, generation::TYPE_URL);
        assert_eq!(decoded.resources.len(), 2);
        let inner = generation::GenerationMessage::decode(&*decoded.resources[0].value);
        assert_eq!(inner.expect("a generation").number, 7);
    }
}
