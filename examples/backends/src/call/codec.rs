//! Messages whose type is known at run time alone, as tonic reads and writes them.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Decodes replies of one type; what is encoded carries its own type.
#[derive(Clone, Debug)]
pub(super) struct DynamicCodec {
    reply: MessageDescriptor,
}

#[derive(Debug)]
pub(super) struct DynamicEncoder;

#[derive(Debug)]
pub(super) struct DynamicDecoder {
    reply: MessageDescriptor,
}

impl DynamicCodec {
    pub(super) fn new(reply: MessageDescriptor) -> Self {
        Self { reply }
    }
}

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder { reply: self.reply.clone() }
    }
}

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(dst).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.reply.clone(), src).map(Some).map_err(|error| {
            let name = self.reply.full_name();
            Status::internal(format!("the server's reply is not a {name}: {error}"))
        })
    }
}
