//! The generation as a resource of its own, pushed after all others of a publish: a client that
//! has it has everything before it.

use portolan_model::Generation;
use prost::Message;

use super::Encoded;

/// Type URL of the resource.
pub const TYPE_URL: &str = "type.googleapis.com/portolan.v1.Generation";
/// Name of the one resource there is.
pub const NAME: &str = "generation";

/// `portolan.v1.Generation`.
pub use portolan_proto::v1::Generation as GenerationMessage;

/// Encodes it.
#[must_use]
pub fn encode(generation: Generation) -> Encoded {
    let message = GenerationMessage { number: generation.0 };
    Encoded::from_bytes(NAME, TYPE_URL, &message.encode_to_vec())
}
