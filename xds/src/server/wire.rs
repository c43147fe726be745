//! Requests off the wire, responses onto it, in both variants. Resources go out as the bytes they
//! were encoded to: large ones are handed on as they are, small ones are gathered.

use std::marker::PhantomData;
use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DiscoveryRequest, Resource, ResourceError, ResourceName,
};
use portolan_proto::envoy::rpc::Status as RpcStatus;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message, Name as _};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

use super::session::{Names, Request, Resources, Response, Variant};
use crate::catalog::Name;
use crate::resource::Encoded;

/// Reads a prost message with a limited number of fields.
#[derive(Clone, Copy, Debug)]
pub struct ProstDecoder<T> {
    max_fields: usize,
    message: PhantomData<T>,
}

/// Names and versions of a first incremental request that are kept.
const MAX_HELD: usize = 200_000;
/// What each stream keeps for requests, in bytes; it grows as they need it.
const REQUEST_BUFFER: usize = 1024;
/// From this size on a resource is not copied.
const SHARED_FROM: usize = 16 * 1024;
/// What is gathered into one frame, in bytes.
const FRAME: usize = 32 * 1024;

// Field numbers of `envoy.service.discovery.v3`: of both responses alike,
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
// of `DiscoveryResponse`,
const VERSION_INFO: u32 = 1;
const NONCE: u32 = 5;
const RESOURCE_ERRORS: u32 = 7;
// of `DeltaDiscoveryResponse`,
const SYSTEM_VERSION_INFO: u32 = 1;
const DELTA_NONCE: u32 = 5;
const REMOVED_RESOURCES: u32 = 6;
const DELTA_RESOURCE_ERRORS: u32 = 9;
// of `Resource`,
const RESOURCE_VERSION: u32 = 1;
const RESOURCE_BODY: u32 = 2;
const RESOURCE_NAME: u32 = 3;
const RESOURCE_TTL: u32 = 6;
// of `google.protobuf.Any` and `Duration`.
const ANY_TYPE: u32 = 1;
const ANY_VALUE: u32 = 2;
const SECONDS: u32 = 1;
/// `NOT_FOUND` (gRPC status codes).
const NOT_FOUND: i32 = 5;

/// Fields of a request besides those of names.
const OTHER_FIELDS: usize = 64;

impl<T> ProstDecoder<T> {
    /// Reads requests of so many names at most, and what a client holds from an earlier stream.
    #[must_use]
    pub fn of_names(names: usize) -> Self {
        let max_fields = names.saturating_add(MAX_HELD + OTHER_FIELDS);
        Self { max_fields, message: PhantomData }
    }
}

impl<T: Message + Default> Decoder for ProstDecoder<T> {
    type Item = T;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(REQUEST_BUFFER, REQUEST_BUFFER)
    }

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let invalid = |e| Status::invalid_argument(format!("not a discovery request: {e}"));
        // A name of two octets takes twelve times as much once it is read.
        let count = fields(buffer.chunk()).map_err(invalid)?;
        if count > self.max_fields {
            let text = format!("a request of {count} fields, the limit is {}", self.max_fields);
            return Err(Status::resource_exhausted(text));
        }
        T::decode(buffer).map(Some).map_err(invalid)
    }
}

/// How many fields an encoded message has, those of messages in it not counted.
fn fields(mut message: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        count += 1;
    }
    Ok(count)
}

/// A request of either variant: the part that the session reads, and the node.
pub trait Open: Message + Default + Send + 'static {
    /// Takes it apart.
    fn open(self) -> (Request, Option<Node>);
}

impl Open for DiscoveryRequest {
    fn open(self) -> (Request, Option<Node>) {
        let opened = Request {
            type_url: self.type_url,
            names: Names::Exactly(self.resource_names),
            version: self.version_info,
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
        };
        (opened, self.node)
    }
}

impl Open for DeltaDiscoveryRequest {
    fn open(self) -> (Request, Option<Node>) {
        let opened = Request {
            type_url: self.type_url,
            names: Names::Change {
                subscribe: self.resource_names_subscribe,
                unsubscribe: self.resource_names_unsubscribe,
                held: self.initial_resource_versions.into_iter().take(MAX_HELD).collect(),
            },
            version: String::new(),
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
        };
        (opened, self.node)
    }
}

