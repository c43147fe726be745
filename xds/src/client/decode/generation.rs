//! `portolan.v1.Generation` -> the number.

use portolan_model::Generation;
use portolan_model::traffic::ResourceName;
use portolan_proto::envoy::protobuf::Any;
use prost::Message;

use super::DecodeError;
use crate::resource::generation::{GenerationMessage, NAME};

/// Decodes it.
///
/// # Errors
/// When the bytes are not such a message.
pub fn decode(any: &Any) -> Result<(ResourceName, Generation), DecodeError> {
    let message = GenerationMessage::decode(&*any.value)
        .map_err(|e| DecodeError { name: NAME.to_owned(), reason: e.to_string() })?;
    Ok((NAME.into(), Generation(message.number)))
}