/// A response as a gRPC message, made piece by piece, no faster than the client reads.
#[derive(Debug)]
pub struct Frames {
    variant: Variant,
    /// What is to be written next.
    gathered: BytesMut,
    resources: Rest,
    /// A resource that goes out as it is, right after what was gathered.
    shared: Option<Bytes>,
}

/// Resources that are still to be written.
#[derive(Debug)]
enum Rest {
    Some(std::vec::IntoIter<(Name, Encoded)>),
    /// A full set, and the name after which it goes on.
    All(OrdMap<Name, Encoded>, Option<Name>),
}

impl Frames {
    /// Starts writing.
    #[must_use]
    pub fn of(response: Response) -> Self {
        let variant = response.variant;
        let mut head = BytesMut::with_capacity(256);
        put_head(&response, &mut head);
        let length = |name: &Name, encoded: &Encoded| item(variant, name, encoded, true).total();
        let (resources, length) = match response.resources {
            Resources::Some(list) => {
                let total = list.iter().map(|(name, encoded)| length(name, encoded)).sum();
                (Rest::Some(list.into_iter()), total)
            }
            Resources::All(map) => {
                let total = map.iter().map(|(name, encoded)| length(name, encoded)).sum();
                (Rest::All(map, None), total)
            }
            Resources::Alive(list) => {
                for (name, encoded) in &list {
                    item(variant, name, encoded, false).put(&mut head);
                }
                (Rest::Some(Vec::new().into_iter()), 0usize)
            }
        };
        let mut gathered = BytesMut::with_capacity((head.len() + length + 5).min(FRAME));
        // Length-prefixed message: not compressed, its length (gRPC over HTTP/2).
        gathered.put_u8(0);
        gathered.put_u32(u32::try_from(head.len() + length).unwrap_or(u32::MAX));
        gathered.put_slice(&head);
        Self { variant, gathered, resources, shared: None }
    }

    /// The next piece of the message; `None` after the last.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        if let Some(shared) = self.shared.take() {
            return Some(shared);
        }
        while self.gathered.len() < FRAME {
            let Some((name, encoded)) = self.resources.next() else { break };
            item(self.variant, &name, &encoded, true).put(&mut self.gathered);
            if encoded.any.len() >= SHARED_FROM {
                self.shared = Some(encoded.any);
                break;
            }
            self.gathered.put_slice(&encoded.any);
        }
        let frame = self.gathered.split().freeze();
        (!frame.is_empty()).then_some(frame)
    }
}

impl Rest {
    fn next(&mut self) -> Option<(Name, Encoded)> {
        match self {
            Self::Some(list) => list.next(),
            Self::All(map, after) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let next = map.range::<_, Name>((from, Bound::Unbounded)).next();
                let next = next.map(|(name, encoded)| (name.clone(), encoded.clone()));
                if let Some((name, _)) = &next {
                    *after = Some(name.clone());
                }
                next
            }
        }
    }
}

/// What stands before a resource's `Any` in a response, and how long both are.
struct Item<'a> {
    /// `Resource`, where the resource is wrapped in one.
    wrapper: Option<Wrapper<'a>>,
    /// Length of the `Any`; `None` for a sign of life, which has none.
    any: Option<usize>,
    /// Whether the wrapper is in an `Any` of its own.
    packed: bool,
}

struct Wrapper<'a> {
    name: &'a str,
    version: Option<String>,
    ttl_secs: u32,
}

fn item<'a>(variant: Variant, name: &'a str, encoded: &Encoded, whole: bool) -> Item<'a> {
    let ttl_secs = encoded.ttl_secs;
    let wrapper = match variant {
        Variant::Delta => Some(Wrapper { name, version: Some(encoded.version_text()), ttl_secs }),
        Variant::Sotw if ttl_secs > 0 => Some(Wrapper { name, version: None, ttl_secs }),
        Variant::Sotw => None,
    };
    let any = whole.then_some(encoded.any.len());
    Item { packed: variant == Variant::Sotw && wrapper.is_some(), wrapper, any }
}

impl Item<'_> {
    /// All of it in a response, the `Any` included.
    fn total(&self) -> usize {
        let mut head = BytesMut::new();
        self.put(&mut head);
        head.len() + self.any.unwrap_or(0)
    }

    /// Writes what stands before the `Any`.
    fn put(&self, out: &mut BytesMut) {
        let any = self.any.unwrap_or(0);
        let Some(wrapper) = &self.wrapper else {
            encode_key(RESOURCES, WireType::LengthDelimited, out);
            put_length(any, out);
            return;
        };
        let mut inner = BytesMut::new();
        put_text(RESOURCE_NAME, wrapper.name, &mut inner);
        if let Some(version) = &wrapper.version {
            put_text(RESOURCE_VERSION, version, &mut inner);
        }
        if wrapper.ttl_secs > 0 {
            let mut duration = BytesMut::new();
            encode_key(SECONDS, WireType::Varint, &mut duration);
            encode_varint(wrapper.ttl_secs.into(), &mut duration);
            put_bytes(RESOURCE_TTL, &duration, &mut inner);
        }
        if self.any.is_some() {
            encode_key(RESOURCE_BODY, WireType::LengthDelimited, &mut inner);
            put_length(any, &mut inner);
        }
        let length = inner.len() + any;
        if self.packed {
            let mut outer = BytesMut::new();
            put_text(ANY_TYPE, &Resource::type_url(), &mut outer);
            encode_key(ANY_VALUE, WireType::LengthDelimited, &mut outer);
            put_length(length, &mut outer);
            outer.put_slice(&inner);
            encode_key(RESOURCES, WireType::LengthDelimited, out);
            put_length(outer.len() + any, out);
            out.put_slice(&outer);
        } else {
            encode_key(RESOURCES, WireType::LengthDelimited, out);
            put_length(length, out);
            out.put_slice(&inner);
        }
    }
}

/// Everything of a response but its resources.
fn put_head(response: &Response, out: &mut BytesMut) {
    let (version, nonce, errors) = match response.variant {
        Variant::Sotw => (VERSION_INFO, NONCE, RESOURCE_ERRORS),
        Variant::Delta => (SYSTEM_VERSION_INFO, DELTA_NONCE, DELTA_RESOURCE_ERRORS),
    };
    put_text(version, &response.version, out);
    put_text(TYPE_URL, response.kind.type_url(), out);
    put_text(nonce, &response.nonce, out);
    for name in &response.removed {
        put_text(REMOVED_RESOURCES, name, out);
    }
    for (name, why) in &response.errors {
        let error = ResourceError {
            resource_name: Some(ResourceName { name: name.to_string(), ..ResourceName::default() }),
            error_detail: Some(RpcStatus {
                code: NOT_FOUND,
                message: why.clone(),
                ..RpcStatus::default()
            }),
        };
        put_bytes(errors, &error.encode_to_vec(), out);
    }
}

fn put_text(field: u32, text: &str, out: &mut BytesMut) {
    put_bytes(field, text.as_bytes(), out);
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    put_length(bytes.len(), out);
    out.put_slice(bytes);
}

fn put_length(length: usize, out: &mut BytesMut) {
    encode_varint(u64::try_from(length).unwrap_or(u64::MAX), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{ResourceType, generation};
    use portolan_model::Generation;
    use portolan_proto::envoy::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};
    use portolan_proto::envoy::protobuf::Any;

    /// A resource of about this size.
    fn sized(bytes: usize, ttl_secs: u32) -> Encoded {
        let message = vec![b'x'; bytes];
        Encoded::from_bytes("any", "type.googleapis.com/x.Y", &message).with_ttl(ttl_secs)
    }

    fn response(variant: Variant, resources: Resources) -> Response {
        Response {
            variant,
            kind: ResourceType::Endpoints,
            version: "v".to_owned(),
            nonce: "n".to_owned(),
            resources,
            removed: if variant == Variant::Delta { vec!["gone".into()] } else { Vec::new() },
            errors: vec![("no".into(), "why".to_owned())],
        }
    }

    /// The message, and how many frames it took.
    fn written(response: Response) -> (Vec<u8>, usize) {
        let mut frames = Frames::of(response);
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(frame) = frames.next_frame() {
            bytes.extend_from_slice(&frame);
            count += 1;
        }
        let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
        assert_eq!(bytes[0], 0, "not compressed");
        assert_eq!(usize::try_from(length).expect("fits"), bytes.len() - 5);
        (bytes.split_off(5), count)
    }

    /// Name, version, time to live and `Any` of each resource, whatever the variant.
    fn read(variant: Variant, bytes: &[u8]) -> Vec<(String, i64, Option<Any>)> {
        let ttl = |resource: &Resource| resource.ttl.map_or(0, |ttl| ttl.seconds);
        match variant {
            Variant::Delta => {
                let read = DeltaDiscoveryResponse::decode(bytes).expect("decodes");
                assert_eq!((&*read.system_version_info, &*read.nonce), ("v", "n"));
                assert_eq!(read.removed_resources, ["gone"]);
                assert_eq!(read.type_url, ResourceType::Endpoints.type_url());
                assert_eq!(read.resource_errors.len(), 1);
                read.resources.into_iter().map(|r| (r.name.clone(), ttl(&r), r.resource)).collect()
            }
            Variant::Sotw => {
                let read = DiscoveryResponse::decode(bytes).expect("decodes");
                assert_eq!((&*read.version_info, &*read.nonce), ("v", "n"));
                assert_eq!(read.type_url, ResourceType::Endpoints.type_url());
                let error = &read.resource_errors[0];
                let status = error.error_detail.as_ref().expect("a status");
                assert_eq!((status.code, &*status.message), (NOT_FOUND, "why"));
                let open = |any: Any| match any.type_url == Resource::type_url() {
                    false => (String::new(), 0, Some(any)),
                    true => {
                        let inner = Resource::decode(&*any.value).expect("a resource");
                        (inner.name.clone(), ttl(&inner), inner.resource)
                    }
                };
                read.resources.into_iter().map(open).collect()
            }
        }
    }

    #[test]
    fn what_is_written_by_hand_is_what_prost_reads() {
        let small = generation::encode(Generation(7));
        for variant in [Variant::Sotw, Variant::Delta] {
            for ttl in [0, 300] {
                for size in [0, 100, SHARED_FROM, FRAME * 3] {
                    let big = sized(size, ttl);
                    let list = vec![("a".into(), big.clone()), ("b".into(), small.clone())];
                    let (bytes, _) = written(response(variant, Resources::Some(list.clone())));
                    let map: OrdMap<Name, Encoded> = list.into_iter().collect();
                    let (same, _) = written(response(variant, Resources::All(map)));
                    assert_eq!(bytes, same, "{variant:?} {ttl} {size}");
                    let read = read(variant, &bytes);
                    let any = Any::decode(&*big.any).expect("an Any");
                    assert_eq!(read[0].1, i64::from(ttl));
                    assert_eq!(read[0].2.as_ref(), Some(&any), "{variant:?} {ttl} {size}");
                    assert_eq!(read.len(), 2);
                }
                let list = vec![("a".into(), sized(50, 30))];
                let (bytes, _) = written(response(variant, Resources::Alive(list)));
                assert_eq!(read(variant, &bytes), [("a".to_owned(), 30, None)]);
            }
        }
    }

    #[test]
    fn small_resources_are_gathered_and_large_ones_shared() {
        let list = |size: usize, count: usize| -> Resources {
            let one = |n: usize| (format!("{n:04}").into(), sized(size, 0));
            Resources::Some((0..count).map(one).collect())
        };
        assert_eq!(written(response(Variant::Sotw, list(100, 10))).1, 1);
        assert_eq!(written(response(Variant::Sotw, list(1000, 100))).1, 4);
        assert_eq!(written(response(Variant::Sotw, list(SHARED_FROM, 3))).1, 6);
    }
}
